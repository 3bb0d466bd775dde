"""The fallbacks: lighter plans in the order of what they cost in accuracy. Pure decisions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from rddkit.config import ConfigError, nearest

KINDS = ("lean", "batch", "checkpointing", "imgsz")
NEXT = "next"  # instead of a fallback's name: the first that may be taken
IMAGE_SIZES = (640, 512, 416, 320)
COSTS = {
    "lean": "free: validation, plots, caches, the allocator and what is kept for backward are made lighter",
    "batch": "nearly free: gradients accumulate to the same effective batch; BatchNorm sees fewer images",
    "checkpointing": "time: whole layers are computed twice",
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

    @property
    def name(self) -> str:
        """What people call it by: `lean`, `batch 1`, `checkpointing`, `imgsz 512`."""
        return f"{self.kind} {self.changes[self.kind]}" if self.kind in ("batch", "imgsz") else self.kind


@dataclass(frozen=True)
class Known:
    """A fallback and whether it can be taken; `note` says why not, or with what evidence it failed."""

    fallback: Fallback
    standing: Literal["open", "failed", "left out"]
    note: str = ""


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
        val_batch = min(int(plan["batch"]), plan.get("val_batch") or int(plan["batch"]))
        step("lean", **LEAN, val_batch=val_batch, checkpointing=plan.get("checkpointing") or "norms")
    devices = int(plan.get("devices") or 1)
    while "batch" in kinds and int(current["batch"]) > devices:
        half = max(devices, int(current["batch"]) // 2 // devices * devices)  # the same number of images for each
        val_batch = current.get("val_batch")
        step("batch", batch=half, **({"val_batch": min(half, val_batch)} if val_batch else {}))
    if "checkpointing" in kinds:
        step("checkpointing", checkpointing="layers")
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


def known(
    plan: Mapping[str, Any], failed: Sequence[Mapping[str, Any]], kinds: Sequence[str], least_imgsz: int
) -> list[Known]:
    """Every fallback below `plan`, those that may not be taken included; `next_fallback` is the first open one.

    One that is left out is told by its own change; the plans of the others do not contain it.
    """
    usable = {step.name: step for step in ladder(plan, kinds, least_imgsz)}
    allowed = f"safety.yaml allows {', '.join(kinds) or 'none'}"
    told = []
    for step in ladder(plan, KINDS, 0):
        if step.name in usable:
            told.append(_judged(usable[step.name], failed))
        else:
            told.append(Known(step, "left out", f"below min_imgsz {least_imgsz}" if step.kind in kinds else allowed))
    return told


def _judged(fallback: Fallback, failed: Sequence[Mapping[str, Any]]) -> Known:
    before = next((other for other in failed if same(fallback.plan, other)), None)
    if before is None:
        return Known(fallback, "open")
    return Known(fallback, "failed", str(before.get("evidence") or "no evidence was kept"))


def choose(told: Sequence[Known], choice: str) -> Fallback:
    """The fallback of that name, or the next one. ConfigError says why not, and what there is instead."""
    able = [one.fallback.name for one in told if one.standing == "open"]
    if not able:
        why = "; ".join(f"{one.fallback.name}: {one.standing}, {one.note}" for one in told)
        raise ConfigError(f"no lighter plan is left ({why or 'there is none below this one'})")
    names = [NEXT, *(one.fallback.name for one in told)]
    there = f"There {'is' if len(able) == 1 else 'are'}: {', '.join(able)}; or {NEXT}, the first of them"
    if choice not in names:
        raise ConfigError(f"there is no fallback {choice!r} below this plan.{nearest(choice, names)} {there}")
    found = next(one for one in told if one.fallback.name == (able[0] if choice == NEXT else choice))
    if found.standing != "open":
        how = "has failed in this run" if found.standing == "failed" else "is left out by the safety settings"
        raise ConfigError(f"the fallback {choice!r} {how} ({found.note}). {there}")
    return found.fallback
