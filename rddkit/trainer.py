"""Training one attempt with Ultralytics: our arguments in, its own loop, our eyes and brakes as callbacks."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol

import torch
import ultralytics.utils.torch_utils as torch_utils
from ultralytics.models.yolo.detect import DetectionTrainer

from rddkit import clock, durable, memory, status
from rddkit.paths import RunPaths
from rddkit.runfile import RunFile


class StopRequested(Exception):
    """Raised between batches to leave the loop with everything on disk as it is."""


class Talk(Protocol):
    """Where news of training goes (the worker's pipe; a list in tests)."""

    def beat(self, phase: str, **where: Any) -> None: ...

    def event(self, event: str, **fields: Any) -> None: ...


class Orders(Protocol):
    """What is asked of training meanwhile."""

    stop: str | None
    snapshot: bool


class WholePath(type(Path())):  # type: ignore[misc]
    """A path whose `write_bytes` is atomic: Ultralytics writes checkpoints through it."""

    def write_bytes(self, data: Any) -> int:
        durable.write(Path(self), bytes(data))
        return len(data)


class Pace:
    """Seconds per batch and per validation, for the time that is left."""

    def __init__(self) -> None:
        self.batch_seconds = 0.0
        self.validation_seconds = 0.0
        self.mark = clock.monotonic()

    def lap(self) -> float:
        """Seconds since the last lap."""
        now = clock.monotonic()
        passed, self.mark = now - self.mark, now
        return passed

    def batch(self) -> None:
        passed = self.lap()
        self.batch_seconds = passed if not self.batch_seconds else 0.95 * self.batch_seconds + 0.05 * passed

    def left(self, epochs_after: int, batches_left: int, batches: int) -> float:
        """Seconds to the end of training."""
        epoch = batches * self.batch_seconds + self.validation_seconds
        return batches_left * self.batch_seconds + self.validation_seconds + epochs_after * epoch


class RoadDamageTrainer(DetectionTrainer):
    """Ultralytics' detector trainer with checkpoints that are whole or absent."""

    def __init__(self, overrides: dict[str, Any]) -> None:
        super().__init__(overrides=overrides)
        self.last, self.best = WholePath(self.last), WholePath(self.best)


class Watch:
    """Callbacks that tell how training goes and leave it when asked."""

    def __init__(self, trainer: DetectionTrainer, talk: Talk, orders: Orders) -> None:
        self.trainer, self.talk, self.orders = trainer, talk, orders
        self.pace = Pace()
        self.batch = 0
        self.epoch_started = clock.monotonic()
        self.reported = 0

    def attach(self) -> None:
        for name in ("on_train_epoch_start", "on_train_batch_end", "on_train_epoch_end", "on_fit_epoch_end"):
            self.trainer.add_callback(name, getattr(self, name))
        for name in ("on_val_start", "on_val_batch_end", "on_val_end"):
            self.trainer.add_callback(name, getattr(self, name))

    def on_train_epoch_start(self, trainer: DetectionTrainer) -> None:
        self.batch = 0
        self.epoch_started = clock.monotonic()
        self.pace.lap()

    def on_train_batch_end(self, trainer: DetectionTrainer) -> None:
        self.batch += 1
        self.pace.batch()
        self.say("train")
        self.heed()

    def on_train_epoch_end(self, trainer: DetectionTrainer) -> None:
        self.pace.lap()

    def on_val_start(self, validator: Any) -> None:
        self.say("validate")

    def on_val_batch_end(self, validator: Any) -> None:
        self.say("validate")
        self.heed()

    def on_val_end(self, validator: Any) -> None:
        self.pace.validation_seconds = self.pace.lap()

    def on_fit_epoch_end(self, trainer: DetectionTrainer) -> None:
        epoch = trainer.epoch + 1
        if epoch <= self.reported or epoch > trainer.epochs:
            return  # it fires once more after the final evaluation
        self.reported = epoch
        seconds = round(clock.monotonic() - self.epoch_started, 2)
        self.talk.event("epoch", epoch=epoch, epochs=trainer.epochs, seconds=seconds, metrics=dict(trainer.metrics))

    def say(self, phase: str) -> None:
        trainer = self.trainer
        batches = len(trainer.train_loader)
        where: dict[str, Any] = {
            "epoch": trainer.epoch + 1,
            "epochs": trainer.epochs,
            "batch": self.batch,
            "batches": batches,
            "validation_seconds": round(self.pace.validation_seconds, 2),
            "eta_seconds": round(self.pace.left(trainer.epochs - trainer.epoch - 1, batches - self.batch, batches), 1),
        }
        if phase == "train":
            speed = trainer.batch_size / self.pace.batch_seconds if self.pace.batch_seconds else 0.0
            where["images_per_second"] = round(speed, 2)
            where["losses"] = {key: round(float(value), 5) for key, value in (trainer.tloss or {}).items()}
            where["lr"] = trainer.optimizer.param_groups[-1]["lr"]
        self.talk.beat(phase, **where)

    def heed(self) -> None:
        if self.orders.stop:
            raise StopRequested(self.orders.stop)


def fix_threads(threads: int) -> None:
    """Use this many CPU threads: Ultralytics sets cores - 1 whatever the environment says, and bits depend on it."""
    torch_utils.NUM_THREADS = threads
    torch.set_num_threads(threads)


def ultralytics_device(device: str) -> str:
    """The device in Ultralytics' own words: `cuda` and `cuda:0` are plain numbers there."""
    return device.removeprefix("cuda:") if device != "cuda" else "0"


def arguments(paths: RunPaths, record: RunFile) -> dict[str, Any]:
    """The Ultralytics arguments of an attempt: what was asked, under the plan, in this folder."""
    return {
        **record.config,
        **record.plan,
        "device": ultralytics_device(record.device),
        "project": str(paths.folder.parent),
        "name": paths.name,
        "exist_ok": True,
        "save_dir": str(paths.folder),
    }


def checkpoint_epochs(last: Path) -> int:
    """Whole epochs in a checkpoint; -1 for one that a finished training stripped; 0 where there is none to resume."""
    if not last.exists():
        return 0
    try:
        checkpoint = torch.load(last, map_location="cpu", weights_only=False)  # written by this run's own worker
        return int(checkpoint["epoch"]) + 1 if checkpoint.get("epoch", -1) >= 0 else -1
    except Exception as error:
        print(f"{last} cannot be read ({error}); starting from the beginning")
        return 0


def train(paths: RunPaths, record: RunFile, attempt: int, talk: Talk, orders: Orders) -> bool:
    """Train one attempt to the end; False if it was asked to stop before."""
    fix_threads(record.threads)
    overrides = arguments(paths, record)
    epochs_done = checkpoint_epochs(paths.last)
    if epochs_done < 0:
        return True
    seconds_before = 0.0
    if epochs_done:
        overrides["resume"] = str(paths.last)
        seconds_before = forget_rows_after(paths.results_csv, epochs_done)
    elif paths.results_csv.exists():
        paths.results_csv.unlink()
    trainer = RoadDamageTrainer(overrides)
    if attempt > 1:
        reason = "from last.pt, the last whole epoch" if epochs_done else "no checkpoint yet: from the beginning"
        # epoch is the one being trained (1-based); batch counts its batches that are done
        since = clock.file_stamp(paths.last) if epochs_done else clock.file_stamp(paths.run_yaml)
        talk.event("resumed", epoch=epochs_done + 1, batch=0, exact=False, reason=reason, since=since)
    watch = Watch(trainer, talk, orders)
    watch.attach()
    if record.safety["clear_cache"]:
        talk.event("cache_cleared", freed_bytes=memory.clear_cache(record.device), when="before training")

    def continue_time(trainer: DetectionTrainer) -> None:
        trainer.train_time_start -= seconds_before

    trainer.add_callback("on_train_start", continue_time)
    try:
        trainer.train()
    except StopRequested:
        return False
    return True


def forget_rows_after(results: Path, epochs_done: int) -> float:
    """Drop rows of epochs that no checkpoint holds, so that each epoch has one row; the training seconds so far."""
    if not results.exists():
        return 0.0

    def keep(line: str) -> bool:
        first = line.split(",")[0].strip()
        return not first.isdigit() or int(first) <= epochs_done

    durable.edit_lines(results, keep)
    rows = status.read_rows(results)
    return rows[-1].get("time", 0.0) if rows else 0.0
