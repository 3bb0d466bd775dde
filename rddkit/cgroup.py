"""Linux memory cgroups, v1 and v2: which limits hold for a process, how full they are, how often the kernel killed."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from rddkit import clock

# The kernel writes "no limit" in v1 as LONG_MAX rounded down to a page (mm/page_counter.c); anything near it is none.
UNLIMITED = 1 << 60


@dataclass(frozen=True)
class System:
    """Where the kernel's files are; tests point it at a tree in a temporary folder."""

    root: Path = Path("/")

    def at(self, path: str | PurePosixPath) -> Path:
        return self.root / str(path).lstrip("/")


@dataclass(frozen=True)
class Group:
    """One memory cgroup: bytes it may use (None: no limit), uses, and would be made to give back before a kill."""

    folder: Path
    version: int
    limit: int | None
    used: int
    reclaimable: int

    @property
    def limit_file(self) -> Path:
        return self.folder / ("memory.max" if self.version == 2 else "memory.limit_in_bytes")

    @property
    def charged(self) -> int:
        """Bytes that count against the limit and cannot be reclaimed."""
        return max(0, self.used - self.reclaimable)

    @property
    def free(self) -> int | None:
        """Bytes left below the limit, what can be reclaimed counted as free; None without a limit."""
        return None if self.limit is None else max(0, self.limit - self.charged)


# What the kernel drops before it kills in a group, as memory.stat names it. The pages of both file lists: at the limit
# it takes from the inactive list and moves active pages there (Documentation/admin-guide/mm/concepts.rst, "Reclaim").
# Shared memory and tmpfs are `file` and `cache` too, but lie on the lists of anonymous memory (admin-guide/
# cgroup-v2.rst, `inactive_anon`), so that the lists are added up and not those two. v2 says besides what of the
# kernel's own memory can be dropped, dentries and inodes; v1 does not. v1's names with total_ include the groups below
# (admin-guide/cgroup-v1/memory.rst), v2's all do.
RECLAIMABLE = {
    1: ("total_inactive_file", "total_active_file"),
    2: ("inactive_file", "active_file", "slab_reclaimable"),
}


def reclaimable(stat: dict[str, int], version: int) -> int:
    """Bytes that the kernel drops before it kills, by a group's memory.stat.

    The code of a library is among them, although a process that runs it reads it again: the kernel takes a page of a
    file rather than kill, and it is not in what a process is said to hold. The budget's reserve is the room for it.
    """
    return sum(stat.get(name, 0) for name in RECLAIMABLE[version])


def read_number(path: Path) -> int | None:
    """The number in a kernel file; None for `max`, an unreadable or odd file, or a huge number, which is no limit."""
    try:
        value = int(path.read_text().strip())
    except (OSError, ValueError):
        return None
    return value if 0 <= value < UNLIMITED else None


def read_table(path: Path) -> dict[str, int]:
    """A kernel file of `name number` lines as a dict; empty where it cannot be read."""
    try:
        rows = (line.split() for line in path.read_text().splitlines())
        return {row[0]: int(row[1]) for row in rows if len(row) == 2 and row[1].isdigit()}
    except (OSError, ValueError):
        return {}


def _mounts(system: System) -> list[tuple[int, PurePosixPath, PurePosixPath]]:
    """(version, mount point, the cgroup mounted there) of every memory cgroup hierarchy, from mountinfo (proc(5))."""
    found = []
    try:
        text = system.at("/proc/self/mountinfo").read_text()
    except OSError:
        return []
    for line in text.splitlines():
        before, _, after = line.partition(" - ")
        fields, kind = before.split(), after.split()
        if len(fields) < 5 or len(kind) < 3:
            continue
        where = PurePosixPath(re.sub(r"\\(\d{3})", lambda m: chr(int(m[1], 8)), fields[4]))
        if kind[0] == "cgroup2":
            found.append((2, where, PurePosixPath(fields[3])))
        elif kind[0] == "cgroup" and "memory" in kind[2].split(","):
            found.append((1, where, PurePosixPath(fields[3])))
    return found


def _folders(pid: int | str, system: System) -> list[tuple[int, Path]]:
    """The folders of a process's memory cgroup and all its ancestors, nearest first, for each version."""
    try:
        lines = system.at(f"/proc/{pid}/cgroup").read_text().splitlines()
    except OSError:
        return []
    own: dict[int, PurePosixPath] = {}
    for line in lines:
        _, _, named = line.partition(":")
        controllers, _, path = named.partition(":")
        if not path:
            continue
        if controllers == "":
            own[2] = PurePosixPath(path)
        elif "memory" in controllers.split(","):
            own[1] = PurePosixPath(path)
    found = []
    for version, mount, mounted in _mounts(system):
        if version not in own:
            continue
        # In a container the hierarchy is often mounted at the process's own group, so that its path is outside.
        below = own[version]
        relative = below.relative_to(mounted) if below.is_relative_to(mounted) else PurePosixPath(".")
        group = mount / relative
        while True:
            found.append((version, system.at(group)))
            if group == mount or group == group.parent:
                break
            group = group.parent
    return found


def groups(pid: int | str = "self", system: System | None = None) -> list[Group]:
    """The memory cgroups that hold for a process, nearest first; empty where there are none."""
    found = []
    for version, folder in _folders(pid, system or System()):
        names = ("memory.max", "memory.current") if version == 2 else ("memory.limit_in_bytes", "memory.usage_in_bytes")
        used = read_number(folder / names[1])
        limit = read_number(folder / names[0])
        if used is None and limit is None:
            continue
        stat = read_table(folder / "memory.stat")
        found.append(Group(folder, version, limit, used or 0, reclaimable(stat, version)))
    return found


def tightest(found: list[Group]) -> Group | None:
    """The group with the fewest bytes left, among those with a limit."""
    limited = [group for group in found if group.limit is not None]
    return min(limited, key=lambda group: group.free or 0) if limited else None


@dataclass(frozen=True)
class Kills:
    """How often the kernel killed for memory, and the file that says so."""

    count: int
    source: str
    own: bool


def kills(pid: int | str = "self", system: System | None = None) -> Kills | None:
    """The kill counter nearest to a process: its cgroup's, and only without one the whole host's.

    `own` is False for the host's counter, which other people's processes move too. v2 counts group kills within
    `oom_kill`; v1 has it in `memory.oom_control` (Linux 4.13 and later).
    """
    system = system or System()
    for version, folder in _folders(pid, system):
        file = folder / ("memory.events" if version == 2 else "memory.oom_control")
        table = read_table(file)
        if "oom_kill" in table:
            return Kills(table["oom_kill"], str(file), own=True)
    table = read_table(system.at("/proc/vmstat"))
    return Kills(table["oom_kill"], "/proc/vmstat", own=False) if "oom_kill" in table else None


def more_kills(before: Kills | None, patience: float = 0.0) -> int:
    """How many more kills the kernel's counter shows than `before`; looked for again for `patience` seconds."""
    deadline = clock.monotonic() + patience
    while before is not None:
        now = kills()
        more = now.count - before.count if now else 0
        if more > 0 or clock.monotonic() > deadline:
            return max(0, more)
        clock.sleep(0.05)
    return 0


def pressure(pid: int | str = "self", system: System | None = None) -> tuple[float, str] | None:
    """Share of the last 10 s (percent) in which some task waited for memory (PSI), and its file; None without PSI."""
    system = system or System()
    files = [folder / "memory.pressure" for version, folder in _folders(pid, system) if version == 2]
    for file in [*files, system.at("/proc/pressure/memory")]:
        try:
            match = re.search(r"some avg10=([\d.]+)", file.read_text())
        except OSError:
            continue
        if match:
            return float(match[1]), str(file)
    return None
