"""Silence: how long is too long in which phase, and what time does not count."""

from __future__ import annotations

import random

import pytest

from rddkit import hang
from rddkit.hang import Silence, deadline


@pytest.mark.parametrize(
    ("phase", "asked", "seconds"),
    [
        ("start", "auto", 1800.0),
        ("train", "auto", 600.0),
        ("validate", "auto", 600.0),
        ("", "auto", 600.0),
        ("start", 5, 5.0),
        ("train", 0.5, 0.5),
    ],
)
def test_each_phase_has_its_deadline_and_a_set_one_holds_for_all(
    phase: str, asked: float | str, seconds: float
) -> None:
    assert deadline(phase, asked) == seconds


def polled(*polls: tuple[float, float, bool]) -> tuple[Silence, list[float]]:
    """A silence polled at (monotonic, wall, paused), and what each poll said was slept."""
    silence = Silence()
    return silence, [silence.poll(*poll) for poll in polls]


TIMES = [
    ("the first poll has nothing to compare with", [(100.0, 5000.0, False)], 0.0, [0.0]),
    ("polls add up", [(0, 0, False), (1, 1, False), (2, 2, False), (3.5, 3.5, False)], 3.5, [0, 0, 0, 0]),
    ("a late poll counts for two seconds", [(0, 0, False), (20, 20, False)], 2.0, [0, 0]),
    ("30 s are late", [(0, 0, False), (30, 30, False)], 2.0, [0, 0]),
    ("more than 30 s are sleep", [(0, 0, False), (30.1, 30.1, False)], 2.0, [0, 30.1]),
    ("a clock that stands still in sleep", [(0, 0, False), (1, 3600, False)], 1.0, [0, 3600]),
    ("a clock that runs on in sleep", [(0, 0, False), (3600, 3600, False)], 2.0, [0, 3600]),
    ("a stopped worker is not silent", [(0, 0, False), (1, 1, True), (2, 2, True), (3, 3, False)], 1.0, [0] * 4),
    ("a wall clock put back is no sleep", [(0, 9000, False), (1, 1, False)], 1.0, [0, 0]),
]


@pytest.mark.parametrize(("polls", "seconds", "slept"), [row[1:] for row in TIMES], ids=[row[0] for row in TIMES])
def test_what_counts_as_silence_and_what_as_sleep(
    polls: list[tuple[float, float, bool]], seconds: float, slept: list[float]
) -> None:
    silence, said = polled(*polls)
    assert silence.seconds == pytest.approx(seconds)
    assert said == pytest.approx(slept)


def test_a_word_ends_the_silence_and_a_new_one_is_counted_from_the_last_poll() -> None:
    silence, _ = polled((0, 0, False), (1, 1, False), (2, 2, False))
    silence.heard()
    assert silence.seconds == 0.0
    silence.poll(3, 3, False)
    assert silence.seconds == 1.0


def test_a_night_asleep_never_makes_a_hang_but_ten_silent_minutes_awake_do() -> None:
    silence = Silence()
    for minute in range(60):  # it wakes for a moment every ten minutes
        silence.poll(minute * 1.0, minute * 600.0, False)
    assert silence.seconds < deadline("train", "auto")
    silence.heard()
    for second in range(1, 602):
        silence.poll(100.0 + second, 1e6 + second, False)
    assert silence.seconds > deadline("train", "auto")


def test_silence_only_grows_and_never_faster_than_time_or_two_seconds_a_poll() -> None:
    draw = random.Random(7)
    for _ in range(500):
        silence, now, wall = Silence(), 0.0, 0.0
        silence.poll(now, wall, False)
        for _ in range(20):
            passed = draw.choice([0.0, 0.1, 1.0, 3.0, 100.0])
            now, wall, before = now + passed, wall + draw.uniform(-50, 5000), silence.seconds
            paused = draw.random() < 0.3
            slept = silence.poll(now, wall, paused)
            grown = silence.seconds - before
            assert -1e-9 <= grown <= min(passed, hang.LONGEST_STEP) + 1e-9
            assert grown == 0 or not paused
            assert slept == 0 or slept > hang.SLEPT
