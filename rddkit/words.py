"""Events in plain words: one sentence each, for the report, the dashboard and the terminal."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

from rddkit import clock
from rddkit.journal import Event
from rddkit.memory import human, peak_words

CAUSES = {
    "done": "all epochs are done",
    "stopped": "stopped as asked",
    "oom": "out of memory",
    "leak": "its memory kept growing",
    "nonfinite": "the loss or the weights became NaN or infinite",
    "hang": "it gave no sign of life",
    "killed": "killed from outside",
    "crash": "an error in the program",
}
ROUTINE = frozenset({"epoch", "snapshot", "cache_cleared", "notified"})
PLAN_WORDS = ("model", "batch", "imgsz", "workers")  # the others follow by name where a plan is told in full
ENVELOPE = frozenset({"t", "event", "attempt"})


def describe(event: Event) -> str:
    """One sentence for one event of the journal; an event that is not known is told by its name and fields."""
    name = str(event.get("event", "event without a name"))
    tell = _SENTENCES.get(name)
    sentence = tell(event) if tell else _unknown(name, event)
    return sentence if sentence.endswith((".", "?", "!")) else sentence + "."


def when(event: Mapping[str, Any]) -> str:
    """When an event happened, as a clock here shows it."""
    try:
        return clock.parse_stamp(str(event.get("t"))).astimezone().strftime("%d %b %H:%M:%S")
    except ValueError:
        return "at an unknown time"


def is_routine(event: Event) -> bool:
    """Whether an event belongs to a night without trouble, so that a short history may leave it out."""
    return event.get("event") in ROUTINE


def cause(name: Any) -> str:
    """A cause of the design in plain words; another one as it is."""
    return CAUSES.get(str(name), str(name) if name else "for an unknown reason")


def plan(settings: Any) -> str:
    """`yolov8s.pt, batch 2, imgsz 640, workers 0` from a plan; text stays text."""
    if not isinstance(settings, Mapping):
        return str(settings or "a plan that was not recorded")
    known = [f"{key} {settings[key]}" for key in PLAN_WORDS if key in settings]
    return ", ".join(known).removeprefix("model ") or _fields(settings) or "a plan that was not recorded"


def plan_change(old: Any, new: Any) -> str:
    """`batch 2 -> 1` from two plans, or what is there of them; `allocator lean` where there was nothing before."""
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        changed = [
            f"{key} {value}" if old.get(key) is None else f"{key} {old[key]} -> {value}"
            for key, value in new.items()
            if old.get(key) != value
        ]
        return ", ".join(changed) or "nothing changed"
    return f"{plan(old)} -> {plan(new)}"


def amount(key: str, value: Any) -> str:
    """A field's value with the unit that its name gives: bytes, seconds, or none."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, (int, float)) and math.isfinite(value):
        if key.endswith("bytes") or key in ("budget", "available", "footprint", "safe_bound"):
            return human(value)
        if key.endswith("seconds"):
            return _span(value)
        return f"{value:g}" if isinstance(value, float) else str(value)
    if isinstance(value, Mapping):
        return "{" + _fields(value) + "}"
    if isinstance(value, (list, tuple)):
        return ", ".join(amount(key, item) for item in value)
    return str(value)


def _span(seconds: Any) -> str:
    number = _number(seconds)
    if number is None:
        return "an unknown time"
    return f"{number:.1f} s" if 0 < number < 10 else clock.words(number)


def _number(value: Any) -> float | None:
    good = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
    return float(value) if good else None


def _fields(fields: Mapping[str, Any]) -> str:
    return ", ".join(f"{str(key).replace('_', ' ')} {amount(str(key), value)}" for key, value in fields.items())


def _own(event: Event, *told: str) -> str:
    """The event's own fields that the sentence has not told yet."""
    return _fields({key: value for key, value in event.items() if key not in ENVELOPE and key not in told})


def _unknown(name: str, event: Event) -> str:
    fields = _own(event)
    return name.replace("_", " ").capitalize() + (f": {fields}" if fields else "")


def _where(event: Event) -> str:
    """` at epoch 3, batch 41`, as far as it is known."""
    if event.get("epoch") is None:
        return ""
    batch = f", batch {event['batch']}" if event.get("batch") else ""
    return f" at epoch {event['epoch']}{batch}"


def _because(event: Event, key: str = "reason") -> str:
    return f": {event[key]}" if event.get(key) else ""


def _run_started(event: Event) -> str:
    name = f" {event['name']!r}" if event.get("name") else ""
    return f"Run{name} started: {plan(event.get('plan'))}"


def _epoch(event: Event) -> str:
    of = f" of {event['epochs']}" if event.get("epochs") else ""
    took = f" done in {_span(event['seconds'])}" if event.get("seconds") is not None else " done"
    metrics = event.get("metrics") if isinstance(event.get("metrics"), Mapping) else {}
    shown = []
    for column, word in (("metrics/mAP50(B)", "mAP50"), ("metrics/mAP50-95(B)", "mAP50-95")):
        value = _number(metrics.get(column))  # type: ignore[union-attr]
        if value is not None:
            shown.append(f"{word} {value:.3f}")
    return f"Epoch {event.get('epoch', '?')}{of}{took}" + (f": {', '.join(shown)}" if shown else "")


def _snapshot(event: Event) -> str:
    size = f": {human(event['bytes'])}" if _number(event.get("bytes")) is not None else ""
    took = f" in {_span(event['seconds'])}" if size and event.get("seconds") is not None else ""
    return f"Snapshot{_where(event)}{size}{took}"


def _cache_cleared(event: Event) -> str:
    freed = _number(event.get("freed_bytes"))
    when = f" ({str(event['when']).replace('_', ' ')})" if event.get("when") else ""
    result = "" if freed is None else f": {human(freed)} freed" if freed else ": nothing to free"
    return f"Device cache cleared{when}{result}"


def _attempt_ended(event: Event) -> str:
    evidence = f" ({str(event['evidence']).strip()})" if event.get("evidence") else ""
    peak = _number(event.get("peak_bytes"))
    memory = f"; peak memory {peak_words(peak, _number(event.get('peak_resident_bytes')))}" if peak else ""
    return f"Attempt {event.get('attempt', '?')} ended: {cause(event.get('cause'))}{evidence}{memory}"


def _fallback(event: Event) -> str:
    reason = f", because {event['reason']}" if event.get("reason") else ""
    return f"Lighter plan{_where(event)}: {plan_change(event.get('from'), event.get('to'))}{reason}"


def _resumed(event: Event) -> str:
    batches, seconds = _number(event.get("lost_batches")), _number(event.get("lost_seconds"))
    lost = []
    if batches:
        lost.append(f"{batches:.0f} {'batch' if batches == 1 else 'batches'}")
    if seconds:
        lost.append(f"{_span(seconds)} of work")
    lost_words = f"; {' and '.join(lost)} lost" if lost else "; nothing lost" if batches == 0 or seconds == 0 else ""
    exact = " exactly" if event.get("exact") is True else " not exactly" if event.get("exact") is False else ""
    reason = f" ({event['reason']})" if event.get("reason") else ""
    return f"Continued{_where(event)}{exact}{reason}{lost_words}"


def _run_done(event: Event) -> str:
    epochs = f" after {event['epochs']} epochs" if event.get("epochs") else ""
    took = f" in {_span(event['seconds'])}" if event.get("seconds") is not None else ""
    score = _number(event.get("best_map50"))
    at = f" at epoch {event['best_epoch']}" if event.get("best_epoch") else ""
    return f"Finished{epochs}{took}" + (f"; best mAP50 {score:.3f}{at}" if score is not None else "")


def _run_failed(event: Event) -> str:
    evidence = f" ({str(event['evidence']).strip()})" if event.get("evidence") else ""
    reason = f"; {event['reason']}" if event.get("reason") else ""
    advice = f". What to do: {event['what_to_do']}" if event.get("what_to_do") else ""
    return f"Failed: {cause(event.get('cause'))}{evidence}{reason}{advice}"


def _estimated(event: Event) -> str:
    if event.get("measured_bytes"):
        return f"Estimate against what was seen: {event.get('reason') or human(event['measured_bytes'])}"
    bound, budget = _number(event.get("safe_bound")), _number(event.get("budget"))
    if bound is None or budget is None:
        return _told("Estimated")(event)
    fits = "" if event.get("fits") else f", which {'may' if event.get('may_fit') else 'does'} not fit"
    how = "tried out here" if event.get("calibrated") else "not tried out here"
    each = f"; {_span(event['seconds_per_epoch'])} an epoch" if event.get("seconds_per_epoch") else ""
    return f"Estimated ({how}): needs up to {human(bound)} of {human(budget)}{fits}{each}{_because(event)}"


def _told(title: str) -> Callable[[Event], str]:
    """A sentence of a title, the reason, and whatever other fields the event has."""

    def tell(event: Event) -> str:
        rest = _own(event, "reason")
        return title + _because(event) + (f"; {rest}" if rest and event.get("reason") else f": {rest}" if rest else "")

    return tell


_SENTENCES: dict[str, Callable[[Event], str]] = {
    "run_started": _run_started,
    "imported": lambda event: f"Taken in from {event.get('source', 'a plain Ultralytics run')}",
    "estimated": _estimated,
    "attempt_started": lambda event: f"Attempt {event.get('attempt', '?')} started: {plan(event.get('plan'))}",
    "epoch": _epoch,
    "snapshot": _snapshot,
    "snapshot_failed": lambda event: "A snapshot could not be written" + _because(event, "error"),
    "cache_cleared": _cache_cleared,
    "memory_warning": _told("Memory is getting short"),
    "guard_stop": _told("The guard stopped the worker before the system would have killed it"),
    "slept": lambda event: f"The machine slept for {_span(event.get('seconds'))}",
    "attempt_ended": _attempt_ended,
    "fallback": _fallback,
    "resumed": _resumed,
    "run_stopped": lambda event: f"Stopped{_where(event)}{_because(event)}; the same command continues it",
    "run_done": _run_done,
    "run_failed": _run_failed,
    "notified": _told("Notified"),
}
