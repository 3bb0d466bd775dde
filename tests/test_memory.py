"""Readings of memory: what a process holds, the budget's arithmetic, and caches given back."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import types
from pathlib import Path
from typing import Any

import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rddkit import checks, memory
from rddkit.memory import GIB, MIB, Reading, clear_cache, memory_budget

linux = pytest.mark.skipif(sys.platform != "linux", reason="/proc/PID/status and smaps_rollup are Linux's")


@pytest.mark.parametrize(
    ("count", "words"),
    [(0, "0 MB"), (781 * MIB, "781 MB"), (GIB, "1.0 GB"), (3.14 * GIB, "3.1 GB"), (-2 * GIB, "-2.0 GB")],
)
def test_bytes_are_told_as_people_say_them(count: float, words: str) -> None:
    assert memory.human(count) == words


STATUS = {"VmRSS": 900 * MIB, "RssAnon": 500 * MIB, "RssFile": 380 * MIB, "RssShmem": 20 * MIB, "VmPTE": 2 * MIB}


def test_charged_bytes_leave_out_the_pages_of_files_and_count_the_page_tables() -> None:
    assert memory.charged(STATUS) == Reading(522 * MIB, memory.CHARGED_SOURCE)


def test_a_swapped_page_is_needed_still() -> None:
    assert memory.charged({**STATUS, "VmSwap": 30 * MIB}).bytes == 552 * MIB


def test_a_kernel_that_tells_no_pages_apart_gives_the_resident_set_and_says_so() -> None:
    held = memory.charged({"VmRSS": 900 * MIB, "VmPTE": 2 * MIB})
    assert held.bytes == 900 * MIB and held.source.startswith("resident set: ")


def test_a_zombie_holds_nothing() -> None:
    assert memory.charged({}) == memory.charged({"HugetlbPages": 0}) == memory.GONE


@given(st.dictionaries(st.sampled_from(["VmRSS", "RssAnon", "RssShmem", "VmPTE", "VmSwap", "RssFile"]), st.integers(0)))
def test_pages_of_files_never_change_what_is_charged(status: dict[str, int]) -> None:
    without = {name: number for name, number in status.items() if name != "RssFile"}
    assert memory.charged(status) == memory.charged(without)


def test_a_share_of_a_tree_divides_what_is_shared_and_needs_a_kernel_that_says_so() -> None:
    rollup = {"Rss": 900, "Pss": 700, "Pss_Anon": 400, "Pss_File": 250, "Pss_Shmem": 50, "SwapPss": 7}
    assert memory.shared_out(rollup, {"VmPTE": 3}) == 460
    assert memory.shared_out({"Rss": 900, "Pss": 700}, {"VmPTE": 3}) is None


# Maps a file of that many bytes and reads it all; then takes as many, shared with nobody and then with children.
MAPPER = """
import mmap, sys
file = open(sys.argv[1], "rb")
print("up", flush=True); sys.stdin.readline()
held = mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ)
print(sum(held[at] for at in range(0, len(held), 4096)), flush=True); sys.stdin.readline()
shared = mmap.mmap(-1, len(held))
shared[:] = bytes(1) * len(held)
print("shared", flush=True); sys.stdin.readline()
"""


@linux
def test_a_file_that_a_process_maps_and_reads_is_resident_but_not_charged_and_shared_memory_is(tmp_path: Path) -> None:
    if checks.in_memory(tmp_path):
        pytest.skip("files are shared memory themselves here (tmpfs)")
    file = tmp_path / "file"
    file.write_bytes(b"1" * (64 * MIB))
    child = subprocess.Popen(
        [sys.executable, "-c", MAPPER, str(file)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0
    )
    assert child.stdin is not None and child.stdout is not None
    seen = []
    with child:
        for _ in range(3):
            assert child.stdout.readline()
            seen.append(
                (memory.process(child.pid).bytes, memory.tree(child.pid).bytes, memory.resident(child.pid).bytes)
            )
            child.stdin.write(b"\n")
    (charged, tree, resident), (mapped, _, resident_mapped), (shared, tree_shared, _) = seen
    assert abs(charged - tree) < 4 * MIB
    assert mapped - charged < 4 * MIB and resident_mapped - resident > 60 * MIB
    assert shared - mapped > 60 * MIB and tree_shared - tree > 60 * MIB
    assert memory.resident(child.pid).bytes == 0


def test_a_peak_is_said_with_what_top_shows_where_that_was_noted() -> None:
    assert memory.peak_words(812 * MIB, 1.1 * GIB) == "812 MB (1.1 GB resident, as top shows it)"
    assert memory.peak_words(812 * MIB, None) == memory.peak_words(812 * MIB, 0) == "812 MB"


@linux
def test_mapped_follows_what_is_mapped_and_process_what_is_touched() -> None:
    code = (
        "import json, mmap, os\n"
        "from rddkit import memory\n"
        "look = lambda: (memory.mapped(os.getpid()).bytes, memory.process(os.getpid()).bytes)\n"
        "before = look()\n"
        "block = mmap.mmap(-1, 256 << 20, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)\n"
        "mapped = look()\n"
        "block[:64 << 20] = bytes(64 << 20)\n"
        "print(json.dumps([before, mapped, look()]))\n"
    )
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    (data, held), (data_mapped, held_mapped), (_, held_touched) = json.loads(answer.stdout)
    assert data_mapped - data >= 256 * MIB > 16 * MIB > held_mapped - held
    assert 64 * MIB <= held_touched - held_mapped < 160 * MIB


def test_a_process_holds_something_and_one_that_is_gone_nothing() -> None:
    assert memory.process(os.getpid()).bytes > 10 * MIB
    child = subprocess.Popen(["true"])
    child.wait()
    assert memory.process(child.pid) == Reading(0, "process gone")
    assert memory.tree(child.pid) == Reading(0, "process gone")


@linux
def test_a_tree_counts_pages_that_processes_share_once() -> None:
    code = "import os, time\nblock = bytearray(b'x' * (100 << 20))\nos.fork()\nos.write(1, b'up\\n')\ntime.sleep(60)"
    parent = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
    assert parent.stdout is not None
    try:
        assert [parent.stdout.readline() for _ in range(2)] == [b"up\n"] * 2
        held = memory.tree(parent.pid)
        assert held.source == memory.SHARES_SOURCE
        assert 100 * MIB < held.bytes < 150 * MIB, "and not twice the 100 MiB"
    finally:
        for child in psutil.Process(parent.pid).children():
            child.kill()
        parent.kill()
        parent.wait()
        parent.stdout.close()


@linux
def test_a_tree_on_a_kernel_without_shares_is_a_sum_and_a_child_that_is_gone_changes_no_source(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(memory, "family", lambda pid: [os.getpid(), os.getppid(), 2**22 + 1])
    assert memory.tree(os.getpid()).source == memory.SHARES_SOURCE
    monkeypatch.setattr(memory, "shared_out", lambda rollup, status: None)
    held = memory.tree(os.getpid())
    assert held.source == f"sum over the process tree: {memory.CHARGED_SOURCE}"
    assert held.bytes > memory.process(os.getpid()).bytes - MIB


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """16 GiB, 10 of them free."""
    monkeypatch.setattr(memory, "total", lambda system=None: Reading(16 * GIB, "the machine's memory"))
    monkeypatch.setattr(memory, "available", lambda system=None: Reading(10 * GIB, "available on the machine"))
    monkeypatch.setattr(memory, "container", lambda system=None: None)


def test_the_budget_is_what_is_free_less_the_reserve(machine: None) -> None:
    budget = memory_budget()
    assert budget.bytes == 10 * GIB - int(16 * GIB * 0.06)
    assert budget.source == "available on the machine now, less 983 MB kept free"


INSIDE = memory.Container(600 * MIB, 120 * MIB, 80 * MIB, 480 * MIB, "/cg/memory.max")


def test_the_budget_in_a_container_says_its_limit_and_what_it_is_full_of(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "total", lambda system=None: Reading(600 * MIB, "/cg/memory.max"))
    monkeypatch.setattr(memory, "available", lambda system=None: Reading(480 * MIB, "/cg/memory.max"))
    monkeypatch.setattr(memory, "container", lambda system=None: INSIDE)
    inside = "limit 600 MB, charged 120 MB, reclaimable 80 MB, free 480 MB"
    kept = memory.reserve().bytes
    told = f"/cg/memory.max now: {inside}, less {memory.human(kept)} kept free"
    assert memory_budget() == Reading(480 * MIB - kept, told)
    monkeypatch.setattr(memory, "available", lambda system=None: Reading(90 * MIB, "available on the machine"))
    assert memory_budget(keep=0).source.startswith(f"available on the machine now; /cg/memory.max: {inside}, ")


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


@pytest.mark.parametrize(
    ("limit", "kept"), [(600 * MIB, 96 * MIB), (2 * GIB, int(2 * GIB * 0.06)), (512 * GIB, 2 * GIB)]
)
def test_a_container_has_no_system_in_it_and_keeps_room_for_the_code_that_runs(
    monkeypatch: pytest.MonkeyPatch, limit: int, kept: int
) -> None:
    monkeypatch.setattr(memory, "total", lambda system=None: Reading(limit, "/cg/memory.max"))
    assert memory.reserve().bytes == kept


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
