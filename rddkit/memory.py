"""The one place for reading memory: each answer is (bytes, source), and the source says where it really came from.

One unit holds for limit, budget, estimate, guard, caps and peaks: charged bytes, those that count against a limit and
that the kernel cannot take back. These are anonymous memory, shared memory, page tables, and the kernel's own memory;
on macOS the physical footprint, on CUDA what the device holds. Pages of files, such as the code of a library, are
dropped and read again instead. A resident set (RES in `top`) contains them: it is shown, and compared with nothing.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import os
import sys
from dataclasses import dataclass
from typing import NamedTuple

import psutil

from rddkit import cgroup

MIB = 1 << 20
GIB = 1 << 30
MACHINE = "the machine's memory"

# Kept free in a container for the libraries' code. yolov8n 2x416 on the CPU, in a v1 group that reads torch's files
# first and so owns them, one run each: with 100 or 88 MiB above the worker's peak (616 MiB) a step took 0.2 s, with 76
# 2-3 s, with 64 7-14 s, with 52 11-34 s (Linux 6.18, no swap). The kernel dropped code and the worker read it again,
# all the time, and nothing was killed. A group whose files others have read already needs less.
INSIDE = 96 * MIB


# The lines of /proc/PID/status that make up the charged bytes of a process.
CHARGED = ("RssAnon", "RssShmem", "VmPTE", "VmSwap")
CHARGED_SOURCE = "anonymous, shared, page tables and swapped (/proc/PID/status)"
SHARES_SOURCE = "anonymous, shared, page tables and swapped of the process tree (smaps_rollup)"


class Reading(NamedTuple):
    """A number of bytes and where it was read."""

    bytes: int
    source: str


GONE = Reading(0, "process gone")


def human(count: float) -> str:
    """`3.1 GB`, `781 MB`: bytes as people say them, in powers of 1024 as memory is sold."""
    if abs(count) >= GIB:
        return f"{count / GIB:.1f} GB"
    return f"{count / MIB:.0f} MB"


def _kernel_file(path: str) -> dict[str, int]:
    """The `name: number kB` lines of a file below /proc, in bytes; {} where it cannot be read, as of a process gone."""
    found = {}
    try:
        with open(path, "rb", buffering=0) as file:
            lines = file.read(1 << 16).splitlines()
    except OSError:
        return {}
    for line in lines:
        if line.endswith(b" kB"):
            name, _, value = line.partition(b":")
            found[name.decode()] = int(value[:-3]) << 10
    return found


def charged(status: dict[str, int]) -> Reading:
    """Charged bytes by a process's /proc/PID/status (proc(5)).

    Swapped pages are among them: a limit on memory does not count them, but the process needs them back, and macOS
    counts them too. The kernel's stacks are not, as no file tells them: 16 KiB for each thread.
    """
    if "RssAnon" in status:  # Linux 4.5 and later
        return Reading(sum(status.get(name, 0) for name in CHARGED), CHARGED_SOURCE)
    if "VmRSS" in status:
        return Reading(status["VmRSS"], "resident set: pages of files are not told apart here (/proc/PID/status)")
    return GONE


def peak_words(peak: float, resident: float | None) -> str:
    """`812 MB (1.1 GB resident, as top shows it)`; the peak alone where the resident size was not noted."""
    return human(peak) + (f" ({human(resident)} resident, as top shows it)" if resident else "")


def process(pid: int) -> Reading:
    """What one process holds, in charged bytes; 0 for a process that is gone. On Linux one read of a small file."""
    if sys.platform.startswith("linux"):
        return charged(_kernel_file(f"/proc/{pid}/status"))
    if sys.platform == "darwin":
        from rddkit import macos

        with contextlib.suppress(OSError):
            return Reading(macos.physical_footprint(pid), "proc_pid_rusage phys_footprint")
    return _resident(pid)


def _resident(pid: int) -> Reading:
    try:
        return Reading(psutil.Process(pid).memory_info().rss, "resident set")
    except psutil.Error:
        return GONE


def family(pid: int) -> list[int]:
    """A process and all its children; empty for one that is gone."""
    try:
        return [pid, *(child.pid for child in psutil.Process(pid).children(recursive=True))]
    except psutil.Error:
        return []


def tree(pid: int) -> Reading:
    """What a process and its children hold, in charged bytes; pages they share are counted once on Linux."""
    pids = family(pid)
    if len(pids) < 2:
        return process(pid) if pids else GONE
    total, source = 0, SHARES_SOURCE
    for member in pids:
        share = shared_out(_kernel_file(f"/proc/{member}/smaps_rollup"), _kernel_file(f"/proc/{member}/status"))
        if share is None:
            alone = process(member)
            share = alone.bytes
            source = f"sum over the process tree: {alone.source}" if share else source
        total += share
    return Reading(total, source)


def shared_out(rollup: dict[str, int], status: dict[str, int]) -> int | None:
    """Charged bytes of a process, each page divided by the number of processes that map it; None where not told.

    Args:
        rollup: its smaps_rollup (Linux 5.3 and later, for processes of the same user).
        status: its status, for the page tables.
    """
    if "Pss_Anon" not in rollup:
        return None
    return sum(rollup.get(name, 0) for name in ("Pss_Anon", "Pss_Shmem", "SwapPss")) + status.get("VmPTE", 0)


def resident(pid: int) -> Reading:
    """What `top` shows of a process and its children (RES), added up: with files, and shared pages each time."""
    return Reading(sum(_resident(member).bytes for member in family(pid)), "resident set (RES in top)")


def mapped(pid: int) -> Reading:
    """Private writable memory that a process has mapped, touched or not: what RLIMIT_DATA counts. Linux only."""
    return Reading(_kernel_file(f"/proc/{pid}/status").get("VmData", 0), "VmData (/proc/PID/status)")


def total(system: cgroup.System | None = None) -> Reading:
    """What this process may use at most: the smallest limit of its cgroups, else the machine's memory."""
    limited = [group for group in cgroup.groups(system=system) if group.limit is not None]
    machine = psutil.virtual_memory().total
    if limited:
        tightest = min(limited, key=lambda group: group.limit or 0)
        if (tightest.limit or 0) < machine:
            return Reading(tightest.limit or 0, str(tightest.limit_file))
    return Reading(machine, MACHINE)


@dataclass(frozen=True)
class Container:
    """A limit that binds this process, in bytes: `charged` cannot be taken back, `reclaimable` the kernel drops first.

    `free` is limit less charged. `source`: the file with the limit; the others are from files beside it.
    """

    limit: int
    charged: int
    reclaimable: int
    free: int
    source: str

    def __str__(self) -> str:
        return (
            f"limit {human(self.limit)}, charged {human(self.charged)}, "
            f"reclaimable {human(self.reclaimable)}, free {human(self.free)}"
        )


def container(system: cgroup.System | None = None) -> Container | None:
    """The fullest of this process's memory cgroups whose limit is below the machine's memory; None without one."""
    machine = psutil.virtual_memory().total
    limits = [group for group in cgroup.groups(system=system) if group.limit is not None and group.limit < machine]
    group = cgroup.tightest(limits)
    if group is None or group.limit is None:
        return None
    return Container(group.limit, group.charged, group.reclaimable, group.free or 0, str(group.limit_file))


def available(system: cgroup.System | None = None) -> Reading:
    """What can be taken now without swapping or being killed: the machine's, or less where a cgroup is fuller."""
    free = Reading(psutil.virtual_memory().available, "available on the machine")
    group = cgroup.tightest(cgroup.groups(system=system))
    if group is not None and group.free is not None and group.free < free.bytes:
        return Reading(group.free, str(group.limit_file))
    return free


def swap_used() -> Reading:
    """Bytes of swap in use on the machine; 0 with the reason where it cannot be told."""
    try:
        return Reading(psutil.swap_memory().used, "swap in use")
    except (OSError, RuntimeError) as error:
        return Reading(0, f"swap unknown: {error}")


def reserve(share: float = 0.06, least: int = 256 * MIB, inside: int = INSIDE, most: int = 2 * GIB) -> Reading:
    """What is left to the system: a share of what there is, within bounds.

    Args:
        share: of the machine's memory, or of a container's limit.
        least: bytes on a machine.
        inside: the least in a container. It has no system in it, but what the worker runs: pages of the libraries,
            which can be reclaimed, and are read again at each step if they were.
        most: bytes anywhere.
    """
    whole = total()
    least = inside if whole.source != MACHINE else least
    kept = int(min(max(whole.bytes * share, least), most))
    return Reading(kept, f"{share:.0%} of {human(whole.bytes)}, at least {human(least)}, at most {human(most)}")


def memory_budget(asked: int | str = "auto", keep: int | str | None = None, own: int = 0) -> Reading:
    """Bytes a run may use: as asked, or (`auto`) what is allowed and free now less the reserve.

    Args:
        asked: bytes, or `auto`.
        keep: bytes to leave free; None or `auto` chooses (`reserve`).
        own: bytes the run's own processes hold already, which are its to keep.
    """
    if asked != "auto":
        return Reading(int(asked), "set in safety.yaml")
    free, inside = available(), container()
    where = f"{free.source} now"
    if inside is not None:
        where += f": {inside}" if inside.source == free.source else f"; {inside.source}: {inside}"
    kept = reserve().bytes if keep is None or keep == "auto" else int(keep)
    return Reading(max(0, free.bytes + own - kept), f"{where}, less {human(kept)} kept free")


def clear_cache(device: str = "cpu") -> int:
    """Give memory that nothing uses back to the system; the bytes freed (0 where that cannot be told).

    `mps` and `cuda` empty their allocator's cache; on the CPU glibc's free lists are trimmed. A process that never
    loaded torch has no device cache, and this does not load it.
    """
    gc.collect()
    torch = sys.modules.get("torch")
    kind = str(device).split(":")[0]
    if kind == "mps" and torch is not None:
        before = int(torch.mps.driver_allocated_memory())
        torch.mps.empty_cache()
        return max(0, before - int(torch.mps.driver_allocated_memory()))
    if (kind == "cuda" or kind.isdigit()) and torch is not None and torch.cuda.is_available():
        before = int(torch.cuda.memory_reserved())
        torch.cuda.empty_cache()
        return max(0, before - int(torch.cuda.memory_reserved()))
    before = process(os.getpid()).bytes
    with contextlib.suppress(OSError, AttributeError):  # glibc only; other C libraries have no such call
        ctypes.CDLL(None).malloc_trim(0)
    return max(0, before - process(os.getpid()).bytes)


def device_cache(device: str) -> int:
    """Bytes this process's device allocator holds beyond live tensors; 0 on the CPU or without torch loaded."""
    torch = sys.modules.get("torch")
    if torch is None:
        return 0
    if device == "mps":
        return int(torch.mps.driver_allocated_memory()) - int(torch.mps.current_allocated_memory())
    if device.startswith("cuda"):
        return int(torch.cuda.memory_reserved()) - int(torch.cuda.memory_allocated())
    return 0


def device_memory(device: str) -> int | None:
    """Bytes this process holds on its device, cache included; None on the CPU or without torch loaded."""
    torch = sys.modules.get("torch")
    if torch is None:
        return None
    if device == "mps":
        return int(torch.mps.driver_allocated_memory())
    if device.startswith("cuda"):
        return int(torch.cuda.memory_reserved())
    return None
