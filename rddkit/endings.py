"""Why a run's last attempt ended, with its evidence, in words."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rddkit import cause, words
from rddkit.journal import Event
from rddkit.memory import human, peak_words
from rddkit.records import Records

EVIDENCE_CHARACTERS = 600
LOST = "lost without a last word, and its supervisor with it"
MEANING = {
    "done": "nothing more is needed",
    "stopped": "nothing went wrong; the same plan continues: 02_training",
    "oom": "the plan was too big for the memory there was: a lighter one, below",
    "leak": "the plan fits, but its memory grew: the same plan in a fresh process, 02_training",
    "nonfinite": "not a matter of memory: the same plan goes back to the last good snapshot, 02_training",
    "hang": "not a matter of memory: the same plan in a fresh process, 02_training",
    "killed": "nothing points to memory: the same plan continues, 02_training; a lighter one if you know better",
    "crash": "not a matter of memory: mend what the evidence names, then 02_training; a lighter plan would not help",
    LOST: "a power cut, a closed machine, or everything killed at once: the curve below shows whether memory was short",
    "": "the attempt is still running",
}


def last_attempt(told: Records, state: str) -> tuple[Event, Event]:
    """The start and the end of the attempt to be explained: the newest that ended; both {} where none has started.

    A running run's newest attempt has not ended: the one before is told, if there is one. One that died with its
    supervisor has no end in the journal: its end is {}.
    """
    starts = [event for event in told.events if event["event"] == "attempt_started"]
    ends = {event.get("attempt"): event for event in told.events if event["event"] == "attempt_ended"}
    if state == "running" and len(starts) > 1 and starts[-1].get("attempt") not in ends:
        starts.pop()
    start = starts[-1] if starts else {}
    return start, ends.get(start.get("attempt"), {})


def ending(told: Records, state: str) -> list[tuple[str, str]]:
    """Why the last attempt ended, with its evidence, in rows of two."""
    start, end = last_attempt(told, state)
    if not start:
        return [("attempt", "none has started yet")]
    number = start.get("attempt", "?")
    name = str(end.get("cause") or "") if end else "" if state == "running" else LOST
    rows = [
        ("attempt", f"{number}: {words.plan(start.get('plan'))}"),
        ("began", words.when(start)),
        ("ended", f"{words.when(end)}: {words.cause(name)}" if end else name or "not yet"),
        ("evidence", str(end.get("evidence") or "").strip()[:EVIDENCE_CHARACTERS]),
        ("where", _where(told, number, end)),
        ("exit", _exit(end)),
        ("memory", _memory(told, number, start, end)),
        ("what followed", _followed(told.events, number)),
        ("which means", MEANING.get(name, "")),
    ]
    return [row for row in rows if row[1]]


def _where(told: Records, number: Any, end: Event) -> str:
    seen = told.progress if told.progress.get("attempt") == number else {}
    phase = str(end.get("where") or seen.get("phase") or "")
    if not seen.get("epoch"):
        return phase
    return f"epoch {seen['epoch']}, batch {seen.get('batch')} of {seen.get('batches')}" + (
        f", {phase}" if phase else ""
    )


def _exit(end: Event) -> str:
    code = end.get("exit")
    if not isinstance(code, int):
        return ""
    return f"{code} ({cause.signal_name(-code)})" if code < 0 else str(code)


def _memory(told: Records, number: Any, start: Event, end: Event) -> str:
    rows = told.memory[told.memory["attempt"] == number]
    held, free = rows["worker"].dropna(), rows["available"].dropna()
    most = end.get("peak_bytes") or (held.max() if len(held) else 0)
    parts = [f"held up to {peak_words(most, end.get('peak_resident_bytes'))}" if most else ""]
    parts.append(f"the budget was {human(start['budget'])}" if start.get("budget") else "")
    parts.append(f"{human(free.iloc[-1])} free on the machine at the last look" if len(free) else "")
    return "; ".join(part for part in parts if part)


def _followed(events: Sequence[Event], number: Any) -> str:
    """What the supervisor did next, as far as it is more than another attempt with the same plan."""
    later = [event for event in events if event["event"] in ("fallback", "run_failed", "run_stopped", "run_done")]
    return " ".join(words.describe(event) for event in later if event.get("attempt") == number)
