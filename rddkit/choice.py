"""Which plan a run can train with: the asked one, or the first lighter one whose need fits the budget. Pure.

Where none fits for sure, the smallest is still tried if it may fit: under cap and guard a try costs a minute.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rddkit import estimate, words
from rddkit.estimate import Known
from rddkit.fallbacks import Fallback
from rddkit.memory import human


@dataclass(frozen=True)
class Choice:
    """The plan to take: the asked one (`fallback` None), a fallback, or none where nothing can fit (`takes` False).

    `asked`, `told`: the estimates of the asked plan and of the one taken; of the one that needs least where none is.
    """

    takes: bool
    fallback: Fallback | None
    asked: dict[str, Any]
    told: dict[str, Any]
    reason: str


def choose(known: Known, plan: Mapping[str, Any], lighter: Sequence[Fallback]) -> Choice:
    """The first of a plan and its fallbacks that fits; where none does the one that needs least, if it may fit.

    Args:
        lighter: the fallbacks that may be taken, in the order of their cost.
    """
    asked = estimate.judged(known, plan)
    if asked["fits"]:
        return Choice(True, None, asked, asked, f"the plan {estimate.verdict(asked)}")
    why = f"{words.plan(plan)} {estimate.verdict(asked)}"
    for step in lighter:
        told = estimate.judged(known, step.plan)
        if told["fits"]:
            return Choice(True, step, asked, told, why)
    least_step = _smallest(known, plan, lighter)
    told = estimate.judged(known, least_step.plan if least_step else plan)
    smallest = f"the smallest plan, {words.plan(least_step.plan if least_step else plan)},"
    budget = f"the budget is {human(told['budget'])} ({told['budget_source']})"
    if told["may_fit"]:
        bounds = f"needs {human(told['estimate'])}, and up to {human(told['safe_bound'])}"
        return Choice(True, least_step, asked, told, f"{smallest} is tried, as it may fit: it {bounds}; {budget}")
    if told["reasons"].get("fits"):
        return Choice(False, None, asked, told, f"{smallest} {estimate.verdict(told)}; {budget}")
    least = f"needs {human(told['least'])} or more, and that is the estimate less its margin"
    return Choice(False, None, asked, told, f"{smallest} {least}; {budget}")


def _smallest(known: Known, plan: Mapping[str, Any], lighter: Sequence[Fallback]) -> Fallback | None:
    """The fallback that needs least; None where the plan itself does. Of equals the one that costs least."""
    steps: list[Fallback | None] = [None, *lighter]
    return min(steps, key=lambda step: _bound(known, step.plan if step else plan))


def _bound(known: Known, plan: Mapping[str, Any]) -> int:
    """What a plan needs at most, in bytes."""
    return int(estimate.judged(known, plan)["safe_bound"])


def too_big(known: Known, lighter: Sequence[Fallback]) -> list[dict[str, Any]]:
    """The plans of those fallbacks that do not fit, to be skipped; not the smallest, if it is all there is to try."""
    refused = [step for step in lighter if not estimate.judged(known, step.plan)["fits"]]
    if refused and len(refused) == len(lighter):
        smallest = min(refused, key=lambda step: _bound(known, step.plan))
        if estimate.judged(known, smallest.plan)["may_fit"]:
            refused.remove(smallest)
    return [step.plan for step in refused]
