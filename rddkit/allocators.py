"""Allocators: how a lean plan sets them, and what they say when memory is out."""

from __future__ import annotations

# (part of the message, whose it is). Sources: torch c10/core/CPUAllocator.cpp and c10/mobile; MPSAllocator.mm;
# c10/cuda/CUDACachingAllocator.cpp; cuBLAS and cuDNN status names; OpenCV alloc.cpp; numpy; libstdc++; Rust's
# alloc.rs ("memory allocation of 1520 bytes failed", then it aborts).
MESSAGES: tuple[tuple[str, str], ...] = (
    ("defaultcpuallocator", "torch on the CPU"),
    ("can't allocate memory", "torch on the CPU"),
    ("mps backend out of memory", "torch on MPS"),
    ("invalid buffer size", "Metal"),
    ("cuda out of memory", "torch on CUDA"),
    ("cuda error: out of memory", "the CUDA driver"),
    ("out of memory", "an allocator"),
    ("cublas_status_alloc_failed", "cuBLAS"),
    ("cudnn_status_alloc_failed", "cuDNN"),
    ("cudnn_status_internal_error", "cuDNN"),
    ("unable to find an engine", "cuDNN"),
    # oneDNN has no other words for it: seen under a cap, in the forward pass of yolov8n 1x416 (torch 2.14.1).
    ("could not create a primitive", "oneDNN"),
    ("insufficient memory (0000", "Metal"),
    ("insufficient memory", "OpenCV"),
    ("unable to allocate", "numpy"),
    ("std::bad_alloc", "the C++ library"),
    ("memory allocation of", "a Rust library"),
    ("cannot allocate memory", "the kernel"),
    ("can't start new thread", "the kernel"),
    ("unable to mmap", "torch's file reader"),
)

# Environment of the worker by the plan's `allocator`; benchmarks/lean.py and benchmarks/peak.py have the figures. glibc
# gives a freed block of at least the threshold back to the system at once, instead of keeping the gaps of one step for
# the next: the lower it is, the less memory and the more time. Huge pages (glibc 2.35; others pass it over) make memory
# that is asked for anew cheaper.
HUGE_PAGES = {"GLIBC_TUNABLES": "glibc.malloc.hugetlb=1"}
SETTINGS: dict[str, dict[str, str]] = {
    "default": {"MALLOC_MMAP_THRESHOLD_": str(3 << 20), **HUGE_PAGES},
    "lean": {"MALLOC_MMAP_THRESHOLD_": str(2 << 20), **HUGE_PAGES},
}


NOT_MEMORY = "cannot allocate memory in static tls block"  # dlopen


def who_ran_out(kind: str, text: str) -> str | None:
    """Whose memory ran out, by an exception's class name and text (or a log's end); None if it is another matter."""
    if kind in ("MemoryError", "_ArrayMemoryError"):
        return "Python or numpy"
    if kind == "OutOfMemoryError":
        return "torch on CUDA"
    lowered = text.lower().replace(NOT_MEMORY, "")
    return next((owner for part, owner in MESSAGES if part in lowered), None)


# (a function on the stack, what training was doing in it), innermost first where several match.
STAGES: tuple[tuple[str, str], ...] = (
    ("optimizer_step", "the optimizer's step"),
    ("backward", "the backward pass"),
    ("save_model", "saving a checkpoint"),
    ("take", "saving a snapshot"),
    ("final_eval", "the final evaluation"),
    ("validate", "validation"),
    ("_setup_train", "setting up"),
    ("load_image", "loading images"),
    ("__next__", "loading images"),
    ("_forward_backward", "the forward pass"),
)


def stage_of(functions: list[str]) -> str:
    """What training was doing, by the names of the functions on the stack, outermost first."""
    called = set(functions)
    return next((stage for function, stage in STAGES if function in called), "training")
