"""Caps turn a kill into an exception, so that the process lives to tell: arithmetic, and the calls that set them."""

from __future__ import annotations

import contextlib
import os
import sys
from typing import NamedTuple

from rddkit import memory

# RLIMIT_DATA counts what is mapped, and libraries map more than they touch: torch 0.6 GiB with yolov8n on Linux, an
# allocator such as mimalloc a GiB at a time. A cap set before torch starts leaves room for that, as a cap that no plan
# gets through would be the worse mistake; the one set when the model is there is exact.
UNTOUCHED = 3 << 30
LOW_TO_HIGH = 0.9  # MPS refuses a low watermark above the high one, and a high one below 1.4 alone
VICTIM = 900  # of 1000: the kernel's first choice is the worker, never the notebook


class Cap(NamedTuple):
    """A cap and why it is what it is. `limit` in bytes, or None where there is none."""

    limit: int | None
    reason: str


def environment(device: str, budget: int, mps_recommended: int | None) -> dict[str, str]:
    """The environment that caps a device's allocator; it must be set before torch is imported.

    MPS limits itself to a ratio of `recommended_max_memory` (MPSAllocator.h), by default 1.7 of it: above physical
    memory, so that the system kills before it raises.
    """
    if device != "mps" or not mps_recommended:
        return {}
    high = max(0.05, min(budget / mps_recommended, 1.0))
    return {
        "PYTORCH_MPS_HIGH_WATERMARK_RATIO": f"{high:.3f}",
        "PYTORCH_MPS_LOW_WATERMARK_RATIO": f"{high * LOW_TO_HIGH:.3f}",
    }


def cuda_fraction(budget: int | None, free: int, total: int) -> float:
    """The share of a GPU's memory that the process may take (torch.cuda.set_per_process_memory_fraction).

    Args:
        budget: bytes asked for; None takes what is free now, less a twentieth of the whole.
        free: bytes free on the GPU before this process takes any.
        total: bytes it has.
    """
    wanted = free - total // 20 if budget is None else budget
    return max(0.01, min(wanted / total, 1.0))


def data_limit(mapped: int, held: int, budget: int) -> int:
    """RLIMIT_DATA that lets a process grow until it holds `budget`.

    The limit counts private writable mappings alone. What a process holds beside them, shared memory and page tables,
    takes from the budget as much as they do, so that it lessens what they may still grow by.

    Args:
        mapped: its private writable memory now, touched or not (`memory.mapped`).
        held: what it holds now, in charged bytes (`memory.process`).
        budget: what it may hold, in charged bytes.
    """
    return mapped + max(0, budget - held)


def before_torch(budget: int, wanted: bool) -> Cap:
    """Make this process the kernel's first victim and, where `wanted`, cap it roughly, before torch is imported."""
    if not sys.platform.startswith("linux"):
        return Cap(None, "RLIMIT_DATA binds on Linux alone")
    with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "w", encoding="ascii") as file:
        file.write(str(VICTIM))
    if not wanted:
        return Cap(None, "caps are off (cap in safety.yaml)")
    return _limit_data(budget + UNTOUCHED, "the budget and what torch maps without touching")


def on_device(device: str, budget: int | None) -> Cap:
    """Cap a CUDA device's allocator; torch is loaded, and nothing is on the device yet."""
    torch = sys.modules.get("torch")
    if not device.startswith("cuda") or torch is None:
        return Cap(None, "not a CUDA device")
    index = int(device.partition(":")[2] or 0)
    free, total = torch.cuda.mem_get_info(index)
    share = cuda_fraction(budget, free, total)
    torch.cuda.set_per_process_memory_fraction(share, index)
    return Cap(int(total * share), f"{share:.0%} of the GPU's {memory.human(total)}")


def with_model(budget: int, wanted: bool) -> Cap:
    """Cap this process exactly, once the model is there."""
    if not wanted or not sys.platform.startswith("linux"):
        return Cap(None, "no cap on the process")
    mapped, held = memory.mapped(os.getpid()), memory.process(os.getpid())
    return _limit_data(data_limit(mapped.bytes, held.bytes, budget), "what is mapped now and the rest of the budget")


def _limit_data(limit: int, reason: str) -> Cap:
    import resource

    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    allowed = limit if hard == resource.RLIM_INFINITY else min(limit, hard)
    resource.setrlimit(resource.RLIMIT_DATA, (allowed, hard))
    return Cap(allowed, f"RLIMIT_DATA: {reason}")
