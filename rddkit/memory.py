"""The one place for reading memory: each answer is (bytes, source), and the source says where it really came from."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import sys
from typing import NamedTuple

import psutil

from rddkit import cgroup

MIB = 1 << 20
GIB = 1 << 30
MACHINE = "the machine's memory"


class Reading(NamedTuple):
    """A number of bytes and where it was read."""

    bytes: int
    source: str


def human(count: float) -> str:
    """`3.1 GB`, `781 MB`: bytes as people say them, in powers of 1024 as memory is sold."""
    if abs(count) >= GIB:
        return f"{count / GIB:.1f} GB"
    return f"{count / MIB:.0f} MB"


def process(pid: int) -> Reading:
    """What one process holds: physical footprint on macOS (its GPU memory counts there), resident set elsewhere.

    0 bytes for a process that is gone.
    """
    if sys.platform == "darwin":
        from rddkit import macos

        with contextlib.suppress(OSError):
            return Reading(macos.physical_footprint(pid), "proc_pid_rusage phys_footprint")
    try:
        return Reading(psutil.Process(pid).memory_info().rss, "resident set")
    except psutil.Error:
        return Reading(0, "process gone")


def tree(pid: int) -> Reading:
    """What a process and its children hold; pages they share are counted once where the system tells (PSS)."""
    try:
        children = psutil.Process(pid).children(recursive=True)
    except psutil.Error:
        return Reading(0, "process gone")
    if not children:
        return process(pid)
    total, source = 0, "proportional set of the process tree"
    for pid_ in [pid, *(child.pid for child in children)]:
        share = _proportional(pid_)
        if share is None:
            share, source = process(pid_).bytes, "sum over the process tree"
        total += share
    return Reading(total, source)


def _proportional(pid: int) -> int | None:
    try:
        with open(f"/proc/{pid}/smaps_rollup", encoding="ascii") as file:
            for line in file:
                if line.startswith("Pss:"):
                    return int(line.split()[1]) * 1024
    except (OSError, ValueError):
        pass
    return None


def total(system: cgroup.System | None = None) -> Reading:
    """What this process may use at most: the smallest limit of its cgroups, else the machine's memory."""
    limited = [group for group in cgroup.groups(system=system) if group.limit is not None]
    machine = psutil.virtual_memory().total
    if limited:
        tightest = min(limited, key=lambda group: group.limit or 0)
        if (tightest.limit or 0) < machine:
            return Reading(tightest.limit or 0, str(tightest.limit_file))
    return Reading(machine, MACHINE)


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


def reserve(share: float = 0.06, least: int = 256 * MIB, most: int = 2 * GIB) -> Reading:
    """What is left to the system: a share of what there is, within bounds. A cgroup has no system in it: a quarter."""
    whole = total()
    least = least // 4 if whole.source != MACHINE else least
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
    free = available()
    kept = reserve().bytes if keep is None or keep == "auto" else int(keep)
    return Reading(max(0, free.bytes + own - kept), f"{free.source} now, less {human(kept)} kept free")


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
    own = psutil.Process()
    before = own.memory_info().rss
    with contextlib.suppress(OSError, AttributeError):  # glibc only; other C libraries have no such call
        ctypes.CDLL(None).malloc_trim(0)
    return max(0, before - own.memory_info().rss)


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
