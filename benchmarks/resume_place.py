"""20,000 tiny images, killed at 90 % of an epoch: what does the resume read again, and how long does it take?

`python benchmarks/resume_place.py`: about ten minutes, most of them the way to the 90 %. Every image that the resumed
worker opens for training is noted by an audit hook in it; none may have been trained on in this epoch before, but those
that mosaic draws its partners from (the last 8 batches), which an exact resume has to hold again.
"""

from __future__ import annotations

import argparse
import math
import os
import shutil
import signal
import sys
import tempfile
from pathlib import Path

import numpy as np
import psutil
import yaml
from PIL import Image
from rich.console import Console
from rich.table import Table

from rddkit import Run, clock, status

BATCH = 16
ARGS = {"model": "yolov8n.yaml", "batch": BATCH, "imgsz": 32, "workers": 0, "device": "cpu", "plots": False}
ARGS |= {"seed": 42, "epochs": 2, "val": False, "close_mosaic": 0}
# Python runs this at the start of every process of the run: notes who opens which image, by process.
HOOK = """
import os, sys
def note(event, args):
    if event == "open" and str(args[0]).endswith(".jpg"):
        frame, names = sys._getframe(), set()
        while frame is not None:
            names.add(frame.f_code.co_name)
            frame = frame.f_back
        if "load_image" in names:
            why = "mosaic" if "refill_mosaic_buffer" in names else "train"
            with open(os.path.join(os.environ["OPENED"], str(os.getpid())), "a") as file:
                file.write(why + " " + os.path.basename(args[0]) + chr(10))
sys.addaudithook(note)
"""


def write_data(folder: Path, images: int) -> Path:
    """A YOLO data set of `images` noisy squares with one box each; its YAML."""
    rng = np.random.default_rng(0)
    for split, count in (("train", images), ("val", 4)):
        for kind in ("images", "labels"):
            (folder / kind / split).mkdir(parents=True)
        for i in range(count):
            pixels = rng.integers(0, 255, (32, 32, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / "images" / split / f"{i:05d}.jpg")
            (folder / "labels" / split / f"{i:05d}.txt").write_text("0 0.5 0.5 0.4 0.4\n")
    content = {"path": str(folder), "train": "images/train", "val": "images/val", "names": {0: "D00"}}
    (folder / "data.yaml").write_text(yaml.safe_dump(content))
    return folder / "data.yaml"


def opened(folder: Path, pid: int) -> list[tuple[str, str]]:
    file = folder / str(pid)
    lines = file.read_text().splitlines() if file.exists() else []
    return [(why, name) for why, name in (line.split() for line in lines if " " in line)]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=20_000)
    words = parser.parse_args()
    base = Path(tempfile.mkdtemp(prefix="place-"))
    (base / "opened").mkdir()
    (base / "hook").mkdir()
    (base / "hook" / "sitecustomize.py").write_text(HOOK)
    config, safety = base / "place.yaml", base / "safety.yaml"
    config.write_text(yaml.safe_dump({**ARGS, "data": str(write_data(base / "data", words.images))}))
    safety.write_text("snapshot_seconds: 600.0\nbackoff_seconds: 0.0\nestimate: false\npredictions: false\n")
    os.environ["PYTHONPATH"], os.environ["OPENED"] = str(base / "hook"), str(base / "opened")
    run = Run.create(config, safety=safety, project=str(base), name="killed").start()
    wanted = math.ceil(0.9 * words.images / BATCH)

    def progress() -> dict[str, object]:
        if not run.is_alive():
            sys.exit(f"the run ended: {run.status().sentence}")
        clock.sleep(0.02)
        return status.read_progress(run.paths.progress)

    while int(progress().get("batch") or 0) < wanted:
        pass
    run.snapshot()
    while not (taken := [e for e in run.events() if e["event"] == "snapshot"]):
        progress()
    first = int(str(status.read_progress(run.paths.progress)["worker_pid"]))
    psutil.Process(first).suspend()  # what it read beyond the snapshot is not looked at
    began = clock.monotonic()
    os.kill(first, signal.SIGKILL)
    while not ((now := progress()).get("attempt") == 2 and now.get("phase") == "train"):
        pass
    seconds = clock.monotonic() - began
    while int(progress().get("epoch") or 0) < 2 and run.is_alive():
        pass
    second = int(str(now["worker_pid"]))
    done = taken[-1]["batch"] * BATCH
    before = {name for _, name in [row for row in opened(base / "opened", first) if row[0] == "train"][:done]}
    # Of the second epoch nothing counts: the first one's rest is as many images as were left.
    again = opened(base / "opened", second)
    mosaic = [name for why, name in again if why == "mosaic"]
    rest = [name for why, name in again if why == "train"][: words.images - done]
    seen = sum(name in before for name in rest)
    (resumed,) = [e for e in run.events() if e["event"] == "resumed"]
    run.stop(at_once=True)
    run.wait()
    table = Table("", "")
    table.add_row("images in an epoch, done when killed", f"{words.images:,}, {done:,}")
    table.add_row("read to train the rest of the epoch", f"{len(rest):,}")
    table.add_row("of them read in this epoch before", f"{seen:,}")
    table.add_row("read again for mosaic's partners", f"{len(mosaic):,} (8 batches of {BATCH} less one)")
    table.add_row("from SIGKILL to the next training step", f"{seconds:.1f} s")
    table.add_row("exact", f"{resumed['exact']}: {resumed['reason']}")
    Console(width=110).print(table)
    shutil.rmtree(base, ignore_errors=True)
    good = not seen and len(set(rest)) == words.images - done and len(mosaic) < 8 * BATCH and seconds < 30
    return 0 if good and resumed["exact"] else 1


if __name__ == "__main__":
    sys.exit(main())
