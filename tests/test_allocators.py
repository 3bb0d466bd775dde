"""Allocators: what each says when memory is out, and what only sounds like it."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from rddkit import allocators
from rddkit.allocators import MESSAGES, SETTINGS, stage_of, who_ran_out

CUDA = (
    "CUDA out of memory. Tried to allocate 20.00 MiB. GPU 0 has a total capacity of 78.00 GiB of which 12.00 MiB is "
    "free. Of the allocated memory 77.10 GiB is allocated by PyTorch, and 310.00 MiB is reserved by PyTorch but "
    "unallocated. If reserved but unallocated memory is large try setting PYTORCH_CUDA_ALLOC_CONF"
)
MPS = (
    "MPS backend out of memory (MPS allocated: 9.05 GB, other allocations: 1.20 GB, max allowed: 10.20 GB). Tried to "
    "allocate 512.00 MB on private pool. Use PYTORCH_MPS_HIGH_WATERMARK_RATIO=0.0 to disable upper limit for memory "
    "allocations (may cause system failure)."
)
CPU = (
    "[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory: you tried to allocate "
    "2147483648 bytes. Error code 12 (Cannot allocate memory)"
)
OPENCV = (
    "OpenCV(5.0.0) /io/opencv/modules/core/src/alloc.cpp:73: error: (-4:Insufficient memory) Failed to allocate "
    "2700000000 bytes in function 'OutOfMemoryError'\n"
)
SPOKEN = [
    ("OutOfMemoryError", CUDA, "torch on CUDA"),
    ("RuntimeError", CUDA, "torch on CUDA"),
    ("RuntimeError", "CUDA error: out of memory\nCUDA kernel errors might be ...", "the CUDA driver"),
    ("RuntimeError", "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`", "cuBLAS"),
    ("RuntimeError", "cuDNN error: CUDNN_STATUS_ALLOC_FAILED", "cuDNN"),
    ("RuntimeError", "cuDNN error: CUDNN_STATUS_INTERNAL_ERROR", "cuDNN"),
    ("RuntimeError", "Unable to find an engine to execute this computation", "cuDNN"),
    ("RuntimeError", MPS, "torch on MPS"),
    ("RuntimeError", "Invalid buffer size: 14.20 GB", "Metal"),
    ("RuntimeError", CPU, "torch on the CPU"),
    ("RuntimeError", "DefaultCPUAllocator: not enough memory: you tried to allocate 8 bytes.", "torch on the CPU"),
    ("MemoryError", "", "Python or numpy"),
    ("MemoryError", "Unable to allocate 1.00 PiB for an array with shape (1,)", "Python or numpy"),
    ("_ArrayMemoryError", "", "Python or numpy"),
    ("RuntimeError", "Unable to allocate 4.00 GiB for an array with shape (1073741824,)", "numpy"),
    ("RuntimeError", "could not create a primitive", "oneDNN"),
    ("error", OPENCV, "OpenCV"),
    ("RuntimeError", "std::bad_alloc", "the C++ library"),
    ("", "memory allocation of 1520 bytes failed", "a Rust library"),
    ("OSError", "[Errno 12] Cannot allocate memory", "the kernel"),
    ("RuntimeError", "can't start new thread", "the kernel"),
    ("RuntimeError", "unable to mmap 178000000 bytes from file </results/x.pt>: Cannot", "torch's file reader"),
    ("AcceleratorError", "XPU out of memory", "an allocator"),
]
OTHER = [
    ("FileNotFoundError", "[Errno 2] No such file or directory: 'x.jpg'"),
    ("OSError", "[Errno 28] No space left on device"),
    ("RuntimeError", "shape '[2]' is invalid for input of size 3"),
    ("RuntimeError", "CUDA error: device-side assert triggered"),
    ("RuntimeError", "CUDA error: an illegal memory access was encountered"),
    ("RuntimeError", "CUDA error: no kernel image is available for execution on the device"),
    ("RuntimeError", "Found no NVIDIA driver on your system."),
    ("RuntimeError", "PytorchStreamReader failed reading zip archive: failed finding central directory"),
    ("RuntimeError", "Expected all tensors to be on the same device, but found at least two devices, mps:0 and cpu!"),
    ("ValueError", "buffer length (3 bytes) after offset (0 bytes) must be a multiple of element size (4)"),
    ("error", "OpenCV(5.0.0) resize.cpp:4211: error: (-215:Assertion failed) !ssize.empty() in function 'resize'"),
    ("NonFinite", "loss is not finite at epoch 3, batch 5"),
    ("IndexError", "list index out of range"),
    ("BrokenPipeError", "[Errno 32] Broken pipe"),
    ("RuntimeError", "DataLoader worker (pid 4242) is killed by signal: Killed. "),
    ("ValueError", ""),
]


@pytest.mark.parametrize(("kind", "text", "owner"), SPOKEN, ids=[f"{row[2]}: {row[1][:24]}" for row in SPOKEN])
def test_an_allocator_that_ran_out_is_recognised_by_its_own_words(kind: str, text: str, owner: str) -> None:
    assert who_ran_out(kind, text) == owner
    assert who_ran_out(kind, text.upper()) == owner, "whatever the case"


@pytest.mark.parametrize(("kind", "text"), OTHER, ids=[f"{row[0]}: {row[1][:32]}" for row in OTHER])
def test_another_exception_is_not_taken_for_memory(kind: str, text: str) -> None:
    assert who_ran_out(kind, text) is None


def test_a_library_without_room_in_static_tls_is_not_out_of_memory() -> None:
    # dlopen on aarch64, opencv/opencv#14884: a matter of import order, which no lighter plan mends.
    assert who_ran_out("ImportError", "libgomp.so.1: cannot allocate memory in static TLS block") is None


def test_a_metal_command_buffer_without_memory_is_metals() -> None:
    text = "Error: command buffer exited with error status.\n\tInsufficient Memory (00000008:kIOGPUCommandBuffer"
    assert who_ran_out("", text) == "Metal"


@pytest.mark.parametrize(("part", "owner"), MESSAGES)
def test_every_message_of_the_table_is_found_and_none_hides_a_later_one(part: str, owner: str) -> None:
    assert part == part.lower(), "texts are compared in lower case"
    assert who_ran_out("RuntimeError", f"before {part} after") == owner


def test_a_message_is_found_in_the_middle_of_a_log() -> None:
    log = f"epoch 3/200\nterminate called after throwing an instance\n  what():  {CPU}\nAborted\n"
    assert who_ran_out("", log) == "torch on the CPU"


# In a process of its own: torch takes 540 MiB, and a limit cannot be taken back. Nothing is touched, only asked for.
REAL = """
import json, mmap, resource, sys
import cv2, numpy, torch
from rddkit.allocators import who_ran_out
resource.setrlimit(resource.RLIMIT_DATA, (3 << 30, resource.RLIM_INFINITY))
asks = {
    "torch": lambda: torch.empty(4 << 30, dtype=torch.uint8),
    "numpy": lambda: numpy.empty(4 << 30, dtype=numpy.uint8),
    "python": lambda: bytearray(4 << 30),
    "opencv": lambda: cv2.resize(numpy.zeros((1, 1, 4), numpy.uint8), (32768, 32768)),
    "mmap": lambda: mmap.mmap(-1, 1 << 47),
    "shape": lambda: torch.zeros(3).view(2),
    "file": lambda: open("/nowhere/at/all"),
}
heard = {}
for name, ask in asks.items():
    try:
        ask()
    except Exception as error:
        heard[name] = who_ran_out(type(error).__name__, str(error))
print(json.dumps(heard))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="RLIMIT_DATA binds on Linux alone")
def test_what_real_libraries_say_here_and_now_is_recognised() -> None:
    answer = subprocess.run([sys.executable, "-W", "ignore", "-c", REAL], capture_output=True, text=True, check=True)
    assert json.loads(answer.stdout) == {
        "torch": "torch on the CPU",
        "numpy": "Python or numpy",
        "python": "Python or numpy",
        "opencv": "OpenCV",
        "mmap": "the kernel",
        "shape": None,
        "file": None,
    }


def test_settings_are_plain_environment_and_lean_gives_back_smaller_blocks() -> None:
    thresholds = {name: int(settings["MALLOC_MMAP_THRESHOLD_"]) for name, settings in SETTINGS.items()}
    assert thresholds == {"default": 3 << 20, "lean": 2 << 20}
    assert all(settings["GLIBC_TUNABLES"] == "glibc.malloc.hugetlb=1" for settings in SETTINGS.values())


@pytest.mark.parametrize(
    ("functions", "stage"),
    [
        ([], "training"),
        (["main", "run"], "training"),
        (["train", "_do_train", "_forward_backward", "forward"], "the forward pass"),
        (["_do_train", "_forward_backward", "backward"], "the backward pass"),
        (["_do_train", "optimizer_step", "step"], "the optimizer's step"),
        (["_do_train", "validate", "__call__", "forward"], "validation"),
        (["_do_train", "validate", "__next__", "load_image"], "validation"),
        (["_do_train", "final_eval", "validate"], "the final evaluation"),
        (["_do_train", "save_model", "deepcopy"], "saving a checkpoint"),
        (["_do_train", "take", "save"], "saving a snapshot"),
        (["_setup_train", "load_image"], "setting up"),
        (["_do_train", "__next__", "fetch", "load_image"], "loading images"),
    ],
)
def test_what_training_was_doing_is_told_by_the_stack(functions: list[str], stage: str) -> None:
    assert stage_of(functions) == stage


def test_every_stage_of_the_table_is_reached() -> None:
    for function, stage in allocators.STAGES:
        assert stage_of(["main", function]) == stage
