"""The lines that figures are made of: one value an epoch, raw values with a smooth line above them, plain lines."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from rddkit import series, style


def known(frame: pd.DataFrame, *columns: str) -> bool:
    """Whether one of the columns is there and holds a value."""
    return any(column in frame and bool(frame[column].notna().any()) for column in columns)


def per_epoch(
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


def faint_and_smooth(
    figure: go.Figure, x: Any, values: pd.Series, pieces: Any, color: str, name: str, place: dict[str, Any]
) -> None:
    """The raw values faint, and above them, where there are enough, a smooth line; broken between pieces."""
    y = values.to_numpy(dtype=float)
    pieces = np.zeros(len(y), dtype=int) if pieces is None else pieces
    enough = len(y) >= 10
    keep = series.thin(y, series.LIMIT // 2 if place else series.LIMIT)  # a panel is a third as wide
    opacity = 0.3 if enough else 1.0
    line(figure, *style.broken(x[keep], y[keep], pieces[keep]), name, color, place, 1.0, opacity=opacity)
    if enough:
        means = pd.Series(y).groupby(pieces).transform(series.smooth).to_numpy()
        keep = series.thin(means, series.LIMIT // 4)
        line(figure, *style.broken(x[keep], means[keep], pieces[keep]), f"{name}, smoothed", color, place, 1.8)


def line(
    figure: go.Figure, x: Any, y: Any, name: str, color: str, place: dict[str, Any], width: float, dash: str = "solid",
    opacity: float = 1.0,
) -> None:  # fmt: skip
    """A line, with its points while they are too few to be seen as one."""
    x = style.lean(x) if np.asarray(x).dtype.kind == "f" else x
    mode = "lines+markers" if len(y) == 1 or (len(y) <= 3 and dash == "solid") else "lines"
    look, marker = {"color": color, "width": width, "dash": dash}, {"color": color, "size": 7}
    figure.add_scatter(
        x=x, y=style.lean(y), mode=mode, name=name, line=look, marker=marker, opacity=opacity, legendgroup=name, **place
    )
