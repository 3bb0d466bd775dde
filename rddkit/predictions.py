"""What a run's weights see in some images: `python -m rddkit.predictions WEIGHTS IMGSZ DEVICE BUDGET IMAGE...`.

A child process, asked by `album`: it holds torch, and loading weights runs what is pickled in them.
"""

from __future__ import annotations

import json
import sys
from typing import Any

from rddkit import caps

CONFIDENCE = 0.25


def predict(weights: str, imgsz: int, device: str, images: list[str]) -> list[list[list[Any]]]:
    """For each image its boxes as [class name, x1, y1, x2, y2, confidence], in pixels of the upright image."""
    from ultralytics import YOLO

    model = YOLO(weights)
    found = []
    for image in images:  # one at a time takes the least memory
        (seen,) = model.predict(image, imgsz=imgsz, device=device, conf=CONFIDENCE, verbose=False)
        rows = zip(seen.boxes.cls.tolist(), seen.boxes.xyxy.tolist(), seen.boxes.conf.tolist(), strict=True)
        found.append([[seen.names[int(label)], *corners, confidence] for label, corners, confidence in rows])
    return found


if __name__ == "__main__":
    weights, imgsz, device, budget, *images = sys.argv[1:]
    caps.before_torch(int(budget), wanted=device == "cpu" and int(budget) > 0)
    print(json.dumps(predict(weights, int(imgsz), device, images)))
