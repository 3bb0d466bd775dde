"""The guard: has the worker leave before the kernel makes it. A pure decision; the supervisor acts.

The order is cap, guard, kernel: a worker can grow 250 MiB in 100 ms, so that no poll can promise to be first.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from rddkit import macos

NEAR_SECONDS = 0.1
FAR_SECONDS = 1.0
PRESSURE_PERCENT = 20.0  # PSI "some" over 10 s: work waits for memory a fifth of the time
PATIENCE_SECONDS = 10.0  # after the asking, before the worker is ended


@dataclass(frozen=True)
class Limits:
    """Shares of the budget that must stay free: warn, ask to leave, end."""

    warn: float
    stop: float
    end: float


@dataclass(frozen=True)
class Reading:
    """What the guard sees at one moment; bytes, and seconds since the worker was asked to leave (None: not asked).

    `binding`: the budget itself must be kept by the guard, because it was set and no cap on the process keeps it.
    """

    budget: int
    held: int
    available: int
    binding: bool
    pressure: float | None = None
    pressure_level: int | None = None
    swap_growth: int = 0
    asked_for: float | None = None


@dataclass(frozen=True)
class Verdict:
    """What to do, why, and when to look again."""

    action: Literal["ok", "warn", "stop", "end"]
    reason: str
    headroom: int
    poll_seconds: float


def headroom(reading: Reading) -> int:
    """Bytes that can still be taken: what the system has, and no more than a binding budget leaves."""
    if reading.binding:
        return min(reading.available, reading.budget - reading.held)
    return reading.available


def decide(reading: Reading, limits: Limits) -> Verdict:
    """Whether the worker may go on."""
    free = headroom(reading)
    share = free / max(reading.budget, 1)
    poll = NEAR_SECONDS if share < 2 * limits.warn else FAR_SECONDS
    said = f"{free / 2**20:.0f} MiB free, {share:.1%} of the budget"
    if reading.asked_for is not None:
        if share < limits.end or reading.asked_for > PATIENCE_SECONDS:
            return Verdict("end", f"{said}; asked to leave {reading.asked_for:.1f} s ago", free, NEAR_SECONDS)
        return Verdict("ok", "leaving", free, NEAR_SECONDS)
    if share < limits.end:
        return Verdict("stop", f"{said}, below {limits.end:.0%}", free, NEAR_SECONDS)
    if share < limits.stop:
        return Verdict("stop", f"{said}, below {limits.stop:.0%}", free, NEAR_SECONDS)
    if reading.pressure_level is not None and reading.pressure_level >= macos.CRITICAL:
        return Verdict("stop", "macOS says memory pressure is critical", free, NEAR_SECONDS)
    pressed = reading.pressure is not None and reading.pressure > PRESSURE_PERCENT
    if share < limits.warn and (pressed or reading.swap_growth > reading.budget * limits.warn):
        return Verdict("stop", f"{said}, and work waits for memory", free, NEAR_SECONDS)
    if share < limits.warn:
        return Verdict("warn", f"{said}, below {limits.warn:.0%}", free, poll)
    return Verdict("ok", said, free, poll)
