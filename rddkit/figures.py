"""The figures of a run: plotly figures as pure functions of its records, the same live, headless and in the report."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from rddkit import records, series, style
from rddkit.journal import Event
from rddkit.memory import GIB, human
from rddkit.records import METRICS, Records
from rddkit.style import BLUE, GREEN, GREY, INK, ORANGE, PURPLE, RED, SKY

NOT_LOSSES = {"time", "attempt", "epoch", "batch", "batches", "lr", "images_per_second"}
COLUMNS = 3  # loss components side by side


def losses(
    results: pd.DataFrame, steps: pd.DataFrame, events: Sequence[Event] = (), batches: int | None = None
) -> go.Figure:
    """One panel for each loss: training per step and per epoch, validation per epoch, over epochs."""
    columns = [str(name) for name in results]
    names = [name.partition("/")[2] for side in ("train/", "val/") for name in columns if name.startswith(side)]
    names = list(dict.fromkeys(names + [str(name) for name in steps if name not in NOT_LOSSES]))
    names = [name for name in names if _any(results, f"train/{name}", f"val/{name}") or _any(steps, name)]
    if not names:
        return style.empty("Losses", "No loss has been recorded yet: the first appears seconds after training starts.")
    across = min(COLUMNS, len(names))
    rows = math.ceil(len(names) / across)
    titles = [name.replace("_", " ") for name in names]
    figure = make_subplots(rows, across, subplot_titles=titles, horizontal_spacing=0.06, vertical_spacing=0.16)
    figure.update_annotations(yshift=12, font_size=13)  # above the signs of the marks
    steps, position = _counted(steps, batches)
    for index, name in enumerate(names):
        place = {"row": index // across + 1, "col": index % across + 1, "showlegend": index == 0}
        if _any(steps, name):
            _faint_and_smooth(figure, position, steps[name], None, SKY, "train, per step", place)
        for side, color in (("train", BLUE), ("val", ORANGE)):
            if _any(results, f"{side}/{name}"):
                _per_epoch(figure, results, f"{side}/{name}", f"{side}, per epoch", color, place)
    # Only the first panel's traces show in the legend; a name it lacks must show from the panel that has it.
    shown: set[str] = set()
    for trace in figure.data:
        trace.showlegend = trace.name not in shown
        shown.add(trace.name)
    style.mark(figure, series.marks(events, batches), "epoch", panels=len(names))
    figure.update_xaxes(title_text="epoch", row=rows)
    return style.finish(figure, "Losses", None, height=160 + 240 * rows)


def metrics(results: pd.DataFrame, events: Sequence[Event] = (), batches: int | None = None) -> go.Figure:
    """mAP50, mAP50-95, precision and recall on the validation images, the best epochs marked."""
    there = [column for column in METRICS if _any(results, column)]
    if not there:
        return style.empty("Accuracy on the validation images", "No epoch has been validated yet.")
    figure = go.Figure()
    colors = dict(zip(METRICS, (BLUE, GREEN, ORANGE, PURPLE), strict=True))
    for column in there:
        minor = column in (records.PRECISION, records.RECALL)
        _per_epoch(figure, results, column, METRICS[column], colors[column], {}, dash=minor)
    for column, note in ((records.MAP50, ""), (records.MAP50_95, " (best.pt)")):
        if top := records.best(results, column):
            label = f"best {METRICS[column]} {top.value:.3f}, epoch {top.epoch}{note}"
            star = {"symbol": "star", "size": 13, "color": colors[column], "line": {"color": "white", "width": 1}}
            figure.add_scatter(x=[top.epoch], y=[top.value], mode="markers", marker=star, name=label, hoverinfo="skip")
    style.mark(figure, series.marks(events, batches), "epoch")
    figure.update_xaxes(title_text="epoch")
    highest = max(float(results[column].max()) for column in there)
    figure.update_yaxes(range=[0, min(1.02, max(0.1, highest * 1.12))])
    return style.finish(figure, "Accuracy on the validation images", "share, 0 to 1", height=430)


def learning_rate(
    results: pd.DataFrame, steps: pd.DataFrame, events: Sequence[Event] = (), batches: int | None = None
) -> go.Figure:
    """The learning rate over epochs: per step, and per epoch for each parameter group where they differ."""
    groups = [str(name) for name in results if str(name).startswith("lr/") and _any(results, str(name))]
    if not groups and not _any(steps, "lr"):
        return style.empty("Learning rate", "No learning rate has been recorded yet.")
    figure = go.Figure()
    steps, position = _counted(steps, batches)
    if _any(steps, "lr"):
        keep = series.thin(steps["lr"])
        _line(figure, position[keep], steps["lr"].to_numpy()[keep], "per step", BLUE, {}, 1.6)
    if groups and all(np.allclose(results[groups[0]], results[name], equal_nan=True) for name in groups):
        groups = groups[:1]
    for name, color in zip(groups, style.cycle(ORANGE, GREEN, PURPLE), strict=False):
        label = "per epoch" if len(groups) == 1 else f"per epoch, group {name.removeprefix('lr/pg')}"
        _per_epoch(figure, results, name, label, color, {})
    style.mark(figure, series.marks(events, batches), "epoch")
    figure.update_xaxes(title_text="epoch")
    figure.update_yaxes(rangemode="tozero", exponentformat="power")
    return style.finish(figure, "Learning rate", "learning rate", height=430)


def memory(
    memory: pd.DataFrame, events: Sequence[Event] = (), thresholds: Mapping[str, float] | None = None
) -> go.Figure:
    """What the worker and the device held against the budget, over time, each attempt a band.

    Args:
        thresholds: levels in bytes by name, such as those at which the guard acts.
    """
    if not _any(memory, "worker", "device"):
        return style.empty("Memory", "No memory reading has been recorded yet.")
    figure = go.Figure()
    style.bands(figure, series.spans(events, memory))
    pieces = series.pieces(memory)
    lines = (
        ("available", "free on the machine", GREEN, 1.0, "dot"),
        ("swap", "swap in use", PURPLE, 1.0, "dot"),
        ("device", "device", ORANGE, 1.6, "solid"),
        ("worker", "worker", BLUE, 1.8, "solid"),
        ("budget", "budget", RED, 1.6, "dash"),
    )
    for column, name, color, width, dash in lines:
        if not _any(memory, column) or (column == "swap" and not memory[column].max() > 0):
            continue
        values = memory[column].to_numpy(dtype=float) / GIB
        aside = column in ("available", "swap")
        keep = series.thin(values, series.LIMIT // 4 if aside else series.LIMIT)
        if column == "budget":
            keep = series.corners(values, pieces)
            keep = keep[series.thin(values[keep])]
        x, y = style.broken(series.local(memory["time"].iloc[keep]), values[keep], pieces[keep])
        extra = {"visible": "legendonly"} if aside else {}
        _line(figure, x, y, name, color, extra, width, dash)
    for name, level in (thresholds or {}).items():
        figure.add_hline(level / GIB, line={"color": GREY, "width": 1, "dash": "dot"}, annotation_text=name)
    style.mark(figure, series.marks(events), "time")
    style.time_axis(figure)
    figure.update_yaxes(rangemode="tozero")
    return style.finish(figure, "Memory", "GB (of 1024³ bytes)")


def memory_of_attempt(run: Records, attempt: int) -> go.Figure:
    """The memory curve of one attempt up to its end, with what the machine had free: where an end by memory shows."""
    rows = run.memory[run.memory["attempt"] == attempt]
    figure = memory(rows, [event for event in run.events if series.attempt_of(event) == attempt])
    figure.update_traces(visible=True, selector={"name": "free on the machine"})
    return figure.update_layout(title_text=f"Memory of attempt {attempt}")


def throughput(steps: pd.DataFrame, events: Sequence[Event] = ()) -> go.Figure:
    """Images trained a second over time."""
    if not _any(steps, "images_per_second"):
        return style.empty("Speed", "No speed has been recorded yet.")
    figure = go.Figure()
    style.bands(figure, series.spans(events, steps))
    times = series.local(steps["time"])
    _faint_and_smooth(figure, times, steps["images_per_second"], series.pieces(steps), GREEN, "images a second", {})
    style.mark(figure, series.marks(events), "time")
    style.time_axis(figure)
    figure.update_yaxes(rangemode="tozero")
    return style.finish(figure, "Speed", "images a second")


def need(told: Mapping[str, Any]) -> go.Figure:
    """What a plan needs, stacked by component, against the budget line.

    Args:
        told: an estimate (`rddkit.estimate_memory`), bytes.
    """
    figure = go.Figure()
    colors = style.cycle(BLUE, SKY, GREEN, PURPLE, ORANGE, GREY)
    sizes = sorted(told["components"].items(), key=lambda item: -item[1])
    margin = told["safe_bound"] - told["estimate"]
    for (name, size), color in zip([*sizes, ("margin", margin)], colors, strict=False):
        look = {"color": "white", "pattern": {"shape": "/", "fgcolor": GREY}} if name == "margin" else {"color": color}
        hover = f"{name}: {human(size)}<extra></extra>"
        figure.add_bar(y=[""], x=[size / GIB], name=name, orientation="h", marker=look, hovertemplate=hover)
    line = {"color": RED if not told["fits"] else INK, "width": 2, "dash": "dash"}
    figure.add_vline(told["budget"] / GIB, line=line, annotation_text=f"budget {human(told['budget'])}")
    figure.update_layout(barmode="stack", hovermode="closest")
    figure.update_xaxes(title_text="GB (of 1024³ bytes)", rangemode="tozero")
    return style.finish(figure, f"Memory at its peak, in {told['phase']}", None, height=300)


def all_figures(run: Records, thresholds: Mapping[str, float] | None = None) -> dict[str, go.Figure]:
    """Every figure of a run by name, in the order in which they are read."""
    return {
        "losses": losses(run.results, run.steps, run.events, run.batches),
        "metrics": metrics(run.results, run.events, run.batches),
        "learning_rate": learning_rate(run.results, run.steps, run.events, run.batches),
        "memory": memory(run.memory, run.events, thresholds),
        "throughput": throughput(run.steps, run.events),
    }


def show(figure: go.Figure) -> None:
    """Show a figure in a notebook so that what is saved draws in JupyterLab, VS Code and `nbconvert --to html`.

    The mimetype alone draws nothing in an HTML export; the export's own copy loads plotly.js from the network.
    """
    figure.show(renderer="plotly_mimetype+notebook_connected", config=style.CONFIG)


def _any(frame: pd.DataFrame, *columns: str) -> bool:
    return any(column in frame and bool(frame[column].notna().any()) for column in columns)


def _counted(steps: pd.DataFrame, batches: int | None) -> tuple[pd.DataFrame, np.ndarray[Any, Any]]:
    """The steps that were not done again after a kill, and where they lie in epochs."""
    placed = steps[steps["epoch"].notna() & steps["batch"].notna()] if {"epoch", "batch"} <= set(steps) else steps[:0]
    position = series.positions(placed, batches) if len(placed) else np.zeros(0)
    keep = series.last_pass(position)
    return placed[keep], position[keep]


def _per_epoch(
    figure: go.Figure, results: pd.DataFrame, column: str, name: str, color: str, place: dict[str, Any],
    dash: bool = False,
) -> None:  # fmt: skip
    """One value an epoch: points while there are few, so that a single epoch can be seen."""
    rows = results[results[column].notna()]
    keep = series.thin(rows[column])
    x, y = rows["epoch"].to_numpy()[keep], rows[column].to_numpy()[keep]
    mode = "lines+markers" if len(x) <= 60 else "lines"
    line = {"color": color, "width": 1.4 if dash else 2.2, "dash": "dot" if dash else "solid"}
    marker = {"size": 9 if len(x) == 1 else 4.5, "color": color}
    figure.add_scatter(x=x, y=style.lean(y), mode=mode, name=name, line=line, marker=marker, legendgroup=name, **place)


def _faint_and_smooth(
    figure: go.Figure, x: Any, values: pd.Series, pieces: Any, color: str, name: str, place: dict[str, Any]
) -> None:
    """The raw values faint, and above them, where there are enough, a smooth line; broken between pieces."""
    y = values.to_numpy(dtype=float)
    pieces = np.zeros(len(y), dtype=int) if pieces is None else pieces
    enough = len(y) >= 10
    keep = series.thin(y, series.LIMIT // 2 if place else series.LIMIT)  # a panel is a third as wide
    opacity = 0.3 if enough else 1.0
    _line(figure, *style.broken(x[keep], y[keep], pieces[keep]), name, color, place, 1.0, opacity=opacity)
    if enough:
        means = pd.Series(y).groupby(pieces).transform(series.smooth).to_numpy()
        keep = series.thin(means, series.LIMIT // 4)
        _line(figure, *style.broken(x[keep], means[keep], pieces[keep]), f"{name}, smoothed", color, place, 1.8)


def _line(
    figure: go.Figure, x: Any, y: Any, name: str, color: str, place: dict[str, Any], width: float, dash: str = "solid",
    opacity: float = 1.0,
) -> None:  # fmt: skip
    x = style.lean(x) if np.asarray(x).dtype.kind == "f" else x
    mode = "lines+markers" if len(y) == 1 or (len(y) <= 3 and dash == "solid") else "lines"
    line, marker = {"color": color, "width": width, "dash": dash}, {"color": color, "size": 7}
    figure.add_scatter(
        x=x, y=style.lean(y), mode=mode, name=name, line=line, marker=marker, opacity=opacity, legendgroup=name, **place
    )
