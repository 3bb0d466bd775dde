"""The one place for time: UTC in ISO 8601, as every file of a run writes it."""

from __future__ import annotations

import re
import time
from datetime import datetime, timedelta, timezone


def utc_now() -> datetime:
    """Now, aware, in UTC."""
    return datetime.now(timezone.utc)


def stamp(moment: datetime | None = None) -> str:
    """`2026-11-23T03:12:05.123Z`: `moment` (default now) in the form used in every file."""
    moment = (moment or utc_now()).astimezone(timezone.utc)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def parse_stamp(text: str) -> datetime:
    """The moment written by `stamp`; ValueError if it is not one."""
    return datetime.fromisoformat(text.replace("Z", "+00:00"))


def age_seconds(text: str, now: datetime | None = None) -> float:
    """Seconds between the moment written in `text` and now."""
    return ((now or utc_now()) - parse_stamp(text)).total_seconds()


def monotonic() -> float:
    """Seconds for intervals; never jumps with the wall clock."""
    return time.monotonic()


def words(seconds: float) -> str:
    """A span in the words a person uses: `41 s`, `12 min`, `2 h 10 min`, `3 d 4 h`."""
    seconds = max(0, round(seconds))
    if seconds < 120:
        return f"{seconds} s"
    minutes, hours, days = seconds // 60, seconds // 3600, seconds // 86400
    if minutes < 120:
        return f"{minutes} min"
    if hours < 48:
        return f"{hours} h {minutes % 60} min"
    return f"{days} d {hours % 24} h"


def sleep(seconds: float) -> None:
    """Do nothing for a while."""
    time.sleep(seconds)


def next_time(clock_time: str, now: datetime | None = None) -> datetime:
    """The next moment at which a wall clock here shows `clock_time` (`07:00`). ValueError if it is not HH:MM."""
    local = (now or utc_now()).astimezone()
    hour, minute = (int(part) for part in clock_time.split(":"))
    then = local.replace(hour=hour, minute=minute, second=0, microsecond=0)
    return then if then > local else then + timedelta(days=1)


def local_time(text: str) -> str:
    """A moment written by `stamp` as a wall clock here shows it: `07:00`."""
    return parse_stamp(text).astimezone().strftime("%H:%M")


def parse_span(text: str) -> float:
    """Seconds in `9h`, `90m`, `30s`, `1h30m` or `2d`. ValueError says what is understood."""
    units = {"d": 86400, "h": 3600, "m": 60, "s": 1}
    if not re.fullmatch(r"(\d+(\.\d+)?[dhms])+", text.strip()):
        raise ValueError(f"{text!r} is not a span of time; write 9h, 90m or 1h30m")
    return sum(float(number) * units[unit] for number, unit in re.findall(r"([\d.]+)([dhms])", text))
