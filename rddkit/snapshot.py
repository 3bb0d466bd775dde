"""Snapshots: exact training state in files that are whole, verified before they are believed, and pruned.

`snapshots/000017-epoch3-batch120.pt` with its SHA-256 beside it; `snapshots/stage.json` says what was done after the
last batch of an epoch (validated), so that a long validation is not repeated.
"""

from __future__ import annotations

import hashlib
import json
import pickle
import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, cast

import torch

from rddkit import clock, durable, faults

SCHEMA = 1
KEEP = 2
INTERVAL_COSTS = 100  # one part in a hundred of the time goes into snapshots
INTERVAL_BOUNDS = (60.0, 300.0)
DAY = 86_400.0
NAME = re.compile(r"^(\d{6})-epoch(\d+)-batch(\d+)(-end)?\.pt$")


@dataclass(frozen=True)
class Place:
    """Where training stands: `epoch` 0-based, images of it done, and its stage.

    Stages: `train` (amid the epoch), `trained` (all its batches done, not yet validated), `finished` (checkpoint
    written; the next epoch comes next).
    """

    epoch: int
    images: int
    stage: str


@dataclass(frozen=True)
class Taken:
    """A snapshot on disk."""

    path: Path
    bytes: int
    seconds: float


class StreamedFile:
    """A file that keeps the error of a write that failed: torch tells another one."""

    def __init__(self, file: BinaryIO) -> None:
        self.file = file
        self.failed: OSError | None = None

    def write(self, data: Any) -> int:
        try:
            return self.file.write(data)
        except OSError as error:
            self.failed = error
            raise

    def flush(self) -> None:
        self.file.flush()


class HashedFile(StreamedFile):
    """A file that hashes what is written through it."""

    def __init__(self, file: BinaryIO) -> None:
        super().__init__(file)
        self.digest = hashlib.sha256()
        self.bytes = 0

    def write(self, data: Any) -> int:
        faults.point("snapshot_write")
        self.digest.update(data)
        self.bytes += len(data)
        return super().write(data)


def stream(content: dict[str, Any], file: StreamedFile) -> None:
    """Write what torch can save into a file piece by piece, without a copy of it in memory.

    Raises OSError where the file cannot be written (a full disk).
    """
    try:
        # Not torch.save: Ultralytics' replacement tries again, into the same stream, behind what is there.
        torch.serialization.save(content, cast(BinaryIO, file))
    except RuntimeError as error:
        raise file.failed or error from None  # torch tells of a full disk as of a wrong position


class Store:
    """The snapshots of one run."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.passed_over: set[Path] = set()

    def names(self) -> list[Path]:
        """The snapshots there, oldest first, not verified."""
        if not self.folder.is_dir():
            return []
        return sorted(path for path in self.folder.iterdir() if NAME.match(path.name))

    def take(self, state: dict[str, Any], epoch: int, batch: int, end: bool) -> Taken:
        """Write `state` as the newest snapshot and prune older ones; OSError (a full disk) leaves the others there.

        Args:
            state: plain values and tensors only; loading refuses anything else.
            epoch: 1-based, for the name.
            batch: its batches done, for the name.
            end: whether it lies at the epoch's end.
        """
        began = clock.monotonic()
        self.folder.mkdir(exist_ok=True)
        newest = self.names()[-1:]
        number = int(newest[0].name[:6]) + 1 if newest else 1
        path = self.folder / f"{number:06d}-epoch{epoch}-batch{batch}{'-end' if end else ''}.pt"
        with durable.replacing(path) as file:
            hashing = HashedFile(file)
            stream({"schema": SCHEMA, **state}, hashing)
            # The hash comes first: a snapshot without its hash would not be believed.
            durable.write(_hash_file(path), hashing.digest.hexdigest() + "\n")
        faults.point("snapshot_renamed")
        self._prune()
        return Taken(path, hashing.bytes, clock.monotonic() - began)

    def _prune(self) -> None:
        names = self.names()
        good = [path for path in names if path not in self.passed_over]
        ends = [path for path in good if path.stem.endswith("-end")]
        keep = {*good[-KEEP:], *ends[-1:]}
        for path in names:
            if path not in keep:
                path.unlink()
                _hash_file(path).unlink(missing_ok=True)

    def clear_leftovers(self) -> None:
        """Remove what kills left: half-written files, and hashes without their snapshot."""
        if not self.folder.is_dir():
            return
        durable.remove_leftovers(self.folder)
        for file in self.folder.glob("*.sha256"):
            if not file.with_suffix("").exists():
                file.unlink()

    def load(self, path: Path) -> dict[str, Any]:
        """The state in a snapshot. ValueError if it is not what was written: truncated, changed, or another schema."""
        try:
            noted = _hash_file(path).read_text(encoding="utf-8").strip()
        except OSError as error:
            raise ValueError(f"{path.name} has no hash beside it") from error
        if durable.sha256(path) != noted:
            raise ValueError(f"{path.name} is not as it was written: its SHA-256 differs")
        try:
            state = torch.load(path, map_location="cpu", weights_only=True)
        except pickle.UnpicklingError as error:
            raise ValueError(f"{path.name} holds more than plain values and tensors") from error
        if state.get("schema") != SCHEMA:
            raise ValueError(f"{path.name} has schema {state.get('schema')}, not {SCHEMA}")
        return dict(state)

    def newest(self, say: Callable[[str], None]) -> tuple[dict[str, Any], Path] | None:
        """The newest snapshot that verifies; each one passed over is said. None if there is none."""
        for path in reversed(self.names()):
            try:
                return self.load(path), path
            except (ValueError, OSError, RuntimeError, EOFError) as error:
                say(f"snapshot passed over: {error}")
                self.passed_over.add(path)
        return None

    def note_stage(self, snapshot: Path | None, record: dict[str, Any]) -> None:
        """Note what was done since the snapshot at the epoch's end (its validation)."""
        if snapshot is not None:
            durable.write(self.folder / "stage.json", json.dumps({"snapshot": snapshot.name, **record}))

    def stage(self, snapshot: Path) -> dict[str, Any]:
        """What was noted after `snapshot`; {} if nothing was."""
        try:
            record = json.loads((self.folder / "stage.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        return dict(record) if record.get("snapshot") == snapshot.name else {}

    def remove(self) -> None:
        """Remove all snapshots of a run that is done."""
        shutil.rmtree(self.folder, ignore_errors=True)


def _hash_file(path: Path) -> Path:
    return path.with_name(path.name + ".sha256")


def interval(cost: float, size: int, asked: float | str, daily_bytes: int) -> tuple[float, str]:
    """Seconds between snapshots, and why.

    Args:
        cost: seconds that the last one took.
        size: bytes of the last one.
        asked: seconds, or `auto`.
        daily_bytes: what may be written a day; an SSD wears by it.
    """
    if asked != "auto":
        return float(asked), "set in safety.yaml"
    low, high = INTERVAL_BOUNDS
    seconds = min(max(cost * INTERVAL_COSTS, low), high)
    reason = f"{INTERVAL_COSTS} times its cost of {cost:.2f} s, between {low:.0f} and {high:.0f} s"
    least = size * DAY / daily_bytes
    if least > seconds:
        return least, f"at most {daily_bytes / 1e9:.0f} GB a day, at {size / 1e6:.0f} MB each"
    return seconds, reason
