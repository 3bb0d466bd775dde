"""Taking in a plain Ultralytics run: its settings read, its files copied, the original untouched."""

from __future__ import annotations

import json
import math
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rddkit import config, journal
from rddkit.config import Config, ConfigError
from rddkit.journal import Journal
from rddkit.paths import RunPaths

COPIED = ("results.csv", "weights/last.pt", "weights/best.pt")
# Written by Ultralytics into every args.yaml, and decided elsewhere here.
LEFT_OUT = {*config.OURS, "project", "name"}
# What may be given beside PATH: the rest makes the run what it is.
GIVEN = {*config.ALLOWED_ON_RESUME, "data", "project", "name"}


@dataclass(frozen=True)
class Plain:
    """A plain run: where it is, its settings as ours, how far it came, and what else to know (`; its time ...`)."""

    folder: Path
    config: Config
    epochs_done: int
    told: str = ""


def read(source: Path, overrides: Mapping[str, Any], environment: Mapping[str, str]) -> Plain:
    """The plain run at `source`, a folder or its last.pt.

    Raises ConfigError if a file is missing, if it is finished, or if its settings cannot be used here.
    """
    folder = _folder(source)
    if RunPaths(folder).run_yaml.exists():
        raise ConfigError(
            f"{folder} is a run of rddkit already; continue it: rddkit train --name {folder.name} --resume"
        )
    given = {key: value for key, value in overrides.items() if value is not None}
    if others := sorted(given.keys() - GIVEN):
        raise ConfigError(
            f"{', '.join(others)} cannot be changed in a run that is taken in: it would be another run. Leave "
            f"it out, or start anew from its weights: rddkit train --name NEW model={folder / 'weights' / 'best.pt'}"
        )
    last, args = folder / "weights" / "last.pt", folder / "args.yaml"
    for file in (args, last):
        if not file.is_file():
            raise ConfigError(f"{folder} is not a plain Ultralytics run that can be resumed: it has no {file.name}")
    if not zipfile.is_zipfile(last):  # what torch.save writes; its directory is the file's end
        raise ConfigError(f"{last} is torn: the run was killed while it was written. {_anew(folder)}")
    seen = _look(last, environment)
    if not seen["resumable"] or not 0 < seen["epochs_done"] < max(seen["epochs"], 1):
        raise ConfigError(f"{folder} is finished: its last.pt is stripped and cannot be resumed. {_anew(folder)}")
    known = config.known_arguments()
    written = config.read_yaml(args)
    settings = {
        key: value
        for key, value in written.items()
        if key in known and key not in LEFT_OUT and value != known[key].default and value is not None
    }
    told = ""
    if settings.pop("time", None) is not None:
        told = "; its `time` is left out: --for 9h and --until 07:00 keep hours"
    if not isinstance(settings.get("batch", 1), int) or settings.get("batch", 1) < 1:
        settings["batch"] = seen["batch"]  # what AutoBatch found
    if isinstance(settings.get("imgsz"), int):
        settings["imgsz"] = math.ceil(settings["imgsz"] / config.STRIDE) * config.STRIDE  # as Ultralytics does
    asked = config.from_settings({"name": folder.name, **settings}, given, str(args))
    if asked.folder.resolve() == folder.resolve():
        asked = config.from_settings({"name": f"{folder.name}-rddkit", **settings}, given, str(args))
    config.find_data(str(asked.args["data"]))
    return Plain(folder, asked, seen["epochs_done"], told)


def _folder(source: Path) -> Path:
    place = config.find_input(source)
    if place.is_file():
        return place.parent.parent if place.parent.name == "weights" else place.parent
    if place.is_dir():
        return place
    raise ConfigError(f"nothing at {place} to resume: neither a run's folder nor a last.pt")


def _anew(folder: Path) -> str:
    best = folder / "weights" / "best.pt"
    return f"A new run from its best weights:\n  rddkit train --name {folder.name}-2 model={best}"


def _look(last: Path, environment: Mapping[str, str]) -> dict[str, Any]:
    command = [sys.executable, "-m", "rddkit.checkpoint", str(last)]
    answer = subprocess.run(command, capture_output=True, text=True, check=False, env=dict(environment))
    if answer.returncode != 0:
        raise ConfigError(f"{last} cannot be read: {' '.join(answer.stderr.strip().splitlines()[-1:])}")
    found: dict[str, Any] = json.loads(answer.stdout.splitlines()[-1])
    return found


def source_of(there: RunPaths) -> str | None:
    """Where the plain run in this folder was taken in from; None if it was not."""
    imported = journal.last(journal.read_events(there.journal), "imported") if there.run_yaml.exists() else None
    return str(imported["source"]) if imported else None


def copy(plain: Plain, there: RunPaths) -> None:
    """Copy the plain run's files into the new run's folder and journal where they come from."""
    there.weights.mkdir(parents=True, exist_ok=True)
    for name in COPIED:
        if (plain.folder / name).is_file():
            shutil.copy2(plain.folder / name, there.folder / name)
    Journal(there.journal).add("imported", 0, source=str(plain.folder), epochs=plain.epochs_done)
