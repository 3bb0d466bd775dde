"""A run's numbers made fit for drawing: thinned, smoothed, placed on an axis, cut into attempts. No plotting here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta, tzinfo
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pandas as pd

from rddkit import clock, words
from rddkit.journal import Event

LIMIT = 1200  # points a trace may have, about one a pixel: more cannot be told apart on a screen and swell the notebook
Kind = Literal["ended", "finished", "guard", "fallback", "resumed"]
KINDS: dict[str, Kind] = {
    "attempt_ended": "ended",
    "guard_stop": "guard",
    "fallback": "fallback",
    "resumed": "resumed",
}
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Mark:
    """Something that happened, to be marked on an axis; `position` is in epochs, None where it is not known."""

    time: datetime
    kind: Kind
    text: str
    position: float | None


@dataclass(frozen=True)
class Span:
    """One attempt on the time axis, and the cause it ended by (None: still running or unknown)."""

    attempt: int
    start: datetime
    end: datetime
    cause: str | None


def thin(values: Any, limit: int = LIMIT) -> npt.NDArray[np.intp]:
    """Indices of at most `limit` points that keep the ends and every bucket's lowest and highest value.

    A memory peak of one second in a week stays visible, which a mean or every n-th point would lose.
    """
    numbers = np.asarray(values, dtype=float)
    if len(numbers) <= limit:
        return np.arange(len(numbers))
    edges = np.linspace(0, len(numbers), max(2, limit // 2), dtype=int)  # one bucket less than half: two ends are added
    starts = edges[:-1]
    low = np.where(np.isnan(numbers), np.inf, numbers)
    high = np.where(np.isnan(numbers), -np.inf, numbers)
    kept = [0, len(numbers) - 1]
    for start, end in zip(starts, edges[1:], strict=True):
        kept += [start + int(low[start:end].argmin()), start + int(high[start:end].argmax())]
    return np.unique(np.asarray(kept, dtype=np.intp))


def corners(values: Any, pieces: Any) -> npt.NDArray[np.intp]:
    """Indices at which a level that rarely changes has to be drawn: its changes and the ends of every piece."""
    numbers = np.asarray(values, dtype=float)
    if len(numbers) < 3:
        return np.arange(len(numbers))
    change = (np.diff(numbers) != 0) | (np.diff(pieces) != 0)
    return np.flatnonzero(np.append(True, change) | np.append(change, True))


def smooth(values: Any, share: float = 0.03) -> Floats:
    """A centred running mean over `share` of the points (at least 5): without a lag, so that marks stay in place."""
    numbers = pd.Series(np.asarray(values, dtype=float))
    window = max(5, round(len(numbers) * share)) | 1
    return numbers.rolling(window, center=True, min_periods=1).mean().to_numpy(dtype=float)


def positions(steps: pd.DataFrame, batches: int | None = None) -> Floats:
    """Where each step lies in epochs: 2.5 is the middle of epoch 3.

    Batches of an epoch come from a `batches` column, else from the attempt's highest batch where it has seen more than
    one epoch (a fallback changes their number), else from `batches`, else from the highest batch of all.
    """
    epoch, batch = (steps[name].to_numpy(dtype=float) for name in ("epoch", "batch"))
    if not len(steps):
        return epoch
    if "batches" in steps:
        return np.asarray(epoch - 1 + batch / steps["batches"].to_numpy(dtype=float))
    groups = steps.groupby("attempt")
    seen = groups["batch"].transform("max")
    whole = groups["epoch"].transform("nunique") > 1
    per_epoch = seen.where(whole, max(batches or 0, float(np.nanmax(batch)))).to_numpy(dtype=float)
    return np.asarray(epoch - 1 + batch / np.maximum(per_epoch, 1))


def last_pass(position: Floats) -> npt.NDArray[np.bool_]:
    """Which steps count: those that no later attempt did again after a kill (positions in the order of time)."""
    behind = np.minimum.accumulate(position[::-1])[::-1]
    return np.append(position[:-1] < behind[1:], True) if len(position) else np.zeros(0, dtype=bool)


def pieces(frame: pd.DataFrame, usual: float | None = None) -> npt.NDArray[np.int64]:
    """A number for every row that grows at a new attempt and at a pause, so that lines are not drawn across them.

    A table that has them in a column `piece` keeps them. `usual`: seconds between rows where none is missing.
    """
    if "piece" in frame:
        return frame["piece"].to_numpy(dtype=np.int64)
    if not len(frame):
        return np.zeros(0, dtype=np.int64)
    gap = frame["time"].diff().dt.total_seconds().to_numpy(dtype=float)
    if usual is None:
        usual = float(np.nanmedian(gap)) if len(frame) > 1 else 0.0
    cut = (gap > max(60.0, 20 * usual)) | (frame["attempt"].diff().fillna(0).to_numpy() != 0)
    return np.cumsum(cut, dtype=np.int64)


def spans(events: Sequence[Event], *frames: pd.DataFrame) -> list[Span]:
    """The attempts in time, from the journal; where it is silent, from the `attempt` column of tables with `time`."""
    started = {attempt_of(e): e for e in events if e["event"] == "attempt_started" and moment(e)}
    ended = {attempt_of(e): e for e in events if e["event"] == "attempt_ended" and moment(e)}
    seen: dict[int, list[datetime]] = {}
    for frame in frames:
        for attempt, times in frame.groupby("attempt")["time"] if len(frame) else ():
            ends = times.iloc[[0, -1]].dt.to_pydatetime()
            seen.setdefault(int(str(attempt)), []).extend(ends)
    open_ones = {attempt_of(event): event for event in events}  # the newest of each attempt
    for number in started.keys() - ended.keys():
        if when := moment(open_ones[number]):
            seen.setdefault(number, []).append(when)
    found = []
    for attempt in sorted(started.keys() | seen.keys()):
        moments = seen.get(attempt, [])
        start = moment(started[attempt]) if attempt in started else min(moments)
        end = moment(ended[attempt]) if attempt in ended else max(moments, default=start)
        if start and end:
            cause = str(ended[attempt].get("cause")) if attempt in ended else None
            found.append(Span(attempt, start, max(start, end), cause))
    return found


def trained_seconds(spans: Sequence[Span]) -> float:
    """How long attempts lived, all together."""
    return sum((span.end - span.start).total_seconds() for span in spans)


def attempt_of(event: Event) -> int:
    """An event's attempt; 0, as before the first, where it has none."""
    value = event.get("attempt")
    return value if isinstance(value, int) else 0


def moment(event: Event) -> datetime | None:
    """When an event happened, aware; None if its time cannot be read."""
    try:
        when = clock.parse_stamp(str(event.get("t", "")))
    except ValueError:
        return None
    return when if when.tzinfo else None


def marks(events: Sequence[Event], batches: int | None = None) -> list[Mark]:
    """Ends of attempts, guard stops, fallbacks and resumes, oldest first."""
    found = []
    for event in events:
        kind, when = KINDS.get(event["event"]), moment(event)
        if kind is None or when is None:
            continue
        if kind == "ended" and event.get("cause") in ("done", "stopped"):
            kind = "finished"
        found.append(Mark(when, kind, words.describe(event), _epochs(event, batches)))
    return found


def _epochs(event: Event, batches: int | None) -> float | None:
    epoch, batch = event.get("epoch"), event.get("batch") or 0
    if not isinstance(epoch, (int, float)) or not isinstance(batch, (int, float)):
        return None
    return max(0.0, epoch - 1 + (batch / batches if batches else 0.0))


def zone() -> tzinfo:
    """The offset of this machine's clock now; one for all times, so that no axis steps back where the clock does."""
    return clock.utc_now().astimezone().tzinfo or clock.utc_now().tzinfo  # type: ignore[return-value]


def zone_name() -> str:
    """`UTC+01:00` for the times shown to people."""
    offset = clock.utc_now().astimezone(zone()).utcoffset() or timedelta()
    minutes = round(offset.total_seconds() / 60)
    sign = "-" if minutes < 0 else "+"
    return "UTC" if minutes == 0 else f"UTC{sign}{abs(minutes) // 60:02d}:{abs(minutes) % 60:02d}"


def local(times: pd.Series) -> npt.NDArray[np.str_]:
    """Moments as text of this machine's wall clock: plotly would show numbers in the zone of whoever opens the page.

    Tenths of seconds are kept only where the whole is minutes long; they would be a fifth of a saved figure.
    """
    if not len(times):
        return np.zeros(0, dtype=np.str_)
    wall = times.dt.tz_convert(zone()).dt.tz_localize(None).to_numpy(dtype="datetime64[ms]")
    unit: Literal["ms", "s"] = "ms" if wall[-1] - wall[0] < np.timedelta64(10, "m") else "s"
    return np.asarray(np.datetime_as_string(wall, unit=unit))


def local_moment(when: datetime) -> datetime:
    """One moment as this machine's wall clock, without a zone."""
    return when.astimezone(zone()).replace(tzinfo=None)
