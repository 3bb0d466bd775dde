"""Fetching weights and the release, only ever when a person asks for it, with sizes first and progress shown."""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from rddkit import durable, paths, transfer
from rddkit.config import ConfigError
from rddkit.dataset import release as archives
from rddkit.transfer import TransferError

# The release that the pinned Ultralytics itself takes weights from (ultralytics/utils/downloads.py).
WEIGHTS_ADDRESS = "https://github.com/ultralytics/assets/releases/download/v8.4.0/"


class Bars:
    """A bar for each thing on its way; lines of text go above them."""

    def __init__(self, console: Console) -> None:
        columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TimeRemainingColumn())
        self._bars = Progress(*columns, console=console, transient=True)
        self._tasks: dict[str, TaskID] = {}

    def __enter__(self) -> Bars:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self._tasks:
            self._bars.stop()

    def show(self, what: str, have: int, size: int | None) -> None:
        """Move the bar of `what` to `have` bytes of `size`; where nobody watches, nothing is drawn."""
        if not self._bars.console.is_terminal:
            return
        if what not in self._tasks:
            self._bars.start()
            self._tasks[what] = self._bars.add_task(what, total=size)
        self._bars.update(self._tasks[what], completed=have, total=size)

    def say(self, text: str) -> None:
        """A line of text."""
        self._bars.console.print(text, markup=False)


def release(folder: str, countries: Sequence[str], agreed: bool, bars: Bars, file: Path = archives.RELEASE) -> None:
    """Fetch RDD2022's `countries` (none: all) into `folder`, what is there left as it is.

    Says sizes and room first; the whole release waits for a yes, or for `agreed`. Raises DatasetError where there is
    too little room, where a country is unknown or cannot be fetched, and ConfigError where nobody is there to ask.
    """
    where = paths.resolve(folder)
    known = archives.read(file)
    plan = archives.plan(where, countries, known)
    bars.say(plan.text(where))
    if plan.fetch and not countries and not agreed:
        if not sys.stdin.isatty():
            raise ConfigError(
                "nobody is here to say yes to the whole release: give --yes, or choose, such as --country Czech,India; "
                "names of weights end in .pt, such as yolov8s.pt"
            )
        if input("Fetch all of it? [y/N] ").strip().lower() not in ("y", "yes"):
            return
    plan.check(where)
    for country in plan.fetch:
        archives.download(where, country, known, bars.say, bars.show)
    bars.say(f"next: rddkit prepare {folder} data/rdd2022")


def weights(name: str, address: str = WEIGHTS_ADDRESS) -> Path:
    """Fetch pretrained weights into the repository's root, where configs look for them; the file.

    The first fetch records the SHA-256 beside the file, a later one is held to it; a broken transfer is continued.
    Raises ConfigError for a name that is not one of weights or cannot be fetched.
    """
    if not re.fullmatch(r"[\w.-]+\.pt", name):
        raise ConfigError(f"{name!r} is not the name of weights, such as yolov8s.pt")
    file = paths.root() / name
    noted = file.with_name(f"{name}.sha256")
    known = f"sha256:{noted.read_text(encoding='utf-8').split()[0]}" if noted.is_file() else None
    if known and file.is_file() and transfer.digest(file, known) == known:
        return file
    try:
        transfer.fetch(address + name, file, known)
    except TransferError as error:
        raise ConfigError(
            f"{name} could not be fetched from {address}: {error}. Put the file at {file}, "
            f"or train from scratch: model={Path(name).stem}.yaml"
        ) from error
    if known is None:
        noted.write_text(f"{durable.sha256(file)}  {name}\n", encoding="utf-8")
    return file
