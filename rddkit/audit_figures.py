"""The figures of a data set: plotly figures as pure functions of its audit."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import plotly.graph_objects as go

from rddkit import style
from rddkit.dataset import described
from rddkit.style import BLUE, GREEN, GREY, ORANGE, PURPLE, RED, SKY

NOTHING = "No audit yet: rddkit prepare writes it."


def boxes(audit: Mapping[str, Any] | None) -> go.Figure:
    """How many boxes of each class every domain has, and how many images without any."""
    title = "Boxes by class and domain"
    if not audit:
        return style.empty(title, NOTHING)
    figure = go.Figure()
    colors = style.cycle(BLUE, ORANGE, GREEN, PURPLE, SKY, RED)
    names = [*(described(name) for name in audit["boxes"]), "images without a box"]
    for (domain, own), color in zip(audit["by_domain"].items(), colors, strict=False):
        numbers = [*own["boxes"].values(), own["negatives"]]
        hover = f"{domain}: %{{y}} %{{x}}<extra></extra>"
        figure.add_bar(x=names, y=numbers, name=domain, marker_color=color, hovertemplate=hover)
    figure.update_layout(barmode="stack", hovermode="closest")
    return style.finish(figure, title, "number", height=400)


def sizes(audit: Mapping[str, Any] | None) -> go.Figure:
    """The shorter side of every domain's boxes as the detector sees them, and the finest grid's cell."""
    title = "Shorter side of boxes as the detector sees them"
    if not audit:
        return style.empty(title, NOTHING)
    measured = audit["sizes"]
    edges = measured["edges"]
    names = [f"< {edges[0]}", *(f"{low}-{high}" for low, high in zip(edges, edges[1:], strict=False)), f"≥ {edges[-1]}"]
    figure = go.Figure()
    colors = style.cycle(BLUE, ORANGE, GREEN, PURPLE, SKY, RED)
    for (domain, own), color in zip(measured["by_domain"].items(), colors, strict=False):
        if own["boxes"]:
            shares = [number / own["boxes"] for number in own["bars"]]
            label = f"{domain}, {own['width']}x{own['height']}"
            hover = f"{domain}: %{{y:.0%}} of {own['boxes']} boxes<extra></extra>"
            figure.add_bar(x=names, y=shares, name=label, marker_color=color, hovertemplate=hover)
    # Bars stand at 0, 1, 2 ...: the line lies before the one that begins with a whole cell.
    figure.add_vline(
        edges.index(measured["cell"]) + 0.5,
        line={"color": GREY, "width": 2, "dash": "dash"},
        annotation_text=f"{measured['cell']} pixels: one cell of the finest grid",
    )
    figure.update_xaxes(title_text=f"pixels at imgsz {measured['imgsz']}", type="category")
    figure.update_yaxes(tickformat=".0%")
    figure.update_layout(hovermode="closest")
    return style.finish(figure, title, "share of a domain's boxes", height=400)
