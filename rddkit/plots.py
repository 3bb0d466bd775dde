"""The write-up's figures as PDF and PNG, by matplotlib in a process of its own: `python -m rddkit.plots FOLDER`."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from cycler import cycler

from rddkit import dataset, durable, evaluation, precision, records, series, style
from rddkit.config import ConfigError
from rddkit.memory import GIB
from rddkit.paths import RunPaths
from rddkit.records import MAP50, MAP50_95, METRICS, Records

matplotlib.use("agg")
from matplotlib import pyplot

LOOK: Any = {
    "font.size": 9,
    "font.family": "sans-serif",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": style.GREY,
    "axes.grid": True,
    "grid.color": style.GRID,
    "axes.axisbelow": True,
    "axes.prop_cycle": cycler(color=[style.BLUE, style.ORANGE, style.GREEN, style.PURPLE, style.RED]),
    "legend.frameon": False,
    "figure.constrained_layout.use": True,
    "pdf.fonttype": 42,  # letters stay letters: what journals ask for
    "savefig.dpi": 200,
}
COLUMN = (3.5, 2.6)  # inches: one column of a two-column page
KINDS = ("pdf", "png")


def draw(paths: RunPaths) -> list[Path]:
    """Draw what a run has to show into its `report/`; the files."""
    run = records.read_records(paths)
    try:
        found = evaluation.read(paths)["weights"]
        result = found.get("best") or next(iter(found.values()))
    except (ConfigError, KeyError, StopIteration):
        result = None
    made = []
    with pyplot.rc_context(LOOK):
        for name, sketch in sketches(run, result).items():
            figure, axes = pyplot.subplots(figsize=COLUMN)
            sketch(axes)
            for kind in KINDS:
                file = paths.report / f"{name}.{kind}"
                # Without its date the same run gives the same bytes.
                about: dict[str, Any] = {"CreationDate": None} if kind == "pdf" else {"Software": None}
                with durable.replacing(file) as target:
                    figure.savefig(target, format=kind, metadata=about)
                made.append(file)
            pyplot.close(figure)
    return made


def sketches(run: Records, result: Mapping[str, Any] | None) -> dict[str, Callable[[Any], None]]:
    """What can be drawn, by name."""
    possible: dict[str, Callable[[Any], None]] = {}
    if len(run.results):
        possible["losses"] = lambda axes: _losses(axes, run)
        possible["accuracy"] = lambda axes: _accuracy(axes, run)
    if run.memory["worker"].notna().any():
        possible["memory"] = lambda axes: _memory(axes, run)
    if result is not None:
        possible["f1_by_domain"] = lambda axes: _domains(axes, result)
        possible["confusion"] = lambda axes: _confusion(axes, result)
        if result["pr_curves"]:
            possible["precision_recall"] = lambda axes: _precision(axes, result)
        if result["f1"]["hits"]:
            possible["f1_threshold"] = lambda axes: _threshold(axes, result)
    return possible


def _losses(axes: Any, run: Records) -> None:
    for place, loss in enumerate(("box_loss", "cls_loss", "dfl_loss")):
        for part, dash in (("train", "-"), ("val", "--")):
            if f"{part}/{loss}" in run.results:
                label = f"{loss.partition('_')[0]}, {part}"
                axes.plot(run.results["epoch"], run.results[f"{part}/{loss}"], dash, color=f"C{place}", label=label)
    axes.set(xlabel="epoch", ylabel="loss")
    axes.legend(fontsize=7, ncols=2)


def _accuracy(axes: Any, run: Records) -> None:
    for column in (MAP50, MAP50_95):
        if column in run.results:
            axes.plot(run.results["epoch"], run.results[column], label=METRICS[column])
    axes.set(xlabel="epoch", ylabel="on the validation images", ylim=(0, None))
    axes.legend()


def _memory(axes: Any, run: Records) -> None:
    rows = series.thin(run.memory["worker"])
    hours = (run.memory["time"] - run.memory["time"].iloc[0]).dt.total_seconds() / 3600
    axes.plot(hours.iloc[rows], run.memory["worker"].iloc[rows] / GIB, label="training")
    axes.plot(hours.iloc[rows], run.memory["budget"].iloc[rows] / GIB, ":", color=style.GREY, label="budget")
    axes.set(xlabel="hours since the start", ylabel="memory (GiB)", ylim=(0, None))
    axes.legend()


def _domains(axes: Any, result: Mapping[str, Any]) -> None:
    names = list(result["f1_by_domain"])
    values = [result["f1_by_domain"][name]["f1"] for name in names]
    axes.barh(names, values, color=style.BLUE, height=0.6)
    axes.axvline(result["f1"]["f1"], color=style.GREY, linestyle=":", label="all together")
    axes.set(xlabel="F1 at IoU 0.5", xlim=(0, 1))
    axes.invert_yaxis()
    axes.grid(visible=False, axis="y")
    axes.legend()


def _confusion(axes: Any, result: Mapping[str, Any]) -> None:
    matrix = np.array(result["confusion"])
    share = matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
    names = list(result["f1_by_class"])
    axes.imshow(share, cmap="Blues", vmin=0, vmax=1)
    axes.grid(visible=False)
    for row, column in np.ndindex(*matrix.shape):
        color = "white" if share[row, column] > 0.5 else style.INK
        axes.text(column, row, str(matrix[row, column]), ha="center", va="center", color=color, fontsize=7)
    axes.set_xticks(range(len(names) + 1), [*names, "missed"], rotation=45)
    axes.set_yticks(range(len(names) + 1), [*names, "nothing"])
    axes.set(xlabel="found", ylabel="labelled")


def _precision(axes: Any, result: Mapping[str, Any]) -> None:
    for name, values in result["pr_curves"].items():
        axes.plot(precision.RECALLS, values, label=dataset.described(name))
    axes.set(xlabel="recall", ylabel="precision", xlim=(0, 1), ylim=(0, 1.02))
    axes.legend(fontsize=7)


def _threshold(axes: Any, result: Mapping[str, Any]) -> None:
    curve = result["curve"]
    for key in ("f1", "precision", "recall"):
        axes.plot(curve["thresholds"], curve[key], label="F1" if key == "f1" else key)
    axes.axvline(result["threshold"], color=style.GREY, linestyle=":")
    axes.set(xlabel="least confidence", xlim=(0, 1), ylim=(0, 1.02))
    axes.legend(fontsize=7)


if __name__ == "__main__":
    for drawn in draw(RunPaths(Path(sys.argv[1]))):
        print(drawn)
