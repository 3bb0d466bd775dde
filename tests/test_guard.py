"""The guard's decision, as a table; and that less memory never makes it milder."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest

from rddkit import guard
from rddkit.guard import Limits, Reading, decide, headroom
from rddkit.safety import Safety

MIB = 1 << 20
LIMITS = Limits(warn=0.10, stop=0.05, end=0.02)
SEVERITY = {"ok": 0, "warn": 1, "stop": 2, "end": 3}


def seen(available: int, **more: object) -> Reading:
    """A budget of 1000 MiB, and so many MiB available."""
    whole = Reading(budget=1000 * MIB, held=500 * MIB, available=available * MIB, binding=False)
    return replace(whole, **more)  # type: ignore[arg-type]


DECISIONS = [
    (seen(500), "ok", "500 MiB free, 50.0% of the budget"),
    (seen(101), "ok", "101 MiB free, 10.1% of the budget"),
    (seen(100), "ok", "100 MiB free, 10.0% of the budget"),
    (seen(99), "warn", "99 MiB free, 9.9% of the budget, below 10%"),
    (seen(50), "warn", "50 MiB free, 5.0% of the budget, below 10%"),
    (seen(49), "stop", "49 MiB free, 4.9% of the budget, below 5%"),
    (seen(20), "stop", "20 MiB free, 2.0% of the budget, below 5%"),
    (seen(19), "stop", "19 MiB free, 1.9% of the budget, below 2%"),
    (seen(0), "stop", "0 MiB free, 0.0% of the budget, below 2%"),
    # macOS: only its highest level counts, and it counts whatever is free.
    (seen(500, pressure_level=4), "stop", "macOS says memory pressure is critical"),
    (seen(500, pressure_level=2), "ok", "500 MiB free, 50.0% of the budget"),
    (seen(30, pressure_level=4), "stop", "30 MiB free, 3.0% of the budget, below 5%"),
    # Linux: waiting for memory counts only where little is free.
    (seen(500, pressure=90.0), "ok", "500 MiB free, 50.0% of the budget"),
    (seen(100, pressure=90.0), "ok", "100 MiB free, 10.0% of the budget"),
    (seen(99, pressure=20.0), "warn", "99 MiB free, 9.9% of the budget, below 10%"),
    (seen(99, pressure=20.1), "stop", "99 MiB free, 9.9% of the budget, and work waits for memory"),
    (seen(500, swap_growth=900 * MIB), "ok", "500 MiB free, 50.0% of the budget"),
    (seen(99, swap_growth=100 * MIB), "warn", "99 MiB free, 9.9% of the budget, below 10%"),
    (seen(99, swap_growth=101 * MIB), "stop", "99 MiB free, 9.9% of the budget, and work waits for memory"),
    (seen(99, swap_growth=-101 * MIB), "warn", "99 MiB free, 9.9% of the budget, below 10%"),
    # A budget that was set binds where no cap keeps it.
    (seen(5000, held=960 * MIB), "ok", "5000 MiB free, 500.0% of the budget"),
    (seen(5000, held=960 * MIB, binding=True), "stop", "40 MiB free, 4.0% of the budget, below 5%"),
    (seen(5000, held=920 * MIB, binding=True), "warn", "80 MiB free, 8.0% of the budget, below 10%"),
    (seen(30, held=100 * MIB, binding=True), "stop", "30 MiB free, 3.0% of the budget, below 5%"),
    (seen(5000, held=1100 * MIB, binding=True), "stop", "-100 MiB free, -10.0% of the budget, below 2%"),
    # Asked to leave: patience while there is room, none without.
    (seen(40, asked_for=0.0), "ok", "leaving"),
    (seen(20, asked_for=10.0), "ok", "leaving"),
    (seen(40, asked_for=10.1), "end", "40 MiB free, 4.0% of the budget; asked to leave 10.1 s ago"),
    (seen(19, asked_for=0.2), "end", "19 MiB free, 1.9% of the budget; asked to leave 0.2 s ago"),
    (seen(500, asked_for=11.0), "end", "500 MiB free, 50.0% of the budget; asked to leave 11.0 s ago"),
    (seen(500, asked_for=1.0, pressure_level=4), "ok", "leaving"),
]


@pytest.mark.parametrize(("reading", "action", "reason"), DECISIONS, ids=[row[2] for row in DECISIONS])
def test_what_the_guard_does_and_why(reading: Reading, action: str, reason: str) -> None:
    verdict = decide(reading, LIMITS)
    assert (verdict.action, verdict.reason) == (action, reason)
    assert verdict.headroom == headroom(reading)


@pytest.mark.parametrize(
    ("available", "seconds"),
    [(500, guard.FAR_SECONDS), (200, guard.FAR_SECONDS), (199, guard.NEAR_SECONDS), (30, guard.NEAR_SECONDS)],
)
def test_it_looks_more_often_the_nearer_the_end_is(available: int, seconds: float) -> None:
    assert decide(seen(available), LIMITS).poll_seconds == seconds


def test_whoever_was_asked_to_leave_is_looked_at_often() -> None:
    assert decide(seen(900, asked_for=1.0), LIMITS).poll_seconds == guard.NEAR_SECONDS


def test_a_run_without_a_budget_divides_by_nothing() -> None:
    assert decide(Reading(budget=0, held=0, available=500 * MIB, binding=False), LIMITS).action == "ok"
    assert decide(Reading(budget=0, held=0, available=0, binding=False), LIMITS).action == "stop"


def any_reading(draw: random.Random) -> Reading:
    return Reading(
        budget=draw.choice([1, 100, 1000, 16000]) * MIB,
        held=draw.randrange(0, 2000) * MIB,
        available=draw.randrange(0, 20000) * MIB,
        binding=draw.random() < 0.5,
        pressure=draw.choice([None, 0.0, 20.0, 21.0, 100.0]),
        pressure_level=draw.choice([None, 1, 2, 4]),
        swap_growth=draw.randrange(-1000, 3000) * MIB,
        asked_for=draw.choice([None, None, 0.0, 5.0, 10.0, 10.5]),
    )


def worse(reading: Reading, draw: random.Random) -> Reading:
    """The same moment with less memory, in one way or another."""
    return draw.choice(
        [
            replace(reading, available=draw.randint(0, reading.available)),
            replace(reading, held=reading.held + draw.randrange(0, 2000) * MIB),
            replace(reading, pressure=100.0),
            replace(reading, pressure_level=4),
            replace(reading, swap_growth=reading.swap_growth + draw.randrange(0, 2000) * MIB),
            replace(reading, binding=True),
        ]
    )


def test_less_memory_never_makes_the_guard_milder_or_look_less_often() -> None:
    draw = random.Random(7)
    for _ in range(5000):
        reading = any_reading(draw)
        tighter = worse(reading, draw)
        before, after = decide(reading, LIMITS), decide(tighter, LIMITS)
        assert SEVERITY[after.action] >= SEVERITY[before.action], (reading, tighter)
        assert after.poll_seconds <= before.poll_seconds, (reading, tighter)
        assert after.reason


def test_only_a_worker_that_was_asked_to_leave_is_ended() -> None:
    draw = random.Random(8)
    for _ in range(2000):
        reading = any_reading(draw)
        action = decide(reading, LIMITS).action
        assert action in (("ok", "warn", "stop") if reading.asked_for is None else ("ok", "end"))


def test_the_shipped_thresholds_are_in_order() -> None:
    safety = Safety()
    assert safety.guard_warn > safety.guard_stop > safety.guard_end > 0
