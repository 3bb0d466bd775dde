"""A data set so easy that a minute's training finds something: coloured blocks on grey, in two domains, some empty."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import yaml
from PIL import Image

COLORS = ((220, 40, 40), (40, 200, 40), (40, 60, 220), (230, 220, 40))
NAMES = ("D00", "D10", "D20", "D40")
SIZE = 64
# What learns it in 15 epochs: steps of some size from the first on, nothing cut up.
SETTINGS = {
    "imgsz": SIZE,
    "epochs": 12,
    "batch": 4,
    "nbs": 4,
    "optimizer": "AdamW",
    "lr0": 0.003,
    "mosaic": 0.0,
    "scale": 0.1,
    "translate": 0.05,
    "hsv_h": 0.0,
    "name": "blocks",
}


def write_blocks(folder: Path, images: int = 48, seed: int = 0) -> Path:
    """Images, labels and data.yaml in `folder`; a quarter of the images to validate on."""
    chance = np.random.default_rng(seed)
    for kind in ("images", "labels"):
        for part in ("train", "val"):
            (folder / kind / part).mkdir(parents=True)
    for number in range(images):
        part = "val" if number % 4 == 3 else "train"
        name = f"{'Japan' if number % 3 else 'Czech'}_{number:06d}"
        pixels = (110 + chance.integers(0, 20, (SIZE, SIZE, 3))).astype(np.uint8)
        lines = []
        for half in range(0 if number % 8 == 3 else 1 + number % 2):  # one block in each half: they never overlap
            width, height = (int(side) for side in chance.integers(16, 30, 2))
            x = int(chance.integers(0, SIZE // 2 - width + 1)) + half * SIZE // 2
            y = int(chance.integers(0, SIZE - height))
            label = int(chance.integers(0, 4))
            pixels[y : y + height, x : x + width] = COLORS[label]
            centre = f"{(x + width / 2) / SIZE:.6f} {(y + height / 2) / SIZE:.6f}"
            lines.append(f"{label} {centre} {width / SIZE:.6f} {height / SIZE:.6f}\n")
        Image.fromarray(pixels).save(folder / "images" / part / f"{name}.jpg", quality=92)
        (folder / "labels" / part / f"{name}.txt").write_text("".join(lines))
    content = {"path": str(folder), "train": "images/train", "val": "images/val", "names": dict(enumerate(NAMES))}
    (folder / "data.yaml").write_text(yaml.safe_dump(content))
    return folder / "data.yaml"
