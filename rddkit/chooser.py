"""What 04_fallback calls: why a run's last attempt ended, the lighter plans it has left, and taking one of them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from concurrent.futures import Future
from typing import Any

import ipywidgets as widgets

from rddkit import (
    endings,
    estimate,
    fallbacks,
    frontend,
    lighter,
    notebook,
    panels,
    runfile,
    series,
    sliders,
    style,
    words,
)
from rddkit.config import ConfigError
from rddkit.fallbacks import Known
from rddkit.journal import Event
from rddkit.memory import human
from rddkit.records import Records
from rddkit.run import Run
from rddkit.runfile import RunFile

AGAIN = "run 02_training with the run's parameters, or rddkit train --name {name} --resume"
Need = Callable[[dict[str, Any]], str]


def show_ending(told: Records, state: str) -> int:
    """Why the last attempt ended, as a table; the attempt's number, 0 where none has started."""
    frontend.show_table(endings.ending(told, state), ("", "the last attempt"))
    return series.attempt_of(endings.last_attempt(told, state)[0])


def rungs(
    record: RunFile, events: Sequence[Event], told: Sequence[Known], need: Need | None = None
) -> list[tuple[str, str, str, str]]:
    """The plans of a run from the heaviest that failed to the lightest: name, settings, cost, what is known.

    Args:
        need: tells of a plan whether it fits by its estimate.
    """

    def known(plan: dict[str, Any]) -> str:
        return (f"; {need(plan)}" if need else "") + _peak(events, plan)

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
    rows.append(("in use", _in_use(record.plan), "", "the plan of the next attempt" + known(record.plan)))
    following = next((one for one in told if one.standing == "open"), None)
    for one in told:
        changes = words.plan_change(record.plan, one.fallback.changes)
        standing = {"open": "next" if one is following else "can be taken"}.get(
            one.standing, f"{one.standing}: {one.note}"
        )
        rows.append((one.fallback.name, changes, one.fallback.reason, standing + known(one.fallback.plan)))
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


def what_is_known(record: RunFile) -> tuple[estimate.Known | None, str]:
    """What an estimate of any plan of a run is made of, or why there is none."""
    try:
        return estimate.know(record), ""
    except (ConfigError, OSError, KeyError, ValueError) as error:
        return None, f"no estimate: {error}"


def show_sliders(run: Run) -> None:
    """Memory by component against the budget: behind sliders for a plan of one's own, or as a table when headless."""
    record = runfile.read(run.paths.run_yaml)
    known, why = what_is_known(record)
    if known is None:
        print(why)
        return
    plan = {**record.plan, "model": known.traits.model}
    if frontend.is_headless():
        needed = sliders.told(known, plan)
        frontend.show_table(sliders.rows(needed), (f"at its peak, in {needed['phase']}", "memory", "share"))
        print(estimate.verdict(needed))
    else:
        frontend.show(sliders.Sliders(known, plan).widget)


def show_fallbacks(run: Run, safety: str | None = None) -> None:
    """The run's plans, heaviest first, with what each lighter one changes, costs, and what is known of it."""
    record = runfile.read(run.paths.run_yaml)
    known, _ = what_is_known(record)
    need = None if known is None else lambda plan: estimate.verdict(estimate.judged(known, plan))
    rows = rungs(record, run.events(), run.fallbacks(safety), need)
    frontend.show_table(rows, ("fallback", "settings", "costs", "what is known"))


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
    if not frontend.is_headless():
        Chooser(run, choice, safety).show()
    elif chosen is None:
        print(why)
    else:
        changes = words.plan_change(runfile.read(run.paths.run_yaml).plan, chosen.plan)
        print(f"Nothing was changed. `-p apply True` takes {chosen.name!r} ({changes}) and trains on to the end.")


class Chooser:
    """The fallbacks to choose from, the button that takes one and trains on, and below them what happened.

    A click only starts a background task in the kernel's own loop, as JupyterLab may deliver it in another thread
    (a subshell): the kernel stays free.
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
        frontend.show(widgets.VBox([widgets.HBox([self.list, self.button]), self.about, self.happened]))
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
            self.happened.value = panels.paragraph(f"{words.when(event)}  {words.describe(event)} Training goes on.")
        except Exception as error:  # whoever clicked sees no traceback: it would end in a log that nobody reads
            self.happened.value = panels.paragraph(f"Nothing was started. {error}", style.RED)
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
        self.about.value = panels.paragraph(self.told.get(self.list.value or "", ""))
