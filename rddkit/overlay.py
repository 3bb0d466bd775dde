"""The figures of a sweep: its trials' curves over each other, and what they held together on each node."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pandas as pd
import plotly.graph_objects as go

from rddkit import records, series, style
from rddkit.memory import GIB
from rddkit.paths import RunPaths
from rddkit.records import METRICS
from rddkit.standings import Standing, Standings
from rddkit.style import BLUE, GREEN, ORANGE, PURPLE, RED, SKY

MOST = 24  # curves; more cannot be told apart: the best are drawn
EVERY = "5s"  # one reading each, so that nodes' sums are of one moment
PALETTE = (BLUE, ORANGE, GREEN, PURPLE, RED, SKY)


def curves(told: Standings) -> go.Figure:
    """The sweep's metric over epochs, a line for each trial, the best first and thicker."""
    column = next(column for column, name in METRICS.items() if name == told.metric)
    figure = go.Figure()
    shown = told.ranked()[:MOST]
    for trial, color in zip(shown, style.cycle(*PALETTE), strict=False):
        results = records.read_results(RunPaths(Path(trial.folder)).results_csv).frame
        if column not in results or not results[column].notna().any():
            continue
        first = trial is shown[0]
        line = {"color": color, "width": 3 if first else 1.4, "dash": "solid" if trial.state == "done" else "dot"}
        label = f"{trial.run} ({trial.state})"
        figure.add_scatter(x=results["epoch"], y=results[column], mode="lines+markers", line=line, name=label)
    if not figure.data:
        return style.empty(f"{told.metric} of every trial", "No trial has validated an epoch yet.")
    figure.update_traces(marker_size=5)
    figure.update_xaxes(title_text="epoch")
    more = f", the best {MOST} of {len(told.trials)}" if len(told.trials) > MOST else ""
    return style.finish(figure, f"{told.metric} of every trial{more}", "share, 0 to 1", height=460)


def memory(told: Standings) -> go.Figure:
    """What the workers of a sweep held together on each node over time."""
    figure = go.Figure()
    for (node, held), color in zip(sorted(held_by_node(told.trials).items()), style.cycle(*PALETTE), strict=False):
        keep = series.thin(held)
        times = series.local(held.index.to_series())[keep]
        values = held.to_numpy()[keep] / GIB
        figure.add_scatter(x=times, y=values, mode="lines", name=node, line={"color": color, "shape": "hv"})
    if not figure.data:
        return style.empty("Memory by node", "No memory reading has been recorded yet.")
    style.time_axis(figure)
    return style.finish(figure, "What all workers held, by node", "GB", height=380)


def held_by_node(trials: Sequence[Standing]) -> dict[str, pd.Series]:
    """Bytes by moment for each node: the sum over the trials that were trained there then."""
    parts: dict[str, list[pd.Series]] = {}
    for trial in trials:
        run = records.read_records(RunPaths(Path(trial.folder)))
        nodes = {event["attempt"]: event.get("node", "") for event in run.events if event["event"] == "attempt_started"}
        for attempt, rows in run.memory.groupby("attempt"):
            held = rows.set_index("time")["worker"].resample(EVERY).max().dropna()
            parts.setdefault(nodes.get(attempt) or "this machine", []).append(held)
    return {
        node: pd.concat(held, axis=1).sum(axis=1).asfreq(EVERY, fill_value=0.0)
        for node, held in parts.items()
        if any(map(len, held))
    }
