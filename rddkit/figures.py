"""The figures of a run: plotly figures as pure functions of its records, the same live, headless and in the report."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from rddkit import frontend, records, series, style, traces
from rddkit.journal import Event
from rddkit.memory import GIB, human
from rddkit.records import METRICS, Records
from rddkit.style import BLUE, GREEN, GREY, INK, ORANGE, PURPLE, RED, SKY, YELLOW

COLUMNS = 3  # loss components side by side
CAPTIONS = {  # how to read each figure
    "losses": "Training and validation should fall together; validation rising while training falls is overfitting. "
    "Work that was done twice after a kill is drawn once.",
    "metrics": "Measured on the validation images after each epoch. best.pt is the epoch with the highest mAP50-95.",
    "learning_rate": "Rises during the warm-up, then falls as planned; a resume must not make it jump.",
    "memory": "What the training held against what it may use. A line that climbs from epoch to epoch is a leak. Above "
    "a dotted line too little is left for the system, and the guard warns, or has the worker leave.",
    "throughput": "A lasting drop means swapping, heat or another program; a gap means that nothing was trained.",
}


def losses(
    results: pd.DataFrame, steps: pd.DataFrame, events: Sequence[Event] = (), batches: int | None = None
) -> go.Figure:
    """One panel for each loss: training per step and per epoch, validation per epoch, over epochs."""
    columns = [str(name) for name in results]
    names = [name.partition("/")[2] for side in ("train/", "val/") for name in columns if name.startswith(side)]
    names = list(dict.fromkeys(names + [str(name) for name in steps if name not in records.NOT_LOSSES]))
    told = [name for name in names if traces.known(results, f"train/{name}", f"val/{name}")]
    names = [name for name in names if name in told or traces.known(steps, name)]
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
        if traces.known(steps, name):
            traces.faint_and_smooth(figure, position, steps[name], None, SKY, "train, per step", place)
        for side, color in (("train", BLUE), ("val", ORANGE)):
            if traces.known(results, f"{side}/{name}"):
                traces.per_epoch(figure, results, f"{side}/{name}", f"{side}, per epoch", color, place)
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
    there = [column for column in METRICS if traces.known(results, column)]
    if not there:
        return style.empty("Accuracy on the validation images", "No epoch has been validated yet.")
    figure = go.Figure()
    colors = dict(zip(METRICS, (BLUE, GREEN, ORANGE, PURPLE), strict=True))
    for column in there:
        minor = column in (records.PRECISION, records.RECALL)
        traces.per_epoch(figure, results, column, METRICS[column], colors[column], {}, dash=minor)
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
    groups = [str(name) for name in results if str(name).startswith("lr/") and traces.known(results, str(name))]
    if not groups and not traces.known(steps, "lr"):
        return style.empty("Learning rate", "No learning rate has been recorded yet.")
    figure = go.Figure()
    steps, position = _counted(steps, batches)
    if traces.known(steps, "lr"):
        keep = series.thin(steps["lr"])
        traces.line(figure, position[keep], steps["lr"].to_numpy()[keep], "per step", BLUE, {}, 1.6)
    if groups and all(np.allclose(results[groups[0]], results[name], equal_nan=True) for name in groups):
        groups = groups[:1]
    for name, color in zip(groups, style.cycle(ORANGE, GREEN, PURPLE), strict=False):
        label = "per epoch" if len(groups) == 1 else f"per epoch, group {name.removeprefix('lr/pg')}"
        traces.per_epoch(figure, results, name, label, color, {})
    style.mark(figure, series.marks(events, batches), "epoch")
    figure.update_xaxes(title_text="epoch")
    figure.update_yaxes(rangemode="tozero", exponentformat="power")
    return style.finish(figure, "Learning rate", "learning rate", height=430)


def memory(memory: pd.DataFrame, events: Sequence[Event] = (), guard: Mapping[str, float] | None = None) -> go.Figure:
    """What the worker and the device held against the budget, over time, each attempt a band.

    Args:
        guard: by name, the share of the budget that must stay free on the machine (`guard_shares`). Drawn is what the
            worker could hold before the guard acts; it moves when other programs come and go.
    """
    if not traces.known(memory, "worker", "device"):
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
        if not traces.known(memory, column) or (column == "swap" and not memory[column].max() > 0):
            continue
        values = memory[column].to_numpy(dtype=float) / GIB
        aside = column in ("available", "swap")
        keep = series.thin(values, series.LIMIT // 4 if aside else series.LIMIT)
        if column == "budget":
            keep = series.corners(values, pieces)
            keep = keep[series.thin(values[keep])]
        x, y = style.broken(series.local(memory["time"].iloc[keep]), values[keep], pieces[keep])
        extra = {"visible": "legendonly"} if aside else {}
        traces.line(figure, x, y, name, color, extra, width, dash)
    for (name, share), color in zip((guard or {}).items(), (GREY, ORANGE), strict=False):
        if all(traces.known(memory, column) for column in ("available", "worker", "budget")):
            level = series.smooth(memory["worker"] + memory["available"] - share * memory["budget"], share=0.0) / GIB
            keep = series.thin(level, series.LIMIT // 4)
            x, y = style.broken(series.local(memory["time"].iloc[keep]), level[keep], pieces[keep])
            traces.line(figure, x, y, name, color, {"visible": True if color == ORANGE else "legendonly"}, 1.2, "dot")
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
    if not traces.known(steps, "images_per_second"):
        return style.empty("Speed", "No speed has been recorded yet.")
    figure = go.Figure()
    style.bands(figure, series.spans(events, steps))
    times, pieces = series.local(steps["time"]), series.pieces(steps)
    traces.faint_and_smooth(figure, times, steps["images_per_second"], pieces, GREEN, "images a second", {})
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
    colors = style.cycle(BLUE, SKY, GREEN, PURPLE, ORANGE, YELLOW, GREY, RED, INK)  # an estimate has up to nine parts
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


MAKERS: dict[str, Callable[[Records], go.Figure]] = {
    "losses": lambda run: losses(run.results, run.steps, run.events, run.batches),
    "metrics": lambda run: metrics(run.results, run.events, run.batches),
    "learning_rate": lambda run: learning_rate(run.results, run.steps, run.events, run.batches),
    "memory": lambda run: memory(run.memory, run.events, guard_shares(run.run)),
    "throughput": lambda run: throughput(run.steps, run.events),
}


def guard_shares(run: Mapping[str, Any]) -> dict[str, float]:
    """At which free share of the budget the guard warns and stops, by a run.yaml; {} where there is no guard."""
    safety = run.get("safety")
    if not isinstance(safety, Mapping) or not safety.get("guard"):
        return {}
    named = {"the guard warns above": safety.get("guard_warn"), "the guard stops above": safety.get("guard_stop")}
    return {name: float(share) for name, share in named.items() if isinstance(share, float)}


def all_figures(run: Records) -> dict[str, go.Figure]:
    """Every figure of a run by name, in the order in which they are read."""
    return {name: make(run) for name, make in MAKERS.items()}


def show(figure: go.Figure) -> None:
    """Show a figure in a notebook so that it draws in JupyterLab and VS Code.

    What is saved where nobody watches draws in `nbconvert --to html` too, which then loads plotly.js from the network;
    a watched notebook would fetch that at once, for nothing.
    """
    renderer = "plotly_mimetype+notebook_connected" if frontend.is_headless() else "plotly_mimetype"
    figure.show(renderer=renderer, config=style.CONFIG)


def _counted(steps: pd.DataFrame, batches: int | None) -> tuple[pd.DataFrame, np.ndarray[Any, Any]]:
    """The steps that were not done again after a kill, and where they lie in epochs."""
    placed = steps[steps["epoch"].notna() & steps["batch"].notna()] if {"epoch", "batch"} <= set(steps) else steps[:0]
    position = series.positions(placed, batches) if len(placed) else np.zeros(0)
    keep = series.last_pass(position)
    return placed[keep], position[keep]
