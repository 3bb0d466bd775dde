"""A sweep: one file that says which trainings to make of one config. Expanded and checked here, before Ray is asked."""

from __future__ import annotations

import hashlib
import importlib.util
import itertools
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from rddkit import config, runfile, start
from rddkit.config import Config, ConfigError
from rddkit.paths import RunPaths
from rddkit.records import METRICS
from rddkit.safety import validated
from rddkit.status import read_status

LONGEST = 120  # characters of a run's name; file systems take 255 bytes
SET_HERE = {
    "name": "the sweep names its runs; `name:` in a list of trials names one",
    "project": "set it in the config",
}
QUIET = {  # Ray reads these when it is imported or started
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
    "RAY_AIR_NEW_OUTPUT": "0",
    "RAY_TRAIN_ENABLE_V2_MIGRATION_WARNINGS": "0",
    "RAY_memory_monitor_refresh_ms": "0",  # a run has its own guard; ending the light caller would free nothing
    "RAY_worker_niceness": "0",  # 15 otherwise, which supervisor and worker would inherit
    "RAY_kill_child_processes_on_worker_exit": "0",  # a supervisor that lost its caller still has a run to stop
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",  # before its first epoch a run has no metric; ASHA waits for one
    "TUNE_WARN_INSUFFICENT_RESOURCE_THRESHOLD_S": "1000000000",
}


class Asha(BaseModel):
    """Asynchronous successive halving: after `grace_epochs`, and at each multiple by `reduction`, only the best
    1/`reduction` of the trials seen there go on."""

    model_config = ConfigDict(extra="forbid", strict=True)
    grace_epochs: int = Field(1, ge=1)
    reduction: int = Field(3, ge=2)


class SweepFile(BaseModel):
    """What a sweep's file may hold."""

    model_config = ConfigDict(extra="forbid", strict=True)
    config: str = Field(config.DEFAULT_CONFIG, description="the settings that every trial starts from")
    name: str = Field("", description="the sweep's name; left out: the file's")
    grid: dict[str, list[Any]] = Field({}, description="lists of values by setting; every combination is a trial")
    trials: list[dict[str, Any]] = Field([], description="or the trials one by one, each with its settings")
    metric: Literal["mAP50", "mAP50-95"] = Field("mAP50", description="what the trials are compared by")
    asha: Asha | None = Field(None, description="end the weaker trials early; they can be continued")
    cpus: int = Field(1, ge=1, description="processor cores, and so threads, of a trial")
    pack: Literal["estimate", "off"] = Field(
        "estimate", description="estimate: as many trials at once as their memory allows; off: as many as cores allow"
    )

    @field_validator("pack", mode="before")
    @classmethod
    def _as_written(cls, value: Any) -> Any:
        return "off" if value is False else value  # YAML reads a bare `off` as no

    @model_validator(mode="after")
    def _one_of(self) -> SweepFile:
        if bool(self.grid) == bool(self.trials):
            raise ValueError("give `grid:` (lists of values by setting) or `trials:` (a list of settings), one of them")
        if empty := [key for key, values in self.grid.items() if not values]:
            raise ValueError(f"grid: {empty[0]} has no values; such as {empty[0]}: [1, 2]")
        return self


@dataclass(frozen=True)
class Trial:
    """One run of a sweep: what it changes of the config, and all its settings."""

    overrides: dict[str, Any]
    asked: Config

    @property
    def name(self) -> str:
        return self.paths.name

    @property
    def paths(self) -> RunPaths:
        return RunPaths(self.asked.folder)

    @property
    def command(self) -> str:
        """What continues this run alone."""
        words = " ".join(f"{key}={value}" for key, value in self.overrides.items())
        return f"rddkit train --config {self.asked.source} --name {self.name} {words}".strip()


@dataclass(frozen=True)
class Sweep:
    """A sweep's file, read: the settings, and the trials in its order."""

    name: str
    file: SweepFile
    source: Path
    trials: tuple[Trial, ...]

    @property
    def folder(self) -> Path:
        """Where the sweep's own file lies, beside the runs' folders."""
        return self.trials[0].paths.folder.parent / self.name

    @property
    def book(self) -> Path:
        return self.folder / "sweep.json"

    @property
    def lock(self) -> Path:
        return self.folder / ".lock"

    @property
    def log(self) -> Path:
        """What a sweep in the background says."""
        return self.folder / "sweep.log"

    @property
    def column(self) -> str:
        """The metric's column in results.csv."""
        return next(column for column, name in METRICS.items() if name == self.file.metric)


def need_ray() -> None:
    """Have Ray be quiet when it is imported: nothing is sent, nothing of its own is shown.

    Raises ConfigError, with what to install, where it is not there.
    """
    if importlib.util.find_spec("ray") is None:
        raise ConfigError(
            "a sweep needs Ray, which is not installed; in a checkout: "
            ".venv/bin/python -m pip install -c constraints.txt -e '.[ray]'. Everything else works without it"
        )
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)


def read(source: str | Path) -> Sweep:
    """The sweep of a file. Touches nothing.

    Raises ConfigError for a file, a setting or a trial that cannot be used, and for weights or a data set that is not
    there.
    """
    path = config.find_input(source)
    file = validated(SweepFile, config.read_yaml(path), path)
    name = file.name or path.stem
    trials = tuple(_trial(overrides, name, file, path) for overrides in combinations(file))
    named: dict[str, Trial] = {}
    for trial in trials:
        if (twin := named.setdefault(trial.name, trial)) is not trial:
            raise ConfigError(
                f"{path}: {twin.overrides} and {trial.overrides} would both be the run {trial.name!r}; give each of "
                f"them a `name:` in a list of `trials:`"
            )
    found = Sweep(name, file, path, trials)
    if (found.folder / "run.yaml").exists():
        raise ConfigError(f"{path}: {found.folder} is a run; give the sweep another `name:`")
    for model in {str(trial.asked.args["model"]) for trial in trials}:
        config.find_model(model)
    for data in {str(trial.asked.args["data"]) for trial in trials}:
        config.find_data(data)
    return found


def combinations(file: SweepFile) -> list[dict[str, Any]]:
    """The overrides of every trial: the list as it is, or the grid with the last setting changing fastest."""
    if file.trials:
        return file.trials
    return [dict(zip(file.grid, values, strict=True)) for values in itertools.product(*file.grid.values())]


def run_name(sweep: str, overrides: Mapping[str, Any]) -> str:
    """`sweep-seed_1-imgsz_64`: a folder's name in which the overrides can be read."""
    words = [f"{key}_{Path(value).stem if isinstance(value, str) else value}" for key, value in overrides.items()]
    name = re.sub(r"(?:[^\w.+-]|_)+", "_", "-".join([sweep, *words])).strip("_.")
    if len(name) <= LONGEST:
        return name
    return f"{name[:LONGEST]}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"


def _trial(overrides: Mapping[str, Any], sweep: str, file: SweepFile, path: Path) -> Trial:
    given = dict(overrides)
    own = given.pop("name", None) if file.trials else None
    for key, why in SET_HERE.items():
        if key in given:
            raise ConfigError(f"{path}: {key!r} is not set here; {why}")
    config.check_arguments(given, str(path))
    name = run_name(sweep, given) if own is None else f"{sweep}-{own}"
    return Trial(given, config.load_config(file.config, {**given, "name": name}))


def standing(trial: Trial) -> Literal["new", "continue", "done"]:
    """What starting a trial means, by the one start rule. Raises ConfigError where the run there is another one."""
    there = trial.paths
    if not there.run_yaml.exists():
        start.decide(trial.asked, set(), there, None, None, resume=False, fresh=False)
        return "new"
    found = runfile.read(there.run_yaml)
    args = dict(trial.asked.args)
    if args.get("batch") == config.AUTO:  # what was chosen at the start stays
        args["batch"] = found.config["batch"]
    asked = Config(args, trial.asked.source)
    state = read_status(there).state
    decided = start.decide(asked, set(), there, found, state, resume=False, fresh=False)
    return "done" if decided.action == "done" else "continue"
