"""A sweep worked through by Ray Tune: what is to be done, which of it was lost, how all of it stands. Needs the `ray`
extra.
"""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import signal
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ray import tune
from ray.tune.schedulers import ASHAScheduler

from rddkit import clock, config, lock, paths, standings
from rddkit.paths import RunPaths
from rddkit.raynodes import Needs, running_ray
from rddkit.raytrial import BUSY_SECONDS, POLL_SECONDS, Trial
from rddkit.safety import load_safety
from rddkit.standings import ASHA, RUNNING, WAITING, Standing, Standings
from rddkit.sweep import Sweep, standing
from rddkit.sweep import Trial as Planned

LOSSES = 3  # nodes that a trial may lose
WRITE_SECONDS = 1.0  # sweep.json is replaced at most this often while trials only go on
Say = Callable[[str], None]


@dataclass
class Watch(tune.Callback):
    """Keeps the standings while Tune works, and says what happens."""

    told: Standings
    say: Say
    written: float = -1e9

    def __getstate__(self) -> dict[str, Any]:
        return {}  # Tune keeps a copy of its callbacks in its own bookkeeping, from which nothing is ever restored

    def on_trial_result(self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **_: Any) -> None:
        one = self.told.of(trial.config["trial"]["run"])
        moved = one.node and one.node != result["node"]
        if one.state != RUNNING or moved:
            self.say(f"{one.run}: {'continued' if moved or result['epoch'] else 'started'} on {result['node']}")
        before, one.state, one.node = one.epochs, RUNNING, result["node"]
        if result["epoch"] != before:
            one.look()
            value = f", {self.told.metric} {result['metric']:.3f}" if "metric" in result else ""
            self.say(f"{one.run}: epoch {result['epoch']}{value}")
        if clock.monotonic() - self.written > WRITE_SECONDS:
            self.written = clock.monotonic()
            self.told.write()

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **_: Any) -> None:
        one = self.told.of(trial.config["trial"]["run"])
        if trial.last_result.get("over"):
            one.settle()
        else:
            one.state = ASHA
        self.say(f"{one.run}: {one.state}{': ' + one.note if one.note else ''}")
        self.told.write()

    def on_trial_recover(self, iteration: int, trials: list[Any], trial: Any, **_: Any) -> None:
        one = self.told.of(trial.config["trial"]["run"])
        self.say(f"{one.run}: lost on {one.node or 'its node'}; it starts again where there is room")
        one.state = WAITING
        self.told.write()

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **_: Any) -> None:
        one = self.told.of(trial.config["trial"]["run"])
        one.note = " ".join(str(trial.get_error() or "its process on Ray was lost").split())[-300:]
        self.say(f"{one.run}: given up: {one.note}")


def drive(sweep: Sweep, address: str | None, safety: str | None, say: Say) -> Standings:
    """Run every trial that is neither done nor was stopped by ASHA, and return how all of them stand.

    Args:
        address: a Ray cluster's (`auto`: the one this machine belongs to); None starts Ray here and ends it again.

    Raises ConfigError for runs with other settings in the way and for a cluster that cannot be reached, lock.Busy
    where another process runs the sweep.
    """
    told = take_stock(sweep, address)
    with _alone(sweep):
        to_do = [trial for trial in sweep.trials if told.of(trial.name).state not in standings.SETTLED]
        for one in told.trials:
            if one.state in standings.SETTLED:
                say(f"{one.run}: {one.state}")
        told.write()
        if to_do:
            _work(sweep, to_do, told, safety, say)
        told.ended = clock.stamp()
        told.write()
    return told


def _work(sweep: Sweep, to_do: list[Planned], told: Standings, safety: str | None, say: Say) -> None:
    with running_ray(told.address, load_safety(safety)):
        needs = Needs(sweep, safety, say)
        asked = []
        for trial in to_do:
            resources = needs.of(trial)
            told.of(trial.name).asked_bytes = resources.get("memory")
            asked.append(
                {
                    "run": trial.name,
                    "config": trial.asked.source,
                    "overrides": trial.overrides,
                    "safety": str(config.find_input(safety)) if safety else None,
                    "cpus": sweep.file.cpus,
                    "root": str(paths.root()),
                    "column": sweep.column,
                    "cluster": told.address is not None,
                    "resources": resources,
                }
            )
        tune_trials(sweep, asked, Watch(told, say))
    for one in told.trials:
        _wait_until_left(one)
        if one.state != "done":
            one.settle()


@contextlib.contextmanager
def _alone(sweep: Sweep) -> Iterator[None]:
    """Own the sweep. Raises lock.Busy where another process drives it."""
    sweep.folder.mkdir(parents=True, exist_ok=True)
    try:
        fd = lock.take(sweep.lock)
    except lock.Busy:
        pid = lock.signature(sweep.lock).get("supervisor_pid", "on another machine")
        raise lock.Busy(
            f"the sweep {sweep.name!r} is being run by process {pid}. Look at it: notebooks/06_sweep.ipynb. "
            f"Stop it resumably: kill {pid}"
        ) from None
    try:
        lock.sign(fd, supervisor_pid=os.getpid(), supervisor_started=lock.started(os.getpid()))
        yield
    finally:
        os.close(fd)


def take_stock(sweep: Sweep, address: str | None) -> Standings:
    """How the trials stand before anything is started."""
    before = standings.read(sweep.book)
    known = {trial.run: trial for trial in before.trials} if before else {}
    told = Standings(sweep.book, sweep.name, sweep.file.metric, [], address=address)
    for trial in sweep.trials:
        one = Standing(trial.name, str(trial.paths.folder), trial.overrides)
        found = standing(trial)
        if found != "new":
            one.look()
        if found == "done":
            one.settle()
        elif trial.name in known and known[trial.name].state == ASHA:
            one.state = ASHA
            one.settle()
        if one.state not in standings.SETTLED:
            one.state = WAITING
        told.trials.append(one)
    return told


def tune_trials(sweep: Sweep, asked: list[dict[str, Any]], watch: Watch, trainable: type = Trial) -> None:
    """Have Tune work through the trials; returns when all have ended, or after an interrupt.

    Args:
        asked: of each trial what `Trial` wants, with the `resources` that Ray reserves for it.
        trainable: what stands in for `Trial` where something else is to be measured.
    """
    place = sweep.folder / "ray"  # Tune's own bookkeeping; what counts is in the runs' folders
    asha = sweep.file.asha
    scheduler = None
    if asha:
        most = max(int(trial.asked.args.get("epochs") or 100) for trial in sweep.trials)
        scheduler = ASHAScheduler(
            time_attr="epoch",
            metric="metric",
            mode="max",
            max_t=max(most, asha.grace_epochs),
            grace_period=asha.grace_epochs,
            reduction_factor=asha.reduction,
            stop_last_trials=False,
        )
    resources = {one["run"]: tune.PlacementGroupFactory([one["resources"]]) for one in asked}
    tuner = tune.Tuner(
        tune.with_resources(trainable, lambda config: resources[config["trial"]["run"]]),
        param_space={"trial": tune.grid_search(asked)},
        tune_config=tune.TuneConfig(
            scheduler=scheduler,
            trial_name_creator=lambda trial: trial.config["trial"]["run"],
            trial_dirname_creator=lambda trial: trial.trial_id,
        ),
        run_config=tune.RunConfig(
            name=clock.utc_now().strftime("%Y%m%d-%H%M%S"),
            storage_path=str(place),
            failure_config=tune.FailureConfig(max_failures=LOSSES),
            checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),  # a run keeps its own
            callbacks=[watch],
            verbose=0,
        ),
    )
    logging.getLogger("ray").setLevel(logging.CRITICAL)  # `watch` says what happens to a trial
    try:
        with _terminated_as_interrupted():
            tuner.fit()
    finally:
        shutil.rmtree(place, ignore_errors=True)


@contextlib.contextmanager
def _terminated_as_interrupted() -> Iterator[None]:
    """SIGTERM (Slurm, systemd) ends the sweep as Ctrl-C does: every trial stops at a snapshot."""

    def pass_on(_number: int, _frame: object) -> None:
        os.kill(os.getpid(), signal.SIGINT)

    before = signal.signal(signal.SIGTERM, pass_on)
    try:
        yield
    except KeyboardInterrupt:  # the second one
        pass
    finally:
        signal.signal(signal.SIGTERM, before)


def _wait_until_left(one: Standing) -> None:
    """Wait for a run that still winds down after Tune has let go of it."""
    deadline = clock.monotonic() + BUSY_SECONDS
    while lock.is_held(RunPaths(Path(one.folder)).lock) and clock.monotonic() < deadline:
        clock.sleep(POLL_SECONDS)
