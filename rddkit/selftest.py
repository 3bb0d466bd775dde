"""Try what rddkit promises on this device, model and data, in about two minutes; a table to paste into an issue.

It works in a folder of its own below .cache: no run, no result and no data set of the user's is touched.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from rddkit import checks, clock, config, dataset, exactness, journal, offline, paths, status, verdicts
from rddkit.checks import Failed, guarded
from rddkit.config import ConfigError
from rddkit.memory import human
from rddkit.run import Run
from rddkit.safety import load_safety
from rddkit.verdicts import Row, verdict

BATCHES = 4  # an epoch's, so that it takes two minutes with yolov8s at 640 on a slow CPU
VAL_IMAGES = 4
AUTO_BATCH = 2  # for a batch of `auto`: the largest that fits would take longer, and shows no more
# Model, image size, batch, device and recipe stay the config's; what takes time or cannot be compared does not.
SETTINGS: dict[str, Any] = {"epochs": 2, "close_mosaic": 0, "workers": 0, "fraction": 1.0, "cache": False}
SETTINGS |= {"plots": False, "save_period": -1, "patience": 100}
# The user's safety, but nothing that changes the plan on the way or tells the world.
SAFETY: dict[str, Any] = {"estimate": False, "predictions": False, "fallbacks": [], "notify": []}
SAFETY |= {"retries": 1, "backoff_seconds": 0.0}
SNAPSHOTS = {"whole": 3600.0, "killed": 0.001}  # the killed one at every step, so that there are some
KILL_AT = 2 * BATCHES - 1  # in the second epoch, with an optimizer's step and so a snapshot before it
TRAINING_SECONDS = 240.0
SPEAK_SECONDS = 10.0
POLL_SECONDS = 0.05
Say = Callable[[str], None]


@dataclass
class Outcome:
    """The rows, what they hold for, and the folder where something failed (None: removed)."""

    rows: list[Row]
    about: list[str]
    seconds: float
    kept: Path | None

    @property
    def exit_code(self) -> int:
        """0 where nothing failed."""
        return int(any(row.result == "FAIL" for row in self.rows))

    def text(self) -> str:
        """What is pasted into an issue: the verdict, what it holds for, the table."""
        title = f"rddkit selftest: {verdicts.summary(self.rows)}, {clock.words(self.seconds)}"
        kept = ["", f"kept to be looked at: {self.kept}"] if self.kept else []
        return "\n".join([title, *self.about, "", verdicts.table(self.rows), *kept])


def examine(config_file: str | Path | None, say: Say) -> Outcome:
    """Run the self-test; `say` hears how it goes.

    Raises ConfigError or DatasetError for settings and data that cannot be used.
    """
    began = clock.monotonic()
    place = paths.root() / ".cache"  # on the disk of the runs; the system's temporary folder may be memory
    place.mkdir(exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix="selftest-", dir=place))
    kept = None
    try:
        settings, about = prepare(config_file, folder)
        whole = _create(folder, "whole")
        about.insert(0, _heading(whole, settings))
        most = clock.words(2 * TRAINING_SECONDS + 2 * checks.CHILD_SECONDS)
        say("\n".join([f"rddkit selftest: about two minutes, at most {most} on a slow machine", *about]))
        rows = _quick(whole, say) + _trainings(settings, folder, whole, say)
        kept = folder if any(row.result == "FAIL" for row in rows) else None
        return Outcome(rows, about, clock.monotonic() - began, kept)
    finally:
        if kept is None:
            shutil.rmtree(folder, ignore_errors=True)


# -- what is tried -----------------------------------------------------------------------------------------------------


def prepare(config_file: str | Path | None, folder: Path) -> tuple[dict[str, Any], list[str]]:
    """The config's settings on a few of its images, written to `folder`, and what to know of them.

    Where its data or weights are not here, the painted sample and an untrained model take their place, and it is said.
    """
    asked = config.load_config(config_file).args
    batch = asked.get("batch", config.known_arguments()["batch"].default)
    settings, about = {**asked, **SETTINGS, "project": str(folder), "name": "whole"}, []
    if batch == config.AUTO:
        batch = AUTO_BATCH
        about.append(f"batch {batch} instead of {config.AUTO}, to be quick")
    settings |= {"batch": batch, "nbs": 2 * batch}  # an optimizer's step every second batch: snapshots follow steps
    try:
        settings["model"] = config.find_model(str(asked["model"]))
    except ConfigError:
        settings["model"] = config.find_model(f"{Path(asked['model']).stem}.yaml")
        about.append(f"the weights {asked['model']} are not here: {settings['model']}, untrained, instead")
    data = Path(str(asked["data"]))
    if not data.is_file():
        about.append(f"the data set is not at {data}: the painted sample instead")
        dataset.write_sample(folder / "raw")
        dataset.prepare(folder / "raw", folder / "sample")
        data = folder / "sample" / "rdd2022.yaml"
    few, count = dataset.write_subset(data, folder / "data", BATCHES * batch, VAL_IMAGES)
    settings["data"] = str(few)
    about.append(f"{SETTINGS['epochs']} epochs of {BATCHES * batch} images (the training set has {count})")
    (folder / "selftest.yaml").write_text(yaml.safe_dump(settings, allow_unicode=True), encoding="utf-8")
    return settings, about


def _heading(run: Run, settings: dict[str, Any]) -> str:
    """What the table holds for."""
    assert run.record is not None
    plan = run.record.plan
    known = ("rddkit", "ultralytics", "torch", "python", "system")
    versions = ", ".join(f"{name} {run.record.versions.get(name)}" for name in known)
    model = f"{Path(settings['model']).name}, batch {plan['batch']}, imgsz {plan['imgsz']}"
    return f"{model} on {run.record.device}, {run.record.threads} thread(s); {versions}"


def _create(folder: Path, name: str) -> Run:
    safety = load_safety().model_dump() | SAFETY | {"snapshot_seconds": SNAPSHOTS[name]}
    file = folder / f"{name}-safety.yaml"
    file.write_text(yaml.safe_dump(safety), encoding="utf-8")
    return Run.create(folder / "selftest.yaml", safety=file, name=name)


def _quick(run: Run, say: Say) -> list[Row]:
    say("readings, cap ...")
    assert run.record is not None
    device, recommended = run.record.device.partition(",")[0], run.record.budget.get("device_bytes")
    return [
        *guarded("readings", checks.readings),
        *guarded("kill counter", checks.counters),
        *guarded("cap", checks.cap, device, recommended, offline.child_environment()),
    ]


# -- two trainings -----------------------------------------------------------------------------------------------------


def _trainings(settings: dict[str, Any], folder: Path, whole: Run, say: Say) -> list[Row]:
    loop = exactness.loop_for(settings, [])
    if not loop.exact:
        return [Row("killed mid-epoch", "skipped", loop.reason, "settings")]
    say("a training, not interrupted ...")
    rows = guarded("trained", uninterrupted, whole, say)
    if rows[0].result == "FAIL":
        return [*rows, Row("killed mid-epoch", "skipped", "there is nothing to compare it with", "")]
    say("the same training, killed in its second epoch ...")
    return [*rows, *guarded("killed mid-epoch", interrupted, _create(folder, "killed"), whole, say)]


def uninterrupted(run: Run, say: Say) -> list[Row]:
    """Train to the end."""
    began = clock.monotonic()
    with _training(run):
        _finish(run, say)
    peak = (journal.last(run.events(), "attempt_ended") or {}).get("peak_bytes") or 0
    return [verdict("trained", True, f"{clock.words(clock.monotonic() - began)}, peak {human(peak)}", "journal")]


def interrupted(run: Run, whole: Run, say: Say) -> list[Row]:
    """Train with a SIGKILL on the way; compare with the run that had none."""
    os.environ["RDDKIT_KILL"] = f"1:batch@{KILL_AT}"
    try:
        with _training(run):
            _finish(run, say)
    finally:
        del os.environ["RDDKIT_KILL"]
    say("comparing the two ...")
    assert run.record is not None
    exact = run.record.device == "cpu"
    before, after = (status.read_rows(one.paths.results_csv) for one in (whole, run))
    return [
        *verdicts.killed(run.events(), BATCHES),
        verdicts.same_weights(_compare(whole.paths.last, run.paths.last), exact),
        verdicts.same_rows(before, after, SETTINGS["epochs"], exact),
    ]


@contextlib.contextmanager
def _training(run: Run) -> Iterator[None]:
    """Start a run; whatever happens, it does not outlive this."""
    run.start()
    try:
        yield
    finally:
        if run.is_alive():
            run.stop(at_once=True)
            run.wait(timeout=30)


def _finish(run: Run, say: Say) -> None:
    """Wait for a run's end and say where it stands. Raises Failed where it did not come, or not in time."""
    began = spoken = clock.monotonic()
    while run.is_alive():
        now = clock.monotonic()
        if now - began > TRAINING_SECONDS:
            raise Failed(
                f"not done within {clock.words(TRAINING_SECONDS)}: {run.status().sentence}. This plan is slow here; "
                "a smaller one: rddkit selftest --config configs/demo.yaml"
            )
        if now - spoken > SPEAK_SECONDS:
            spoken = now
            say(f"  {run.status().sentence}")
        clock.sleep(POLL_SECONDS)
    if run.wait() != 0:
        end = journal.last(run.events(), "run_failed", "run_stopped") or {}
        raise Failed(f"{run.status().sentence}: {end.get('evidence') or end.get('reason')}; see {run.paths.logs}")


def _compare(one: Path, other: Path) -> dict[str, Any]:
    command = [sys.executable, "-m", "rddkit.checkpoint", str(one), str(other)]
    answer = subprocess.run(
        command,
        env=offline.child_environment(),
        capture_output=True,
        text=True,
        check=False,
        timeout=checks.CHILD_SECONDS,
    )
    if answer.returncode != 0:
        raise Failed(f"the weights could not be compared: {answer.stderr.strip()[-300:]}")
    found: dict[str, Any] = json.loads(answer.stdout.splitlines()[-1])
    return found
