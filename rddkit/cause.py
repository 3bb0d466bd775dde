"""Why an attempt ended, with its evidence, and what follows: pure decisions over what the supervisor saw."""

from __future__ import annotations

import signal
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from rddkit import allocators, macos
from rddkit.memory import human

Name = Literal["done", "stopped", "oom", "leak", "nonfinite", "hang", "killed", "crash"]
STOPPED_EXIT = 75  # EX_TEMPFAIL of sysexits.h: try again later
NO_PLAN_EXIT = 69  # EX_UNAVAILABLE: no plan fits the budget
KILLING = (signal.SIGKILL, signal.SIGTERM, signal.SIGHUP, signal.SIGINT)
DUMP, MODULES = "Fatal Python error", "Extension modules:"  # faulthandler's first line and its last, a long one
LOADER_KILLED = "killed by signal: Killed"  # torch/utils/data/_utils/signal_handling.py
# A worker has a leak if its peak over a whole epoch grew by this much since it settled, whichever is more.
LEAK_SHARE, LEAK_BYTES = 0.05, 48 << 20
WARM_UP_SHARE = 0.10  # buffers and heap still fill in the first epoch: 6 % measured with yolov8n


@dataclass(frozen=True)
class Ending:
    """What the supervisor saw of an attempt's end.

    `exit` is the worker's exit status, negative for a signal; `outcome`, `error`, `phase` are its last words, if any
    (no outcome but an error: the name of the device whose process a signal ended);
    `asked` says who asked it to stop and how; `guard` and `hang` what made the supervisor end it; `kernel_kills` how
    many more the kernel's counter shows than before, read from `kernel_source` (`kernel_own`: its own cgroup's);
    `footprints` the most it held in each whole epoch of this attempt; `pressure` the highest macOS level.
    """

    exit: int
    outcome: str | None = None
    error: str = ""
    asked: str | None = None
    log_tail: str = ""
    phase: str = ""
    guard: str | None = None
    hang: str | None = None
    kernel_kills: int = 0
    kernel_source: str = ""
    kernel_own: bool = True
    footprints: tuple[int, ...] = ()
    pressure: int | None = None


@dataclass(frozen=True)
class Cause:
    """The name of a cause and the evidence for it, in words."""

    name: Name
    evidence: str


@dataclass(frozen=True)
class Step:
    """What the supervisor does next, and why. `exit` is the command's exit code where the run ends here."""

    action: Literal["finish", "stop", "retry", "fallback", "fail"]
    reason: str
    exit: int = 0
    wait_seconds: float = 0.0
    reseed: bool = False


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
    if end.hang:
        return Cause("hang", end.hang)
    memory = _sign_of_memory(end)
    if memory is not None:
        return _oom_or_leak(end, memory)
    if end.outcome == "stopped":
        return Cause("stopped", end.asked or end.error or "asked to stop")
    if end.outcome == "nonfinite":
        return Cause("nonfinite", end.error or "loss or weights are not numbers")
    if end.outcome in ("crash", "oom"):
        return Cause("crash", end.error or "an exception without a text")
    if end.asked and end.exit < 0:
        return Cause("stopped", f"{end.asked}; ended by {signal_name(-end.exit)}")
    if end.exit in (128 + signal.SIGINT, 128 + signal.SIGTERM):
        return Cause("stopped", f"{end.asked or 'asked to stop'}; ended by a second {signal_name(end.exit - 128)}")
    if end.exit < 0:
        name = signal_name(-end.exit)
        if -end.exit in KILLING:
            return Cause("killed", f"{name}{_whom(end)} from outside, no sign of memory")
        return Cause("crash", f"{name}: the interpreter or a library died; last log lines:\n{_last_lines(end)}")
    return Cause("crash", f"exit {end.exit} without a last word; last log lines:\n{_last_lines(end)}")


def _whom(end: Ending) -> str:
    """Which of several devices' processes was ended, where there is more than one."""
    return f" of {end.error}" if end.outcome is None and end.error else ""


def _last_lines(end: Ending) -> str:
    return end.log_tail.partition(MODULES)[0][-4000:].strip()


def _sign_of_memory(end: Ending) -> str | None:
    """The evidence that memory was the cause; None without any."""
    if end.guard and not end.asked:
        return f"our guard: {end.guard}"
    if end.outcome == "oom":
        return f"{end.error} (in {end.phase or 'training'})"
    if end.outcome == "crash" and end.kernel_kills > 0 and LOADER_KILLED in end.error:
        return f"the kernel killed a loader process: {end.error.splitlines()[0]} ({end.kernel_source})"
    if end.outcome is not None or end.exit >= 0:
        return None
    if end.exit == -signal.SIGKILL and end.kernel_kills > 0 and not end.asked:
        where = "the kernel's kill counter" if end.kernel_own else "the whole machine's kill counter"
        return f"SIGKILL{_whom(end)}, and {where} went up by {end.kernel_kills} ({end.kernel_source})"
    if end.exit == -signal.SIGKILL and (end.pressure or 0) >= macos.CRITICAL and not end.asked:
        return "SIGKILL while macOS said memory pressure was critical"
    before_the_dump, found, _ = end.log_tail.rpartition(DUMP)
    owner = allocators.who_ran_out("", (before_the_dump if found else end.log_tail)[-2000:])
    if end.exit in (-signal.SIGABRT, -signal.SIGSEGV) and owner:
        return f"{signal_name(-end.exit)} after {owner} said that memory was out"
    return None


def grown(footprints: Sequence[int]) -> int:
    """Bytes by which the last whole epoch's peak exceeds that of the first settled one, the second; 0 before that."""
    if len(footprints) < 2:
        return 0
    settled = footprints[1] if len(footprints) > 2 else round(footprints[0] * (1 + WARM_UP_SHARE))
    return max(0, footprints[-1] - settled)


def _oom_or_leak(end: Ending, evidence: str) -> Cause:
    """A plan that trained whole epochs in less is not too big: its footprint grew."""
    growth = grown(end.footprints)
    if growth > max(LEAK_BYTES, LEAK_SHARE * (end.footprints[0] if end.footprints else 0)):
        first, last = (human(end.footprints[which]) for which in (0, -1))
        epochs = len(end.footprints)
        return Cause("leak", f"{evidence}; its epochs' peaks grew from {first} to {last} over {epochs} epochs")
    return Cause("oom", evidence)


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


def next_step(cause: Cause, stuck: int, retries: int, backoff_seconds: float, lighter: bool = False) -> Step:
    """What follows a cause.

    Args:
        cause: why the attempt ended.
        lighter: whether there is a fallback that has not failed yet.
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
    if cause.name == "oom" and lighter:
        return Step("fallback", cause.evidence)  # each one tried is remembered, so that this ends
    if cause.name == "oom" and stuck > 0:
        return Step("fail", "this plan was tried and ran out of memory; no lighter one is left", exit=NO_PLAN_EXIT)
    if stuck > retries:
        return Step("fail", f"{stuck} attempts in a row without progress; {retries} are allowed", exit=1)
    wait = 0.0 if stuck <= 1 else backoff_seconds * 2 ** (stuck - 2)
    reasons = {
        "oom": "the lightest plan got further than the attempt before: the same in a fresh process",
        "leak": "the same plan in a fresh process: the only sure way to get leaked memory back",
        "nonfinite": "back to the last good snapshot, with other random numbers: the same would end the same",
    }
    reason = reasons.get(cause.name, "same plan, a fresh process")
    return Step("retry", reason, wait_seconds=wait, reseed=cause.name == "nonfinite")
