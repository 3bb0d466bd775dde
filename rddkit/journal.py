"""The journal: `events.jsonl`, one line an event, written only by the supervisor, only growing."""

from __future__ import annotations

import contextlib
import json
import math
import os
from pathlib import Path
from typing import Any

from rddkit import clock, durable

SCHEMA = 1
EVENTS = frozenset(
    """run_started imported estimated attempt_started epoch snapshot cache_cleared memory_warning guard_stop slept
    attempt_ended fallback resumed run_stopped run_done run_failed snapshot_failed notified""".split()
)
Event = dict[str, Any]


class Journal:
    """Appends events durably; `read` gives them back, a torn last line left out."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.unwritten: list[str] = []
        self._heal()

    def _heal(self) -> None:
        """Cut off a last line that a kill or a full disk left without its end."""
        if not self.path.exists():
            return
        with open(self.path, "rb+") as file:
            size = file.seek(0, os.SEEK_END)
            if size == 0:
                return
            whole = len(file_upto_last_newline(self.path))
            if whole != size:
                file.truncate(whole)

    def add(self, event: str, attempt: int, **fields: Any) -> Event:
        """Append one event, flushed to the drive; returns it. ValueError for a name the design does not have.

        What a full disk does not take is kept and written by a later `add` or `flush`.
        """
        if event not in EVENTS:
            raise ValueError(f"{event!r} is not an event; one of {', '.join(sorted(EVENTS))}")
        row: Event = {"t": clock.stamp(), "event": event, "attempt": attempt, **fields}
        self.unwritten.append(json.dumps(_finite(row), ensure_ascii=False, default=str) + "\n")
        self.flush()
        return row

    def flush(self) -> bool:
        """Write what is unwritten; False if the disk does not take it."""
        while self.unwritten:
            try:
                with open(self.path, "ab") as file:
                    file.write(self.unwritten[0].encode())
                    file.flush()
                    durable.flush_to_drive(file.fileno())
            except OSError:
                with contextlib.suppress(OSError):
                    self._heal()
                return False
            del self.unwritten[0]
        return True

    def read(self) -> list[Event]:
        return read_events(self.path)


def _finite(value: Any) -> Any:
    """The value with NaN and infinities as null: JSON has no such numbers."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    return [_finite(item) for item in value] if isinstance(value, (list, tuple)) else value


def file_upto_last_newline(path: Path) -> bytes:
    """The bytes of a file up to and with its last newline."""
    content = path.read_bytes()
    return content[: content.rfind(b"\n") + 1]


def read_events(path: Path) -> list[Event]:
    """The events of a journal, oldest first; missing file: none; lines that are not JSON objects are passed over."""
    return parse_lines(path.read_bytes()) if path.exists() else []


def parse_lines(content: bytes) -> list[Event]:
    """The events in some lines of a journal."""
    events = []
    for line in content.split(b"\n"):
        try:
            event = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if isinstance(event, dict) and "event" in event:
            events.append(event)
    return events


def last(events: list[Event], *names: str) -> Event | None:
    """The newest event of one of the names, or None."""
    return next((event for event in reversed(events) if event["event"] in names), None)
