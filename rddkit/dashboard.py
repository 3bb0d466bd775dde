"""The dashboard: one look at a run that keeps itself up to date, and its buttons. `display(Dashboard(run))`.

A background task in the kernel's own loop renews it, and reads in a thread: the kernel stays free. Where nobody watches
(papermill, nbconvert) the same is shown once, as plain figures.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Coroutine, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ipywidgets as widgets
import plotly.graph_objects as go

from rddkit import books, clock, comparison, exhibits, figures, frontend, glance, panels, paths, still, style, words
from rddkit.canvas import Canvas
from rddkit.config import ConfigError
from rddkit.controls import Controls
from rddkit.glance import Glance
from rddkit.live import Live
from rddkit.records import Records
from rddkit.run import Run

SECONDS = 2.0  # between two looks at a run that is running
IDLE_SECONDS = 5.0  # at one that is not: another process may continue it
LOG_BYTES = 6_000
ALWAYS = ("losses", "metrics", "memory")
TABS = {  # kind: title
    "events": "What happened",
    "log": "Log",
    "pictures": "Validation images",
    "throughput": "Speed",
    "learning_rate": "Learning rate",
    "compare": "Compare runs",
}
Drawn = dict[str, tuple[Any, float]]  # by kind: what it was drawn of, and when
_shown: dict[Path, Dashboard] = {}


@dataclass(frozen=True)
class Seen:
    """What one look found: the glance, and new content by kind."""

    live: Live
    glance: Glance
    figures: dict[str, go.Figure]
    texts: dict[str, str]
    runs: tuple[str, ...]


class Dashboard:
    """A run to be watched: shown by `display(Dashboard(run))`, from then on renewed until it is shown anew.

    Args:
        run: a Run, a name or a folder; None takes the newest. Any run can be attached to at any time.
        compare: names or folders of runs to draw beside it.
    """

    box: Any  # the widget that is shown
    live: Live
    drawn: Drawn
    canvases: dict[str, Canvas]

    def __init__(self, run: Run | str | Path | None = None, compare: Sequence[str] = ()) -> None:
        self.run = run if isinstance(run, Run) else _attach(run)
        self.compare = tuple(compare)
        self.task: asyncio.Task[None] | None = None
        self.clicked: set[Future[None]] = set()  # kept: the loop holds its tasks only weakly

    def _ipython_display_(self) -> None:
        if frontend.is_headless():
            still.show(self.run.paths, self.compare)
            return
        before = _shown.pop(self.run.folder, None)
        if before is not None:
            before.close()
        _shown[self.run.folder] = self
        self._build()
        frontend.show(self.box)
        self.loop = asyncio.get_running_loop()
        self.task = self.loop.create_task(self._follow())

    def close(self) -> None:
        """End the background task and let go of every widget; they vanish from the page."""
        if self.task is not None:
            self.task.cancel()
            self.task = None
            _close(self.box)
            self.live, self.drawn, self.canvases = Live(self.run.paths), {}, {}  # the notebook's Out keeps this object

    # -- what it is made of --------------------------------------------------------------------------------------------

    def _build(self) -> None:
        self.wake = asyncio.Event()
        self.live = Live(self.run.paths)
        self.canvases = {}
        self.drawn = {}
        self.head, self.numbers = widgets.HTML(layout={"flex": "1 1 auto"}), widgets.HTML()
        self.chooser = widgets.Dropdown(description="run", layout={"width": "20em", "flex": "0 0 auto"})
        self.controls = Controls(self.run, self._begin, self._hurry)
        self.others = widgets.SelectMultiple(layout={"width": "24em"})
        self.texts = {kind: widgets.HTML() for kind in ("events", "log", "pictures")}
        drawn = [kind for kind in (*ALWAYS, *TABS) if kind not in self.texts]
        self.places = {kind: widgets.VBox(layout={"min_width": "0", "overflow": "hidden"}) for kind in drawn}
        inside = {**self.texts, **self.places}
        inside["compare"] = widgets.VBox([self.others, self.places["compare"]])
        self.tabs = widgets.Tab([inside[kind] for kind in TABS], titles=list(TABS.values()), selected_index=0)
        halves = {"grid_template_columns": "minmax(0, 1fr) minmax(0, 1fr)", "grid_gap": "8px"}
        lower = widgets.GridBox([self.places["metrics"], self.places["memory"]], layout=halves)
        top = widgets.HBox([self.head, self.chooser])
        self.box = widgets.VBox([top, self.numbers, self.controls.widget, self.places["losses"], lower, self.tabs])
        self._offer_runs(self._names())
        self.chooser.observe(lambda change: self._attach(change["new"]), "value")
        self.others.observe(lambda _change: self._hurry(), "value")
        self.tabs.observe(lambda _change: self._hurry(), "selected_index")

    def _names(self) -> tuple[str, ...]:
        """Folders of the runs to choose from, by name: by age they would change places under the hand."""
        known = {run.folder for run in paths.runs(self.run.folder.parent)}
        return tuple(map(str, sorted(known | {self.run.folder})))

    def _offer_runs(self, folders: tuple[str, ...]) -> None:
        options = tuple((Path(folder).name, folder) for folder in folders)
        if self.chooser.options != options:
            self.offering = True  # meanwhile the first option is chosen, by nobody
            self.chooser.options, self.chooser.value = options, str(self.run.folder)
            self.offering = False
        asked = [*self.others.value, *(str(paths.find_run(name).folder) for name in self.compare)]
        beside = tuple(option for option in options if option[1] != str(self.run.folder))
        if self.others.options != beside:
            self.others.options = beside
            self.others.value = tuple(folder for _, folder in beside if folder in asked)
            self.compare = ()

    def _attach(self, folder: str | None) -> None:
        """Watch another run."""
        if folder and not self.offering and Path(folder) != self.run.folder:
            self.run = self.controls.run = _attach(folder)
            self.live, self.drawn = Live(self.run.paths), {}
            self.controls.message.value = ""
            self._hurry()

    def _begin(self, work: Coroutine[Any, Any, None]) -> None:
        future = asyncio.run_coroutine_threadsafe(work, self.loop)
        self.clicked.add(future)
        future.add_done_callback(self.clicked.discard)

    def _hurry(self) -> None:
        """Look again at once."""
        self.loop.call_soon_threadsafe(self.wake.set)

    # -- the background task -------------------------------------------------------------------------------------------

    async def _follow(self) -> None:
        while True:
            running = False
            try:
                tab, others = list(TABS)[self.tabs.selected_index or 0], tuple(self.others.value)
                seen = await asyncio.to_thread(self.read, self.live, self.drawn, tab, others)
                if seen.live is self.live:  # no other run was chosen meanwhile
                    self.show(seen)
                running = seen.glance.status.state == "running"
            except Exception as error:  # a folder that is moved away, say: it must not end the watching
                self.controls.say(f"This run could not be read: {error}", style.RED)
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self.wake.wait(), SECONDS if running else IDLE_SECONDS)
            self.wake.clear()

    def read(self, live: Live, drawn: Drawn, tab: str, others: tuple[str, ...]) -> Seen:
        """Look at the run and draw what is visible and new; runs in a thread and touches no widget."""
        told = live.refresh()
        seen = still.look(told)
        happened = sum(not words.is_routine(event) for event in told.events)
        marks = (happened, len(told.results))
        rows = {"metrics": marks, "memory": (*marks, live.memory.end), "compare": (*marks, others)}
        version = {kind: rows.get(kind, (*marks, live.steps.end)) for kind in (*ALWAYS, tab) if kind not in self.texts}
        due = [kind for kind in version if kind in drawn and version[kind] != drawn[kind][0]]
        # One at a time, the oldest first, so that no look takes long; each is drawn within seconds all the same.
        oldest = sorted(due, key=lambda kind: drawn[kind][1])[:1]
        made = {}
        for kind in [*oldest, *(kind for kind in version if kind not in drawn)]:
            drawn[kind] = (version[kind], clock.monotonic())
            if kind == "compare":
                made[kind] = comparison.compare(comparison.read([live.paths.folder, *others]))
            else:
                made[kind] = figures.MAKERS[kind](told)
        return Seen(live, seen, made, self._text(tab, seen, told, drawn), self._names())

    def _text(self, tab: str, seen: Glance, told: Records, drawn: Drawn) -> dict[str, str]:
        if tab == "events":
            return {tab: panels.events(seen, told.notes)}
        if tab == "log":
            log = told.paths.log(glance.attempt_log(seen.status, told.events))
            return {tab: panels.log(str(log), books.log_tail(log, LOG_BYTES))}
        stamp = exhibits.pictures_stamp(told.paths)
        if tab != "pictures" or (tab in drawn and drawn[tab][0] == stamp):
            return {}
        drawn[tab] = (stamp, clock.monotonic())
        return {tab: panels.pictures(exhibits.validation_pictures(told.paths), still.NO_PICTURES)}

    def show(self, seen: Seen) -> None:
        """Bring the widgets up to what was seen; only what differs is sent to the browser."""
        self.head.value, self.numbers.value = panels.head(seen.glance), panels.numbers(seen.glance)
        for kind, text in seen.texts.items():
            self.texts[kind].value = text
        self.controls.renew(seen.glance.status.state)
        self._offer_runs(seen.runs)
        for kind, figure in seen.figures.items():
            if kind in self.canvases:
                self.canvases[kind].show(figure)
            else:
                self.canvases[kind] = Canvas(figure)
                self.places[kind].children = (self.canvases[kind].widget,)


def _attach(run: str | Path | None) -> Run:
    """A run to look at, also one whose run.yaml cannot be used, such as a newer rddkit's."""
    try:
        return Run.open(run)
    except ConfigError:
        return Run(paths.find_run(run))


def _close(widget: Any) -> None:
    """Close a widget and all that it is made of, or the kernel would hold them for ever."""
    for child in getattr(widget, "children", ()):
        _close(child)
    if not isinstance(widget, go.FigureWidget):
        for part in (widget.layout, getattr(widget, "style", None)):
            if isinstance(part, widgets.Widget):
                part.close()
    widget.close()
