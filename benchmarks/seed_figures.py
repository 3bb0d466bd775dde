"""The seed's figures, row by row: what it said, what rddkit estimates, what one training on the CPU really holds.

`python benchmarks/seed_figures.py --keep FOLDER` (memory_truth.py's): a minute. Trains one epoch of the seed's plan,
yolov8s 2x640, by plain Ultralytics in this process: by its charged bytes before and after each thing it does, and by
the sizes of its tensors. Linux only. `know.py` has the hours.
"""

from __future__ import annotations

import argparse
import os
import sys
import threading
from pathlib import Path
from typing import Any

import memory_truth as truths
from rich.console import Console
from rich.table import Table

from rddkit import clock, estimate, memory, need, offline
from rddkit.memory import MIB

PLAN = {"model": "yolov8s.yaml", "batch": 2, "imgsz": 640, "optimizer": "AdamW"}
SAID = {"model": "500 MB", "batch of 2": "2-3 GB", "data loading": "500 MB", "in all": "3-4 GB"}


class Watch(threading.Thread):
    """Reads every few milliseconds what this process holds, in charged bytes, and keeps the most."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.peak = 0

    def run(self) -> None:
        while True:
            self.look()
            clock.sleep(truths.POLL_MS / 1000)

    def look(self) -> int:
        """What it holds now."""
        held = memory.process(os.getpid()).bytes
        self.peak = max(self.peak, held)
        return held

    def anew(self) -> int:
        """What it holds now; the most begins anew."""
        self.peak = 0
        return self.look()


WATCH = Watch()


def tensors(found: Any) -> int:
    """Bytes of all tensors in a module's state or an optimizer's."""
    import torch
    from torch.utils._pytree import tree_leaves

    leaves = tree_leaves(found)
    return sum(leaf.numel() * leaf.element_size() for leaf in leaves if isinstance(leaf, torch.Tensor))


class Seen:
    """What a trainer's callbacks see, in bytes."""

    def __init__(self) -> None:
        self.loading = self.step = self.before = self.highest = 0
        self.model = self.gradients = self.optimizer = 0

    def epoch_starts(self, trainer: Any) -> None:
        self.before = WATCH.anew()

    def batch_starts(self, trainer: Any) -> None:
        held = WATCH.anew()
        self.loading = self.loading or held - self.before
        self.before = held

    def batch_ends(self, trainer: Any) -> None:
        self.step = self.step or WATCH.peak - self.before
        self.highest = max(self.highest, WATCH.peak)

    def ends(self, trainer: Any) -> None:
        self.model = tensors(trainer.model.state_dict()) + tensors(trainer.ema.ema.state_dict())
        self.gradients = sum(weight.numel() * 4 for weight in trainer.model.parameters() if weight.requires_grad)
        self.optimizer = tensors(trainer.optimizer.state_dict())


def trained(keep: Path) -> Seen:
    from ultralytics.models.yolo.detect import DetectionTrainer

    seen = Seen()
    WATCH.start()
    args = {
        **truths.settings(truths.images(keep), PLAN),
        "epochs": 1,
        "fraction": 0.1,
        "device": "cpu",
        "project": str(keep),
        "name": "seed",
    }
    trainer = DetectionTrainer(overrides={**args, "exist_ok": True})
    for event, hear in {
        "on_train_epoch_start": seen.epoch_starts,
        "on_train_batch_start": seen.batch_starts,
        "on_train_batch_end": seen.batch_ends,
        "on_train_epoch_end": seen.ends,
    }.items():
        trainer.add_callback(event, hear)
    trainer.train()
    return seen


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--keep", type=Path, required=True)
    keep = parser.parse_args().keep.resolve()
    offline.prepare_home()
    import torch

    record = truths.record_of(truths.images(keep), PLAN)
    torch.set_num_threads(record.threads)
    found = estimate.know(record)
    sizes = need.parts(found.traits, record.plan, found.facts)["training"]
    told = estimate.judged(found, record.plan)
    seen = trained(keep)
    held = truths.known(keep, PLAN)["runs"]
    kept = seen.gradients + seen.optimizer
    live = seen.step - seen.gradients
    rows = {
        "model": (sizes["weights"] + sizes["average of weights"], seen.model),
        "  gradients, optimizer": (found.traits.trained * (1 + need.kept_by(found.facts.optimizer)), kept),
        "batch of 2": (sum(sizes[name] for name in ("activations", "loss", "allocator")), live),
        "data loading": (sizes["loading"], seen.loading),
        "in all": (told["estimate"], max((run["peak"] for run in held), default=seen.highest)),
    }
    table = Table("yolov8s 2x640", "seed", "estimated", "measured")
    for name, (estimated, measured) in rows.items():
        table.add_row(name, SAID.get(name, ""), f"{estimated / MIB:.0f} MB", f"{measured / MIB:.0f} MB")
    Console(width=100).print(table)
    return 0


if __name__ == "__main__":
    sys.exit(main())
