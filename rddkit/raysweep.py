"""A sweep's trials on Ray Tune: each an attached, supervised run, packed by what its plan needs. Needs the `ray` extra.

A trial's process on Ray holds no torch: it starts a supervisor, tells Tune of each epoch, and when it goes away (a
node's end, a decision of Tune's) the supervisor stops the run at a snapshot.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# Before Ray is imported: no usage statistics, no folders of its own making, none of its tables.
for _name, _value in {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
    "RAY_AIR_NEW_OUTPUT": "0",
    "RAY_TRAIN_ENABLE_V2_MIGRATION_WARNINGS": "0",
    "RAY_memory_monitor_refresh_ms": "0",  # a run has its own guard; ending the light caller would free nothing
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_WARN_INSUFFICENT_RESOURCE_THRESHOLD_S": "1000000000",
}.items():
    os.environ.setdefault(_name, _value)

import ray  # noqa: E402
from ray import tune  # noqa: E402
from ray.tune.schedulers import ASHAScheduler  # noqa: E402

from rddkit import clock, config, lock, memory, outlook, paths, standings, status  # noqa: E402
from rddkit.config import PLAN_KEYS, ConfigError  # noqa: E402
from rddkit.memory import MIB, human  # noqa: E402
from rddkit.paths import RunPaths  # noqa: E402
from rddkit.run import Run  # noqa: E402
from rddkit.safety import load_safety  # noqa: E402
from rddkit.standings import ASHA, RUNNING, Standing, Standings  # noqa: E402
from rddkit.sweep import Sweep, standing  # noqa: E402
from rddkit.sweep import Trial as Planned  # noqa: E402

SLICE_SECONDS = 2.0  # a trial answers Tune at least this often, so that it can be asked to stop
POLL_SECONDS = 0.2
BUSY_SECONDS = 180.0  # a supervisor of before winds down; a lock on NFS outlives its node by up to 90 s
STOP_SECONDS = 500.0  # less than the 600 s after which Tune ends a trial's process
LOSSES = 3  # nodes that a trial may lose
STORE = 80 * MIB  # Ray's object store; it wants 75 MiB, and nothing of ours goes through it
ESTIMATED_BY = (*PLAN_KEYS, "data", "epochs", "nbs", "optimizer", "mosaic")  # the settings that an estimate reads
Say = Callable[[str], None]


class Gone(RuntimeError):
    """A run whose supervisor left without a last word; Tune starts the trial again."""


class Trial(tune.Trainable):  # type: ignore[misc]
    """One run, as Tune sees it. `config["trial"]`: run, config, overrides, safety, cpus, root."""

    def setup(self, config: dict[str, Any]) -> None:
        self.asked = config["trial"]
        os.environ["RDDKIT_ROOT"] = self.asked["root"]
        os.environ["RDDKIT_NODE"] = self.node = here()
        self.seen = 0
        self.run = begin(self.asked)

    def step(self) -> dict[str, Any]:
        """The newest epoch once there is one, what was told before after a while; `over` when the run has ended."""
        deadline = clock.monotonic() + SLICE_SECONDS
        while True:
            alive = self.run.is_alive()
            rows = status.read_rows(self.run.paths.results_csv)
            if not alive or len(rows) > self.seen or clock.monotonic() > deadline:
                break
            clock.sleep(POLL_SECONDS)
        self.seen = len(rows)
        newest = rows[-1] if rows else {}
        told = {"node": self.node, "epoch": int(newest.get("epoch", 0)), "over": not alive, "done": not alive}
        value = newest.get(self.asked["column"])
        if not alive and self.run.status().state == "dead":
            raise Gone(f"the supervisor of {self.run.name!r} is gone without a last word")
        return told if value is None else {**told, "metric": value}

    def cleanup(self) -> None:
        """Stop the run and wait for its end: until then its memory is in use, and Ray gives it to nobody else."""
        if self.run.is_alive():
            self.run.stop()
            self.run.wait(timeout=STOP_SECONDS)


def here() -> str:
    """This node: its name, and the start of Ray's number for it, which tells two on one machine apart."""
    return f"{os.uname().nodename}/{ray.get_runtime_context().get_node_id()[:6]}"


def begin(asked: dict[str, Any]) -> Run:
    """Start or continue a trial's run, attached; one that is still being left by its last owner is waited for."""
    deadline = clock.monotonic() + BUSY_SECONDS
    while True:
        run = Run.create(asked["config"], safety=asked["safety"], name=asked["run"], **asked["overrides"])
        if run.decision.action == "new" and run.record is not None:
            run.record.threads = asked["cpus"]
            run.record.choices["threads"] = {"value": asked["cpus"], "reason": "the cores of a trial of this sweep"}
        try:
            return run.start()
        except lock.Busy:
            if clock.monotonic() > deadline:
                raise
            clock.sleep(1.0)


@dataclass
class Watch(tune.Callback):  # type: ignore[misc]
    """Keeps the standings while Tune works, and says what happens."""

    told: Standings
    say: Say

    def on_trial_result(self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **_: Any) -> None:
        one = self.told.of(trial.config["trial"]["run"])
        moved = one.node and one.node != result["node"]
        if one.state != RUNNING or moved:
            self.say(f"{one.run}: {'continued' if moved or result['epoch'] else 'started'} on {result['node']}")
        before, one.state, one.node = one.epochs, RUNNING, result["node"]
        if result["epoch"] != before or result["over"]:
            one.look()
            value = f", {self.told.metric} {result['metric']:.3f}" if "metric" in result else ""
            self.say(f"{one.run}: epoch {result['epoch']}{value}")
        self.told.write()

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **_: Any) -> None:
        one = self.told.of(trial.config["trial"]["run"])
        if trial.last_result.get("over"):
            one.settle()
        else:
            one.state = ASHA
        self.say(f"{one.run}: {one.state}{': ' + one.note if one.note else ''}")
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
    limits = load_safety(safety)
    keep = None if limits.reserve == "auto" else limits.reserve
    with running_ray(told.address, memory.memory_budget(limits.budget, keep)):
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
            one.state = standings.WAITING
        told.trials.append(one)
    return told


class Needs:
    """What Ray reserves for a trial. Plans that need the same are estimated once."""

    def __init__(self, sweep: Sweep, safety: str | None, say: Say) -> None:
        self.sweep, self.safety, self.say = sweep, safety, say
        self.known: dict[str, tuple[int | None, str]] = {}
        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        self.largest = max((int(node.get("memory", 0)) for node in nodes), default=0)
        self.gpus = any(node.get("GPU", 0) for node in nodes)

    def of(self, trial: Planned) -> dict[str, Any]:
        """CPU, GPU and memory (bytes), as far as they are reserved. One larger than any node gets the largest whole."""
        found: dict[str, Any] = {"CPU": self.sweep.file.cpus}
        device = trial.asked.args.get("device")
        if self.gpus and device not in ("cpu", "mps"):
            found["GPU"] = len(str(device).split(",")) if device not in (None, "") else 1
        if self.sweep.file.pack == "off" or "GPU" in found:
            return found
        args = trial.asked.args
        about = str([args.get(key) for key in ESTIMATED_BY])
        if about not in self.known:
            self.known[about] = self._estimate(trial)
            self.say(self.known[about][1])
        bound, _ = self.known[about]
        return found if bound is None else {**found, "memory": min(bound, self.largest)}

    def _estimate(self, trial: Planned) -> tuple[int | None, str]:
        try:
            told = outlook.look(trial.asked.source, safety=self.safety, **trial.overrides).told
        except Exception as error:  # an estimate must never keep a run from being tried
            return None, f"{trial.name}: no estimate ({type(error).__name__}: {error}); packed by cores alone"
        bound = int(told["safe_bound"])
        more = f", more than the largest node has ({human(self.largest)}): it gets that node to itself"
        return bound, f"{trial.name} and alike: need up to {human(bound)} each{more if bound > self.largest else ''}"


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
            callbacks=[watch],
            verbose=0,
        ),
    )
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


@contextlib.contextmanager
def running_ray(address: str | None, budget: memory.Reading) -> Iterator[None]:
    """Ray, started here and ended afterwards, or that of a cluster."""
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR"}
    scratch = None
    try:
        if address is None:
            scratch = tempfile.mkdtemp(prefix="rdd-", dir="/tmp")  # sockets lie below: a path of 107 bytes at most
            ray.init(
                address="local",
                include_dashboard=False,
                object_store_memory=STORE,
                _memory=budget.bytes,
                _node_ip_address="127.0.0.1",
                _temp_dir=scratch,
                **quiet,
            )
        else:
            try:
                ray.init(address=address, **quiet)
            except (ConnectionError, RuntimeError, ValueError) as error:
                raise ConfigError(
                    f"no Ray cluster at {address!r} ({str(error).splitlines()[0]}). Start one: ray start --head; "
                    f"or leave --address out: then Ray is started here and ended with the sweep"
                ) from error
        yield
    finally:
        ray.shutdown()
        if scratch:
            shutil.rmtree(scratch, ignore_errors=True)


def _wait_until_left(one: Standing) -> None:
    """Wait for a run that still winds down after Tune has let go of it."""
    deadline = clock.monotonic() + BUSY_SECONDS
    while lock.is_held(RunPaths(Path(one.folder)).lock) and clock.monotonic() < deadline:
        clock.sleep(POLL_SECONDS)
