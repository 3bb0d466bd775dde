"""What a plan needs, by component and phase: pure arithmetic over a model's traits, without torch.

The constants of the CPU were fitted on one half of benchmarks/memory_accuracy.py's plans and checked on the other half.
Bytes throughout.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rddkit import gpu
from rddkit.memory import MIB, human
from rddkit.traits import Traits

# Tensors an optimizer keeps for each weight (torch.optim; ultralytics/optim/muon.py keeps two momenta). `auto` takes
# MuSGD or AdamW (ultralytics/engine/trainer.py, build_optimizer).
OPTIMIZER_STATES = {"sgd": 1, "musgd": 2, "auto": 2}  # all others: 2
PREFETCH = 4  # batches each loader process prepares (ultralytics/data/build.py)
GROWTH = 1.125  # of a BytesIO (CPython, Modules/_io/bytesio.c)
LOADER = 200 * MIB  # a loader process beyond what it shares; not measured by us
# What `checkpointing` leaves of a step's activations: 0.71 to 0.76 and 0.31 to 0.36 in traces of eight models of all
# families (tests/test_checkpointing.py traces two).
LEFT = {"norms": 0.74, "layers": 0.35}
LOSS_TENSORS = 10  # of 4 bytes for each (object, anchor) pair while objects are assigned (ultralytics/utils/tal.py)


@dataclass(frozen=True)
class Costs:
    """What a framework and its allocator add on the CPU; bases in bytes, all else factors.

    In training: `weights` of the model and its average, `states` of gradients and what the optimizer keeps (much of it
    fills gaps between activations), `activations` of what lives, `pixels` bytes for a pixel of each image of the batch
    (loaded, augmented, kept for mosaics). `after_...`: what is held while the epoch ends in validation; `copies`: of
    those that saving makes.
    """

    base: float
    weights: float
    states: float
    activations: float
    pixels: float
    after_base: float
    after_weights: float
    after_states: float
    after_activations: float
    after_forward: float
    after_pixels: float
    copies: float
    saving_activations: float
    plots: float


# Fitted on every second plan of benchmarks/memory_accuracy.py's grid, three runs of three epochs each: torch 2.14.1,
# ultralytics 8.4.190, Linux x86-64, glibc, one thread. `plots` on one plan. A lean plan's allocator settings change
# none of them: what it saves is what checkpointing leaves out.
CPU = Costs(
    base=769 * MIB,
    weights=2,
    states=0.235,
    activations=1.34,
    pixels=14,
    after_base=748 * MIB,
    after_weights=1.36,
    after_states=1.97,
    after_activations=0.715,
    after_forward=1.81,
    after_pixels=50.5,
    copies=0.893,
    saving_activations=0.302,
    plots=40 * MIB,
)


@dataclass(frozen=True)
class Facts:
    """What besides model and plan decides memory: `objects`, an image's boxes on average; `mosaic`, its probability."""

    optimizer: str = "auto"
    device: str = "cpu"
    objects: float = 2.0
    mosaic: float = 1.0
    train_images: int = 0
    val_images: int = 0


@dataclass(frozen=True)
class Correction:
    """What calibration found out about a machine: bytes to add, and a factor for what grows with the batch."""

    offset: float = 0.0
    slope: float = 1.0


@dataclass(frozen=True)
class Need:
    """What a plan needs: the predicted peak, its phase, its parts in that phase, and every phase's total."""

    estimate: int
    phase: str
    components: dict[str, int]
    phases: dict[str, int]


def assigned_objects(objects: float, mosaic: float) -> float:
    """Objects of the fullest image in a batch, to whose number all others are padded: a mosaic has four images'."""
    shown = objects * (4 if mosaic > 0 else 1)
    return shown + 3 * math.sqrt(shown)  # counts scatter like a Poisson variable's


def kept_by(optimizer: str) -> int:
    """Tensors that an optimizer keeps for each weight."""
    return OPTIMIZER_STATES.get(optimizer.lower(), 2)


def parts(traits: Traits, plan: Mapping[str, Any], facts: Facts, costs: Costs = CPU) -> dict[str, dict[str, float]]:
    """Bytes by phase and component on the CPU, before any correction."""
    batch, pixels = int(plan["batch"]), float(int(plan["imgsz"]) ** 2)
    val_batch = int(plan.get("val_batch") or 2 * batch)
    val_pixels = float(int(plan.get("val_imgsz") or plan["imgsz"]) ** 2)
    states = kept_by(facts.optimizer)
    pairs = assigned_objects(facts.objects, facts.mosaic) * traits.anchors * pixels
    step, held = (left(plan) * curve.at(batch, pixels) for curve in (traits.backward, traits.held))
    loss = max(0.0, held + batch * pairs * 4 * LOSS_TENSORS - step)
    loading = loaders(plan, facts)
    weights = {"weights": traits.state, "average of weights": traits.state}
    train = {
        "framework": costs.base,
        **{name: costs.weights / 2 * size for name, size in weights.items()},
        "gradients": costs.states * traits.trained,
        "optimizer": costs.states * states * traits.trained,
        "activations": step,
        "loss": loss,
        "allocator": (costs.activations - 1) * (step + loss),
        "loading": costs.pixels * pixels * batch + loading,
    }
    forward = traits.forward.at(val_batch, val_pixels)
    after = {
        "framework": costs.after_base,
        **{name: costs.after_weights / 2 * size for name, size in weights.items()},
        "gradients": costs.after_states * traits.trained,
        "optimizer": costs.after_states * states * traits.trained,
        "kept from training": costs.after_activations * step,
        "validation": costs.after_forward * forward + costs.after_pixels * val_pixels * val_batch,
        "loading": loading,
    }
    # ultralytics/engine/trainer.py, save_model: the average and the optimizer's state are copied, copies halved; the
    # file is built in a buffer, which grows by an eighth beyond what it holds.
    kept = traits.trained * states
    copied = 1.5 * (traits.state + kept) + GROWTH * 0.5 * (traits.state + kept)
    saving = {
        "framework": costs.after_base,
        **weights,
        "gradients": float(traits.trained),
        "optimizer": float(kept),
        "checkpoint being saved": costs.copies * copied,
        "kept from training": costs.saving_activations * step,
        "loading": loading,
    }
    if plan.get("plots"):
        train["plots"] = after["plots"] = saving["plots"] = costs.plots
    return {"training": train, "validation": after, "saving": saving}


def loaders(plan: Mapping[str, Any], facts: Facts) -> float:
    """Bytes of loader processes with the batches they prepare, and of images cached in memory."""
    batch, pixels = int(plan["batch"]), float(int(plan["imgsz"]) ** 2)
    workers = int(plan.get("workers") or 0) if facts.device.startswith("cuda") else 0  # elsewhere Ultralytics has none
    ahead = workers * (LOADER + PREFETCH * batch * pixels * 3)
    cached = facts.train_images + facts.val_images if str(plan.get("cache")) in ("ram", "True") else 0
    return ahead + cached * pixels * 3


def left(plan: Mapping[str, Any]) -> float:
    """The share of a step's activations that a plan keeps for backward."""
    return LEFT.get(str(plan.get("checkpointing")), 1.0)


def share(plan: Mapping[str, Any]) -> Mapping[str, Any]:
    """What one of a plan's devices is given: an even share of its images."""
    devices = int(plan.get("devices") or 1)
    shared = {key: max(1, int(plan[key]) // devices) for key in ("batch", "val_batch") if plan.get(key)}
    return {**plan, **shared}


def phases(traits: Traits, plan: Mapping[str, Any], facts: Facts) -> dict[str, dict[str, float]]:
    """Bytes by phase and component on the plan's kind of device, on each where there are several, uncorrected.

    CUDA: what the GPU holds. MPS: GPU and process share one memory, and both are counted. Neither was measured by us.
    """
    plan = share(plan)
    if facts.device.startswith("cuda"):
        return {"training": _on_device(traits, plan, facts)}
    found = parts(traits, plan, facts)
    if facts.device == "mps":
        found["training"] |= _on_device(traits, plan, facts)
    return found


def _on_device(traits: Traits, plan: Mapping[str, Any], facts: Facts) -> dict[str, float]:
    states = kept_by(facts.optimizer) * traits.trained
    kept = {"weights": traits.state, "average of weights": traits.state, "gradients": traits.trained}
    kept["optimizer"] = states
    if int(plan.get("devices") or 1) > 1:
        kept["gradients on their way"] = traits.trained  # DDP's buckets
    step = left(plan) * traits.backward.at(int(plan["batch"]), float(int(plan["imgsz"]) ** 2))
    if facts.device == "mps":
        return {**kept, **gpu.on_mps(sum(kept.values()), step)}
    return {**kept, **gpu.on_cuda(sum(kept.values()), step, bool(plan.get("amp")))}


# Components that do not grow with the batch.
STILL = frozenset("framework weights gradients optimizer context libraries plots".split())
STILL |= {"average of weights", "checkpoint being saved", "gradients on their way"}


def corrected(found: Mapping[str, float], correction: Correction) -> dict[str, float]:
    """Components as calibration saw them on this machine: what grows with the batch by its factor, the rest moved."""
    kept = {name: size * (1.0 if name in STILL else correction.slope) for name, size in found.items()}
    first = "framework" if "framework" in kept else "context"
    return {**kept, first: kept[first] + correction.offset}


def need(traits: Traits, plan: Mapping[str, Any], facts: Facts, correction: Correction | None = None) -> Need:
    """What a plan needs: the maximum over the phases of an epoch, with its parts."""
    correction = correction or Correction()
    found = {name: corrected(sizes, correction) for name, sizes in phases(traits, plan, facts).items()}
    totals = {name: round(sum(sizes.values())) for name, sizes in found.items()}
    phase = max(totals, key=lambda name: totals[name])
    components = {name: round(size) for name, size in found[phase].items() if round(size)}
    return Need(totals[phase], phase, components, totals)


# How far a machine may be from the one of the constants, and how much runs of one plan scatter (standard deviations).
OFFSET_SPREAD, SLOPE_SPREAD, RUN_SPREAD = 60 * MIB, 0.05, 0.016
HIGHEST_OF_THREE = 1.012  # a plan's peak is the highest of three runs: 0.85 standard deviations above their mean
MARGIN = {"calibrated": 0.075, "traced": 0.10, "unknown": 0.20}  # what the safe bound adds


def calibrate(seen: Sequence[tuple[Mapping[str, float], float]]) -> Correction:
    """The likeliest correction, given what runs of some plans held at most: a linear model with a normal prior.

    Two runs alone would say little: at small images their batches differ by less than runs of one plan do.

    Args:
        seen: for each run the components predicted without correction, and its measured peak.
    """
    a, b, c, d, e = 1 / OFFSET_SPREAD**2, 0.0, 1 / SLOPE_SPREAD**2, 0.0, 0.0  # [[a, b], [b, c]] x = [d, e]
    for found, peak in seen:
        grows = sum(size for name, size in found.items() if name not in STILL)
        weight = 1 / (RUN_SPREAD * peak) ** 2
        rest = peak * HIGHEST_OF_THREE - sum(found.values())
        a, b, c = a + weight, b + weight * grows, c + weight * grows**2
        d, e = d + weight * rest, e + weight * rest * grows
    offset, slope = (d * c - b * e) / (a * c - b * b), (a * e - b * d) / (a * c - b * b)
    return Correction(offset, max(0.5, 1 + slope))


def least(estimate: float, sureness: str) -> int:
    """The estimate less its margin: a plan whose budget is below it cannot fit; between the two bounds a try tells."""
    return round(estimate * (1 - MARGIN[sureness]))


def safe_bound(estimate: float, sureness: str) -> int:
    """The estimate with its margin, below which no measured plan's peak was (benchmarks/memory_accuracy.py)."""
    return round(estimate * (1 + MARGIN[sureness]))


def compared(estimated: int, held: int) -> str:
    """How an estimate and what was held at most agree, in words."""
    return f"{human(held)} were held at most, {held / estimated - 1:+.0%} of the {human(estimated)} estimated"
