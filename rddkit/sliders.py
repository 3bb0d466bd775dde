"""Sliders for a plan of one's own: its memory by component against the budget moves with them. No torch."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ipywidgets as widgets

from rddkit import estimate, figures, panels, style
from rddkit.canvas import Canvas
from rddkit.estimate import Known
from rddkit.memory import human
from rddkit.traits import table

SIZES = tuple(range(160, 1281, 32))
MOST_WORKERS = 8


def told(known: Known, plan: Mapping[str, Any]) -> dict[str, Any]:
    """The estimate of a plan; a `model` that is not the run's is looked up in the shipped table."""
    name = Path(str(plan["model"])).stem
    if name != known.traits.model:
        known = dataclasses.replace(known, traits=table()[name], trials=(), correction=None, pace=None)
    return estimate.judged(known, plan)


def rows(needed: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """(part, bytes, share) of an estimate, the largest first, for a table."""
    sums = [("estimate", human(needed["estimate"]), "100%"), ("needs up to", human(needed["safe_bound"]), "")]
    return [*estimate.shares(needed), *sums, ("budget", human(needed["budget"]), str(needed["budget_source"]))]


class Sliders:
    """Model, batch, image size and loader processes; `widget` is what is shown, `plan` what they say now."""

    def __init__(self, known: Known, plan: Mapping[str, Any]) -> None:
        self.known, self.base = known, dict(plan)
        models = sorted({known.traits.model, *table()})
        batches = sorted({*estimate.NIGHT_BATCHES, int(plan["batch"])})
        sizes = sorted({*SIZES, int(plan["imgsz"])})
        self.model = _slider("model", models, known.traits.model)
        self.batch = _slider("batch", batches, int(plan["batch"]))
        self.imgsz = _slider("imgsz", sizes, int(plan["imgsz"]))
        self.workers = _slider("workers", range(MOST_WORKERS + 1), min(MOST_WORKERS, int(plan.get("workers") or 0)))
        self.verdict = widgets.HTML()
        self.canvas = Canvas(figures.need(self.told))
        sliders = [self.model, self.batch, self.imgsz, self.workers]
        self.widget = widgets.VBox([widgets.Box(sliders, layout={"flex_flow": "row wrap"}), self.verdict])
        self.widget.children += (self.canvas.widget,)
        for slider in sliders:
            slider.observe(lambda _change: self._move(), "value")
        self._move()

    @property
    def plan(self) -> dict[str, Any]:
        """The run's plan with the sliders' values; validation keeps its image size."""
        chosen = {"model": self.model.value, "batch": self.batch.value, "imgsz": self.imgsz.value}
        return {**self.base, **chosen, "workers": self.workers.value}

    @property
    def told(self) -> dict[str, Any]:
        return told(self.known, self.plan)

    def _move(self) -> None:
        now = self.told
        self.canvas.show(figures.need(now))
        self.verdict.value = panels.paragraph(estimate.verdict(now), "inherit" if now["fits"] else style.RED)


def _slider(name: str, options: Any, value: Any) -> widgets.SelectionSlider:
    return widgets.SelectionSlider(description=name, options=list(options), value=value, layout={"width": "26em"})
