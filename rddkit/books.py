"""What the supervisor writes down about a run; nobody else writes these files."""

from __future__ import annotations

import contextlib
import json
import os
from pathlib import Path
from typing import Any

from rddkit import durable, lock, status, tables
from rddkit.journal import Event, Journal
from rddkit.paths import RunPaths

LOG_TAIL_BYTES = 16_000  # what a library said is before faulthandler's stacks of all threads


class Books:
    """The journal, steps.csv, memory.csv and progress.json of one run."""

    def __init__(self, paths: RunPaths, until: str | None) -> None:
        self.paths = paths
        self.until = until
        self.journal = Journal(paths.journal)
        self.steps = tables.Steps(paths.steps_csv)
        self.memory = tables.Memory(paths.memory_csv)
        self.left: dict[str, Any] = {}

    def events(self) -> list[Event]:
        return self.journal.read()

    def progress(self, state: str, attempt: int, worker_pid: int | None, beat: dict[str, Any]) -> None:
        """Replace progress.json: where the run stands now."""
        content = {
            "state": state,
            **{key: beat.get(key) for key in tables.PROGRESS_KEYS},
            "heartbeat": beat.get("t"),
            "attempt": attempt,
            "worker_pid": worker_pid,
            "supervisor_pid": os.getpid(),
            "supervisor_started": lock.started(os.getpid()),
            "until": self.until,
        }
        with contextlib.suppress(OSError):  # a full disk must not end the run; the next second tries again
            durable.write_quickly(self.paths.progress, json.dumps(content))

    def reached(self) -> int:
        """How far what is on disk has come: millionths of an epoch, by the newest snapshot or whole epoch."""
        reached = [0.0]
        for event in self.events():
            if event["event"] == "epoch":
                reached.append(float(event["epoch"]))
            elif event["event"] == "snapshot":
                reached.append(event["epoch"] - 1 + event["batch"] / max(event["batches"], 1))
        return round(max(reached) * 1e6)

    def remember_progress(self) -> None:
        """Keep where the attempt before stood, to say later what of it was lost; one may end before it trains."""
        left = status.read_progress(self.paths.progress)
        self.left = left if left.get("epoch") else self.left

    def resumed(self, attempt: int, message: dict[str, Any]) -> None:
        """A resume: forget the steps beyond it, and say what of the attempt before was lost."""
        self.steps.drop_after(message["epoch"], message["batch"])
        self.journal.add(attempt=attempt, **message, **lost_work(self.left, message))
        self.left = {}


def lost_work(before: dict[str, Any], resumed: dict[str, Any]) -> dict[str, Any]:
    """The batches and seconds of training that a resume repeats.

    Args:
        before: progress.json as the attempt before left it.
        resumed: epoch (1-based), batch (of it, done) and train_seconds of the state continued from.
    """
    batches = int(before.get("batches") or 0)
    was = int(before.get("epoch") or 0) * batches + int(before.get("batch") or 0)
    now = int(resumed["epoch"]) * batches + int(resumed["batch"])
    until = before.get("train_seconds")
    if until is None:  # killed before its first batch: nothing was trained that could be lost
        return {"lost_batches": 0, "lost_seconds": 0.0}
    seconds = until - (resumed.get("train_seconds") or 0.0)
    return {"lost_batches": max(0, was - now), "lost_seconds": round(max(0.0, seconds), 1)}


def log_tail(path: Path, size: int = LOG_TAIL_BYTES) -> str:
    """The last lines of a log, for people."""
    try:
        with open(path, "rb") as file:
            end = file.seek(0, os.SEEK_END)
            file.seek(max(0, end - size))
            return file.read().decode(errors="replace").strip()
    except OSError:
        return ""
