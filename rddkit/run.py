"""The public API: a run, from its settings to its end. Light: torch is only ever loaded in child processes."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

from rddkit import adopt, clock, config, host, journal, lighter, lock, offline, paths, runfile, start
from rddkit.cause import STOPPED_EXIT
from rddkit.config import ConfigError
from rddkit.fallbacks import NEXT, Known
from rddkit.journal import Event
from rddkit.paths import RunPaths
from rddkit.recording import continued, new_record, recognise_data, recognise_weights
from rddkit.runfile import RunFile
from rddkit.safety import load_safety
from rddkit.status import EXIT_CODES, Status, read_status
from rddkit.words import describe

POLL_SECONDS = 0.2
SIGN_SECONDS = 5.0


@dataclass
class Run:
    """One training and its folder.

    `Run.create` checks the settings and touches nothing; `start` makes the folder and the supervisor. `Run.open` takes
    a run that is there.
    """

    paths: RunPaths
    record: RunFile | None = None
    decision: start.Start = field(default_factory=lambda: start.Start("continue", ""))
    _pending: bool = False  # whether `record` holds what run.yaml does not yet
    _supervisor: subprocess.Popen[bytes] | None = None
    _lifeline: int | None = None
    _until: str | None = None
    _adopted: adopt.Plain | None = None

    @classmethod
    def create(
        cls,
        config_file: str | Path | None = None,
        *,
        safety: str | Path | None = None,
        resume: bool = False,
        fresh: bool = False,
        **overrides: Any,
    ) -> Run:
        """A run from a config file with overrides (any Ultralytics argument), by the one start rule.

        Raises ConfigError for settings that cannot be used, or that differ from the unfinished run of that name.
        Nothing is created before `start`.
        """
        given = {key for key, value in overrides.items() if value is not None}
        asked = config.load_config(config_file, overrides)
        return cls._created(asked, given, load_safety(safety).model_dump(), resume=resume, fresh=fresh)

    @classmethod
    def _created(cls, asked: config.Config, given: set[str], limits: dict[str, Any], resume: bool, fresh: bool) -> Run:
        """The run of these settings by the one start rule; `given`: those that the command gave, not its file."""
        there = RunPaths(asked.folder)
        found = runfile.read(there.run_yaml) if there.run_yaml.exists() and not fresh else None
        state = read_status(there).state if found else None
        if found is not None:
            recognise_weights(found, asked)
            recognise_data(found, asked, keep=resume and "data" not in given)
            if asked.args.get("batch") == config.AUTO:  # what was chosen at the start stays
                asked.args["batch"] = found.config["batch"]
        decision = start.decide(asked, given, there, found, state, resume=resume, fresh=fresh)
        if decision.action == "done":
            return cls(there, found, decision)
        if decision.action == "continue" and found is not None:
            record = continued(found, decision, limits)
        else:
            record = new_record(asked, limits)
        return cls(there, record, decision, _pending=True)

    @classmethod
    def adopt(cls, source: str | Path, *, safety: str | Path | None = None, **overrides: Any) -> Run:
        """Take in a plain Ultralytics run that was killed (its folder or last.pt); the original stays untouched.

        Its checkpoint is a pickle, which is code: only take in what you or someone you trust has trained. Raises
        ConfigError for one that is finished (the command for a new run from its best.pt is in the text) or not whole.
        """
        limits = load_safety(safety).model_dump()
        plain = adopt.read(Path(source), overrides, offline.child_environment())
        there = RunPaths(plain.config.folder)
        if adopt.source_of(there) == str(plain.folder):  # the same command continues what it began
            given = {key for key, value in overrides.items() if value is not None}
            return cls._created(plain.config, given, limits, resume=True, fresh=False)
        if not there.is_vacant():
            raise ConfigError(
                f"{there.folder} is there already. If it is the run to continue: rddkit train --name {there.name} "
                "--resume; to take this one in beside it: --name NEW"
            )
        record = new_record(plain.config, limits, has_weights=True)
        message = f"taken in: {plain.folder}, {plain.epochs_done} whole epochs; resumed inexactly this once{plain.told}"
        return cls(there, record, start.Start("new", message), _pending=True, _adopted=plain)

    @classmethod
    def open(cls, run: str | Path | None = None) -> Run:
        """The run of that name or path; the newest where none is named. FileNotFoundError says what is there."""
        there = paths.find_run(run)
        return cls(there, runfile.read(there.run_yaml))

    @property
    def name(self) -> str:
        return self.paths.name

    @property
    def folder(self) -> Path:
        return self.paths.folder

    def start(self, detach: bool = False, until: str | None = None, for_: str | None = None) -> Run:
        """Start or continue in the background. Attached, the run stops resumably when this process goes away.

        A finished run is left as it is. Raises lock.Busy if another process owns it, ConfigError for a session window
        that is not one.

        Args:
            detach: go on when this process ends.
            until: a wall-clock time (`07:00`) at which the session ends, resumably.
            for_: the session's length instead (`9h`).
        """
        self._until = _session_end(until, for_)
        if self.decision.action == "done":
            return self
        if self.record is None:
            raise ConfigError(f"{self.folder} has no run.yaml; create the run first: rddkit train")
        if self.decision.action == "set_aside":
            self._set_aside()
        self.folder.mkdir(parents=True, exist_ok=True)
        if not self.paths.run_yaml.exists():
            self.paths.starting.touch()
        lock_fd = lock.take(self.paths.lock)
        try:
            if self._pending:
                if self._adopted is not None:
                    adopt.copy(self._adopted, self.paths)
                elif self.decision.action == "continue":
                    self.record = self._read_again(self.record)
                self.record.write(self.paths.run_yaml)
                self.paths.starting.unlink(missing_ok=True)
            else:  # since it was read, a supervisor may have taken a lighter plan
                self.record = runfile.read(self.paths.run_yaml)
            self._spawn(lock_fd, detach)
        finally:
            os.close(lock_fd)
        self.decision, self._pending = start.Start("continue", ""), False
        return self

    def fallbacks(self, safety: str | Path | None = None) -> list[Known]:
        """The lighter plans below the one that run.yaml has now, in the order of what they cost, and what is known of
        each. `safety`: a file to judge by instead of the run's own settings.
        """
        limits = None if safety is None else load_safety(safety).model_dump()
        return lighter.known(runfile.read(self.paths.run_yaml), limits)

    def fall_back(self, choice: str = NEXT, safety: str | Path | None = None) -> Event:
        """Make a lighter plan the run's, as the supervisor does after a kill; `start` then continues with it.

        The plan that it leaves counts as too big from now on. Raises lock.Busy for a run that is being trained,
        ConfigError for one that is finished or never began, and where that fallback cannot be had.

        Args:
            choice: a fallback's name (`batch 1`, `imgsz 512`), or `next`.
            safety: a file whose settings the run takes over, such as one that allows smaller images.

        Returns the journal's event.
        """
        if self.decision.action in ("new", "set_aside") or self.decision.changes:
            raise ConfigError(
                f"{self.name} has settings here that it was not started with yet; for a lighter plan of the run that "
                f"is there: Run.open({self.name!r}).fall_back({choice!r})"
            )
        limits = None if safety is None else load_safety(safety).model_dump()
        self.record, event = lighter.take_by_hand(self.paths, choice, limits)
        self.decision, self._pending = start.Start("continue", describe(event)), False
        return event

    def _read_again(self, record: RunFile) -> RunFile:
        """The record with the plan that run.yaml has now: a lighter one may have been taken since `create`."""
        now = continued(runfile.read(self.paths.run_yaml), self.decision, record.safety)
        now.config |= {key: record.config[key] for key in ("data", "model")}
        now.plan["model"], now.dataset = record.config["model"], record.dataset
        return now

    def _set_aside(self) -> None:
        if lock.is_held(self.paths.lock):
            raise lock.Busy(f"the run {self.name!r} is being trained; stop it first: rddkit stop {self.name}")
        moment = clock.utc_now().strftime("%Y%m%d-%H%M%S")
        self.folder.rename(self.folder.with_name(f"{self.name}.{moment}"))

    def _spawn(self, lock_fd: int, detach: bool) -> None:
        self.paths.logs.mkdir(exist_ok=True)
        command = [sys.executable, "-m", "rddkit.supervisor", str(self.folder), "--lock", str(lock_fd)]
        keep = [lock_fd]
        if self._until:
            command += ["--until", self._until]
        if not detach:
            ours, self._lifeline = os.pipe()
            command += ["--caller", str(ours)]
            keep.append(ours)
        with open(self.paths.supervisor_log, "ab") as log:
            self._supervisor = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                pass_fds=keep,
                start_new_session=True,
                cwd=paths.root(),
            )
        if not detach:
            os.close(ours)

    def warnings(self) -> list[str]:
        """What to know before leaving the machine alone with the run: power, lid, disk."""
        place = next(place for place in (self.folder, *self.folder.parents) if place.exists())
        safety = self.record.safety if self.record else load_safety().model_dump()
        free = shutil.disk_usage(place).free
        return host.warnings(host.look(), free, 2 * safety["disk_reserve"], sys.platform)

    def wait(self, timeout: float | None = None) -> int:
        """Block until the run ends (or `timeout` seconds passed: exit code 3); the run's exit code."""
        deadline = None if timeout is None else clock.monotonic() + timeout
        while self.is_alive():
            if deadline is not None and clock.monotonic() > deadline:
                return EXIT_CODES["running"]
            clock.sleep(POLL_SECONDS)
        if self._supervisor is not None and self._supervisor.returncode is not None:
            return self._supervisor.returncode if self._supervisor.returncode >= 0 else STOPPED_EXIT
        return self.status().exit_code

    def is_alive(self) -> bool:
        """Whether the run's supervisor (or a worker it left) is there."""
        if self._supervisor is not None:
            return self._supervisor.poll() is None
        return lock.is_held(self.paths.lock)

    def stop(self, at_once: bool = False, number: int = signal.SIGTERM) -> bool:
        """Ask the run to stop resumably (a second time, or `at_once`: now); False if it is not running.

        `number` is the signal to pass on: SIGINT or SIGTERM, which a second one turns into exit code 130 or 143.
        """
        return self._signal(number, twice=at_once)

    def snapshot(self) -> bool:
        """Ask for a snapshot after the current batch; False if the run is not running."""
        return self._signal(signal.SIGUSR1)

    def _signal(self, number: int, twice: bool = False) -> bool:
        deadline = clock.monotonic() + SIGN_SECONDS
        while not (owner := lock.signature(self.paths.lock)):
            if not lock.is_held(self.paths.lock) or clock.monotonic() > deadline:
                return False
            clock.sleep(POLL_SECONDS)  # a supervisor that is just starting signs the lock once it listens
        if not lock.is_held(self.paths.lock):
            return False
        # A supervisor takes two of the same signal within a second for one.
        first = signal.SIGINT if number == signal.SIGTERM else signal.SIGTERM
        os.kill(owner["supervisor_pid"], first if twice else number)
        if twice:
            clock.sleep(POLL_SECONDS)
            with contextlib.suppress(ProcessLookupError):  # it stopped meanwhile
                os.kill(owner["supervisor_pid"], number)
        return True

    def evaluate(self, weights: tuple[str, ...] = ("best", "last"), test: str | Path | None = None) -> dict[str, Any]:
        """F1, average precision and what was missed, of the run's weights on its validation images; in a child process.

        Prints what is done and what to know of the result; returns what `evaluation/evaluation.json` then holds.

        Args:
            weights: which of `best` and `last`.
            test: a folder of test images to write the challenges' submission file for.

        Raises ConfigError for what is not there, lock.Busy while the run trains, inference.NoAnswer if the child dies.
        """
        from rddkit import evaluation  # it draws, and plotly is not for whoever only trains

        return evaluation.in_child(self.paths, weights, None if test is None else config.find_input(test))

    def status(self) -> Status:
        """What state the run is in now, with its sentence."""
        return read_status(self.paths)

    def events(self) -> list[Event]:
        """The journal so far, oldest first."""
        return journal.read_events(self.paths.journal)

    def follow(self) -> Iterator[Event | Status]:
        """New events as they come, and the status every few seconds, until the run ends."""
        seen = len(self.events())
        spoken = 0.0
        while True:
            alive = self.is_alive()
            events = self.events()
            yield from events[seen:]
            seen = len(events)
            if not alive:
                return
            if clock.monotonic() - spoken > 5:
                spoken = clock.monotonic()
                yield self.status()
            clock.sleep(POLL_SECONDS)


def _session_end(until: str | None, for_: str | None) -> str | None:
    """The moment at which the session window closes, as a stamp."""
    if until and for_:
        raise ConfigError("give --until or --for, not both")
    try:
        if until:
            return clock.stamp(clock.next_time(until))
        return clock.stamp(clock.utc_now() + timedelta(seconds=clock.parse_span(for_))) if for_ else None
    except (ValueError, OverflowError) as error:
        raise ConfigError(f"the session window cannot be read: {error}; such as --until 07:00 or --for 9h") from error
