"""Readings of memory: what a process holds, the budget's arithmetic, and caches given back."""

from __future__ import annotations

import os
import subprocess
import sys
import types
from typing import Any

import psutil
import pytest

from rddkit import memory
from rddkit.memory import GIB, MIB, Reading, clear_cache, memory_budget


@pytest.mark.parametrize(
    ("count", "words"),
    [(0, "0 MB"), (781 * MIB, "781 MB"), (GIB, "1.0 GB"), (3.14 * GIB, "3.1 GB"), (-2 * GIB, "-2.0 GB")],
)
def test_bytes_are_told_as_people_say_them(count: float, words: str) -> None:
    assert memory.human(count) == words


def test_a_process_holds_something_and_one_that_is_gone_nothing() -> None:
    assert memory.process(os.getpid()).bytes > 10 * MIB
    child = subprocess.Popen(["true"])
    child.wait()
    assert memory.process(child.pid) == Reading(0, "process gone")
    assert memory.tree(child.pid) == Reading(0, "process gone")


@pytest.mark.skipif(sys.platform != "linux", reason="shared pages are told apart on Linux only")
def test_a_tree_counts_pages_that_processes_share_once() -> None:
    code = "import os, time\nblock = bytearray(b'x' * (100 << 20))\nos.fork()\nos.write(1, b'up\\n')\ntime.sleep(60)"
    parent = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
    assert parent.stdout is not None
    try:
        assert [parent.stdout.readline() for _ in range(2)] == [b"up\n"] * 2
        held = memory.tree(parent.pid)
        assert held.source == "proportional set of the process tree"
        assert 100 * MIB < held.bytes < 150 * MIB, "and not twice the 100 MiB"
    finally:
        for child in psutil.Process(parent.pid).children():
            child.kill()
        parent.kill()
        parent.wait()
        parent.stdout.close()


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """16 GiB, 10 of them free."""
    monkeypatch.setattr(memory, "total", lambda system=None: Reading(16 * GIB, "the machine's memory"))
    monkeypatch.setattr(memory, "available", lambda system=None: Reading(10 * GIB, "available on the machine"))


def test_the_budget_is_what_is_free_less_the_reserve(machine: None) -> None:
    budget = memory_budget()
    assert budget.bytes == 10 * GIB - int(16 * GIB * 0.06)
    assert budget.source == "available on the machine now, less 983 MB kept free"


def test_the_budget_counts_what_the_run_holds_already_as_its_own(machine: None) -> None:
    assert memory_budget(keep=GIB, own=3 * GIB).bytes == 12 * GIB


def test_a_budget_asked_for_is_taken_as_it_is(machine: None) -> None:
    assert memory_budget(5 * GIB) == Reading(5 * GIB, "set in safety.yaml")


def test_the_budget_is_never_negative(machine: None) -> None:
    assert memory_budget(keep=64 * GIB).bytes == 0


@pytest.mark.parametrize(
    ("total", "kept"),
    [(GIB, 256 * MIB), (16 * GIB, int(16 * GIB * 0.06)), (512 * GIB, 2 * GIB)],
    ids=["least", "6 %", "most"],
)
def test_the_reserve_is_a_share_within_bounds(monkeypatch: pytest.MonkeyPatch, total: int, kept: int) -> None:
    monkeypatch.setattr(memory, "total", lambda system=None: Reading(total, memory.MACHINE))
    reserve = memory.reserve()
    assert reserve.bytes == kept
    assert reserve.source == f"6% of {memory.human(total)}, at least 256 MB, at most 2.0 GB"


def test_a_cgroup_has_no_system_in_it_and_keeps_a_quarter_of_the_least(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "total", lambda system=None: Reading(GIB, "cgroup limit"))
    assert memory.reserve().bytes == 64 * MIB


def test_swap_that_cannot_be_read_is_zero_with_its_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> None:
        raise OSError("no /proc/vmstat")

    monkeypatch.setattr(psutil, "swap_memory", fail)
    assert memory.swap_used() == Reading(0, "swap unknown: no /proc/vmstat")


class Allocator:
    """A stand-in for torch.mps and torch.cuda with 300 bytes cached."""

    def __init__(self, there: bool = True, grows: bool = False) -> None:
        self.held, self.there, self.grows, self.calls = 1000, there, grows, 0

    def driver_allocated_memory(self) -> int:
        return self.held

    memory_reserved = driver_allocated_memory

    def empty_cache(self) -> None:
        self.calls += 1
        self.held += 50 if self.grows else -300

    def is_available(self) -> bool:
        return self.there


def stand_in(monkeypatch: pytest.MonkeyPatch, **parts: Any) -> None:
    monkeypatch.setitem(sys.modules, "torch", types.SimpleNamespace(**parts))  # type: ignore[arg-type]


def test_clearing_the_cache_on_mps_says_the_bytes_freed(monkeypatch: pytest.MonkeyPatch) -> None:
    mps = Allocator()
    stand_in(monkeypatch, mps=mps)
    assert clear_cache("mps") == 300
    assert mps.calls == 1
    assert memory.device_memory("mps") == 700


@pytest.mark.parametrize("device", ["cuda", "cuda:0", "0"])
def test_clearing_the_cache_on_cuda_says_the_bytes_freed(monkeypatch: pytest.MonkeyPatch, device: str) -> None:
    cuda = Allocator()
    stand_in(monkeypatch, cuda=cuda)
    assert clear_cache(device) == 300
    assert cuda.calls == 1


def test_a_cache_that_grew_meanwhile_freed_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    stand_in(monkeypatch, mps=Allocator(grows=True))
    assert clear_cache("mps") == 0


def test_clearing_on_the_cpu_gives_free_lists_back_and_touches_no_device(monkeypatch: pytest.MonkeyPatch) -> None:
    mps, cuda = Allocator(), Allocator()
    stand_in(monkeypatch, mps=mps, cuda=cuda)
    assert clear_cache("cpu") >= 0
    assert mps.calls == cuda.calls == 0
    assert memory.device_memory("cpu") is None


@pytest.mark.parametrize("device", ["cpu", "mps", "cuda", "cuda:0"])
def test_a_process_without_torch_has_no_device_cache_and_does_not_load_it(
    monkeypatch: pytest.MonkeyPatch, device: str
) -> None:
    monkeypatch.delitem(sys.modules, "torch", raising=False)
    assert clear_cache(device) >= 0
    assert memory.device_memory(device) is None
    assert "torch" not in sys.modules


def test_a_c_library_without_malloc_trim_is_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    import ctypes

    monkeypatch.setattr(ctypes, "CDLL", lambda name: types.SimpleNamespace())
    assert clear_cache("cpu") >= 0


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's trim")
def test_memory_that_was_freed_in_a_real_process_goes_back_to_the_system() -> None:
    code = (
        "from rddkit import memory\n"
        "import ctypes; ctypes.CDLL(None).mallopt(-3, 1 << 30)\n"  # M_MMAP_THRESHOLD: everything on the heap
        "blocks = [bytes([1]) * 50_000 for _ in range(4000)]; keep = bytes([1]) * 50_000; del blocks\n"
        "print(memory.clear_cache('cpu') >> 20)\n"
    )
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert int(answer.stdout) >= 100
