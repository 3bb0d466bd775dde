"""What an evaluation shows, as a notebook's figures: F1 by threshold, precision by recall, confusion."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import plotly.graph_objects as go

from rddkit import dataset, precision, style

NOTHING = "no labelled box in the validation images, or nothing found there"


def f1_by_threshold(result: Mapping[str, Any]) -> go.Figure:
    """Precision, recall and F1 at every confidence threshold; the chosen one marked."""
    title = "F1 at IoU 0.5 by confidence threshold"
    curve = result["curve"]
    if not result["f1"]["hits"]:
        return style.empty(title, NOTHING)
    figure = go.Figure()
    for key, color in (("f1", style.BLUE), ("precision", style.GREEN), ("recall", style.ORANGE)):
        line = {"color": color, "width": 3 if key == "f1" else 1.5}
        figure.add_scatter(x=style.lean(curve["thresholds"]), y=style.lean(curve[key]), name=key, line=line)
    chosen = result["threshold"]
    figure.add_vline(x=chosen, line={"color": style.GREY, "dash": "dot"}, annotation_text=f"chosen: {chosen:.3f}")
    figure.update_xaxes(title_text="least confidence", range=[0, 1])
    figure.update_yaxes(range=[0, 1.02])
    return style.finish(figure, title, None)


def precision_by_recall(result: Mapping[str, Any]) -> go.Figure:
    """COCO's precision envelope at IoU 0.5, a line a class."""
    title = "Precision by recall at IoU 0.5"
    if not result["pr_curves"]:
        return style.empty(title, NOTHING)
    figure = go.Figure()
    for name, values in result["pr_curves"].items():
        ap = result["ap_by_class"][name]["AP50"]
        figure.add_scatter(
            x=style.lean(precision.RECALLS), y=style.lean(values), name=f"{dataset.described(name)} {ap:.3f}"
        )
    figure.update_xaxes(title_text="recall", range=[0, 1])
    figure.update_yaxes(range=[0, 1.02])
    return style.finish(figure, title, "precision")


def confusion(result: Mapping[str, Any], names: list[str]) -> go.Figure:
    """Labelled classes (rows) by found ones at the chosen threshold; at the ends, boxes without a partner."""
    matrix = np.array(result["confusion"])
    rows, columns = [*map(dataset.described, names), "nothing there"], [*map(dataset.described, names), "missed"]
    share = matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
    figure = go.Figure(
        go.Heatmap(
            z=share,
            x=columns,
            y=rows,
            text=matrix,
            texttemplate="%{text}",
            colorscale=[[0, "#ffffff"], [1, style.BLUE]],
            showscale=False,
            hovertemplate="labelled %{y}, found %{x}: %{text}<extra></extra>",
        )
    )
    figure.update_yaxes(autorange="reversed", title_text="labelled")
    figure.update_xaxes(title_text="found")
    return style.finish(figure, "What was taken for what", None, height=420)
