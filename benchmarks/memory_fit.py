"""Fits the constants of rddkit/need.py to measured peaks: every second plan of the grid; the rest judges them.

`python benchmarks/memory_fit.py --keep FOLDER` after memory_truth.py; prints the Costs to put into need.py, and the
errors on the plans that the fit saw and on those that it never did.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, NamedTuple

import memory_accuracy as accuracy
import memory_truth as truths
import numpy as np
from scipy.optimize import least_squares

from rddkit import estimate, need, offline
from rddkit.memory import MIB
from rddkit.need import Costs, Facts
from rddkit.traits import Traits

KEPT = ("plots",)  # one plan tells them; they are set by hand
BASES = ("base", "after_base")
SCALE = 0.015  # relative errors beyond this count less than by their square: the noise of a peak
TRUST = 0.15  # a constant's change by its own size weighs as much as an error of TRUST x SCALE: only ties are decided


class Seen(NamedTuple):
    """A plan with its measured peak in bytes."""

    name: str
    fitted: bool
    traits: Traits
    plan: dict[str, Any]
    facts: Facts
    peak: int


def seen(keep: Path) -> list[Seen]:
    """Every plan of the grid and of the others that has a truth."""
    found = []
    for plan in truths.chosen(["n", "s", "m"], None):
        told = truths.known(keep, plan)
        if told["runs"]:
            record = accuracy.record_of(keep, plan)
            known = estimate.know(record)
            name = truths.label(plan)
            peak = max(run["peak"] for run in told["runs"])
            found.append(Seen(name, accuracy.is_fitted(name), known.traits, record.plan, known.facts, peak))
    return found


def predicted(one: Seen, costs: Costs) -> float:
    return max(sum(sizes.values()) for sizes in need.parts(one.traits, one.plan, one.facts, costs).values())


def errors(some: list[Seen], costs: Costs) -> list[float]:
    return [predicted(one, costs) / one.peak - 1 for one in some]


def fit(some: list[Seen], start: Costs) -> Costs:
    """The constants that fit best, none of them negative."""
    names = [name for name in asdict(start) if name not in KEPT]
    sizes = np.array([getattr(start, name) for name in names])

    def costs(factors: Any) -> Costs:
        return replace(start, **dict(zip(names, map(float, factors * sizes), strict=True)))

    def residuals(factors: Any) -> Any:
        return np.array([*errors(some, costs(factors)), *(TRUST * SCALE * (factors - 1))])

    found = least_squares(residuals, np.ones(len(names)), bounds=(0, 4), loss="soft_l1", f_scale=SCALE, diff_step=1e-3)
    return costs(found.x)


def told(some: list[Seen], costs: Costs) -> str:
    sizes = [abs(error) for error in errors(some, costs)]
    numbers = (statistics.median(sizes), float(np.quantile(sizes, 0.95)), max(sizes))
    return f"{len(some)} plans: median {numbers[0]:.1%}, 95th percentile {numbers[1]:.1%}, largest {numbers[2]:.1%}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--keep", type=Path, required=True)
    words = parser.parse_args()
    offline.prepare_home()
    found = seen(words.keep.resolve())
    parts = {"seen": [one for one in found if one.fitted], "never seen": [one for one in found if not one.fitted]}
    costs = fit(parts["seen"], need.CPU)
    for label, constants in (("as they are", need.CPU), ("fitted", costs)):
        for name, some in parts.items():
            print(f"{label}, {name}: {told(some, constants)}")
    for name, value in asdict(costs).items():
        print(f"    {name}={value / MIB:.0f} * MIB," if name in (*BASES, "plots") else f"    {name}={value:.3g},")
    return 0


if __name__ == "__main__":
    sys.exit(main())
