"""What a model's step holds, seen without allocating it: a forward and backward pass on the `meta` device.

`python -m rddkit.footprint MODEL CLASSES` prints the `Traits` of a model as JSON; `--table` writes those of the models
that most people train. Tensors of the `meta` device are shapes alone; a dispatch mode notes each storage when it comes
and, through a weak reference, when it goes. `FakeTensorMode` tells the same, but imports torch's compiler, which takes
as long as the trace. torch's own MemTracker stops at YOLO's frozen `dfl` convolution.
"""

from __future__ import annotations

import copy
import json
import math
import os
import sys
import weakref
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from rddkit import checkpointing
from rddkit.traits import FAMILIES, TABLE, Polynomial, Traits

# An image count that no channel count is a multiple of: what grows with the batch is told by its first dimension.
MANY = 1009
SIZES = (640, 320)  # the second tells both terms apart, which only attention needs: all else grows with the pixels
CHANNELS = 3


class Line(NamedTuple):
    """Bytes: a part that does not grow with the batch, and the part of each image."""

    fixed: float
    per_image: float


class Ledger(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Notes the bytes of storages that live, and the most at once."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.known: dict[int, int] = {}  # of those that grow with the batch, their bytes; of others 0
        self.fixed = self.grown = 0
        self.most = (0, Line(0, 0))

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        answer = function(*args, **(kwargs or {}))
        for leaf in tree_leaves(answer):
            if isinstance(leaf, torch.Tensor):
                self._note(leaf)
        return answer

    def _note(self, tensor: torch.Tensor) -> None:
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key in self.known:
            return
        size = storage.nbytes()
        grows = tensor.dim() > 0 and tensor.shape[0] % MANY == 0
        self.known[key] = size if grows else 0
        self._count(size, grows)
        self.most = max(self.most, (self.fixed + self.grown, self.now))
        weakref.finalize(storage, self._gone, key, size, grows)

    def _gone(self, key: int, size: int, grows: bool) -> None:
        self.known.pop(key, None)
        self._count(-size, grows)

    def _count(self, size: int, grows: bool) -> None:
        if grows:
            self.grown += size
        else:
            self.fixed += size

    @property
    def now(self) -> Line:
        """What lives now."""
        return Line(self.fixed, self.grown / MANY)


class Pretence:
    """A model on torch's `meta` device, as shapes alone: it runs at any size for the price of a Python loop."""

    def __init__(self, model: Any) -> None:
        self.model = model.to("meta")
        self.head = model.model[-1]
        self.blocks: tuple[tuple[float, float], ...] = ()
        for name, weight in self.model.named_parameters():
            weight.requires_grad_(".dfl" not in name)  # which Ultralytics freezes

    def _forward(self, imgsz: int) -> Any:
        return self.model(torch.empty(MANY, CHANNELS, imgsz, imgsz, device="meta"))

    def train(self, imgsz: int) -> tuple[Line, Line]:
        """What a training step holds: at the end of its forward pass, and at most until its backward pass is over.

        `blocks` then has the pieces that were held, their bytes for each pixel added up by size.
        """
        self.model.train()
        ledger = Ledger()
        with ledger:
            made = self._forward(imgsz)
            held = ledger.now
            self.blocks = by_size(size / MANY / imgsz**2 for size in ledger.known.values() if size)
            ends = [leaf for leaf in tree_leaves(made) if isinstance(leaf, torch.Tensor) and leaf.requires_grad]
            torch.autograd.backward(ends, [torch.empty_like(end) for end in ends])
            del made, ends
        self.model.zero_grad(set_to_none=True)
        return held, ledger.most[1]

    def validate(self, imgsz: int) -> Line:
        """What a forward pass of validation holds at most; decoding the boxes reads values, and is left out."""
        self.model.eval()
        self.head.training = True  # the head itself alone: it then leaves its boxes undecoded
        ledger = Ledger()
        with ledger, torch.no_grad():
            self._forward(imgsz)
        return ledger.most[1]


def by_size(sizes: Iterable[float]) -> tuple[tuple[float, float], ...]:
    """(size, sum) of sizes, those of one half octave together."""
    found: dict[int, float] = {}
    for size in sizes:
        octave = round(2 * math.log2(size))
        found[octave] = found.get(octave, 0.0) + size
    return tuple((round(2 ** (octave / 2), 4), round(count, 3)) for octave, count in sorted(found.items()))


def polynomial(large: Line, small: Line | None = None) -> Polynomial:
    """The bytes of an image by its pixels, from those at one or both of the SIZES."""
    pixels = [float(size * size) for size in SIZES]
    each = [line.per_image / count for line, count in zip((large, small), pixels, strict=True) if line]
    square = (each[1] - each[0]) / (pixels[1] - pixels[0]) if small else 0.0
    return Polynomial(large.fixed, each[0] - square * pixels[0], square)


def examine(name: str, classes: int) -> Traits:
    """The traits of an architecture (`yolov8n.yaml`) or of the one that weights were trained with (a .pt file)."""
    from ultralytics.nn.tasks import DetectionModel, load_checkpoint

    source = load_checkpoint(name)[0].yaml if name.endswith(".pt") else name
    model = DetectionModel(source, nc=classes, verbose=False)
    pretence = Pretence(model)
    modules = list(model.modules())
    sizes = SIZES if any("att" in type(part).__name__.lower() for part in modules) else SIZES[:1]
    steps = [pretence.train(size) for size in reversed(sizes)][::-1]  # the larger last: its blocks are kept
    forward = polynomial(pretence.validate(SIZES[0]))  # at its peak, early, there is no attention
    held, backward = (polynomial(*(step[which] for step in steps)) for which in (0, 1))
    state = sum(tensor.numel() * tensor.element_size() for tensor in model.state_dict().values())
    trained = sum(weight.numel() * 4 for name, weight in model.named_parameters() if ".dfl" not in name)
    anchors = sum(1 / float(stride) ** 2 for stride in model.stride)
    norms, layers = (forgetful(source, classes, kind, sizes) for kind in ("norms", "layers"))
    turned = padded(tuple(weight.shape) for weight in model.parameters())
    rest = (norms, layers, len(modules), turned, pretence.blocks)
    return Traits(Path(name).stem, classes, state, trained, anchors, held, backward, forward, *rest)


def padded(shapes: Iterable[tuple[int, ...]]) -> int:
    """Bytes of the batches of matrices that MuSGD makes of its gradients (ultralytics/optim/muon.py, muon_update).

    Matrices of equally many columns and one scale are padded to the rows of the largest, which are at most 16 times as
    many as those of the smallest.
    """
    alike: dict[tuple[int, float], list[int]] = {}
    for shape in shapes:
        if len(shape) in (2, 4):
            alike.setdefault((math.prod(shape[1:]), max(1.0, shape[-2] / shape[-1])), []).append(shape[0])
    count = 0
    for (columns, _scale), rows in alike.items():
        rows.sort(reverse=True)
        while rows:
            together = [row for row in rows if rows[0] <= 16 * row]
            count += len(together) * rows[0] * columns
            rows = rows[len(together) :]
    return 4 * count


def forgetful(source: Any, classes: int, kind: str, sizes: Sequence[int]) -> Polynomial:
    """What a step holds at most with a kind of checkpointing."""
    from ultralytics.nn.tasks import DetectionModel

    model = DetectionModel(copy.deepcopy(source), nc=classes, verbose=False)
    checkpointing.attach(model, kind)
    pretence = Pretence(model)
    return polynomial(*(pretence.train(size)[1] for size in sizes))


def main(words: list[str]) -> None:
    if words == ["--table"]:
        names = [f"{family}.yaml" for family in FAMILIES]
        lines = [f" {json.dumps(examine(name, 4).as_dict())}" for name in names]
        TABLE.write_text("[\n" + ",\n".join(lines) + "\n]\n", encoding="utf-8")
    else:
        print(json.dumps(examine(words[0], int(words[1])).as_dict()))


if __name__ == "__main__":
    from rddkit import offline

    offline.prepare_home()
    main(sys.argv[1:])
    sys.stdout.flush()
    os._exit(0)  # somebody waits for the answer, and taking torch down takes a second
