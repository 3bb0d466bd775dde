"""A trained model looks at images. Holds torch, so others ask it as a child (`inference.ask`).

`python -m rddkit.evaluate`: one order as JSON on standard input, the answer as JSON on standard output, all else on
standard error.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rddkit import allocators, caps, challenge, clock, detections, offline, precision, runfile
from rddkit.challenge import Row
from rddkit.detections import Photo, Seen
from rddkit.paths import RunPaths
from rddkit.runfile import RunFile

Order = dict[str, Any]
MATCHES = ("tp", "conf", "pred_cls", "target_cls")  # Ultralytics' statistics, in the order of precision.at_101_points
FOUND = ("bboxes", "cls", "conf")  # what it says of an image, in pixels of what the model sees
KEPT = ("iou", "max_det", "agnostic_nms", "nms", "single_cls")  # of the training's arguments: what validation used


def validate(paths: RunPaths, record: RunFile, order: Order) -> dict[str, Any]:
    """Detect on the validation images as Ultralytics validates, one image at a time, and keep every box.

    One at a time takes least memory. Writes `truth.json` and `<weights>.json` into the run's evaluation folder.
    Returns Ultralytics' own mAP from the same pass, that by COCO's rule from Ultralytics' matches, that of the boxes
    before they are cut at the image's edge (Ultralytics matches those, COCO's JSON has the cut ones), and ms an image.
    """
    import numpy as np
    import torch
    from ultralytics.models.yolo.detect import DetectionValidator
    from ultralytics.nn.tasks import load_checkpoint

    class Keeping(DetectionValidator):
        """Ultralytics' validator that keeps every box in its image's own pixels."""

        def init_metrics(self, model: torch.nn.Module) -> None:
            super().init_metrics(model)
            self.kept: list[tuple[str, tuple[int, int], torch.Tensor]] = []
            self.uncut: list[Row] = []
            self.labelled: list[Row] = []
            self.matches: dict[str, Any] = {}

        def update_metrics(self, preds: list[dict[str, torch.Tensor]], batch: dict[str, Any]) -> None:
            super().update_metrics(preds, batch)
            for place, pred in enumerate(preds):
                prepared = self._prepare_batch(place, batch)
                number = len(self.kept)
                for corners, label, score in zip(*(pred[key].tolist() for key in FOUND), strict=True):
                    self.uncut.append((number, int(label), *corners, score))
                for corners, label in zip(*(prepared[key].tolist() for key in FOUND[:2]), strict=True):
                    self.labelled.append((number, int(label), *corners, 1.0))
                box = self.scale_preds(pred, prepared)
                rows = torch.cat([box["cls"][:, None], box["bboxes"], box["conf"][:, None]], 1)
                height, width = (int(side) for side in prepared["ori_shape"])
                self.kept.append((str(prepared["im_file"]), (width, height), rows.double().cpu()))

        def get_stats(self) -> dict[str, Any]:
            self.matches = {key: np.concatenate(self.metrics.stats[key]) for key in MATCHES}
            stats: dict[str, Any] = super().get_stats()
            return stats

    weights = paths.weights / f"{order['weights']}.pt"
    model, _ = load_checkpoint(str(weights))  # this run's own file
    _cap(record)
    given = {key: record.config[key] for key in KEPT if record.config.get(key) is not None}
    with tempfile.TemporaryDirectory() as scratch:
        args = {**given, **_shape(record), "mode": "val", "model": str(weights), "data": str(record.config["data"])}
        args |= {"batch": 1, "rect": True, "plots": False, "verbose": False, "save_json": False, "workers": 0}
        validator = Keeping(args=args, save_dir=Path(scratch))
        started = clock.monotonic()
        stats = validator(model=model)
        seconds = clock.monotonic() - started
    seen = _seen(validator, Path(str(record.config["data"])))
    paths.evaluation.mkdir(exist_ok=True)
    detections.write_truth(paths.truth_json, seen)
    detections.write_found(paths.found_json(order["weights"]), seen.found)
    right = validator.matches
    rule = precision.at_101_points(*(right[key] for key in MATCHES))
    labelled, uncut = challenge.boxes(validator.labelled), challenge.boxes(validator.uncut)
    whole = precision.by_coco(labelled, uncut, len(validator.kept), len(validator.names))
    speed = {key: round(value, 2) for key, value in validator.speed.items() if key != "loss"}
    return {
        "ultralytics": {"mAP50": float(stats["metrics/mAP50(B)"]), "mAP50-95": float(stats["metrics/mAP50-95(B)"])},
        "ultralytics_at_101_points": {"mAP50": rule[0], "mAP50-95": rule[1]},
        "uncut": {"mAP50": whole.map50, "mAP50-95": whole.map},
        "ms": {**speed, "all": round(1000 * seconds / max(len(seen.photos), 1), 2)},
        "imgsz": int(validator.args.imgsz),
    }


def _seen(validator: Any, data: Path) -> Seen:
    """What the validator read and found, images in the order of their paths."""
    labels = {str(label["im_file"]): label for label in validator.dataloader.dataset.labels}
    kept = sorted(validator.kept, key=lambda image: str(image[0]))
    domains = detections.domains(data, (path for path, _, _ in kept))
    photos = [Photo(path, size[0], size[1], name) for (path, size, _), name in zip(kept, domains, strict=True)]
    truth = (
        (number, int(name[0]), *_corners(box, photo), 1.0)
        for number, photo in enumerate(photos)
        for name, box in zip(*(labels[photo.path][key].tolist() for key in ("cls", "bboxes")), strict=True)
    )
    found = (
        (number, int(row[0]), *(round(value, 3) for value in row[1:5]), round(row[5], 7))
        for number, (_, _, rows) in enumerate(kept)
        for row in rows.tolist()
    )
    names = [validator.names[number] for number in sorted(validator.names)]
    return Seen(photos, names, challenge.boxes(truth), challenge.boxes(found))


def _corners(box: list[float], photo: Photo) -> tuple[float, float, float, float]:
    x, y, width, height = box
    sides = ((x - width / 2) * photo.width, (y - height / 2) * photo.height)
    others = ((x + width / 2) * photo.width, (y + height / 2) * photo.height)
    return (round(sides[0], 3), round(sides[1], 3), round(others[0], 3), round(others[1], 3))


def detect(paths: RunPaths, record: RunFile, order: Order) -> dict[str, Any]:
    """Detect in any images, one at a time. One that cannot be read is told and left out.

    `order`: `weights`, `images` (paths), `threshold` (confidence), `out` (a file for what was found).
    Returns `names`, `photos` by place ([width, height], or the reason why there is none), `ms` an image.
    """
    from ultralytics import YOLO

    model = YOLO(str(paths.weights / f"{order['weights']}.pt"))
    _cap(record)
    photos: list[Any] = []
    found: list[Row] = []
    spent = 0.0
    for number, path in enumerate(order["images"]):
        pixels = None
        try:
            pixels = read_pixels(Path(path))
            result = look(model, pixels, record, order["threshold"])
        except Exception as error:  # on broken or odd images OpenCV raises nearly anything
            if pixels is not None and allocators.who_ran_out(type(error).__name__, str(error)):
                raise  # the model does not fit: the next image would not fare better
            photos.append(f"{type(error).__name__}: {error}"[:200])
            continue
        photos.append([pixels.shape[1], pixels.shape[0]])
        spent += sum(result.speed.values())
        found += [
            (number, int(row[5]), *(round(value, 3) for value in row[:4]), round(row[4], 7))
            for row in result.boxes.data.double().cpu().tolist()
        ]
        if number % 50 == 49:
            print(f"{number + 1} of {len(order['images'])} images", file=sys.stderr, flush=True)
    detections.write_found(Path(order["out"]), challenge.boxes(found))
    good = sum(isinstance(photo, list) for photo in photos)
    names = [model.names[number] for number in sorted(model.names)]
    return {"photos": photos, "names": names, "ms": round(spent / good, 2) if good else None}


def read_pixels(path: Path) -> Any:
    """An image as Ultralytics reads it: upright, (height, width, 3), blue first. OSError if it is none."""
    import cv2
    from ultralytics.utils.patches import imread

    if not path.is_file():
        raise OSError("there is no such file")
    pixels = imread(str(path), cv2.IMREAD_COLOR)
    if pixels is None:
        raise OSError("not an image that can be read")
    return pixels


def look(model: Any, pixels: Any, record: RunFile, threshold: float, **more: Any) -> Any:
    """What a model finds in one image, as Ultralytics' result."""
    given = {key: record.config[key] for key in ("iou", "agnostic_nms") if record.config.get(key) is not None}
    args = {**given, **_shape(record), "conf": threshold, "verbose": False, "save": False, **more}
    return model.predict(pixels, **args)[0]


def _shape(record: RunFile) -> dict[str, Any]:
    """The image size that the run validates at, and its device in Ultralytics' words."""
    from rddkit.attempt import ultralytics_device

    size = record.plan.get("val_imgsz") or record.plan["imgsz"]
    return {"imgsz": int(size), "device": ultralytics_device(record.device)}


def _cap(record: RunFile) -> None:
    wanted = bool(record.safety["cap"]) and record.device == "cpu"
    print(caps.with_model(int(record.budget.get("bytes") or 0), wanted), file=sys.stderr, flush=True)


def begin(order: Order) -> tuple[RunPaths, RunFile]:
    """Cap this process as a worker is, and take the run's threads; torch is loaded here and not before."""
    paths = RunPaths(Path(order["folder"]))
    record = runfile.read(paths.run_yaml)
    record.budget["bytes"] = int(order["budget"])
    record.device = str(order.get("device") or record.device)
    caps.before_torch(record.budget["bytes"], record.safety["cap"] and record.device == "cpu")
    from rddkit import attempt

    if record.safety["cap"]:
        caps.on_device(record.device, None if record.safety["budget"] == "auto" else record.budget["bytes"])
    attempt.quiet_bars()
    attempt.fix_threads(record.threads)
    return paths, record


def answer(orders: dict[str, Callable[[RunPaths, RunFile, Order], dict[str, Any]]]) -> None:
    """Do one order from standard input; only its answer goes to standard output, whatever libraries print."""
    stdout = os.dup(1)
    os.dup2(2, 1)
    offline.prepare_home()
    os.environ.update(offline.environment())
    order: Order = json.load(sys.stdin)
    found = orders[order["do"]](*begin(order), order)
    with open(stdout, "w", encoding="utf-8") as file:
        json.dump(found, file)


if __name__ == "__main__":
    answer({"validate": validate, "detect": detect})
