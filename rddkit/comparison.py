"""Two or more runs drawn over each other: mAP50 and every loss per epoch."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from rddkit import paths, records, series, style
from rddkit.records import MAP50

ACROSS = 2  # panels side by side


def read(runs: Sequence[str | Path]) -> dict[str, pd.DataFrame]:
    """The epochs of some runs (names or folders), by name. FileNotFoundError for one that is not there."""
    found = [paths.find_run(run) for run in runs]
    return {run.name: records.read_results(run.results_csv).frame for run in found}


def compare(runs: Mapping[str, pd.DataFrame]) -> go.Figure:
    """A panel for mAP50 and one for each loss, a colour for each run: training solid, validation dotted."""
    losses = [name.partition("/")[2] for frame in runs.values() for name in map(str, frame) if "_loss" in name]
    panels = ["mAP50", *dict.fromkeys(losses)]
    if len(runs) < 2 or not any(len(frame) for frame in runs.values()):
        return style.empty("Runs compared", "Choose a second run; each needs an epoch that is done.")
    rows = math.ceil(len(panels) / ACROSS)
    titles = [name.replace("_", " ") for name in panels]
    figure = make_subplots(rows, ACROSS, subplot_titles=titles, horizontal_spacing=0.08, vertical_spacing=0.14)
    colors = style.cycle(style.BLUE, style.ORANGE, style.GREEN, style.PURPLE, style.RED, style.SKY)
    for (run, frame), color in zip(runs.items(), colors, strict=False):
        for place, panel in enumerate(panels):
            sides = {MAP50: "solid"} if panel == "mAP50" else {f"train/{panel}": "solid", f"val/{panel}": "dot"}
            for column, dash in sides.items():
                told = frame[frame[column].notna()] if column in frame else frame[:0]
                keep = series.thin(told[column] if len(told) else [])
                figure.add_scatter(
                    x=told["epoch"].to_numpy()[keep],
                    y=style.lean(told[column].to_numpy()[keep] if len(told) else []),
                    mode="lines+markers" if len(told) <= 30 else "lines",
                    line={"color": color, "width": 1.8, "dash": dash},
                    marker={"color": color, "size": 4.5},
                    name=run if column == MAP50 else f"{run}, {column.partition('/')[0]}",
                    legendgroup=run,
                    showlegend=column == MAP50,
                    row=place // ACROSS + 1,
                    col=place % ACROSS + 1,
                )
    figure.update_xaxes(title_text="epoch", row=rows)
    return style.finish(figure, "Runs compared (losses: training solid, validation dotted)", None, 120 + 260 * rows)
