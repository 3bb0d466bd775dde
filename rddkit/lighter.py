"""A lighter plan made the run's: by the supervisor after a kill, or by a person while nobody trains it."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

from rddkit import fallbacks, journal, lock, runfile, status, words
from rddkit.config import ConfigError
from rddkit.fallbacks import Fallback, Known
from rddkit.journal import Event, Journal
from rddkit.paths import RunPaths
from rddkit.runfile import RunFile

BY_HAND = "chosen by hand"


def take(
    paths: RunPaths, book: Journal, record: RunFile, lighter: Fallback, attempt: int, epoch: int | None, evidence: str
) -> Event:
    """Make a lighter plan the run's, and remember the one it leaves as failed; the journal's event.

    For the owner of the run's lock only.
    """
    before, reason = record.plan, status.first_line(evidence)
    record.failed.append({**before, "evidence": reason})
    record.plan = lighter.plan
    record.write(paths.run_yaml)
    new = {key: value for key, value in lighter.plan.items() if before.get(key) != value}  # of steps passed over too
    old = {key: before.get(key) for key in new}
    told = {"from": old, "to": new, "reason": reason, "costs": lighter.reason}
    return book.add("fallback", attempt, kind=lighter.kind, epoch=epoch, **told)


def known(record: RunFile, safety: Mapping[str, Any] | None = None) -> list[Known]:
    """The fallbacks below the run's plan with what is known of each, by its own safety settings or by others."""
    limits = safety or record.safety
    return fallbacks.known(record.plan, record.failed, limits["fallbacks"], limits["min_imgsz"])


def take_by_hand(
    paths: RunPaths, choice: str = fallbacks.NEXT, safety: dict[str, Any] | None = None
) -> tuple[RunFile, Event]:
    """Make a fallback the run's that a person chose; whoever starts the run next trains with it.

    Args:
        choice: a fallback's name (`batch 1`), or `next`.
        safety: other safety settings to choose by, and to continue with.

    Returns the new run.yaml and the journal's event. Raises lock.Busy for a run that is being trained, ConfigError for
    one that is finished or never began, and for a fallback that cannot be had.
    """
    state = status.read_status(paths).state
    try:
        lock_fd = lock.take(paths.lock)
    except lock.Busy as busy:
        raise lock.Busy(f"no lighter plan was taken: {busy}") from None
    try:
        record = runfile.read(paths.run_yaml)
        told = known(record, safety)
        if why := refusal(paths, state, told):
            raise ConfigError(why)
        try:
            chosen = fallbacks.choose(told, choice)
        except ConfigError as error:
            raise ConfigError(f"the run {paths.name!r} ({state}) keeps its plan: {error}") from None
        record.safety = safety or record.safety
        events = journal.read_events(paths.journal)
        attempt = max(int(event.get("attempt", 0)) for event in events)
        epoch = status.read_progress(paths.progress).get("epoch")
        return record, take(paths, Journal(paths.journal), record, chosen, attempt, epoch, judgement(events))
    finally:
        os.close(lock_fd)


def refusal(paths: RunPaths, state: status.State, told: Sequence[Known]) -> str:
    """Why no lighter plan can be taken now, and the way on; empty if one can."""
    name = paths.name
    if state == "done":
        return f"the run {name!r} is finished and needs no lighter plan; another run: rddkit train --name NEW"
    if state == "new":
        return f"the run {name!r} has not been started yet; start it: rddkit train --name {name} --resume"
    if state == "running":
        return f"the run {name!r} is being trained; for a lighter plan, stop it first: rddkit stop {name}"
    try:
        fallbacks.choose(told, fallbacks.NEXT)
    except ConfigError as error:
        return f"the run {name!r} ({state}) keeps its plan: {error}\nNext: {ways_on(paths)}"
    return ""


def judgement(events: Sequence[Event]) -> str:
    """The evidence by which a person judges a plan too big: how its last attempt ended."""
    end = journal.last(list(events), "attempt_started", "attempt_ended") or {}
    if end.get("event") != "attempt_ended":
        return f"attempt {end.get('attempt', '?')} was lost without a last word; {BY_HAND}"
    evidence = status.first_line(end.get("evidence"))
    cause = "" if end.get("cause") == "oom" else f"{words.cause(end.get('cause'))}: "
    return f"{cause}{evidence}; {BY_HAND}"


def ways_on(paths: RunPaths) -> str:
    """What a person can do where no lighter plan helps or is left."""
    return (
        "close other programs, or allow smaller images (min_imgsz in configs/safety.yaml), or take a smaller "
        f"model: --name NEW model=yolov8n.pt; then: rddkit train --name {paths.name} --resume"
    )
