"""The run's growing tables, `steps.csv` and `memory.csv`, written by the supervisor alone."""

from __future__ import annotations

import contextlib
import csv
import io
from pathlib import Path
from typing import Any

from rddkit import clock, durable

STEP_SECONDS = 2.0
MAP50, MAP50_95 = "metrics/mAP50(B)", "metrics/mAP50-95(B)"  # columns of Ultralytics' results.csv
MEMORY_COLUMNS = ("time", "attempt", "worker", "device", "available", "budget", "swap")
PROGRESS_KEYS = (
    "phase",
    "epoch",
    "epochs",
    "batch",
    "batches",
    "images_per_second",
    "eta_seconds",
    "train_seconds",
    "validation_seconds",
    "device_memory",
)


def csv_line(values: list[Any]) -> str:
    """One csv row with its newline; None as an empty cell."""
    out = io.StringIO()
    csv.writer(out, lineterminator="\n").writerow(["" if value is None else value for value in values])
    return out.getvalue()


def append(path: Path, columns: list[str] | tuple[str, ...], values: list[Any]) -> None:
    """Append a row, with the header first where the file is new. A full disk loses the row, never the run."""
    with contextlib.suppress(OSError):
        new = not path.exists() or path.stat().st_size == 0
        with open(path, "a", encoding="utf-8") as file:
            file.write((csv_line(list(columns)) if new else "") + csv_line(values))


def heal(path: Path) -> None:
    """Cut off a row that a kill left without its end."""
    if path.exists() and not path.read_bytes().endswith(b"\n"):
        content = path.read_bytes()
        durable.write(path, content[: content.rfind(b"\n") + 1])


class Steps:
    """`steps.csv`: every few seconds, and at each epoch's last batch, where training stands."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.written = 0.0
        heal(path)

    def add(self, attempt: int, beat: dict[str, Any]) -> None:
        if beat.get("phase") != "train" or not beat.get("losses"):
            return
        due = clock.monotonic() - self.written >= STEP_SECONDS or beat["batch"] == beat["batches"]
        if not due:
            return
        self.written = clock.monotonic()
        losses = beat["losses"]
        columns = ["time", "attempt", "epoch", "batch", "batches", *losses, "lr", "images_per_second"]
        values = [
            beat["t"],
            attempt,
            beat["epoch"],
            beat["batch"],
            beat["batches"],
            *losses.values(),
            beat["lr"],
            beat["images_per_second"],
        ]
        append(self.path, columns, values)

    def drop_after(self, epoch: int, batch: int) -> None:
        """Forget the rows beyond the place a resume continues from (1-based epoch; batches of it that are done)."""
        if not self.path.exists():
            return

        def keep(line: str) -> bool:
            cells = line.split(",")
            if len(cells) < 4 or not cells[2].isdigit() or not cells[3].isdigit():
                return True
            return (int(cells[2]), int(cells[3])) <= (epoch, batch)

        with contextlib.suppress(OSError):  # a full disk: the rows stay, and are there twice
            durable.edit_lines(self.path, keep)


class Memory:
    """`memory.csv`: a row a second."""

    def __init__(self, path: Path) -> None:
        self.path = path
        heal(path)

    def add(self, **values: Any) -> None:
        append(self.path, MEMORY_COLUMNS, [clock.stamp(), *(values.get(key) for key in MEMORY_COLUMNS[1:])])
