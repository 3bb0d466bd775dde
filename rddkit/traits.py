"""What of a model decides its memory: sizes in bytes from a traced step, and the table of the models most people train.

Plain values, without torch: `footprint` traces, `need` computes.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

TABLE = Path(__file__).with_name("traits.json")
CURVES = ("held", "backward", "forward", "norms", "layers")
FAMILIES = [f"yolov8{size}" for size in "nsm"] + [f"yolo11{size}" for size in "nsm"]
FAMILIES += [f"yolo26{size}" for size in "nsm"] + [f"yolov5{size}u" for size in "nsm"]
FAMILIES += [f"yolov9{size}" for size in "ts"] + [f"yolov10{size}" for size in "nsm"]
FAMILIES += [f"yolo12{size}" for size in "nsml"] + ["yolov8l", "yolo11l", "yolo26l", "yolov5lu"]
FAMILIES += ["yolov9m", "yolov9c", "yolov10b", "yolov10l"]


class Polynomial(NamedTuple):
    """Bytes: a fixed part, and of each image a part by pixel and one by pixel squared (attention)."""

    fixed: float
    pixel: float
    square: float

    def image(self, pixels: float) -> float:
        """The bytes of one image."""
        return (self.pixel + self.square * pixels) * pixels

    def at(self, images: float, pixels: float) -> float:
        """The bytes of a batch."""
        return self.fixed + images * self.image(pixels)


@dataclass(frozen=True)
class Traits:
    """What of a model decides memory; sizes in bytes.

    `state`: weights and buffers. `trained`: weights that get a gradient. `anchors`: predictions a pixel. `held`: what
    the forward pass of training leaves for the backward pass; `backward`: the most until that is over, and `norms` and
    `layers` with that kind of checkpointing; `forward`: the most in a validation's forward pass. `modules`: how many.
    `padded`: the weights that MuSGD turns, in the batches that it makes of them. `blocks`: the sizes of the pieces that
    `held` is made of, as (bytes of one for each pixel of the batch, bytes of all such for each pixel).
    """

    model: str
    classes: int
    state: int
    trained: int
    anchors: float
    held: Polynomial
    backward: Polynomial
    forward: Polynomial
    norms: Polynomial
    layers: Polynomial
    modules: int
    padded: int
    blocks: tuple[tuple[float, float], ...]

    def step(self, checkpointing: Any) -> Polynomial:
        """The most that a training step holds, by the plan's `checkpointing`."""
        return {"norms": self.norms, "layers": self.layers}.get(str(checkpointing), self.backward)

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def of(cls, content: Mapping[str, Any]) -> Traits:
        """From what `as_dict` gave. Raises TypeError or KeyError for anything else."""
        curves = {key: Polynomial(*content[key]) for key in CURVES}
        blocks = tuple((float(size), float(count)) for size, count in content["blocks"])
        return cls(**{**content, **curves, "blocks": blocks})


@functools.cache
def table() -> dict[str, Traits]:
    """The traits of the models in FAMILIES with RDD2022's four classes, by name."""
    return {row["model"]: Traits.of(row) for row in json.loads(TABLE.read_text(encoding="utf-8"))}
