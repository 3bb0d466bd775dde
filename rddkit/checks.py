"""The self-test's quick checks: what rddkit reads and relies on, held against a look of another kind."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil

from rddkit import caps, cgroup, memory, paths, verdicts
from rddkit.memory import MIB, human
from rddkit.verdicts import Row, verdict

HELD = 200 * MIB
CAP = 768 * MIB  # room for torch itself, and little more
CHILD_SECONDS = 120.0

# Holds as many bytes as the last line said, touched; its answer says how many. A second word is the name of a file that
# it maps and reads instead.
HOLDER = """
import mmap, sys
for line in sys.stdin:
    held = None
    count, _, name = line.rstrip("\\n").partition(" ")
    if name:
        with open(name, "rb") as file:
            held = mmap.mmap(file.fileno(), int(count), prot=mmap.PROT_READ)
        sum(held[at] for at in range(0, len(held), mmap.PAGESIZE))
    else:
        held = bytearray(b"1") * int(count)
    print(len(held), flush=True)
"""


class Failed(Exception):
    """A check that could not come to its end; the text is the table's reason."""


def guarded(what: str, check: Callable[..., list[Row]], *given: object) -> list[Row]:
    """The rows of a check; an exception in it is a row that failed, and the others still are made."""
    try:
        return check(*given)
    except Exception as error:
        figure = str(error) if isinstance(error, Failed) else f"{type(error).__name__}: {error}"
        return [Row(what, "FAIL", figure, "")]


@contextlib.contextmanager
def holder() -> Iterator[tuple[int, Callable[..., None]]]:
    """A child process: its number, and a call that has it hold that many bytes, or as many of a file."""
    pipe = subprocess.PIPE
    child = subprocess.Popen([sys.executable, "-c", HOLDER], stdin=pipe, stdout=pipe)
    assert child.stdin is not None and child.stdout is not None
    orders, answers = child.stdin, child.stdout

    def hold(count: int, name: Path | str = "") -> None:
        orders.write(f"{count} {name}\n".encode())
        orders.flush()
        if answers.readline().strip() != str(count).encode():
            raise Failed(f"a child process could not hold {human(count)}")

    with child:
        try:
            yield child.pid, hold
        finally:
            child.kill()


def readings() -> list[Row]:
    """What memory tells of a child that takes 200 MB, and whether its numbers agree among themselves.

    Free memory is not asked to fall by it: Linux hands a process pages from its CPUs' own lists (since 6.7 up to
    hundreds of MB), which were not counted as free before.
    """
    with holder() as (pid, hold):
        hold(0)
        child, tree = memory.process(pid).bytes, memory.tree(os.getpid()).bytes
        hold(HELD)
        grown = {"process": (memory.process(pid), child), "process tree": (memory.tree(os.getpid()), tree)}
        hold(0)
        mapped = _file_mapped(pid, hold)
    rows = [verdicts.moved(what, now.bytes - before, HELD, now.source) for what, (now, before) in grown.items()]
    machine = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return [*rows, *mapped, *verdicts.bounds(memory.total(), memory.available(), memory.memory_budget(), machine)]


def _file_mapped(pid: int, hold: Callable[..., None]) -> list[Row]:
    """Whether a file that the child maps and reads is left out of what it holds: the kernel can drop its pages."""
    if memory.process(pid).source.startswith("resident"):
        return [Row("file that is mapped", "skipped", "this system does not tell pages of files apart", sys.platform)]
    place = paths.cache()
    if in_memory(place):
        return [Row("file that is mapped", "skipped", "files are kept in memory here (tmpfs)", str(place))]
    place.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="check-", dir=place) as folder:
        file = Path(folder) / "file"
        with open(file, "wb") as made:
            for _ in range(HELD // MIB):
                made.write(b"1" * MIB)
        before, seen = memory.process(pid), memory.resident(pid).bytes
        hold(HELD, file)
        now, shown = memory.process(pid), memory.resident(pid).bytes
        hold(0)
    return [verdicts.left_out("file that is mapped", now.bytes - before.bytes, shown - seen, HELD, now.source)]


def in_memory(folder: Path) -> bool:
    """Whether files there are shared memory themselves (tmpfs), which the kernel cannot drop."""
    kinds = {Path(mount.mountpoint): mount.fstype for mount in psutil.disk_partitions(all=True)}
    place = folder.resolve()
    return next((kinds[at] for at in (place, *place.parents) if at in kinds), "") in ("tmpfs", "ramfs")


def counters() -> list[Row]:
    """The kernel's counter of out-of-memory kills, by which such a kill is proved."""
    kills = cgroup.kills()
    if kills is None:
        return [Row("kill counter", "skipped", "this system has none; macOS tells by its pressure", sys.platform)]
    whose = "of this cgroup" if kills.own else "of the whole machine"
    return [verdict("kill counter", True, f"{kills.count} kills so far, {whose}", kills.source)]


def cap(device: str, mps_recommended: int | None, environment: dict[str, str]) -> list[Row]:
    """Whether a child that takes more than its device's cap gets an exception that is known for what it is, and lives.

    Args:
        device: as a run has it.
        mps_recommended: `recommended_max_memory` of MPS, of which its cap is a share.
        environment: the child's.
    """
    if device == "cpu" and not sys.platform.startswith("linux"):
        return [Row("cap raises", "skipped", "RLIMIT_DATA binds on Linux alone; here the guard is first", sys.platform)]
    if device == "cpu" and memory.available().bytes < 3 * CAP:
        return [Row("cap raises", "skipped", f"less than {human(3 * CAP)} are free to try it with", "")]
    command = [sys.executable, "-m", "rddkit.probe", device, str(CAP)]
    capped = {**environment, **caps.environment(device, CAP, mps_recommended)}
    try:
        answer = subprocess.run(command, env=capped, capture_output=True, text=True, check=False, timeout=CHILD_SECONDS)
    except subprocess.TimeoutExpired:
        raise Failed(f"the child that takes more than its cap was not done within {CHILD_SECONDS:.0f} s") from None
    if answer.returncode != 0:
        raise Failed(f"the child died of it: exit {answer.returncode}: {answer.stderr.strip()[-300:]}")
    return verdicts.raised(json.loads(answer.stdout.splitlines()[-1]))
