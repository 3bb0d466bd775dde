"""A run's records kept up to date while it grows: only what was appended is read, and old rows are put together.

What is held does not grow with the days: a table keeps between `MOST` and twice as many rows, spread evenly.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Generic, TypeVar

import numpy as np
import pandas as pd

from rddkit import journal, records, series
from rddkit.journal import Event
from rddkit.paths import RunPaths
from rddkit.records import Records, Table

Content = TypeVar("Content")
MOST = 5_000  # rows: several for each pixel of a screen
CHUNK = 8 << 20  # bytes parsed at once: ten days of memory.csv are 80 MB
MERGED = {"worker": "max", "device": "max", "swap": "max", "available": "min", "images_per_second": "mean"}


class Live:
    """All that a run's folder tells, read again and again; for one thread at a time."""

    def __init__(self, paths: RunPaths, most: int = MOST) -> None:
        self.paths = paths
        self.events = GrowingJournal(paths.journal)
        self.steps = GrowingTable(paths.steps_csv, records.read_steps, most)
        self.memory = GrowingTable(paths.memory_csv, records.read_memory, most)
        self.run, self.results = Unchanged(records.read_mapping), Unchanged(records.read_results)

    def refresh(self) -> Records:
        """What there is now. Like `records.read_records`, it raises nothing for files that are missing or torn."""
        steps, memory = self.steps.refresh(), self.memory.refresh()
        results = self.results(self.paths.results_csv)
        return records.put_together(
            self.paths, self.run(self.paths.run_yaml), self.events.refresh(), results, steps, memory
        )


class Unchanged(Generic[Content]):
    """A way of reading a file that reads it again only when it was changed."""

    def __init__(self, read: Callable[[Path], Content]) -> None:
        self.read = read
        self.kept: tuple[tuple[int, ...], Content] | None = None

    def __call__(self, path: Path) -> Content:
        try:
            found = path.stat()
        except OSError:
            return self.read(path)
        stamp = (found.st_ino, found.st_size, found.st_mtime_ns)
        if self.kept is None or self.kept[0] != stamp:
            self.kept = (stamp, self.read(path))
        return self.kept[1]


class Growing:
    """How far a file was read; one that was replaced or became shorter is read again from its start."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.end = 0
        self.file: int | None = None

    def is_another(self) -> bool:
        """Whether what was read so far is not the file's beginning any more, as after a resume that drops rows."""
        try:
            found = self.path.stat()
        except OSError:
            before, self.file = self.file, None
            return before is not None
        another = self.file is not None and (found.st_ino != self.file or found.st_size < self.end)
        self.file = found.st_ino
        return another


class GrowingJournal(Growing):
    """The events of a journal."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.events: list[Event] = []
        self.bad = 0

    def refresh(self) -> tuple[list[Event], list[str]]:
        """Every event so far, with a note for lines that hold none."""
        if self.is_another():
            self.end, self.events, self.bad = 0, [], 0
        if self.file is None:
            return [], records.read_journal(self.path)[1]
        with open(self.path, "rb") as file:
            file.seek(self.end)
            more = file.read()
        whole = more[: more.rfind(b"\n") + 1]
        found = journal.parse_lines(whole)
        self.end += len(whole)
        self.bad += sum(1 for line in whole.split(b"\n") if line.strip()) - len(found)
        self.events = self.events + found  # a new list: the one given out before may be in use
        torn = len(whole) < len(more)
        return self.events, [records.left_out(self.path, self.bad + torn)] if self.bad or torn else []


class GrowingTable(Growing):
    """A csv file with a row every second or so, its old rows put together so that at most twice `most` are held."""

    def __init__(self, path: Path, read: Callable[[Path, int, int], Table], most: int) -> None:
        super().__init__(path)
        self.read, self.most = read, most
        self._begin()

    def _begin(self) -> None:
        self.end = 0
        self.each = 1  # rows of the file that one of `rows` stands for
        self.rows: pd.DataFrame | None = None
        self.open: pd.DataFrame | None = None  # the newest rows, too few yet to be put together
        self.last: pd.DataFrame | None = None
        self.usual: float | None = None  # seconds from row to row
        self.notes: dict[str, None] = {}

    def refresh(self) -> Table:
        """The rows so far; `piece` numbers those between two pauses."""
        if self.is_another():
            self._begin()
        while True:
            table = self.read(self.path, self.end, CHUNK)
            self._add(table.frame)
            before, self.end = self.end, table.end
            if table.end - before < CHUNK // 2:
                break
            self.notes |= dict.fromkeys(table.notes)
        torn = {note: None for note in table.notes if "torn" in note}  # true only as long as the line is
        self.notes |= dict.fromkeys(note for note in table.notes if note not in torn)
        assert self.rows is not None and self.open is not None
        frame = pd.concat([self.rows, merged(self.open, self.each)], ignore_index=True)
        return Table(frame, tuple(self.notes | torn), self.end)

    def _add(self, frame: pd.DataFrame) -> None:
        frame = self._numbered(frame)
        if self.rows is None or self.open is None:
            self.rows = self.open = frame.iloc[:0]
        waiting = pd.concat([self.open, frame], ignore_index=True) if len(frame) else self.open
        whole = len(waiting) // self.each * self.each
        if whole:
            self.rows = pd.concat([self.rows, merged(waiting.iloc[:whole], self.each)], ignore_index=True)
        self.open = waiting.iloc[whole:]
        while len(self.rows) > 2 * self.most:
            self.rows, self.each = merged(self.rows, 2), 2 * self.each

    def _numbered(self, frame: pd.DataFrame) -> pd.DataFrame:
        """The rows with their `piece`, counted on from the rows before."""
        if self.usual is None and len(frame) > 2:
            self.usual = float(frame["time"].diff().dt.total_seconds().median())
        joined = frame if self.last is None else pd.concat([self.last.drop(columns="piece"), frame], ignore_index=True)
        numbers = series.pieces(joined, self.usual or 0.0)
        if self.last is not None:
            numbers = numbers[1:] + int(self.last["piece"].iloc[0])
        frame = frame.assign(piece=numbers)
        if len(frame):
            self.last = frame.iloc[-1:]
        return frame


def merged(rows: pd.DataFrame, each: int) -> pd.DataFrame:
    """Every `each` rows of a piece as one: the most that was held, the least that was free, means of what scatters."""
    if each == 1 or not len(rows):
        return rows
    how = {str(name): _how(str(name)) for name in rows}
    groups = [rows["piece"].to_numpy(), np.arange(len(rows)) // each]
    return rows.groupby(groups, sort=False).agg(how).reset_index(drop=True)


def _how(column: str) -> str:
    if column in MERGED:
        return MERGED[column]
    known = column in records.NOT_LOSSES or column in records.MEMORY
    return "last" if known else "mean"
