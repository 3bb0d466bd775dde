"""Which plan a run can train with: the asked one or the first lighter one whose need fits the budget. Pure."""

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
    """The plan to take: the asked one (`fallback` None), a fallback, or none where nothing fits.

    `asked`, `told`: the estimates of the asked plan and of the one taken; of the one that needs least where none fits.
    """

    fits: bool
    fallback: Fallback | None
    asked: dict[str, Any]
    told: dict[str, Any]
    reason: str


def choose(known: Known, plan: Mapping[str, Any], lighter: Sequence[Fallback]) -> Choice:
    """The first of a plan and its fallbacks that fits.

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
    plans = [plan, *(step.plan for step in lighter)]
    least = min(plans, key=lambda one: int(estimate.judged(known, one)["safe_bound"]))
    told = estimate.judged(known, least)
    need = f"the smallest plan, {words.plan(least)}, needs up to {human(told['safe_bound'])}"
    return Choice(False, None, asked, told, f"{need}; the budget is {human(told['budget'])} ({told['budget_source']})")


def too_big(known: Known, lighter: Sequence[Fallback]) -> list[dict[str, Any]]:
    """The plans of those fallbacks that cannot fit, to be skipped."""
    return [step.plan for step in lighter if not estimate.judged(known, step.plan)["fits"]]
