"""The challenges' submission file: a line for each test image, its name and at most five boxes. Pure.

`India_000713.jpg,1 10 20 110 220 4 30 40 60 70`: no header; each box is a class number and whole x1 y1 x2 y2, spaces
between, nothing behind the comma where nothing was found (https://orddc2024.sekilab.global/submissions, and files that
were accepted there).
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence

import numpy as np

from rddkit import challenge
from rddkit.challenge import Boxes

NUMBERS = {"D00": 1, "D10": 2, "D20": 3, "D40": 4}  # RDD2022's own label map
SHOWN = 8  # problems named


def write(photos: Sequence[tuple[str, int, int]], names: Sequence[str], found: Boxes, threshold: float) -> str:
    """The file's text: the strongest five of each image's boxes of at least `threshold`.

    Args:
        photos: (file name, width, height) by image id.
        names: class names by id; boxes of a class that the challenges do not know are left out.
        found: boxes in pixels.
        threshold: the confidence chosen on validation.
    """
    official = np.array([name in NUMBERS for name in names], dtype=bool)
    kept = challenge.strongest(found.take((found.score >= threshold) & official[found.label]))
    out = io.StringIO()
    lines = csv.writer(out, lineterminator="\n")
    for image, (name, width, height) in enumerate(photos):
        own = kept.take(kept.image == image)
        corners = np.clip(np.rint(own.corners), 0, [width, height, width, height]).astype(int)
        words = [
            f"{NUMBERS[names[label]]} {x1} {y1} {x2} {y2}"
            for label, (x1, y1, x2, y2) in zip(own.label, corners.tolist(), strict=True)
            if x2 > x1 and y2 > y1
        ]
        lines.writerow([name, " ".join(words)])
    return out.getvalue()


def problems(text: str, photos: Iterable[tuple[str, int, int]]) -> list[str]:
    """Why the challenges would refuse or misread a submission; [] for a good one. At most a few are named.

    Args:
        text: the file's content.
        photos: (file name, width, height) of every test image.
    """
    sizes = {name: (width, height) for name, width, height in photos}
    found: list[str] = []
    seen: set[str] = set()
    for number, cells in enumerate(csv.reader(io.StringIO(text)), start=1):
        if len(cells) != 2:
            found.append(f"line {number}: {len(cells)} columns; it takes two: image name, boxes")
            continue
        name, boxes = cells
        if name in seen:
            found.append(f"line {number}: {name} comes twice")
        elif name not in sizes:
            found.append(f"line {number}: {name} is not a test image")
        seen.add(name)
        found += [f"line {number}: {told}" for told in _box_problems(boxes, sizes.get(name))]
    missing = sorted(sizes.keys() - seen)
    if missing:
        found.append(f"{len(missing)} test images are missing, such as {missing[0]}")
    more = len(found) - SHOWN
    return found[:SHOWN] + ([f"... and {more} more"] if more > 0 else [])


def _box_problems(text: str, size: tuple[int, int] | None) -> list[str]:
    words = text.split()
    if not all(word.isascii() and word.isdigit() for word in words):
        return [f"{text[:40]!r} is not made of whole numbers"]
    if len(words) % 5:
        return [f"{len(words)} numbers; each box takes five: class x1 y1 x2 y2"]
    values = [int(word) for word in words]
    boxes = [values[place : place + 5] for place in range(0, len(values), 5)]
    told = [f"{len(boxes)} boxes; at most {challenge.MOST} are taken"] if len(boxes) > challenge.MOST else []
    for label, x1, y1, x2, y2 in boxes:
        if label not in NUMBERS.values():
            told.append(f"class {label}; there are 1 to 4")
        if x2 <= x1 or y2 <= y1:
            told.append(f"box {x1} {y1} {x2} {y2} is empty")
        elif size and (x2 > size[0] or y2 > size[1]):
            told.append(f"box {x1} {y1} {x2} {y2} leaves the image of {size[0]}x{size[1]} pixels")
    return told
