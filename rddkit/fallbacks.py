"""The fallbacks: lighter plans in the order of what they cost in accuracy. Pure decisions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

KINDS = ("lean", "batch", "checkpointing", "imgsz")
IMAGE_SIZES = (640, 512, 416, 320)
COSTS = {
    "lean": "free: validation, plots, caches and the allocator are made lighter",
    "batch": "nearly free: gradients accumulate to the same effective batch; BatchNorm sees fewer images",
    "checkpointing": "time: activations are computed twice",
    "imgsz": "accuracy: small damage is harder to see",
}
OFF = {"checkpointing": False}  # what a plan that never says it means
LEAN = {"plots": False, "cache": False, "allocator": "lean"}


@dataclass(frozen=True)
class Fallback:
    """A lighter plan: which kind, the whole plan, what changes, and what it costs."""

    kind: str
    plan: dict[str, Any]
    changes: dict[str, Any]
    reason: str


def ladder(plan: Mapping[str, Any], kinds: Sequence[str], least_imgsz: int) -> list[Fallback]:
    """Every fallback below a plan, lightest last; each contains the ones before it.

    Args:
        plan: the plan that was too big.
        kinds: which kinds to use (safety.yaml); their order is always that of cost.
        least_imgsz: the smallest image size that is still worth training.
    """
    steps: list[Fallback] = []
    current = dict(plan)

    def step(kind: str, **changes: Any) -> None:
        nonlocal current
        changes = {key: value for key, value in changes.items() if current.get(key) != value}
        if changes:
            current = {**current, **changes}
            steps.append(Fallback(kind, dict(current), changes, COSTS[kind]))

    if "lean" in kinds:
        step("lean", **LEAN, val_batch=min(int(plan["batch"]), plan.get("val_batch") or int(plan["batch"])))
    while "batch" in kinds and int(current["batch"]) > 1:
        half = int(current["batch"]) // 2
        val_batch = current.get("val_batch")
        step("batch", batch=half, **({"val_batch": min(half, val_batch)} if val_batch else {}))
    if "checkpointing" in kinds:
        step("checkpointing", checkpointing=True)
    for size in IMAGE_SIZES:
        if "imgsz" in kinds and least_imgsz <= size < int(current["imgsz"]):
            step("imgsz", imgsz=size)
    return steps


def same(plan: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Whether two plans decide memory alike; a key that one of them lacks does not tell them apart."""
    return all({**OFF, **plan}[key] == {**OFF, **other}[key] for key in plan.keys() & other.keys() | OFF.keys())


def next_fallback(
    plan: Mapping[str, Any], failed: Sequence[Mapping[str, Any]], kinds: Sequence[str], least_imgsz: int
) -> Fallback | None:
    """The first fallback below `plan` that has not failed in this run; None if there is none left."""
    for fallback in ladder(plan, kinds, least_imgsz):
        if not any(same(fallback.plan, other) for other in failed):
            return fallback
    return None
