"""What a plan needs, by component and phase: pure arithmetic over a model's traits, without torch.

Charged bytes of the worker's process alone: the supervisor and the caller are not in them, as the budget is what these
leave. The constants of the CPU were fitted to some families of models (benchmarks/memory_truth.py, `FITTED`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from rddkit import allocators, gpu
from rddkit.memory import MIB, human
from rddkit.traits import Traits

# Tensors an optimizer keeps for each weight (torch.optim; ultralytics/optim/muon.py keeps two momenta). `auto` takes
# MuSGD or AdamW (ultralytics/engine/trainer.py, build_optimizer).
OPTIMIZER_STATES = {"sgd": 1, "musgd": 2, "auto": 2}  # all others: 2
PREFETCH = 4  # batches each loader process prepares (ultralytics/data/build.py)
LOADER = 200 * MIB  # a loader process beyond what it shares; not measured by us
# What `checkpointing` leaves of a step's activations: 0.71 to 0.76 and 0.31 to 0.36 in traces of eight models of all
# families (tests/test_checkpointing.py traces two).
LEFT = {"norms": 0.74, "layers": 0.35}
COLORS = 3  # bytes of a pixel
STRIDE = 32  # sides of batches are multiples of it (ultralytics/engine/trainer.py)
RECENT, MOST_RECENT = 8, 1000  # batches and images that a training loader keeps (ultralytics/data/base.py)
LOSS_TENSORS = 10  # of 4 bytes for each (object, anchor) pair while objects are assigned (ultralytics/utils/tal.py)


@dataclass(frozen=True)
class Costs:
    """What a framework and its allocator add to live tensors on the CPU; `base`, `module` and `plots` in bytes.

    `base`: of the process; `module`: of each of the model's. `activations`: of a step, by their live bytes; `gaps`:
    between blocks of the heap, by `heaped`; `turned`: of what MuSGD makes of its gradients. What is left of a step when
    the epoch ends: `kept` of its live bytes, `kept_gaps` of its gaps. Validation: `val_pixels` bytes
    for each pixel of its batch. `copies`: of the weights while they are saved.
    """

    base: float
    module: float
    activations: float
    gaps: float
    turned: float
    kept: float
    kept_gaps: float
    val_pixels: float
    copies: float
    plots: float


# benchmarks/memory_fit.py on benchmarks/memory_truths.csv: torch 2.14.1 with CUDA, which it cannot use, ultralytics
# 8.4.190, Linux x86-64, glibc, one thread. `plots` on few plans.
CPU = Costs(
    base=262 * MIB,
    module=0.0148 * MIB,
    activations=1.05,
    gaps=0.465,
    turned=0.992,
    kept=0.234,
    kept_gaps=0.929,
    val_pixels=30.4,
    copies=0.543,
    plots=80 * MIB,
)


@dataclass(frozen=True)
class Facts:
    """What besides model and plan decides memory.

    `objects`: an image's boxes on average; `mosaic`: its probability; `train_images`, `val_images`: how many there are,
    `fraction` taken off (0: not known); `aspect`: their short side by their long one on average, `squarest`: at most;
    `rect`: whether training has batches of one aspect.
    """

    optimizer: str = "auto"
    device: str = "cpu"
    objects: float = 2.0
    mosaic: float = 1.0
    train_images: int = 0
    val_images: int = 0
    aspect: float = 1.0
    squarest: float = 1.0
    rect: bool = False


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


def train_pixels(plan: Mapping[str, Any], facts: Facts) -> float:
    """Pixels of the largest image that a training step gets.

    ultralytics/models/yolo/detect/train.py, preprocess_batch, draws each batch's size with `multi_scale`;
    data/base.py, set_rectangle, gives a batch with `rect` the shape of its squarest image.
    """
    imgsz, spread = int(plan["imgsz"]), float(plan.get("multi_scale") or 0.0)
    size = (int(imgsz * (1 + spread) + STRIDE) - 1) // STRIDE * STRIDE if spread else imgsz
    short = math.ceil(facts.squarest * size / STRIDE) * STRIDE if facts.rect else size
    return float(size * short)


def val_pixels(plan: Mapping[str, Any], facts: Facts) -> float:
    """Pixels of the largest image that is validated: always `rect`, and half a stride wider (pad=0.5)."""
    size = int(plan.get("val_imgsz") or plan["imgsz"])
    long, short = (math.ceil(side * size / STRIDE + 0.5) * STRIDE for side in (1.0, facts.squarest))
    return float(long * short)


def parts(traits: Traits, plan: Mapping[str, Any], facts: Facts, costs: Costs = CPU) -> dict[str, dict[str, float]]:
    """Bytes by phase and component on the CPU, before any correction."""
    batch, pixels = int(plan["batch"]), train_pixels(plan, facts)
    val_batch, val = int(plan.get("val_batch") or 2 * batch), val_pixels(plan, facts)
    pairs = assigned_objects(facts.objects, facts.mosaic) * traits.anchors * pixels
    curve = traits.step(plan.get("checkpointing"))
    step = curve.at(batch, pixels) - curve.fixed  # gradients, which are counted apart
    # What checkpointing forgets is not there while the loss is computed either.
    held = traits.held.at(batch, pixels) - traits.backward.at(batch, pixels) + step
    loss = max(0.0, held + batch * pairs * 4 * LOSS_TENSORS - step)
    gaps = heaped(traits, batch * pixels, str(plan.get("allocator") or "default"))
    gaps *= step / traits.backward.at(batch, pixels)  # of blocks that checkpointing forgets there are none
    kept = {
        "framework": costs.base + costs.module * traits.modules,
        "weights": float(traits.state),
        "average of weights": float(traits.state),
        "gradients": float(traits.trained),
        "optimizer": float(kept_by(facts.optimizer) * traits.trained),
        "loading": loading(plan, facts),
        "plots": costs.plots if plan.get("plots") else 0.0,
    }
    train = {"activations": step, "loss": loss, "allocator": (costs.activations - 1) * (step + loss)}
    train["allocator"] += costs.gaps * gaps
    left_over = {"kept from training": costs.kept * step + costs.kept_gaps * gaps}
    found = {
        "training": {**kept, **train},
        "validation": {**kept, **left_over, "validation": costs.val_pixels * val * val_batch},
        "saving": {**kept, **left_over, "checkpoint being saved": costs.copies * traits.state},
    }
    if facts.optimizer.lower() == "musgd":
        # ultralytics/optim/muon.py: padded batches of the gradients, and two more copies of them.
        turned = costs.turned * (traits.padded + 2 * traits.trained)
        found["optimizer's step"] = {**kept, **left_over, "gradients being turned": turned}
    return found


def heaped(traits: Traits, pixels: float, allocator: str) -> float:
    """Bytes of a step in the heap, each block weighed by its size as a share of the largest that comes there.

    What is freed there is not given back, and the larger a block the fewer gaps it fits into.

    Args:
        pixels: of all images of the batch.
        allocator: the plan's.
    """
    most = float(allocators.SETTINGS[allocator]["MALLOC_MMAP_THRESHOLD_"])
    sizes = ((size * pixels / most, count * pixels) for size, count in traits.blocks)
    return sum(share * count for share, count in sizes if share < 1)


def loading(plan: Mapping[str, Any], facts: Facts) -> float:
    """Bytes of images held in memory: cached, or kept for mosaics; and of loader processes with what they prepare.

    ultralytics/data/base.py keeps images with their long side at `imgsz`, as they are else: `cache: ram` all of them
    (one that has no room for twice as much leaves it), else the latest eight batches of training, 1,000 images at most.
    """
    batch, size = int(plan["batch"]), int(plan["imgsz"])
    image = COLORS * facts.aspect * size**2
    val_image = COLORS * facts.aspect * int(plan.get("val_imgsz") or size) ** 2
    if str(plan.get("cache")) in ("ram", "True"):
        return facts.train_images * image + facts.val_images * val_image
    workers = int(plan.get("workers") or 0) if facts.device.startswith("cuda") else 0  # elsewhere Ultralytics has none
    recent = min(facts.train_images or MOST_RECENT, RECENT * batch, MOST_RECENT)
    return max(1, workers) * recent * image + workers * (LOADER + PREFETCH * batch * size**2 * COLORS)


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
    step = traits.step(plan.get("checkpointing")).at(int(plan["batch"]), train_pixels(plan, facts))
    if facts.device == "mps":
        return {**kept, **gpu.on_mps(sum(kept.values()), step)}
    return {**kept, **gpu.on_cuda(sum(kept.values()), step, bool(plan.get("amp")))}


# Components that do not grow with the batch.
STILL = frozenset("framework weights gradients optimizer context libraries plots".split())
STILL |= {"average of weights", "checkpoint being saved", "gradients being turned", "gradients on their way"}


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


class Spread(NamedTuple):
    """Standard deviations: of a machine's offset (bytes) and slope from the constants', and of a peak (a share)."""

    offset: float
    slope: float
    run: float


# Where trials lie as near to the trace as plans do on the machine of the constants, they hardly tell that the machine
# is another one, and what they tell may be wrong for other plans; where they lie farther, it is another one.
AS_NEAR = 0.12
ALIKE, OTHER = Spread(20 * MIB, 0.03, 0.05), Spread(60 * MIB, 0.05, 0.016)
MARGIN = {"calibrated": 0.15, "traced": 0.15, "unknown": 0.25}  # what the safe bound adds


def calibrate(seen: Sequence[tuple[Mapping[str, float], float]]) -> Correction:
    """The likeliest correction, given what runs of some plans held at most: a linear model with a normal prior.

    Two runs alone would say little: at small images their batches differ by less than runs of one plan do.

    Args:
        seen: for each run the components predicted without correction, and its measured peak.
    """
    near = all(abs(sum(found.values()) / peak - 1) <= AS_NEAR for found, peak in seen if peak)
    spread = ALIKE if near else OTHER
    a, b, c, d, e = 1 / spread.offset**2, 0.0, 1 / spread.slope**2, 0.0, 0.0  # [[a, b], [b, c]] x = [d, e]
    for found, peak in seen:
        grows = sum(size for name, size in found.items() if name not in STILL)
        weight = 1 / (spread.run * peak) ** 2
        rest = peak - sum(found.values())
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
