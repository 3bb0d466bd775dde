"""A run at a glance, in plain values and words: what the dashboard, the terminal and the report show of its state."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

from rddkit import clock, journal, words
from rddkit.journal import Event
from rddkit.memory import human
from rddkit.status import Status
from rddkit.tables import MAP50, MAP50_95, MEMORY_COLUMNS

QUIET_SECONDS = 60.0
BADGES = {"done": "finished", "new": "not started"}  # the others are shown by their own name
TAIL_BYTES = 64_000  # of memory.csv: some ten minutes


class Gauge(NamedTuple):
    """What is held against what may be, in bytes; `source` says where the limit comes from."""

    held: float
    budget: float
    source: str

    @property
    def share(self) -> float:
        return self.held / self.budget if self.budget else 0.0

    def __str__(self) -> str:
        if not self.budget:
            return f"{human(self.held)} held; the budget is not known"
        source = f" ({self.source})" if self.source else ""
        return f"{human(self.held)} of {human(self.budget)} allowed, {self.share:.0%}{source}"


@dataclass(frozen=True)
class Glance:
    """A run at one moment. Shares are 0 to 1, None where they mean nothing; `facts` are (name, value)."""

    status: Status
    badge: str
    epochs: float
    batches: float | None
    facts: tuple[tuple[str, str], ...]
    memory: Gauge | None
    events: tuple[tuple[str, str], ...]


def look(
    status: Status,
    events: Sequence[Event],
    progress: Mapping[str, Any],
    run: Mapping[str, Any],
    memory: Mapping[str, float],
    most: int = 8,
    now: datetime | None = None,
) -> Glance:
    """Put a glance together.

    Args:
        progress: progress.json.
        run: run.yaml.
        memory: the newest row of memory.csv, bytes; {} where there is none.
        most: events to tell, the routine ones left out.
    """
    told = [event for event in events if not words.is_routine(event)][-most:]
    return Glance(
        status=status,
        badge=badge(status),
        epochs=epochs_done(status),
        batches=status.batch / status.batches if status.state == "running" and status.batches else None,
        facts=tuple(facts(status, events, progress, run, now)),
        memory=gauge(memory, run),
        events=tuple((words.when(event), words.describe(event)) for event in told),
    )


def badge(status: Status) -> str:
    """The state in a word or two; a running run that says nothing is called silent."""
    if status.state != "running":
        return BADGES.get(status.state, status.state)
    if status.heartbeat_age is None or not status.epoch:
        return "starting"
    return "silent" if status.heartbeat_age > QUIET_SECONDS else "running"


def epochs_done(status: Status) -> float:
    """The share of all epochs that is trained."""
    if status.state == "done":
        return 1.0
    done = status.epoch - 1 + (status.batch / status.batches if status.batches else 0.0)
    return min(1.0, max(0.0, done / status.epochs)) if status.epochs else 0.0


def facts(
    status: Status,
    events: Sequence[Event],
    progress: Mapping[str, Any],
    run: Mapping[str, Any],
    now: datetime | None = None,
) -> list[tuple[str, str]]:
    """(name, value) of times and accuracies, as far as they are known."""
    running = status.state == "running"
    ahead = validation_seconds(status, run) if running else None
    night = progress.get("until") if running else None
    found = [
        ("trained for", clock.words(trained_seconds(events, progress, now if running else None, running))),
        ("to go", clock.words(status.eta_seconds) if running and status.eta_seconds else ""),
        ("next validation", "now" if status.phase == "validate" and running else f"in {clock.words(ahead)}")
        if ahead is not None
        else ("", ""),
        ("end of the night", _until(str(night), now) if night else ""),
        ("speed", f"{status.images_per_second:.1f} images/s" if running and status.images_per_second else ""),
        ("mAP50", _metric(status, MAP50)),
        ("mAP50-95", _metric(status, MAP50_95)),
    ]
    return [(name, value) for name, value in found if value]


def _metric(status: Status, column: str) -> str:
    latest, best = status.latest.get(column, math.nan), status.best.get(column, math.nan)
    if math.isnan(latest) and math.isnan(best):
        return ""
    return f"{latest:.3f}, best {best:.3f} (epoch {status.best.get('epoch', 0):.0f})"


def _until(stamp: str, now: datetime | None) -> str:
    try:
        return f"{clock.local_time(stamp)}, in {clock.words(-clock.age_seconds(stamp, now))}"
    except ValueError:
        return ""


def validation_seconds(status: Status, run: Mapping[str, Any]) -> float | None:
    """Seconds of training until the next validation, by the speed of now; None where that is not known."""
    batch = status.plan.get("batch")
    if not (status.images_per_second and status.batches and isinstance(batch, int)):
        return 0.0 if status.phase == "validate" else None
    every = _mapping(run.get("safety")).get("val_period")
    every = every if isinstance(every, int) and every > 0 else 1
    epochs = min(-status.epoch % every, max(0, (status.epochs or status.epoch) - status.epoch))
    left = status.batches - status.batch + epochs * status.batches
    return left * batch / status.images_per_second


def trained_seconds(events: Sequence[Event], progress: Mapping[str, Any], now: datetime | None, running: bool) -> float:
    """Seconds that attempts lived; one that never ended, to the last sign of it, or to now while it is running."""
    begun: dict[Any, datetime] = {}
    total, newest = 0.0, None
    for event in events:
        try:
            moment = clock.parse_stamp(str(event.get("t")))
        except ValueError:
            continue
        if event["event"] == "attempt_started":
            begun[event.get("attempt")] = moment
        elif event["event"] == "attempt_ended" and event.get("attempt") in begun:
            total += (moment - begun.pop(event.get("attempt"))).total_seconds()
        newest = moment
    if not begun or newest is None:
        return total
    if running:
        end = now or clock.utc_now()
    else:
        with_beat = [newest]
        try:
            with_beat.append(clock.parse_stamp(str(progress.get("heartbeat"))))
        except ValueError:
            pass
        end = max(with_beat)
    return total + max(0.0, (end - max(begun.values())).total_seconds())


def gauge(memory: Mapping[str, float], run: Mapping[str, Any]) -> Gauge | None:
    """The larger of what the worker and the device hold, against the budget; None where nothing was read yet."""
    held = [memory[key] for key in ("worker", "device") if math.isfinite(memory.get(key, math.nan))]
    if not held:
        return None
    known = _mapping(run.get("budget"))
    allowed = memory.get("budget", math.nan)
    budget = allowed if math.isfinite(allowed) else float(known.get("bytes") or 0)
    source = str(known.get("source") or "").partition(": limit ")[0]  # a container's sizes are of the attempt's start
    return Gauge(max(held), budget, source)


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def recent_memory(path: Path, size: int = TAIL_BYTES) -> list[dict[str, float]]:
    """The newest rows of memory.csv, oldest first, in bytes."""
    try:
        with open(path, "rb") as file:
            end = file.seek(0, os.SEEK_END)
            file.seek(max(0, end - size))
            lines = file.read().decode(errors="replace").split("\n")[1:-1]
    except OSError:
        return []
    rows = []
    for line in lines:
        cells = line.split(",")
        if len(cells) == len(MEMORY_COLUMNS):
            rows.append({name: _number(cell) for name, cell in zip(MEMORY_COLUMNS[1:], cells[1:], strict=True)})
    return rows


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan


def attempt_log(status: Status, events: Sequence[Event]) -> int:
    """The attempt whose log is the newest; 0 where none has started."""
    started = journal.last(list(events), "attempt_started") or {}
    return int(started.get("attempt") or status.attempt or 0)
