"""How good are the estimates? Against measured peaks, beside other estimators: a table and a plot.

`python benchmarks/memory_accuracy.py --keep FOLDER [--data RDD2022]` measures what FOLDER does not hold yet (hours:
three fresh workers a plan, two trials a model; `--no-measuring` uses what there is) and writes accuracy.md and
accuracy.html there. The constants in rddkit/need.py were fitted on every second plan of the grid (by name): those are
told apart. A model's trials are two short runs at one image size; they correct the estimates of all its plans.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import memory_truth as truths
import numpy as np
import plotly.graph_objects as go

from rddkit import calibration, clock, estimate, need, offline, runfile
from rddkit.calibration import Trial
from rddkit.memory import GIB, MIB
from rddkit.recording import cpu_threads
from rddkit.safety import Safety
from rddkit.traits import Traits

TRIED_AT = {"n": 416, "t": 416, "s": 416, "m": 320}  # image size of a model's trials, by its size
TRIED_BATCH = 4
HELD_TO = """calibrated: median at most 2 % or the noise floor, 95th percentile at most 5 %, largest at most 8 %;
uncalibrated: median at most 4 %; calibrated safe bound never below the peak, its median surplus at most 10 %"""


def record_of(keep: Path, plan: dict[str, Any]) -> runfile.RunFile:
    """A run of a plan, as the truth's workers have it."""
    args = {**truths.settings(keep, plan), "optimizer": "AdamW" if plan["optimizer"] == "auto" else plan["optimizer"]}
    whole = {**truths.PLAN, **plan, "val_imgsz": plan["imgsz"]}
    record = runfile.RunFile("accuracy", clock.stamp(), args, "", whole, Safety().model_dump(), "cpu", cpu_threads()[0])
    record.budget = {"bytes": 18 * GIB, "source": "the benchmark"}
    return record


def trials_of(keep: Path, model: str, measure: bool) -> list[Trial]:
    """A model's trials, kept in the folder."""
    file = keep / "trials" / f"{Path(model).stem}.json"
    if not file.is_file() and measure:
        size = Path(model).stem.removesuffix("u")[-1]
        plan = {"model": model, "batch": TRIED_BATCH, "imgsz": TRIED_AT[size], "optimizer": "AdamW"}
        made = calibration.run(record_of(keep, plan), "AdamW")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps([asdict(trial) for trial in made], indent=1))
    return [Trial(**row) for row in json.loads(file.read_text())] if file.is_file() else []


def autobatch(plan: dict[str, Any], traits: Traits) -> float:
    """What Ultralytics' AutoBatch counts for a batch: a forward and backward pass, weights included.

    It profiles on CUDA alone (utils/autobatch.py falls back to batch 16 on the CPU) and fits a line to what
    `profile_ops` sees allocated; here that line is traced.
    """
    return traits.state + traits.trained + traits.backward.at(plan["batch"], plan["imgsz"] ** 2)


def accelerate(traits: Traits) -> float:
    """`accelerate estimate-memory` for training with Adam: four times the model (its documentation's own rule)."""
    return 4.0 * traits.trained


def plain_trace(plan: dict[str, Any], traits: Traits) -> float:
    """A plain fake-tensor trace of a step: weights, gradients, optimizer, activations; no framework, no allocator."""
    kept = 1 + need.kept_by(plan["optimizer"])
    return traits.state + traits.trained * kept + traits.backward.at(plan["batch"], plan["imgsz"] ** 2)


def is_fitted(name: str) -> bool:
    """Whether a plan is among those that the constants in rddkit/need.py were fitted on: every second of the grid."""
    grid = sorted(truths.label(plan) for plan in truths.grid())
    return name in grid and grid.index(name) % 2 == 0


def rows(keep: Path, measure: bool, models: list[str]) -> list[dict[str, Any]]:
    """A row a plan that has its truth."""
    grid = sorted(truths.label(plan) for plan in truths.grid())
    found = []
    for plan in truths.chosen(models, None):
        told = truths.truth(keep, plan) if measure else truths.known(keep, plan)
        if not told["runs"]:
            continue
        record = record_of(keep, plan)
        raw = replace(estimate.know(record), trials=(), correction=None, pace=None)
        better = estimate.calibrated(raw, trials_of(keep, plan["model"], measure))
        peaks = [run["peak"] for run in told["runs"]]
        name = truths.label(plan)
        first, second = (estimate.judged(known, record.plan) for known in (raw, better))
        found.append(
            {
                "plan": name,
                "set": "fitted" if is_fitted(name) else ("held out" if name in grid else "other"),
                "peak": max(peaks),
                "runs": len(peaks),
                "spread": (max(peaks) - min(peaks)) / max(peaks),
                "scatter": [max(peaks) / peak - 1 for peak in peaks],
                "raw": first["estimate"],
                "calibrated": second["estimate"] if second["calibrated"] else None,
                "bound": second["safe_bound"] if second["calibrated"] else first["safe_bound"],
                "AutoBatch's formula": autobatch(plan, raw.traits),
                "accelerate x 4": accelerate(raw.traits),
                "plain trace": plain_trace(plan, raw.traits),
            }
        )
    return found


def errors(found: list[dict[str, Any]], key: str) -> list[float]:
    """Relative errors of an estimator."""
    return [row[key] / row["peak"] - 1 for row in found if row[key]]


def summary(found: list[dict[str, Any]], key: str) -> str:
    """median, 95th percentile, largest, too low: of an estimator's errors, as cells of a table."""
    seen = errors(found, key)
    if not seen:
        return "| - | - | - | - |"
    sizes = [abs(error) for error in seen]
    low = sum(error < 0 for error in seen)
    numbers = (statistics.median(sizes), float(np.quantile(sizes, 0.95)), max(sizes))
    return "| " + " | ".join(f"{100 * number:.1f} %" for number in numbers) + f" | {low} of {len(seen)} |"


def table(found: list[dict[str, Any]]) -> str:
    """Everything in Markdown."""
    noise = statistics.median(error for row in found for error in row["scatter"])
    spread = statistics.median(row["spread"] for row in found)
    lines = [f"{len(found)} plans, {sum(row['runs'] for row in found)} runs. Held to {HELD_TO}.", ""]
    lines += [f"Noise floor: a run's peak lies {100 * noise:.1f} % below the highest of its plan's runs (median);"]
    lines += [f"the runs of a plan spread over {100 * spread:.1f} % (median).", ""]
    lines += ["| estimator | plans | median | 95th percentile | largest | too low |", "|---|---|---|---|---|---|"]
    sets = {"all": found} | {name: [r for r in found if r["set"] == name] for name in ("fitted", "held out", "other")}
    for key in ("raw", "calibrated", "bound"):
        lines += [f"| {key} | {name} {summary(some, key)}" for name, some in sets.items() if some]
    for key in ("AutoBatch's formula", "accelerate x 4", "plain trace"):
        lines.append(f"| {key} | all {summary(found, key)}")
    surplus = statistics.median(row["bound"] / row["peak"] - 1 for row in found)
    below = [row["plan"] for row in found if row["bound"] < row["peak"]]
    lines += [
        "",
        f"Safe bound: median surplus {100 * surplus:.1f} %, below the peak: {', '.join(below) or 'never'}.",
        "",
    ]
    lines += ["| plan | set | peak, MB | spread | raw | calibrated | bound |", "|---|---|---|---|---|---|---|"]
    for row in found:
        cells = [row["plan"], row["set"], f"{row['peak'] / MIB:.0f}", f"{100 * row['spread']:.1f} %"]
        cells += [
            f"{100 * (row[key] / row['peak'] - 1):+.1f} %" if row[key] else "-"
            for key in ("raw", "calibrated", "bound")
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def plot(found: list[dict[str, Any]]) -> go.Figure:
    """Estimates against measured peaks."""
    figure = go.Figure()
    peaks = [row["peak"] / GIB for row in found]
    figure.add_scatter(x=[0.8, 3.6], y=[0.8, 3.6], mode="lines", name="exact", line={"dash": "dot", "color": "#888"})
    for key in ("raw", "calibrated", "bound", "plain trace", "AutoBatch's formula", "accelerate x 4"):
        values = [row[key] / GIB if row[key] else None for row in found]
        figure.add_scatter(x=peaks, y=values, mode="markers", name=key, text=[row["plan"] for row in found])
    return figure.update_layout(xaxis_title="measured peak, GB", yaxis_title="estimate, GB", template="plotly_white")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--keep", type=Path, required=True)
    parser.add_argument("--data", type=Path, default=truths.SAMPLE, help="RDD2022 as released, or a part of it")
    parser.add_argument("--models", nargs="+", default=["n", "s", "m"])
    parser.add_argument("--no-measuring", action="store_true")
    words = parser.parse_args()
    offline.prepare_home()
    truths.SAMPLE = words.data
    found = rows(words.keep.resolve(), not words.no_measuring, words.models)
    (words.keep / "accuracy.json").write_text(json.dumps(found, indent=1))
    (words.keep / "accuracy.md").write_text(table(found))
    plot(found).write_html(words.keep / "accuracy.html", include_plotlyjs="cdn")
    print(table(found))
    return 0


if __name__ == "__main__":
    sys.exit(main())
