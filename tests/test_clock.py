"""Time: one form in every file, and spans in a person's words."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rddkit import clock

MOMENT = datetime(2026, 11, 23, 3, 12, 5, 123456, tzinfo=timezone.utc)


def test_a_stamp_is_utc_iso_8601_with_milliseconds() -> None:
    assert clock.stamp(MOMENT) == "2026-11-23T03:12:05.123Z"
    assert clock.stamp(MOMENT.astimezone(timezone(timedelta(hours=5)))) == "2026-11-23T03:12:05.123Z"


@given(st.datetimes(timezones=st.just(timezone.utc)))
def test_a_stamp_reads_back_to_the_millisecond(moment: datetime) -> None:
    assert abs(clock.parse_stamp(clock.stamp(moment)) - moment) < timedelta(milliseconds=1)


def test_what_is_no_stamp_is_a_value_error() -> None:
    with pytest.raises(ValueError):
        clock.parse_stamp("yesterday")


def test_age_is_counted_from_the_stamp() -> None:
    assert clock.age_seconds(clock.stamp(MOMENT), MOMENT + timedelta(seconds=90)) == pytest.approx(90, abs=0.001)


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (-3, "0 s"),
        (41.4, "41 s"),
        (119, "119 s"),
        (120, "2 min"),
        (7199, "119 min"),
        (7800, "2 h 10 min"),
        (172799, "47 h 59 min"),
        (172800, "2 d 0 h"),
        (273600, "3 d 4 h"),
    ],
)
def test_spans_are_told_in_words(seconds: float, words: str) -> None:
    assert clock.words(seconds) == words


@pytest.mark.parametrize(("text", "days"), [("07:00", 0), ("02:00", 1), ("03:30", 1)])
def test_the_next_seven_o_clock_is_today_or_tomorrow(text: str, days: int) -> None:
    now = datetime(2026, 11, 23, 3, 30).astimezone()
    then = clock.next_time(text, now)
    assert then > now
    assert (then.date() - now.date()).days == days
    assert then.strftime("%H:%M") == text


@pytest.mark.parametrize("text", ["25:00", "7", "noon", "07:61"])
def test_what_is_no_clock_time_is_a_value_error(text: str) -> None:
    with pytest.raises(ValueError):
        clock.next_time(text)
