"""What torch's allocators take of a GPU for tensors that live: pure arithmetic on the constants in their sources.

None of it was measured on a GPU by us: it is checked on the values that the allocators' sources and messages name, and
calibration replaces it by what a machine really takes.
"""

from __future__ import annotations

from collections.abc import Iterable

from rddkit.memory import MIB

# c10/core/AllocatorConfig.h: requests are rounded up to 512 bytes; up to 1 MiB they share segments of 2 MiB, up to
# 10 MiB segments of 20 MiB, and larger ones get a segment of their own in steps of 2 MiB.
BLOCK, SMALL, SMALL_SEGMENT = 512, MIB, 2 * MIB
LARGE, LARGE_SEGMENT, ROUND = 10 * MIB, 20 * MIB, 2 * MIB
# ATen/mps/MPSAllocator.h: heaps of 8 MiB for requests up to 1 MiB, of 32 MiB up to 10 MiB, larger ones in steps of
# 2 MiB (or out of heaps of 1 GiB while memory is plenty).
MPS_SMALL_HEAP, MPS_LARGE_HEAP, MPS_HUGE_HEAP = 8 * MIB, 32 * MIB, 1024 * MIB
MPS_HIGH, MPS_LOW, MPS_HIGHEST = 1.7, 1.4, 2.0  # default watermark ratios, and the most that is accepted
CONTEXT = 450 * MIB  # kernels and driver structures of a CUDA process, outside of the allocator
LIBRARIES = 64 * MIB  # workspaces of cuBLAS and cuDNN
HALF = 0.6  # of the activations under AMP: half precision but for norms and the loss


def up(size: float, step: int) -> int:
    """`size` rounded up to whole steps."""
    return -(-round(size) // step) * step


def cuda_segments(requests: Iterable[int]) -> int:
    """Bytes that the CUDA caching allocator reserves for requests that live together, none of it yet cached."""
    small = medium = own = 0
    for size in requests:
        rounded = up(max(size, 1), BLOCK)
        if rounded <= SMALL:
            small += rounded
        elif rounded < LARGE:
            medium += rounded
        else:
            own += up(rounded, ROUND)
    return up(small, SMALL_SEGMENT) + up(medium, LARGE_SEGMENT) + own


def mps_heaps(requests: Iterable[int], pressed: bool = True) -> int:
    """Bytes of the heaps that MPS makes for requests that live together.

    `pressed`: memory is above the low watermark, so that no heap of 1 GiB is made for a large request.
    """
    small = medium = huge = own = 0
    for size in requests:
        if size <= SMALL:
            small += size
        elif size < LARGE:
            medium += size
        elif size < MPS_HUGE_HEAP // 2 and not pressed:
            huge += size
        else:
            own += up(size, ROUND)
    return up(small, MPS_SMALL_HEAP) + up(medium, MPS_LARGE_HEAP) + up(huge, MPS_HUGE_HEAP) + own


def mps_limit(recommended: int, ratio: float = MPS_HIGH) -> int:
    """Bytes at which MPS raises: a ratio of `recommended_max_memory`, by default above physical memory; 0 means never.

    Raises ValueError for a ratio that MPS refuses.
    """
    if not 0 <= ratio <= MPS_HIGHEST:
        raise ValueError(f"watermark ratio {ratio} is outside of 0 to {MPS_HIGHEST}")
    return int(recommended * ratio)


def on_cuda(state: float, activations: float, amp: bool) -> dict[str, float]:
    """What a step takes of a CUDA device, by component.

    Args:
        state: weights, gradients, average and optimizer.
        activations: at the step's peak, in single precision.
        amp: whether most of them are in half precision.
    """
    shrunk = activations * HALF if amp else activations
    slack = up(state, SMALL_SEGMENT) - state + up(shrunk, LARGE_SEGMENT) - shrunk
    return {"activations": shrunk, "allocator": slack, "context": CONTEXT, "libraries": LIBRARIES}


def on_mps(state: float, activations: float) -> dict[str, float]:
    """What a step takes of unified memory through MPS, by component."""
    slack = up(state, MPS_SMALL_HEAP) - state + up(activations, MPS_LARGE_HEAP) - activations
    return {"activations": activations, "allocator": slack}
