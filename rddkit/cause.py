"""Why an attempt ended, with its evidence, and what follows: pure decisions over what the supervisor saw."""

from __future__ import annotations

import signal
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

Name = Literal["done", "stopped", "killed", "crash"]
STOPPED_EXIT = 75  # EX_TEMPFAIL of sysexits.h: try again later


@dataclass(frozen=True)
class Ending:
    """What the supervisor saw of an attempt's end.

    `exit` is the worker's exit status, negative for a signal; `outcome` and `error` are its last words, if any; `asked`
    says who asked it to stop and how.
    """

    exit: int
    outcome: str | None = None
    error: str = ""
    asked: str | None = None
    log_tail: str = ""


@dataclass(frozen=True)
class Cause:
    """The name of a cause and the evidence for it, in words."""

    name: Name
    evidence: str


@dataclass(frozen=True)
class Step:
    """What the supervisor does next, and why. `exit` is the command's exit code where the run ends here."""

    action: Literal["finish", "stop", "retry", "fail"]
    reason: str
    exit: int = 0
    wait_seconds: float = 0.0


def signal_name(number: int) -> str:
    """`SIGKILL` for 9; `signal 77` for one without a name."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def name_cause(end: Ending) -> Cause:
    """Name why an attempt ended. The worker's own last words count before its exit status, and that before a guess."""
    if end.outcome == "done" and end.exit == 0:
        return Cause("done", f"all epochs done, exit {end.exit}")
    if end.outcome == "stopped":
        return Cause("stopped", end.asked or end.error or "asked to stop")
    if end.outcome == "crash":
        return Cause("crash", end.error or "an exception without a text")
    if end.asked and end.exit < 0:
        return Cause("stopped", f"{end.asked}; ended by {signal_name(-end.exit)}")
    if end.exit in (128 + signal.SIGINT, 128 + signal.SIGTERM):
        return Cause("stopped", f"{end.asked or 'asked to stop'}; ended by a second {signal_name(end.exit - 128)}")
    if end.exit < 0:
        name = signal_name(-end.exit)
        if -end.exit in (signal.SIGKILL, signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
            return Cause("killed", f"{name} from outside, no sign of memory")
        return Cause("crash", f"{name}: the interpreter or a library died; last log lines:\n{end.log_tail}")
    return Cause("crash", f"exit {end.exit} without a last word; last log lines:\n{end.log_tail}")


def without_progress(marks: Sequence[int], start: int = 0) -> int:
    """How many of the newest attempts did not get further than the one before them.

    Args:
        marks: how far the run had come (any growing measure) at the end of each attempt, oldest first.
        start: how far it had come before the first of them.
    """
    stuck = 0
    for before, after in zip(reversed([start, *marks][:-1]), reversed(marks), strict=True):
        if after > before:
            break
        stuck += 1
    return stuck


def next_step(cause: Cause, stuck: int, retries: int, backoff_seconds: float) -> Step:
    """What follows a cause.

    Args:
        cause: why the attempt ended.
        stuck: attempts in a row without progress, this one counted if it made none.
        retries: how many such attempts are allowed.
        backoff_seconds: the wait before the second; doubled for each one more.
    """
    if cause.name == "done":
        return Step("finish", "all epochs done")
    if cause.name == "stopped":
        return Step("stop", cause.evidence, exit=STOPPED_EXIT)
    if cause.name == "crash":
        return Step("fail", "a crash is not a memory matter and would repeat itself", exit=1)
    if stuck > retries:
        return Step("fail", f"{stuck} attempts in a row without progress; {retries} are allowed", exit=1)
    wait = 0.0 if stuck <= 1 else backoff_seconds * 2 ** (stuck - 2)
    return Step("retry", "same plan, a fresh process", wait_seconds=wait)
