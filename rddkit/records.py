"""What a run's files hold, read with patience: what there is as tables and plain values, what is not as notes."""

from __future__ import annotations

import csv
import io
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import yaml

from rddkit.journal import SCHEMA, Event, read_events
from rddkit.paths import RunPaths
from rddkit.tables import MAP50 as MAP50
from rddkit.tables import MAP50_95 as MAP50_95
from rddkit.tables import MEMORY_COLUMNS

STEPS = ("time", "attempt", "epoch", "batch", "lr", "images_per_second")
MEMORY = MEMORY_COLUMNS
NOT_LOSSES = frozenset([*STEPS, "batches", "piece"])  # of steps.csv
PRECISION, RECALL = "metrics/precision(B)", "metrics/recall(B)"
METRICS = {MAP50: "mAP50", MAP50_95: "mAP50-95", PRECISION: "precision", RECALL: "recall"}


Mapping = tuple[dict[str, Any], list[str]]  # a file of keys and values, and notes on what could not be read


class Table(NamedTuple):
    """A csv file's whole rows. `end` is the byte behind the last of them: reading can go on from there."""

    frame: pd.DataFrame
    notes: tuple[str, ...]
    end: int


class Best(NamedTuple):
    """The highest value of a metric and its epoch."""

    epoch: int
    value: float


class Lost(NamedTuple):
    """Work done twice because of kills: the sum over all resumes."""

    batches: int
    seconds: float
    resumes: int


@dataclass(frozen=True)
class Records:
    """All that a run's folder tells; `notes` say in plain words what could not be read."""

    paths: RunPaths
    run: dict[str, Any]
    events: list[Event]
    results: pd.DataFrame
    steps: pd.DataFrame
    memory: pd.DataFrame
    progress: dict[str, Any]
    notes: tuple[str, ...]

    @property
    def batches(self) -> int | None:
        """Batches of an epoch under the present plan, where progress.json knows them."""
        value = self.progress.get("batches")
        return value if isinstance(value, int) and value > 0 else None


def read_records(paths: RunPaths) -> Records:
    """Everything in a run's folder that can be read; raises nothing for files that are missing, torn or newer."""
    results, steps, memory = read_results(paths.results_csv), read_steps(paths.steps_csv), read_memory(paths.memory_csv)
    told = read_mapping(paths.run_yaml)
    return put_together(paths, told, read_journal(paths.journal), results, steps, memory)


def put_together(
    paths: RunPaths, told: Mapping, journal: tuple[list[Event], list[str]], results: Table, steps: Table, memory: Table
) -> Records:
    """Records of what was read already, and of progress.json, read now; `told`: run.yaml."""
    run, run_notes = told
    progress, progress_notes = read_mapping(paths.progress)
    events, journal_notes = journal
    notes = [*run_notes, *journal_notes, *results.notes, *steps.notes, *memory.notes, *progress_notes]
    schema = run.get("schema", SCHEMA)
    if isinstance(schema, int) and schema > SCHEMA:
        notes.insert(0, f"written by a newer rddkit (schema {schema}, this one knows {SCHEMA}); what is known is shown")
    if len(results.frame):
        notes += [f"weights/{path.name} is not there" for path in (paths.last, paths.best) if not path.exists()]
    return Records(paths, run, events, results.frame, steps.frame, memory.frame, progress, tuple(notes))


def read_results(path: Path) -> Table:
    """results.csv: one row an epoch, `epoch` 1-based, every column a number."""
    table = read_table(path, ("epoch",), key="epoch")
    frame = table.frame.drop_duplicates("epoch", keep="last").sort_values("epoch", ignore_index=True)
    twice = len(table.frame) - len(frame)
    note = f"{path.name}: {_count(twice, 'epoch')} written twice; the newer row counts"
    return Table(frame, (*table.notes, note) if twice else table.notes, table.end)


def read_steps(path: Path, start: int = 0, most: int = -1) -> Table:
    """steps.csv: `time` in UTC, losses, lr and images/s every few seconds; at most `most` bytes from `start` on."""
    return _with_attempts(read_table(path, STEPS, key="time", moments=True, start=start, most=most))


def read_memory(path: Path, start: int = 0, most: int = -1) -> Table:
    """memory.csv: `time` in UTC, the rest bytes; at most `most` bytes from byte `start` on."""
    return _with_attempts(read_table(path, MEMORY, key="time", moments=True, start=start, most=most))


def read_table(
    path: Path, expected: tuple[str, ...], key: str, moments: bool = False, start: int = 0, most: int = -1
) -> Table:
    """The whole rows of a csv file from byte `start` on.

    Args:
        expected: columns that must be there; missing ones are added empty, with a note.
        key: the column without which a row counts as unreadable.
        moments: whether `time` holds moments (ISO 8601) rather than seconds.
        most: bytes to read at most; -1 reads on to the end.
    """
    types = {name: "datetime64[ms, UTC]" if moments and name == "time" else "float" for name in expected}
    empty = pd.DataFrame({name: pd.Series(dtype=kind) for name, kind in types.items()})
    try:
        with open(path, "rb") as file:
            header = file.readline()
            begin = max(start, len(header))
            file.seek(begin)
            body = file.read(most)
    except FileNotFoundError:
        return Table(empty, (f"{path.name} is not there",), 0)
    except OSError as error:
        return Table(empty, (f"{path.name} cannot be read: {error.strerror}",), 0)
    names = [name.strip() for name in header.decode("utf-8", "replace").split(",")]
    if not header.endswith(b"\n") or key not in names or len(set(names)) != len(names):
        return Table(empty, (f"{path.name} has no header with {key!r}; none of it is shown",), 0)
    whole = body[: body.rfind(b"\n") + 1]
    notes = []
    if len(whole) != len(body) and len(body) != most:
        notes.append(f"{path.name}: its last line is torn and left out")
    frame = _parse(whole, names, key, moments)
    bad = sum(1 for line in whole.split(b"\n") if line.strip()) - len(frame)
    if bad:
        notes.append(left_out(path, bad))
    missing = [name for name in expected if name not in names]
    if missing:
        notes.append(f"{path.name} has no column {', '.join(missing)}")
        frame = frame.assign(**{name: np.nan for name in missing})
    return Table(frame, tuple(notes), begin + len(whole))


def _parse(whole: bytes, names: list[str], key: str, moments: bool) -> pd.DataFrame:
    lines = [line for line in whole.replace(b"\0", b"").split(b"\n") if line.count(b",") == len(names) - 1]
    frame = pd.read_csv(
        io.BytesIO(b"\n".join(lines) + b"\n"),
        names=names,
        header=None,
        index_col=False,
        skipinitialspace=True,
        quoting=csv.QUOTE_NONE,
        encoding_errors="replace",
        low_memory=False,
    )
    for name in names:
        if moments and name == "time":
            frame[name] = pd.to_datetime(frame[name], utc=True, errors="coerce", format="ISO8601").dt.as_unit("ms")
        elif not pd.api.types.is_float_dtype(frame[name]):
            frame[name] = pd.to_numeric(frame[name], errors="coerce").astype(float)
    if key != "time":
        frame = frame[np.isfinite(frame[key])]
    return frame.dropna(subset=[key]).reset_index(drop=True)


def _with_attempts(table: Table) -> Table:
    frame = table.frame
    return table._replace(frame=frame.assign(attempt=frame["attempt"].ffill().fillna(1).astype(int)))


def read_mapping(path: Path) -> Mapping:
    """A YAML or JSON file of keys and values, with a note instead of an error."""
    try:
        text = path.read_text(encoding="utf-8")
        content = json.loads(text) if path.suffix == ".json" else yaml.safe_load(text)
    except FileNotFoundError:
        return {}, [f"{path.name} is not there"]
    except (OSError, ValueError, yaml.YAMLError) as error:
        return {}, [f"{path.name} cannot be read: {str(error).splitlines()[0]}"]
    if not isinstance(content, dict):
        return {}, [f"{path.name} does not hold keys and values"]
    return content, []


def read_journal(path: Path) -> tuple[list[Event], list[str]]:
    """The journal's events, with a note for lines that hold none."""
    if not path.exists():
        return [], [f"{path.name} is not there: what happened is not known"]
    events = read_events(path)
    bad = sum(1 for line in path.read_bytes().split(b"\n") if line.strip()) - len(events)
    return events, [left_out(path, bad)] if bad else []


def best(results: pd.DataFrame, column: str = MAP50) -> Best | None:
    """The best epoch by one metric, the first of equals; sentences mean mAP50, best.pt is chosen by mAP50-95."""
    if column not in results or not results[column].notna().any():
        return None
    row = int(results[column].to_numpy(dtype=float, na_value=-np.inf).argmax())
    return Best(int(results["epoch"].to_numpy()[row]), float(results[column].to_numpy()[row]))


def newest_memory(memory: pd.DataFrame) -> dict[str, float]:
    """The last reading of memory.csv in bytes; {} where there is none."""
    columns = [name for name in MEMORY[1:] if name in memory]
    return {name: float(memory[name].to_numpy()[-1]) for name in columns} if len(memory) else {}


def lost_work(events: list[Event]) -> Lost:
    """What all kills together cost, by the `resumed` events."""
    resumed = [event for event in events if event["event"] == "resumed"]
    return Lost(
        int(sum(_amount(event, "lost_batches") for event in resumed)),
        sum(_amount(event, "lost_seconds") for event in resumed),
        len(resumed),
    )


def _amount(event: Event, key: str) -> float:
    value = event.get(key)
    return float(value) if isinstance(value, (int, float)) and np.isfinite(value) else 0.0


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def left_out(path: Path, lines: int) -> str:
    """The note for lines of a file that could not be read."""
    return f"{path.name}: {_count(lines, 'line')} could not be read and {'is' if lines == 1 else 'are'} left out"
