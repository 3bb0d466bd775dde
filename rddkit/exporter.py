"""Turn a run's weights into another format and let both look at the same images. Holds torch; asked as a child."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

from rddkit import challenge, detections
from rddkit.evaluate import Order, answer, look, read_pixels
from rddkit.paths import RunPaths
from rddkit.runfile import RunFile


def export(paths: RunPaths, record: RunFile, order: Order) -> dict[str, Any]:
    """Export through Ultralytics, and detect in `images` with both, padded alike, from confidence `least` on.

    `order`: `weights`, `format`, `images`, `least`, `out` (a folder for `ours.json` and `theirs.json`).
    Returns the exported `file`, its `bytes`, and ms an image of both.
    """
    from ultralytics import YOLO

    paths.exports.mkdir(exist_ok=True)
    source = paths.weights / f"{order['weights']}.pt"
    size = int(record.plan.get("val_imgsz") or record.plan["imgsz"])
    with tempfile.TemporaryDirectory(dir=paths.exports, prefix=".making-") as scratch:
        copy = Path(scratch) / source.name  # Ultralytics writes beside the weights
        shutil.copyfile(source, copy)
        # Slimming the graph would take one more package and changes no result; the other formats know no such thing.
        plain = {"simplify": False} if order["format"] == "onnx" else {}
        made = Path(YOLO(str(copy)).export(format=order["format"], imgsz=size, device="cpu", **plain))
        file = paths.exports / made.name
        if file.is_dir():
            shutil.rmtree(file)
        os.replace(made, file)
    spent = {}
    for name, weights in (("ours", source), ("theirs", file)):
        spent[name] = _detect(YOLO(str(weights), task="detect"), record, order, Path(order["out"]) / f"{name}.json")
    held = (
        sum(path.stat().st_size for path in file.rglob("*") if path.is_file()) if file.is_dir() else file.stat().st_size
    )
    return {"file": str(file), "bytes": held, "own_bytes": source.stat().st_size, "ms": spent, "imgsz": size}


def _detect(model: Any, record: RunFile, order: Order, out: Path) -> float:
    """Detect in the order's images and keep what is found; ms an image, the first (which warms up) left out."""
    found: list[tuple[int, int, float, float, float, float, float]] = []
    spent: list[float] = []
    for number, path in enumerate(order["images"]):
        # An exported model takes squares of one size only: the original is given the same.
        result = look(model, read_pixels(Path(path)), record, order["least"], rect=False, device="cpu")
        spent.append(sum(result.speed.values()))
        rows = result.boxes.data.double().cpu().tolist()
        found += [(number, int(row[5]), row[0], row[1], row[2], row[3], row[4]) for row in rows]
    detections.write_found(out, challenge.boxes(found))
    return round(sum(spent[1:]) / max(len(spent) - 1, 1), 2)


if __name__ == "__main__":
    answer({"export": export})
