"""How good are the estimates? Against measured peaks, beside other estimators: a table and a plot.

`python benchmarks/memory_accuracy.py [--keep FOLDER]` judges the truths of the table beside this file, or those of
FOLDER (memory_truth.py's), and writes accuracy.md and accuracy.html there. The constants in rddkit/need.py were fitted
on some families alone (memory_truth.FITTED): plans of the others are told apart. What a calibration changes is told by
two of a model's own truths in the place of its trials, each pair of neighbours by size in turn.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path

import memory_fit
import numpy as np
import plotly.graph_objects as go
from memory_truth import Truth

from rddkit import need
from rddkit.memory import GIB
from rddkit.traits import Traits, table

Estimator = Callable[[Truth], float]
WANTED = "unseen families: median at most 3 %, 95th percentile 8 %, bound never below, its median surplus at most 10 %"


def traits(one: Truth) -> Traits:
    """What is known of a plan's model."""
    return table()[Path(one.plan["model"]).stem]


def phase(one: Truth) -> dict[str, float]:
    """The components of a plan's largest phase."""
    return max(need.parts(traits(one), one.plan, one.facts).values(), key=lambda sizes: sum(sizes.values()))


def traced(one: Truth) -> float:
    """The estimate without a calibration."""
    return sum(phase(one).values())


def autobatch(one: Truth) -> float:
    """What Ultralytics' AutoBatch counts for a batch: a forward and backward pass, weights included.

    It profiles on CUDA alone (utils/autobatch.py falls back to batch 16 on the CPU) and fits a line to what
    `profile_ops` sees allocated; here that line is traced.
    """
    model = traits(one)
    return model.state + model.trained + model.backward.at(one.plan["batch"], one.plan["imgsz"] ** 2)


def accelerate(one: Truth) -> float:
    """`accelerate estimate-memory` for training with Adam: four times the model (its documentation's own rule)."""
    return 4.0 * traits(one).trained


def plain_trace(one: Truth) -> float:
    """A plain fake-tensor trace of a step: weights, gradients, optimizer, activations; no framework, no allocator."""
    return autobatch(one) + traits(one).trained * need.kept_by(one.plan["optimizer"])


ESTIMATORS: dict[str, Estimator] = {
    "traced, not calibrated": traced,
    "Ultralytics AutoBatch's formula": autobatch,
    "`accelerate estimate-memory` x 4": accelerate,
    "plain fake-tensor trace": plain_trace,
}


def errors(some: Sequence[Truth], estimator: Estimator) -> list[float]:
    """Relative errors of an estimator."""
    return [estimator(one) / one.peak - 1 for one in some]


def calibrated(some: Sequence[Truth]) -> tuple[list[float], list[float]]:
    """Relative errors of a model's other plans before and after two of its truths, as trials, corrected them."""
    models: dict[str, list[Truth]] = defaultdict(list)
    for one in sorted(some, key=lambda one: one.peak):
        models[one.plan["model"]].append(one)
    before, after = [], []
    for plans in models.values():
        for pair in zip(plans, plans[1:], strict=False):
            correction = need.calibrate([(phase(one), float(one.peak)) for one in pair])
            for one in plans:
                if one not in pair:
                    before.append(traced(one) / one.peak - 1)
                    after.append(sum(need.corrected(phase(one), correction).values()) / one.peak - 1)
    return before, after


def numbers(found: Sequence[float]) -> str:
    """median, 95th percentile, largest: of errors, as cells of a table."""
    sizes = [abs(error) for error in found]
    told = (statistics.median(sizes), float(np.quantile(sizes, 0.95)), max(sizes))
    return " | ".join(f"{100 * number:.1f} %" for number in told)


def bound(some: Sequence[Truth]) -> str:
    """How the safe bound lies to the peaks, in words."""
    surplus = [need.safe_bound(traced(one), "traced") / one.peak - 1 for one in some]
    below = [one.name for one, more in zip(some, surplus, strict=True) if more < 0]
    return f"median surplus {100 * statistics.median(surplus):.1f} %, below the peak: {', '.join(below) or 'never'}"


def report(found: Sequence[Truth]) -> str:
    """Everything in Markdown."""
    kinds = {"fitted families": [one for one in found if one.fitted]}
    kinds["unseen families"] = [one for one in found if not one.fitted]
    lines = [f"{len(found)} plans. Wanted of {WANTED}.", ""]
    lines += ["| estimator | plans | median error | 95th percentile | largest |", "|---|---|---|---|---|"]
    for name, estimator in ESTIMATORS.items():
        for kind, some in kinds.items():
            lines.append(f"| {name} | {len(some)}, {kind} | {numbers(errors(some, estimator))} |")
    before, after = calibrated(found)
    worse = [abs(late) - abs(early) for early, late in zip(before, after, strict=True)]
    lines += [f"| before a calibration | {len(before)} pairs and plans | {numbers(before)} |"]
    lines += [f"| after it | the same | {numbers(after)} |", ""]
    lines += [f"A calibration makes 95 of 100 worse by at most {100 * float(np.quantile(worse, 0.95)):.1f} points.", ""]
    lines += [f"Safe bound, {kind}: {bound(some)}." for kind, some in kinds.items()]
    again = [abs(one.again / one.peak - 1) for one in found if one.again]
    if again:
        lines += [f"Another run of {len(again)} plans: median difference {100 * statistics.median(again):.1f} %."]
    return "\n".join(lines) + "\n"


def plot(found: Sequence[Truth]) -> go.Figure:
    """Estimates against measured peaks."""
    figure = go.Figure()
    figure.add_scatter(x=[0.3, 3], y=[0.3, 3], mode="lines", name="exact", line={"dash": "dot", "color": "#888"})
    for name, estimator in ESTIMATORS.items():
        peaks, values = [one.peak / GIB for one in found], [estimator(one) / GIB for one in found]
        figure.add_scatter(x=peaks, y=values, mode="markers", name=name, text=[one.name for one in found])
    return figure.update_layout(xaxis_title="measured peak, GB", yaxis_title="estimate, GB", template="plotly_white")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--keep", type=Path)
    words = parser.parse_args()
    found = memory_fit.read(words.keep)
    if words.keep:
        (words.keep / "accuracy.md").write_text(report(found))
        plot(found).write_html(words.keep / "accuracy.html", include_plotlyjs="cdn")
    print(report(found))
    return 0


if __name__ == "__main__":
    sys.exit(main())
