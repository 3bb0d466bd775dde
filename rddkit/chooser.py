"""What 04_fallback calls: why a run's last attempt ended, the lighter plans it has left, and taking one of them."""

from __future__ import annotations

import asyncio
import html
from collections.abc import Coroutine, Sequence
from concurrent.futures import Future
from typing import Any

import ipywidgets as widgets

from rddkit import cause, fallbacks, lighter, notebook, runfile, series, style, words
from rddkit.fallbacks import Known
from rddkit.journal import Event
from rddkit.memory import human
from rddkit.records import Records
from rddkit.run import Run
from rddkit.runfile import RunFile

EVIDENCE_CHARACTERS = 600
AGAIN = "run 02_training with the run's parameters, or rddkit train --name {name} --resume"
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
        ("began", notebook.at(start)),
        ("ended", f"{notebook.at(end)}: {words.cause(name)}" if end else name or "not yet"),
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
    parts = [f"held up to {human(most)}" if most else ""]
    parts.append(f"the budget was {human(start['budget'])}" if start.get("budget") else "")
    parts.append(f"{human(free.iloc[-1])} free on the machine at the last look" if len(free) else "")
    return "; ".join(part for part in parts if part)


def _followed(events: Sequence[Event], number: Any) -> str:
    """What the supervisor did next, as far as it is more than another attempt with the same plan."""
    later = [event for event in events if event["event"] in ("fallback", "run_failed", "run_stopped", "run_done")]
    return " ".join(words.describe(event) for event in later if event.get("attempt") == number)


def show_ending(told: Records, state: str) -> int:
    """Why the last attempt ended, as a table; the attempt's number, 0 where none has started."""
    notebook.show_table(ending(told, state), ("", "the last attempt"))
    return series.attempt_of(last_attempt(told, state)[0])


def rungs(record: RunFile, events: Sequence[Event], told: Sequence[Known]) -> list[tuple[str, str, str, str]]:
    """The plans of a run from the heaviest that failed to the lightest: name, settings, cost, what is known.

    Whether a plan fits by its estimate, once there is one, belongs into `Known.standing` and is told here.
    """
    rows = []
    below = [one.fallback.plan for one in told]
    for plan in record.failed:
        if not any(fallbacks.same(plan, other) for other in [*below, record.plan]):
            rows.append(
                (
                    "failed before",
                    _heavier(plan, record.plan),
                    "",
                    f"failed: {plan.get('evidence')}{_peak(events, plan)}",
                )
            )
    rows.append(("in use", _in_use(record.plan), "", "the plan of the next attempt" + _peak(events, record.plan)))
    following = next((one for one in told if one.standing == "open"), None)
    for one in told:
        changes = words.plan_change(record.plan, one.fallback.changes)
        standing = {"open": "next" if one is following else "can be taken"}.get(
            one.standing, f"{one.standing}: {one.note}"
        )
        rows.append((one.fallback.name, changes, one.fallback.reason, standing + _peak(events, one.fallback.plan)))
    return rows


def _heavier(plan: dict[str, Any], now: dict[str, Any]) -> str:
    """What of a plan that failed differs from the one in use."""
    keys = [key for key in {**plan, **now} if key != "evidence" and plan.get(key) != now.get(key)]
    return ", ".join(f"{key} {'by default' if plan.get(key) is None else plan[key]}" for key in keys)


def _in_use(plan: dict[str, Any]) -> str:
    return ", ".join(
        [words.plan(plan), *(f"{key} {plan[key]}" for key in ("allocator", "checkpointing") if plan.get(key))]
    )


def _peak(events: Sequence[Event], plan: dict[str, Any]) -> str:
    """The most that an attempt of this run held under a plan, from the journal."""
    settings = {key: value for key, value in plan.items() if key != "evidence"}
    under = {e.get("attempt") for e in events if e["event"] == "attempt_started" and e.get("plan") == settings}
    ended = [event for event in events if event["event"] == "attempt_ended" and event.get("attempt") in under]
    most = max((int(event.get("peak_bytes") or 0) for event in ended), default=0)
    return f"; held up to {human(most)}" if most else ""


def show_fallbacks(run: Run, safety: str | None = None) -> None:
    """The run's plans, heaviest first, with what each lighter one changes, costs, and what is known of it."""
    rows = rungs(runfile.read(run.paths.run_yaml), run.events(), run.fallbacks(safety))
    notebook.show_table(rows, ("fallback", "settings", "costs", "what is known"))


def offer(run: Run, choice: str = fallbacks.NEXT, apply: bool = False, safety: str | None = None) -> None:
    """Take a fallback and train on: at once with `apply`; else at the click of a button, where somebody can click.

    Headless without `apply` it only says what would be done. Raises ConfigError for a choice that there is not.
    """
    if apply:
        run.fall_back(choice, safety)
        notebook.train(run, AGAIN.format(name=run.name))
        return
    told = run.fallbacks(safety)
    why = lighter.refusal(run.paths, run.status().state, told)
    chosen = None if why else fallbacks.choose(told, choice)
    if not notebook.is_headless():
        Chooser(run, choice, safety).show()
    elif chosen is None:
        print(why)
    else:
        changes = words.plan_change(runfile.read(run.paths.run_yaml).plan, chosen.plan)
        print(f"Nothing was changed. `-p apply True` takes {chosen.name!r} ({changes}) and trains on to the end.")


class Chooser:
    """The fallbacks to choose from, the button that takes one and trains on, and below them what happened.

    A click only starts a background task in the kernel's own loop, as JupyterLab may deliver it in another thread
    (a subshell): the kernel stays free. Sliders for a plan of one's own belong beside the list, in `show`.
    """

    def __init__(self, run: Run, choice: str, safety: str | None) -> None:
        self.run, self.safety = run, safety
        self.told: dict[str, str] = {}
        self.list = widgets.Dropdown(description="fallback", layout={"width": "28em"})
        self.button = widgets.Button(description="Apply and continue", icon="play", layout={"width": "14em"})
        self.about, self.happened = widgets.HTML(), widgets.HTML()
        self.list.observe(lambda _change: self._describe(), "value")
        self.button.on_click(lambda _button: self._start(self._apply(self.list.value)))
        self.place: Any = None
        self.loop: asyncio.AbstractEventLoop | None = None
        self.task: Future[None] | None = None
        self._renew(choice)

    def show(self) -> None:
        self.loop = asyncio.get_running_loop()
        notebook.show(widgets.VBox([widgets.HBox([self.list, self.button]), self.about, self.happened]))
        self.place = notebook.show_progress(self.run)
        if self.run.is_alive():
            self._start(self._follow())

    def _start(self, work: Coroutine[Any, Any, None]) -> None:
        self.button.disabled = self.list.disabled = True
        assert self.loop is not None, "shown before it can be clicked"
        self.task = asyncio.run_coroutine_threadsafe(work, self.loop)  # kept: the loop holds its tasks only weakly

    async def _apply(self, choice: str) -> None:
        try:
            event = await asyncio.to_thread(self.run.fall_back, choice, self.safety)
            await asyncio.to_thread(self.run.start, detach=True)
            self.happened.value = _paragraph(f"{notebook.at(event)}  {words.describe(event)} Training goes on.")
        except Exception as error:  # whoever clicked sees no traceback: it would end in a log that nobody reads
            self.happened.value = _paragraph(f"Nothing was started. {error}", style.RED)
        await self._follow()

    async def _follow(self) -> None:
        """Keep the lines up to date until the run ends; then there is something to choose again."""
        self._renew(fallbacks.NEXT)
        await notebook.watch(self.run, self.place)
        self._renew(fallbacks.NEXT)

    def _renew(self, choice: str) -> None:
        """Offer what can be taken now, or say why nothing can."""
        told = self.run.fallbacks(self.safety)
        why = lighter.refusal(self.run.paths, self.run.status().state, told)
        plan = runfile.read(self.run.paths.run_yaml).plan
        able = [] if why else [one.fallback for one in told if one.standing == "open"]
        changes = {step.name: words.plan_change(plan, step.plan) for step in able}
        self.told = {step.name: f"{changes[step.name]}. Costs: {step.reason}." for step in able} | {"": why}
        self.list.options = [(f"{step.name} ({step.reason.partition(':')[0]})", step.name) for step in able]
        self.list.value = choice if choice in changes else next(iter(changes), None)
        self.button.disabled = self.list.disabled = not able
        self._describe()

    def _describe(self) -> None:
        self.about.value = _paragraph(self.told.get(self.list.value or "", ""))


def _paragraph(text: str, color: str = "inherit") -> str:
    look = f"line-height: 1.4; max-width: 60em; white-space: pre-wrap; color: {color}"
    return f'<div style="{look}">{html.escape(text)}</div>'
