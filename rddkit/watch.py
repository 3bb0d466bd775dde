"""Callbacks that tell how training goes: where it stands, how fast, how long it will take."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from rddkit import clock
from rddkit.session import Session


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


class Watch:
    """Hangs itself on a trainer's callbacks; the validator shares them."""

    def __init__(self, trainer: Any, session: Session, leaves: bool) -> None:
        self.trainer, self.session = trainer, session
        self.leaves = leaves  # Ultralytics' own loop has no other place to leave from
        self.pace = Pace()
        self.batch = 0
        self.epoch_started = clock.monotonic()
        self.epochs_told = 0
        self.ended = False

    def attach(self) -> None:
        names = "on_train_start on_train_epoch_start on_train_batch_end on_train_epoch_end on_fit_epoch_end"
        for name in (*names.split(), "on_val_start", "on_val_batch_end", "on_val_end"):
            self.trainer.add_callback(name, self._timed(getattr(self, name)))

    def _timed(self, callback: Callable[[Any], None]) -> Callable[[Any], None]:
        def timed(subject: Any) -> None:
            with self.session.timed():
                callback(subject)

        return timed

    def on_train_start(self, trainer: Any) -> None:
        self.epochs_told = trainer.start_epoch
        self.say("start")

    def on_train_epoch_start(self, trainer: Any) -> None:
        self.batch = 0
        self.epoch_started = clock.monotonic()
        self.pace.lap()

    def on_train_batch_end(self, trainer: Any) -> None:
        self.batch += 1
        self.pace.batch()
        self.say("train")
        self.session.mind_cache(str(trainer.device))
        if self.leaves:
            self.session.heed()

    def on_train_epoch_end(self, trainer: Any) -> None:
        self.pace.lap()

    def on_val_start(self, validator: Any) -> None:
        self.say("validate")

    def on_val_batch_end(self, validator: Any) -> None:
        self.say("validate")
        self.session.during_validation()

    def on_val_end(self, validator: Any) -> None:
        self.pace.validation_seconds = self.pace.lap()

    def on_fit_epoch_end(self, trainer: Any) -> None:
        epoch = trainer.epoch + 1
        if self.ended or epoch <= self.epochs_told or trainer.tloss is None or trainer.metrics is None:
            return  # it fires once more after the final evaluation; of several ranks only the first has measures
        self.epochs_told, self.ended = epoch, trainer.stop
        seconds = round(clock.monotonic() - self.epoch_started, 2)
        measures = {**trainer.label_loss_items(trainer.tloss), **trainer.metrics}
        metrics = {key: float(value) for key, value in measures.items()}
        own = round(self.session.own_seconds, 3)
        where = {"epoch": epoch, "epochs": trainer.epochs}
        self.session.talk.event("epoch", **where, seconds=seconds, own_seconds=own, metrics=metrics)

    def say(self, phase: str) -> None:
        trainer = self.trainer
        batches = len(trainer.train_loader)
        epoch = getattr(trainer, "epoch", trainer.start_epoch)
        left = self.pace.left(trainer.epochs - epoch - 1, batches - self.batch, batches)
        where: dict[str, Any] = {
            "epoch": epoch + 1,
            "epochs": trainer.epochs,
            "batch": self.batch,
            "batches": batches,
            "train_seconds": round(trainer.train_seconds(), 2) if phase != "start" else None,
            "validation_seconds": round(self.pace.validation_seconds, 2),
            "eta_seconds": round(left, 1) if self.pace.batch_seconds else None,
        }
        if phase == "train":
            speed = trainer.batch_size / self.pace.batch_seconds if self.pace.batch_seconds else 0.0
            where["images_per_second"] = round(speed, 2)
            where["losses"] = {key: round(float(value), 5) for key, value in (trainer.tloss or {}).items()}
            where["lr"] = trainer.optimizer.param_groups[-1]["lr"]
        self.session.talk.beat(phase, **where)
