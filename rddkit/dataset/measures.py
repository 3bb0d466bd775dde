"""How large boxes are, in the image and in what the detector sees of it, and which of them are the hardest; pure."""

from __future__ import annotations

import bisect
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from rddkit.dataset.audit import Frame
from rddkit.dataset.classes import described

IMGSZ = 640  # pixels of the longer side in training, unless settings say otherwise
CELL = 8  # pixels: the finest grid of YOLO's heads; what is thinner has not one cell to itself
EDGES = (2, 4, 8, 16, 32, 64, 128, 256)  # pixels at IMGSZ, between the bars of the histograms
WORST = 6
FEW = 100  # boxes of a class in val, below which chance moves its average precision by points


class Side(NamedTuple):
    """A box's shorter side in pixels of the image, and at IMGSZ; and whose it is."""

    pixels: float
    seen: float
    label: str
    frame: Frame


def measure(frames: Sequence[Frame], names: Sequence[str]) -> dict[str, Any]:
    """The audit's `sizes`: shorter sides of boxes by class and by domain, in pixels of the image and at `imgsz`."""
    sides = [side for frame in frames for side in _sides(frame)]
    domains = sorted({frame.pair.domain for frame in frames})
    by_domain = {}
    for domain in domains:
        own = [frame for frame in frames if frame.pair.domain == domain]
        width = int(statistics.median(frame.picture.width for frame in own))
        height = int(statistics.median(frame.picture.height for frame in own))
        row = _row(side for side in sides if side.frame.pair.domain == domain)
        by_domain[domain] = {"width": width, "height": height, "scale": round(IMGSZ / max(width, height), 4), **row}
    return {
        "imgsz": IMGSZ,
        "cell": CELL,
        "edges": list(EDGES),
        "by_class": {name: _row(side for side in sides if side.label == name) for name in names},
        "by_domain": by_domain,
    }


def worst(frames: Sequence[Frame]) -> dict[str, list[str]]:
    """Images to look at, by what is hard about them: thinnest boxes once shrunk, most boxes, most of the image."""
    return {
        "thinnest boxes": _first(frames, lambda frame: min(side.seen for side in _sides(frame))),
        "most boxes": _first(frames, lambda frame: -len(frame.boxes)),
        "largest share of the image": _first(frames, lambda frame: -_covered(frame)),
    }


def warnings(audit: Mapping[str, Any]) -> list[str]:
    """What will hurt, in sentences, from the content of an `audit.json`."""
    said: list[str] = []
    sizes = audit["sizes"]
    for domain, own in sizes["by_domain"].items():
        if own["boxes"] and own["scale"] < 0.5:
            said.append(
                f"{domain}: {own['width']}x{own['height']} pixels shrink to {own['scale']:.0%} at imgsz "
                f"{sizes['imgsz']}: the shorter side of its median box from {own['median']:.0f} pixels to "
                f"{own['median_seen']:.0f}, and {own['below_cell']:.0%} of its boxes below the {sizes['cell']} "
                "pixels of one cell"
            )
    boxes, in_val = audit["boxes"], audit["splits"]["val"]["boxes"]
    for name, number in sorted(boxes.items(), key=lambda item: item[1]):
        if in_val[name] < FEW:
            said.append(
                f"{described(name)}: {number} of {sum(boxes.values())} boxes, {in_val[name]} of them in val: chance "
                "moves its average precision by points"
            )
    for domain, own in audit["by_domain"].items():
        if own["images"] and not own["val"] and not own.get("test"):
            said.append(f"{domain}: no image in val, so that no figure tells how well it does there")
        if own["images"] and own["negatives"] > own["images"] / 2:
            share = own["negatives"] / own["images"]
            said.append(f"{domain}: {share:.0%} of its images are negatives, which is why none of them is dropped")
    leakage = audit["leakage"]
    if leakage["twins"]:
        said.append(f"{leakage['twins']} images in val have a near-twin in train: what they measure is memory")
    if leakage["images"] < leakage["of"]:
        left = leakage["of"] - leakage["images"]
        said.append(f"{left} images were not compared with others: rddkit prepare --leakage all does, in minutes")
    return said


def _sides(frame: Frame) -> Iterable[Side]:
    scale = IMGSZ / max(frame.picture.width, frame.picture.height)
    for box in frame.boxes:
        side = min(box.x2 - box.x1, box.y2 - box.y1)
        yield Side(side, side * scale, box.label, frame)


def _row(sides: Iterable[Side]) -> dict[str, Any]:
    own = list(sides)
    bars = [0] * (len(EDGES) + 1)
    for side in own:
        bars[bisect.bisect_right(EDGES, side.seen)] += 1
    return {
        "boxes": len(own),
        "median": round(statistics.median(side.pixels for side in own), 1) if own else None,
        "median_seen": round(statistics.median(side.seen for side in own), 1) if own else None,
        "below_cell": round(sum(side.seen < CELL for side in own) / len(own), 4) if own else None,
        "bars": bars,
    }


def _covered(frame: Frame) -> float:
    area = sum((box.x2 - box.x1) * (box.y2 - box.y1) for box in frame.boxes)
    return area / (frame.picture.width * frame.picture.height)


def _first(frames: Sequence[Frame], key: Callable[[Frame], float]) -> list[str]:
    with_boxes = [frame for frame in frames if frame.boxes]
    return [_name(frame) for frame in sorted(with_boxes, key=lambda frame: (key(frame), _name(frame)))[:WORST]]


def _name(frame: Frame) -> str:
    return frame.pair.name
