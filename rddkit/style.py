"""How every figure looks: one template, one palette, and the marks and bands that stand on its axes."""

from __future__ import annotations

import html
import itertools
import textwrap
from collections.abc import Iterator, Sequence
from typing import Any, Literal

import numpy as np
import plotly.graph_objects as go

from rddkit import series
from rddkit.series import Mark, Span

# Okabe & Ito's palette, told apart by colour-blind eyes; https://jfly.uni-koeln.de/color/
BLUE, ORANGE, GREEN, RED, PURPLE, SKY = "#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9"
YELLOW = "#F0E442"
GREY, INK, GRID = "#6b7280", "#1f2937", "#e8ebef"
MARKS = {  # kind: sign on the axis, the same as a legend symbol, colour, name
    "ended": ("✕", "x", RED, "attempt ended"),
    "finished": ("■", "square", GREY, "stopped or finished"),
    "guard": ("▼", "triangle-down", ORANGE, "guard stopped it"),
    "fallback": ("◆", "diamond", PURPLE, "lighter plan"),
    "resumed": ("▶", "triangle-right", GREEN, "resumed"),
}
SHIFT = {"ended": -10, "guard": -10, "resumed": 10}  # pixels: the three signs of one kill stand side by side
MOST_MARKS = 80  # more would cover the lines; the newest are drawn and the legend says so
MOST_NAMED_BANDS = 12
# plotly.js 4 has a button that uploads the chart to cloud.plotly.com: nothing of a run leaves this machine.
CONFIG: dict[str, Any] = {
    "showSendToCloud": False,
    "plotlyServerURL": "",
    "displaylogo": False,
    "responsive": True,
    "modeBarButtonsToRemove": ["select2d", "lasso2d", "autoScale2d"],
}

AXIS: dict[str, Any] = {"gridcolor": GRID, "linecolor": "#c4cad3", "zeroline": False, "automargin": True}
AXIS["title"] = {"font": {"size": 12, "color": GREY}, "standoff": 8}
LEGEND = {"orientation": "h", "yref": "container", "y": 0.01, "yanchor": "bottom", "x": 0, "xanchor": "left"}

TEMPLATE = go.layout.Template(
    layout={
        "font": {"family": "Inter, 'Segoe UI', 'Helvetica Neue', Arial, sans-serif", "size": 13, "color": INK},
        "title": {"x": 0, "xref": "container", "xanchor": "left", "pad": {"l": 14}, "font": {"size": 17}},
        "paper_bgcolor": "white",
        "plot_bgcolor": "white",
        "colorway": [BLUE, ORANGE, GREEN, PURPLE, RED, SKY],
        "hovermode": "x unified",
        "hoverlabel": {"bgcolor": "white", "bordercolor": GRID, "font": {"size": 12}},
        "margin": {"l": 64, "r": 20, "t": 64, "b": 48},
        "legend": {**LEGEND, "font": {"size": 12}},
        "xaxis": {**AXIS, "showline": True, "ticks": "outside"},
        "yaxis": AXIS,
    }
)


def finish(figure: go.Figure, title: str, unit: str | None, height: int = 380) -> go.Figure:
    """Title, y axis and template: the last step of every figure; returns it."""
    figure.update_layout(template=TEMPLATE, title_text=title, height=height)
    if unit:
        figure.update_yaxes(title_text=unit)
    return figure


def empty(title: str, sentence: str) -> go.Figure:
    """A figure that says why there is nothing to draw."""
    figure = go.Figure()
    middle = {"x": 0.5, "y": 0.5, "xref": "paper", "yref": "paper", "showarrow": False}
    figure.add_annotation(text=html.escape(sentence), font={"color": GREY}, **middle)
    figure.update_xaxes(visible=False)
    figure.update_yaxes(visible=False)
    return figure.update_layout(template=TEMPLATE, title_text=title, height=180, margin={"t": 56, "b": 16})


def cycle(*colors: str) -> Iterator[str]:
    """The colours again and again."""
    return itertools.cycle(colors)


def lean(values: Any) -> Any:
    """Values in half the bytes for the saved figure; infinite ones, which JSON cannot say, as gaps."""
    numbers = np.asarray(values, dtype=np.float32)
    return np.where(np.isfinite(numbers), numbers, np.float32(np.nan))


def broken(x: Any, y: Any, pieces: Any) -> tuple[Any, Any]:
    """x and y with a gap between pieces, so that no line is drawn across a pause."""
    cuts = np.flatnonzero(np.diff(pieces)) + 1
    if not len(cuts):
        return x, y
    return np.insert(x, cuts, x[cuts]), np.insert(np.asarray(y, dtype=float), cuts, np.nan)


def time_axis(figure: go.Figure) -> None:
    """The x axis as this machine's wall clock, its offset named."""
    figure.update_xaxes(type="date", title_text=f"time ({series.zone_name()})")


def bands(figure: go.Figure, spans: Sequence[Span]) -> None:
    """Every other attempt shaded, each named where there is room."""
    shapes, notes = [], []
    for index, span in enumerate(spans):
        start, end = series.local_moment(span.start), series.local_moment(span.end)
        if index % 2 == 0:
            band = {"type": "rect", "xref": "x", "yref": "paper", "x0": start, "x1": end, "y0": 0, "y1": 1}
            shapes.append({**band, "fillcolor": "#f3f5f8", "line": {"width": 0}, "layer": "below"})
        if len(spans) <= MOST_NAMED_BANDS:
            place = {"x": start, "y": 0, "xref": "x", "yref": "paper", "xanchor": "left", "yanchor": "bottom"}
            text = {"text": f"attempt {span.attempt}", "font": {"size": 11, "color": GREY}, "showarrow": False}
            notes.append({**place, **text})
    _add(figure, shapes, notes)


def mark(figure: go.Figure, marks: Sequence[Mark], axis: Literal["time", "epoch"], panels: int = 1) -> None:
    """A thin line and a sign with its sentence for each mark, in every panel, and the signs in the legend."""
    placed = [(item, series.local_moment(item.time) if axis == "time" else item.position) for item in marks]
    known = [(item, x) for item, x in placed if x is not None]
    shapes: list[dict[str, Any]] = []
    notes: list[dict[str, Any]] = []
    newest = known[-MOST_MARKS:]
    shift = SHIFT if len({item.kind for item, _ in newest}) > 1 else {}
    for panel in range(panels):
        suffix = "" if panel == 0 else str(panel + 1)
        refs = {"xref": f"x{suffix}", "yref": f"y{suffix} domain"}
        for item, x in newest:
            sign, _, color, _ = MARKS[item.kind]
            line = {"color": color, "width": 1, "dash": "dot"}
            shapes.append({"type": "line", **refs, "x0": x, "x1": x, "y0": 0, "y1": 1, "line": line, "opacity": 0.7})
            note = {"x": x, "y": 1, **refs, "yanchor": "bottom", "yshift": -2, "text": sign, "showarrow": False}
            look = {"font": {"color": color, "size": 12}, "xshift": shift.get(item.kind, 0)}
            notes.append({**note, **look, "hovertext": hover(item.text)})
    _add(figure, shapes, notes)
    left_out = f" (newest {MOST_MARKS} marks)" if len(known) > MOST_MARKS else ""
    for kind in dict.fromkeys(item.kind for item, _ in newest):
        _, symbol, color, name = MARKS[kind]
        look = {"symbol": symbol, "color": color, "size": 8}
        figure.add_scatter(x=[None], y=[None], mode="markers", marker=look, name=name + left_out)


def hover(sentence: str) -> str:
    """A sentence for a hover label: wrapped, and foreign text harmless in plotly's HTML."""
    return "<br>".join(html.escape(line) for line in textwrap.wrap(sentence, 70)[:8])


def _add(figure: go.Figure, shapes: list[dict[str, Any]], notes: list[dict[str, Any]]) -> None:
    """Lay shapes and notes over a figure.

    In one go: add_vline rebuilds the layout for each line, seconds for a week of marks. Unchecked, as plotly's own
    batch updates are: checking takes a millisecond for each, most of what a look at the dashboard cost.
    """
    layout = figure.layout
    both = {"shapes": [*layout.shapes, *shapes], "annotations": [*layout.annotations, *notes]}
    layout._validate = False
    try:
        for key, values in both.items():
            layout[key] = [item if isinstance(item, dict) else item.to_plotly_json() for item in values]
    finally:
        layout._validate = True
