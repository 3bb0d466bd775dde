"""Ultralytics' detector trainer with files that survive a kill: what our loop and its own have in common."""

from __future__ import annotations

import contextlib
import copy
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import ultralytics.engine.trainer as engine
from ultralytics.models.yolo.detect import DetectionTrainer
from ultralytics.utils import LOCAL_RANK, LOGGER, RANK
from ultralytics.utils.patches import override_configs
from ultralytics.utils.torch_utils import strip_optimizer, torch_distributed_zero_first

from rddkit import durable, faults, memory, snapshot, status
from rddkit.session import Session


class WholePath(type(Path())):  # type: ignore[misc]
    """A path whose `write_bytes` is atomic: Ultralytics writes checkpoints through it.

    Without data it becomes a copy of last.pt, which was streamed to the drive before (see `streamed`).
    """

    def write_bytes(self, data: Any) -> int:
        last = Path(self).with_name("last.pt")
        if data:
            durable.write(Path(self), bytes(data))
        elif Path(self) != last:
            durable.copy(last, Path(self))
        return len(data)


class KeptPath(type(Path())):  # type: ignore[misc]
    """A path that is not deleted: Ultralytics deletes results.csv at every start that is not its own resume."""

    def unlink(self, missing_ok: bool = False) -> None:
        return


class WholeTrainer(DetectionTrainer):
    """Ultralytics' detector trainer with checkpoints that are whole or absent; its own loop.

    MLflow, TensorBoard and their like are given only to classes with `Trainer` in their names
    (ultralytics/utils/callbacks/base.py, add_integration_callbacks).
    """

    def __init__(self, overrides: dict[str, Any], session: Session) -> None:
        self.session = session
        super().__init__(overrides=overrides)
        self.wdir, self.last, self.best = map(WholePath, (self.wdir, self.last, self.best))

    @property
    def csv(self) -> Path:
        return self._csv

    @csv.setter
    def csv(self, path: Path) -> None:
        # Among several ranks each would delete it, and one of them fail.
        self._csv = KeptPath(path) if self.session.found.state or RANK != -1 else path

    def train_seconds(self) -> float:
        """Seconds of training so far, over all attempts."""
        return float(time.time() - self.train_time_start)

    def save_metrics(self, metrics: dict[str, Any]) -> None:
        """Append the epoch's row, and flush it: a snapshot that follows says that it is there."""
        super().save_metrics(metrics)
        with open(self.csv, "rb") as file:
            durable.flush_to_drive(file.fileno())
        durable.flush_folder(self.csv.parent)

    def read_results_csv(self) -> dict[str, list[float]]:
        """results.csv by column, for last.pt; Ultralytics reads it by polars, which aborts where memory is out."""
        rows = status.read_rows(Path(self.csv))
        columns = {key: [row[key] for row in rows] for key in (rows[0] if rows else ())}
        return {key: [*map(int, column)] if key == "epoch" else column for key, column in columns.items()}

    def _clear_memory(self, threshold: float | None = None) -> None:
        """Ultralytics' clearing, before validation and after each epoch, with what it gave back told."""
        device = str(self.device)
        before = memory.device_memory(device)
        super()._clear_memory(threshold)
        if device == "cpu":  # where Ultralytics does nothing: validation would grow beside the gaps that steps left
            memory.clear_cache(device)
        if before is not None:
            freed = max(0, before - (memory.device_memory(device) or 0))
            self.session.talk.event("cache_cleared", freed_bytes=freed, when="between training and validation")

    def get_dataloader(self, dataset_path: str, batch_size: int = 16, rank: int = 0, mode: str = "train") -> Any:
        """The loader; validation has the plan's own batch and keeps the image size the run began with."""
        if mode != "val":
            return super().get_dataloader(dataset_path, batch_size, rank, mode)
        val = self.session.validation
        with override_configs(self.args, {"imgsz": val.imgsz or self.args.imgsz}) as self.args:
            return super().get_dataloader(dataset_path, val.batch or batch_size, rank, mode)

    def get_validator(self) -> Any:
        validator = super().get_validator()
        validator.args.imgsz = self.session.validation.imgsz or validator.args.imgsz
        return validator

    def final_eval(self) -> None:
        """Strip the checkpoints, each replaced whole, and validate the best one (mirrors Ultralytics' final_eval)."""
        has_best = self.best.exists()
        with torch_distributed_zero_first(LOCAL_RANK):  # the other ranks wait
            if RANK in (-1, 0):
                stripped = strip(self.last) if self.last.exists() else {}
                faults.point("stripped_last")
                if has_best:
                    strip(self.best, {"train_results": stripped.get("train_results")})
        if has_best:
            LOGGER.info(f"\nValidating {self.best}...")
            self.validator.args.plots = self.args.plots
            self.validator.args.compile = False
            self.metrics = self.validator(model=Path(self.best))
            self.metrics.pop("fitness", None)
            self.epoch += 1  # best metrics are logged at epochs + 1, as Ultralytics does
            self.run_callbacks("on_fit_epoch_end")
            self.epoch -= 1


@contextlib.contextmanager
def streamed(last: Path) -> Iterator[None]:
    """Within it Ultralytics' save_model streams its checkpoint into `last`, bit for bit the same, and copies less.

    It would build the whole file in a buffer, take the buffer's bytes out of it, and copy the optimizer's state before:
    for yolov8s with AdamW 230 MB that nothing needs.
    """
    save, deepcopy = torch.save, engine.deepcopy

    def into_the_file(content: dict[str, Any], _buffer: Any) -> None:
        last.parent.mkdir(parents=True, exist_ok=True)  # as save_model does, after this
        with durable.replacing(Path(last)) as file:
            snapshot.stream(content, snapshot.StreamedFile(file))

    def copied(value: Any) -> Any:
        return _optimizer_state(value) if isinstance(value, dict) and "param_groups" in value else deepcopy(value)

    torch.save, engine.deepcopy = into_the_file, copied  # type: ignore[assignment]
    try:
        yield
    finally:
        torch.save, engine.deepcopy = save, deepcopy


def _optimizer_state(state: dict[str, Any]) -> dict[str, Any]:
    """An optimizer's state whose entries can be exchanged without a change of the optimizer; tensors are not copied."""
    return {
        "state": {key: copy.copy(value) for key, value in state["state"].items()},
        "param_groups": copy.deepcopy(state["param_groups"]),
    }


def strip(path: Path, updates: dict[str, Any] | None = None) -> dict[str, Any]:
    """Ultralytics' strip_optimizer, which rewrites in place, made atomic; the checkpoint's content."""
    beside = Path(f"{path}.{os.getpid()}{durable.TEMPORARY}")
    content: dict[str, Any] = strip_optimizer(Path(path), s=str(beside), updates=updates)
    if content:
        durable.replace(beside, Path(path))
    return content
