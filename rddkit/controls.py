"""The dashboard's buttons: safe stop, continue, snapshot, end. A click is told at once and done in a thread."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import ipywidgets as widgets

from rddkit import clock, panels, style
from rddkit.run import Run

NOT_RUNNING = "It is not running."
ABLE = {  # state: the buttons that mean something in it
    "running": ("stop", "snapshot", "end"),
    **dict.fromkeys(("new", "stopped", "dead", "failed"), ("go",)),
}


class Controls:
    """The buttons of one dashboard, and below them what the last click led to.

    Args:
        begin: starts a coroutine in the kernel's own loop; JupyterLab may deliver clicks in another thread.
        after: called when a click has been acted on.
    """

    def __init__(self, run: Run, begin: Callable[[Coroutine[Any, Any, None]], None], after: Callable[[], None]) -> None:
        self.run, self.begin, self.after = run, begin, after
        self.busy = self.stopping = False
        self.buttons = {
            "stop": _button("Safe stop", "pause", "stop after this batch, with a snapshot"),
            "go": _button("Continue", "play", "train on where it was"),
            "snapshot": _button("Snapshot now", "camera", "keep the exact state after this batch"),
            "end": _button("End now", "power-off", "end at once, without a snapshot"),
        }
        self.sure = _button("Yes, end it now", "power-off", "work since the last snapshot is lost", "danger")
        self.back = _button("No, train on", "", "nothing is done")
        self.message = widgets.HTML()
        self.question = widgets.HBox([self.sure, self.back], layout={"display": "none"})
        self.widget = widgets.VBox([widgets.HBox([*self.buttons.values(), self.question]), self.message])
        told = {
            "stop": ("Asking it to stop after this batch.", self._stop),
            "go": ("Starting it again.", self._go),
            "snapshot": ("Asking for a snapshot after this batch.", self._snapshot),
        }
        for name, (text, work) in told.items():
            self.buttons[name].on_click(lambda _button, text=text, work=work: self._do(text, work))
        self.buttons["end"].on_click(lambda _button: self._ask(True))
        self.back.on_click(lambda _button: self._ask(False))
        self.sure.on_click(lambda _button: self._do("Ending it.", self._end))

    def renew(self, state: str) -> None:
        """Offer what can be done in this state."""
        self.stopping = self.stopping and state == "running"
        for name, button in self.buttons.items():
            asked = name == "stop" and self.stopping  # a second request would end it at once
            _set(button, disabled=self.busy or asked or name not in ABLE.get(state, ()))
        if state != "running":
            self._show_question(False)

    def say(self, text: str, color: str = "inherit") -> None:
        """Tell something below the buttons, with the time."""
        self.message.value = panels.paragraph(f"{clock.utc_now().astimezone():%H:%M:%S}  {text}", color)

    def _ask(self, sure: bool) -> None:
        self._show_question(sure)
        lost = "End now? What was trained since the last snapshot is lost. Safe stop loses nothing."
        self.say(lost if sure else "It trains on.")

    def _show_question(self, shown: bool) -> None:
        _set(self.question.layout, display="flex" if shown else "none")

    def _do(self, told: str, work: Callable[[], str]) -> None:
        self.busy = True
        self._show_question(False)
        for button in self.buttons.values():
            button.disabled = True
        self.say(told)
        self.begin(self._work(work))

    async def _work(self, work: Callable[[], str]) -> None:
        try:
            self.say(await asyncio.to_thread(work))
        except Exception as error:  # whoever clicked sees no traceback: it would end in a log that nobody reads
            self.say(f"That did not work: {error}", style.RED)
        finally:
            self.busy = False
            self.after()

    def _stop(self) -> str:
        asked = self.stopping = self.run.stop()
        return "It stops after this batch, with a snapshot; Continue trains on from there." if asked else NOT_RUNNING

    def _go(self) -> str:
        self.run = Run.open(self.run.folder).start(detach=True)
        return "It goes on in the background, also when this notebook is closed."

    def _snapshot(self) -> str:
        return "A snapshot is taken after this batch." if self.run.snapshot() else NOT_RUNNING

    def _end(self) -> str:
        return "It was ended at once." if self.run.stop(at_once=True) else NOT_RUNNING


def _button(text: str, icon: str, tooltip: str, look: str = "") -> widgets.Button:
    return widgets.Button(description=text, icon=icon, tooltip=tooltip, button_style=look, layout={"width": "11em"})


def _set(widget: Any, **values: Any) -> None:
    """Set traits that are different: each setting is a message to the browser."""
    for name, value in values.items():
        if getattr(widget, name) != value:
            setattr(widget, name, value)
