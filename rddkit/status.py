"""What state a run is in, from its files, and the one sentence that says it."""

from __future__ import annotations

import csv
import math
from dataclasses import asdict, dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

from rddkit import clock, durable, journal, lock, words
from rddkit.journal import Event
from rddkit.paths import RunPaths

State = Literal["new", "running", "stopped", "dead", "done", "failed"]
RUNNING_EXIT = 3
YOUNG_SECONDS = 10.0
EXIT_CODES: dict[str, int] = {"done": 0, "stopped": 75, "dead": 75, "failed": 1, "running": RUNNING_EXIT, "new": 75}
BADGES = {"run_done": "done", "run_failed": "failed", "run_stopped": "stopped"}


@dataclass(frozen=True)
class Status:
    """A run at one moment. `exit_code` is what the command that runs it gave, or 3 while it runs."""

    name: str
    folder: str
    state: State
    sentence: str
    exit_code: int
    epoch: int = 0
    epochs: int = 0
    batch: int = 0
    batches: int = 0
    phase: str = ""
    attempt: int = 0
    eta_seconds: float | None = None
    images_per_second: float | None = None
    heartbeat: str | None = None
    heartbeat_age: float | None = None
    worker_pid: int | None = None
    supervisor_pid: int | None = None
    kills: int = 0
    lost_seconds: float = 0.0
    best: dict[str, float] = field(default_factory=dict)
    latest: dict[str, float] = field(default_factory=dict)
    plan: dict[str, Any] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def read_progress(path: Path) -> dict[str, Any]:
    """progress.json, or {} where there is none or it cannot be read."""
    return durable.read_json(path)


def read_rows(path: Path) -> list[dict[str, float]]:
    """results.csv as one {column: number} an epoch; rows that a kill tore are left out."""
    if not path.exists():
        return []
    content = path.read_bytes().replace(b"\0", b"")
    text = content[: content.rfind(b"\n") + 1].decode("utf-8", "replace")
    rows = [{(key or "").strip(): value for key, value in row.items()} for row in csv.DictReader(text.splitlines())]
    whole = []
    for row in rows:
        try:
            whole.append({key: float(value) for key, value in row.items()})
        except (TypeError, ValueError):
            continue
    return whole


def best_row(rows: list[dict[str, float]]) -> dict[str, float]:
    """The row with the highest mAP50, the first of equals; {} where none has one (NaN is none)."""
    rated = [row for row in rows if math.isfinite(row.get("metrics/mAP50(B)", math.nan))]
    return max(rated, key=lambda row: row["metrics/mAP50(B)"], default={})


def read_status(paths: RunPaths, now: datetime | None = None, events: list[Event] | None = None) -> Status:
    """The status of the run in `paths`, from its files and its lock alone; `events`: its journal, if read already."""
    events = journal.read_events(paths.journal) if events is None else events
    progress = read_progress(paths.progress)
    held = lock.is_held(paths.lock)
    owner = lock.signature(paths.lock)
    orphan = held and bool(progress) and not owner and not _is_young(paths.lock)
    closing = journal.last(events, *BADGES)
    over = bool(owner) and closing is not None and closing["t"] >= owner["t"]  # only its report is still to be made
    return judge(paths, events, progress, read_rows(paths.results_csv), held and not orphan and not over, now)


def _is_young(path: Path) -> bool:
    """Whether the lock was touched a moment ago: a supervisor that starts takes it before it signs it."""
    try:
        return clock.utc_now().timestamp() - path.stat().st_mtime < YOUNG_SECONDS
    except OSError:
        return True


def judge(
    paths: RunPaths,
    events: list[Event],
    progress: dict[str, Any],
    rows: list[dict[str, float]],
    held: bool,
    now: datetime | None = None,
) -> Status:
    """Decide the state from what the files say; `held` is whether some process owns the run."""
    closing = journal.last(events, *BADGES, "attempt_started")
    state: State
    if held:
        state = "running"
    elif closing is None:
        state = "new" if not events else "dead"
    else:
        state = BADGES.get(closing["event"], "dead")  # type: ignore[assignment]
    heartbeat = progress.get("heartbeat")
    best = best_row(rows)
    resumed = [event for event in events if event["event"] == "resumed"]
    known = {
        "epoch": int(progress.get("epoch") or (rows[-1].get("epoch", 0) if rows else 0)),
        "epochs": int(progress.get("epochs") or 0),
        "batch": int(progress.get("batch") or 0),
        "batches": int(progress.get("batches") or 0),
        "phase": str(progress.get("phase") or ""),
        "attempt": max((int(event.get("attempt", 0)) for event in events), default=0),
        "eta_seconds": progress.get("eta_seconds"),
        "images_per_second": progress.get("images_per_second"),
        "heartbeat": heartbeat,
        "heartbeat_age": clock.age_seconds(heartbeat, now) if heartbeat else None,
        "worker_pid": progress.get("worker_pid") if state == "running" else None,
        "supervisor_pid": progress.get("supervisor_pid") if state == "running" else None,
        "kills": sum(event["event"] == "attempt_ended" and event.get("cause") in UNASKED for event in events),
        "lost_seconds": float(sum(event.get("lost_seconds") or 0 for event in resumed)),
        "best": best,
        "latest": rows[-1] if rows else {},
        "plan": dict((journal.last(events, "attempt_started") or {}).get("plan") or {}),
    }
    exit_code = EXIT_CODES[state]
    if state in ("failed", "stopped") and closing is not None:
        exit_code = int(closing.get("exit", exit_code))
    sentence = say(state, known, events)
    return Status(paths.name, str(paths.folder), state, sentence, exit_code, **known)


UNASKED = ("killed", "oom", "leak", "hang", "crash", "nonfinite")


def say(state: State, known: dict[str, Any], events: list[Event]) -> str:
    """The sentence: what the run is doing or how it ended, in the words a person would use."""
    where = f"epoch {known['epoch']} of {known['epochs']}" if known["epochs"] else f"epoch {known['epoch']}"
    where = where if known["epoch"] else "getting ready"
    trouble = _trouble(known, events)
    if state == "new":
        return "Not started yet; start it with: rddkit train"
    if state == "running":
        phase = f", {known['phase']}" if known["phase"] not in ("", "train") else ""
        left = f", {clock.words(known['eta_seconds'])} to go" if known["eta_seconds"] else ""
        age = known["heartbeat_age"]
        quiet = f"; no heartbeat for {clock.words(age)}" if age is not None and age > 60 else ""
        return f"Running, {where}{phase}{left}{trouble}{quiet}"
    if state == "dead":
        return f"Dead at {where}: the supervisor is gone without a last word; continue with the same command{trouble}"
    end = journal.last(events, "run_done", "run_failed", "run_stopped") or {}
    when = clock.parse_stamp(end["t"]).astimezone().strftime("%H:%M") if "t" in end else "?"
    if state == "stopped":
        return (
            f"Stopped {when} at {where}: {end.get('reason', 'asked to stop')}; resumable with the same command{trouble}"
        )
    if state == "failed":
        return f"Failed {when} at {where}: {end.get('cause', '?')}, {first_line(end.get('evidence'))}{trouble}"
    best = known["best"]
    reached = ""
    if "metrics/mAP50(B)" in best:
        reached = f"; best mAP50 {best['metrics/mAP50(B)']:.2f} at epoch {best.get('epoch', 0):.0f}"
    return f"Finished {when}{trouble}{reached}"


def first_line(text: object) -> str:
    """The first line of a text that may be missing or empty."""
    return next(iter(str(text or "no evidence").splitlines()), "")


def _trouble(known: dict[str, Any], events: list[Event]) -> str:
    parts = []
    if known["kills"]:
        noun = "kill" if known["kills"] == 1 else "kills"
        parts.append(f"; {known['kills']} {noun}, {clock.words(known['lost_seconds'])} lost")
    for event in events:
        if event["event"] == "fallback":
            parts.append(f"; {fallback_words(event)}")
    return "".join(parts)


def fallback_words(event: Event) -> str:
    """`batch 2 -> 1 at epoch 37` from a fallback event."""
    at = f" at epoch {event['epoch']}" if event.get("epoch") else ""
    return words.plan_change(event.get("from") or {}, event.get("to") or {}) + at
