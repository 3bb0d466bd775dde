"""What goes on around training in one attempt: news, orders, snapshots when they are due, and leaving when asked."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from rddkit import clock, memory, snapshot, state
from rddkit.snapshot import Place, Store

# A due snapshot waits for the next optimizer step, when no gradients are held; no longer than this.
WAIT_FOR_STEP_SECONDS = 30.0
# So long a full disk may refuse snapshots before the run stops: it is what a kill would then cost.
LONGEST_WITHOUT_SECONDS = 3600.0


class StopRequested(Exception):
    """Raised between batches to leave training with everything on disk."""


class NonFinite(RuntimeError):
    """Loss or fitness is not a number; what led here must not be kept."""


class Talk(Protocol):
    """Where news of training goes (the worker's pipe; a list in tests)."""

    def beat(self, phase: str, **where: Any) -> None: ...

    def event(self, event: str, **fields: Any) -> None: ...


class Orders(Protocol):
    """What is asked of training meanwhile."""

    stop: str | None
    snapshot: bool


@dataclass
class Validation:
    """The batch and image size of validation where they are not what Ultralytics would take."""

    batch: int | None = None
    imgsz: int | None = None


@dataclass
class Found:
    """What an attempt continues from: a snapshot's state, or whole epochs in last.pt, or nothing."""

    state: dict[str, Any] | None = None
    path: Path | None = None
    epochs_done: int = 0
    seconds: float = 0.0


class Session:
    """One attempt's dealings with the world around it; the loop calls it at the few places that matter."""

    def __init__(self, store: Store, talk: Talk, orders: Orders, found: Found, safety: dict[str, Any]) -> None:
        self.store, self.talk, self.orders, self.found = store, talk, orders, found
        self.safety = safety
        self.validation = Validation()
        self.val_period = int(safety["val_period"])
        self.taken: Path | None = None
        self.taken_at = self.kept_at = clock.monotonic()
        self.seconds, self.why = snapshot.interval(0.0, 0, safety["snapshot_seconds"], safety["snapshot_daily_bytes"])
        self.early_seconds = self.seconds / 2  # an epoch's end is a good place, so that it may come before its time
        self.stage = store.stage(found.path) if found.path and found.state else {}
        self.end_of_epoch = found.path if found.state and found.state["place"]["stage"] == "trained" else None
        self.pending: tuple[Any, Place, dict[str, Any]] | None = None
        self.own_seconds = 0.0  # spent in our code while training waits
        self.seed: int | None = None  # other random numbers than those that led to what is not a number
        self.budget = 0

    # -- called by the loop --------------------------------------------------------------------------------------------

    def after_batch(self, trainer: Any, place: Place, stepped: bool) -> None:
        """Take a snapshot if one is due or asked for; leave if asked to."""
        with self.timed():
            over = clock.monotonic() - self.taken_at - self.seconds
            due = over >= 0 and (stepped or over > WAIT_FOR_STEP_SECONDS)
            if self.orders.stop or self.orders.snapshot or due:
                self.take(trainer, place, state.random_state(trainer.device))
        self.heed()

    def at_epoch_end(self, trainer: Any, place: Place, last: bool) -> None:
        """Before validation: a snapshot if half the interval or so has passed; always when all training is done."""
        self.end_of_epoch = self.end_of_epoch if self.stage else None
        if self.stage.get("epoch") == place.epoch:
            return
        with self.timed():
            if last or self._early() or self.orders.stop or self.orders.snapshot:
                self.end_of_epoch = self.take(trainer, place, state.random_state(trainer.device))
        self.heed()

    def between_epochs(self, trainer: Any, place: Place) -> None:
        """After an epoch's checkpoint: a snapshot if half the interval or so has passed."""
        self.stage, self.end_of_epoch = {}, None
        with self.timed():
            if self._early() or self.orders.stop or self.orders.snapshot:
                self.take(trainer, place, state.random_state(trainer.device))
        self.heed()

    @contextlib.contextmanager
    def validating(self, trainer: Any, place: Place) -> Iterator[None]:
        """While validation runs, a stop keeps the state from before it."""
        with self.timed():
            self.pending = (trainer, place, state.random_state(trainer.device))
        try:
            yield
        finally:
            self.pending = None

    def during_validation(self) -> None:
        """Between two batches of a validation: leave if asked, the training state kept."""
        if self.pending and (self.orders.stop or self.orders.snapshot):
            trainer, place, rng = self.pending
            if self.end_of_epoch is None:
                self.end_of_epoch = self.take(trainer, place, rng)
            self.orders.snapshot = False
        self.heed()

    def take_stage(self, trainer: Any) -> bool:
        """Take over the measures of a validation that a kill came after; whether there were any for this epoch."""
        if self.stage.get("epoch") != trainer.epoch:
            return False
        trainer.metrics, trainer.fitness = self.stage["metrics"], self.stage["fitness"]
        trainer.best_fitness = self.stage["best_fitness"]
        if self.seed is None:
            state.set_random_state(state.from_lists(self.stage["rng"]), trainer.device)
        return True

    def note_stage(self, trainer: Any) -> None:
        """Note the measures of this epoch's validation beside the snapshot it followed."""
        with self.timed(), contextlib.suppress(OSError):  # without the note the validation is repeated
            measures = {key: getattr(trainer, key) for key in ("metrics", "fitness", "best_fitness")}
            # Ultralytics' validation draws from Python's generator, so its state after it belongs to the note.
            rng = state.to_lists(state.random_state(trainer.device))
            self.store.note_stage(self.end_of_epoch, {"epoch": trainer.epoch, **state.plain(measures), "rng": rng})

    @contextlib.contextmanager
    def timed(self) -> Iterator[None]:
        """Count the time within as our own."""
        began = clock.monotonic()
        try:
            yield
        finally:
            self.own_seconds += clock.monotonic() - began

    def heed(self) -> None:
        if self.orders.stop:
            raise StopRequested(self.orders.stop)

    def mind_cache(self, device: str) -> None:
        """Within an epoch: empty a device's cache that holds more unused memory than is allowed."""
        cached = memory.device_cache(device)
        if self.safety["clear_cache"] and self.budget and cached > self.safety["cache_share"] * self.budget:
            self.talk.event("cache_cleared", freed_bytes=memory.clear_cache(device), when="within the epoch")

    # -- snapshots -----------------------------------------------------------------------------------------------------

    def _early(self) -> bool:
        return clock.monotonic() - self.taken_at >= self.early_seconds

    def take(self, trainer: Any, place: Place, rng: dict[str, Any]) -> Path | None:
        """Take a snapshot now; None where the state is not fit to be kept or the disk would not take it."""
        self.orders.snapshot = False
        self.taken_at = clock.monotonic()
        batch = -(-place.images // trainer.batch_size)
        where = {"epoch": place.epoch + 1, "batch": batch, "batches": trainer.batches}
        if not state.is_finite(trainer):
            self.talk.event("snapshot_failed", **where, error="the state is not finite; the last good one stays")
            return None
        try:
            end = place.stage != "train"
            taken = self.store.take(state.capture(trainer, place, rng), place.epoch + 1, batch, end)
        except OSError as error:
            self.talk.event("snapshot_failed", **where, error=f"{error}; the older ones stay; training goes on")
            self._mind_the_disk()
            if clock.monotonic() - self.kept_at > LONGEST_WITHOUT_SECONDS and not self.orders.stop:
                self.orders.stop = f"no snapshot could be written for {clock.words(LONGEST_WITHOUT_SECONDS)}: {error}"
            return None
        self.taken_at = self.kept_at = clock.monotonic()
        asked, cap = self.safety["snapshot_seconds"], self.safety["snapshot_daily_bytes"]
        self.seconds, self.why = snapshot.interval(taken.seconds, taken.bytes, asked, cap)
        # Epochs of half a minute would otherwise double what snapshots cost.
        dear = 2 * snapshot.INTERVAL_COSTS * taken.seconds if asked == "auto" else 0.0
        self.early_seconds = max(self.seconds / 2, dear)
        spent = {"bytes": taken.bytes, "seconds": round(taken.seconds, 3), "next_in": round(self.seconds, 1)}
        self.talk.event("snapshot", **where, stage=place.stage, **spent, reason=self.why)
        self._mind_the_disk()
        return taken.path

    def _mind_the_disk(self) -> None:
        """Stop resumably while there is still room for the journal and for what a stop writes."""
        free = shutil.disk_usage(self.store.folder.parent).free
        if free < self.safety["disk_reserve"] and not self.orders.stop:
            self.orders.stop = (
                f"the disk is nearly full: {free / 1e6:.0f} MB free, "
                f"the reserve is {self.safety['disk_reserve'] / 1e6:.0f} MB (disk_reserve in safety.yaml)"
            )
