"""A figure that stays in its place in a notebook and is brought up to date, only what changed being sent."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any

import numpy as np
import plotly.graph_objects as go

from rddkit import style

# Seconds after which the place is measured: the browser draws before the figure stands in the page, some time later.
SETTLING = (0.5, 2.0, 5.0, 12.0, 30.0)


class Canvas:
    """A FigureWidget that shows one kind of figure again and again.

    What a person did to it (zoom, hidden lines) stays where the traces are the same as before.
    """

    def __init__(self, figure: go.Figure) -> None:
        self.widget = go.FigureWidget(figure.update_layout(autosize=True))
        self.widget._config = {**self.widget._config, **style.CONFIG}
        self.look = _look(figure)
        self.layout = figure.layout.to_plotly_json()
        with contextlib.suppress(RuntimeError):  # no loop: a script
            loop = asyncio.get_running_loop()
            for seconds in SETTLING:
                loop.call_later(seconds, self._fit)

    def _fit(self) -> None:
        """Have the browser measure the place again, as it does when its window changes."""
        if self.widget.comm is not None:
            self.widget.layout.autosize = None
            self.widget.layout.autosize = True

    def show(self, figure: go.Figure) -> None:
        """Take over what is different in `figure`."""
        look, layout = _look(figure), figure.layout.to_plotly_json()
        with self.widget.batch_update():
            if look == self.look:
                for old, new in zip(self.widget.data, figure.data, strict=True):
                    if not (_equal(old.x, new.x) and _equal(old.y, new.y)):
                        old.x, old.y = new.x, new.y
        if look != self.look:
            self.widget.data = ()
            self.widget.add_traces(figure.data)
        with self.widget.batch_update():
            for key, value in layout.items():
                if value != self.layout.get(key):
                    self.widget.layout[key] = value
        self.look, self.layout = look, layout


def _look(figure: go.Figure) -> list[Any]:
    """What must be equal for traces to be the same but for their points."""
    keys = ("type", "name", "mode", "xaxis", "yaxis", "visible")
    return [[trace[key] if key in trace else None for key in keys] for trace in figure.data]


def _equal(old: Any, new: Any) -> bool:
    if old is None or new is None:
        return old is new
    old, new = np.asarray(old), np.asarray(new)
    return old.shape == new.shape and bool(np.array_equal(old, new, equal_nan=new.dtype.kind == "f"))
