"""Fits the constants of rddkit/need.py to measured peaks: of the fitted families alone; the others judge them.

`python benchmarks/memory_fit.py [--keep FOLDER]` takes the truths of FOLDER (memory_truth.py's), or those of the table
beside this file; prints the Costs to put into need.py and the errors on both kinds of families. Each phase is fitted to
what was held in that phase, so that the phases that were no plan's highest are told too.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import memory_truth as truths
import numpy as np
from memory_truth import Truth
from scipy.optimize import least_squares

from rddkit import need, offline
from rddkit.memory import MIB
from rddkit.need import Costs
from rddkit.traits import table

KEPT = ("plots",)  # few plans tell them: set by hand, from what loading matplotlib adds
IN_BYTES = ("base", "module", "plots")
SCALE = 0.015  # relative errors beyond this count less than by their square: the noise of a peak
TRUST = 0.10  # a constant's change by its own size weighs as much as an error of TRUST x SCALE: only ties are decided
# Which phases of a need are which of a truth, and how much an error counts: training is nearly always the highest.
MEASURED = {"training": "train", "optimizer's step": "train", "validation": "validate", "saving": "save"}
WEIGHTS = {"train": 1.0, "validate": 0.5, "save": 0.5}


def predicted(one: Truth, costs: Costs = need.CPU) -> dict[str, float]:
    """Bytes by measured phase."""
    sizes = need.parts(table()[Path(one.plan["model"]).stem], one.plan, one.facts, costs)
    found: dict[str, float] = {}
    for phase, components in sizes.items():
        name = MEASURED[phase]
        found[name] = max(found.get(name, 0.0), sum(components.values()))
    return found


def errors(some: Sequence[Truth], costs: Costs = need.CPU) -> list[float]:
    """Relative errors of the peaks."""
    return [max(predicted(one, costs).values()) / one.peak - 1 for one in some]


def fit(some: Sequence[Truth], start: Costs = need.CPU) -> Costs:
    """The constants that fit best, none of them negative."""
    names = [name for name in asdict(start) if name not in KEPT]
    sizes = np.array([getattr(start, name) for name in names])

    def costs(factors: Any) -> Costs:
        return replace(start, **dict(zip(names, map(float, factors * sizes), strict=True)))

    def residuals(factors: Any) -> Any:
        found = []
        for one in some:
            told = predicted(one, costs(factors))
            found += [weight * (told[name] - one.phases[name]) / one.peak for name, weight in WEIGHTS.items()]
        return np.array([*found, *(TRUST * SCALE * (factors - 1))])

    found = least_squares(residuals, np.ones(len(names)), bounds=(0, 8), loss="soft_l1", f_scale=SCALE, diff_step=1e-3)
    return costs(found.x)


def read(keep: Path | None, count: int = truths.COUNT) -> list[Truth]:
    """The truths of a folder, or of the table beside this file."""
    if keep is None:
        return truths.read_table()
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "truths.csv"
        truths.write_table(keep.resolve(), file, count)
        return truths.read_table(file)


def told(some: Sequence[Truth], costs: Costs) -> str:
    found = errors(some, costs)
    sizes = [abs(error) for error in found]
    numbers = (statistics.median(sizes), float(np.quantile(sizes, 0.95)), max(sizes), min(found))
    return "{} plans: median {:.1%}, 95th percentile {:.1%}, largest {:.1%}, lowest {:+.1%}".format(len(some), *numbers)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--keep", type=Path)
    words = parser.parse_args()
    offline.prepare_home()
    found = read(words.keep)
    kinds = {"fitted": [one for one in found if one.fitted], "unseen": [one for one in found if not one.fitted]}
    costs = fit(kinds["fitted"])
    for label, constants in (("as they are", need.CPU), ("fitted anew", costs)):
        for name, some in kinds.items():
            print(f"{label}, {name} families: {told(some, constants)}")
    for name, value in asdict(costs).items():
        print(f"    {name}={value / MIB:.3g} * MIB," if name in IN_BYTES else f"    {name}={value:.3g},")
    return 0


if __name__ == "__main__":
    sys.exit(main())
