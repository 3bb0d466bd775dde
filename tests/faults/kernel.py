"""A real memory cgroup for one test or benchmark: a limit that the kernel itself enforces, and its own kill counter."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from rddkit import cgroup, clock

V1, V2 = Path("/sys/fs/cgroup/memory"), Path("/sys/fs/cgroup")
REMOVAL_SECONDS = 10.0
READ_LIBRARIES = """
import ultralytics.models.yolo.detect
for path in {line.split()[-1] for line in open("/proc/self/maps") if ".so" in line}:
    with open(path, "rb", buffering=0) as file:
        while file.read(1 << 24):
            pass
"""


class Impossible(Exception):
    """This machine does not let us make a memory cgroup; the text says why."""


@dataclass(frozen=True)
class Group:
    """A memory cgroup of our own."""

    folder: Path
    version: int

    def limit(self, limit: int) -> None:
        """Let the kernel kill above this many bytes, swap not counting as a way out."""
        names = ("memory.max", "memory.swap.max") if self.version == 2 else ("memory.limit_in_bytes", None)
        (self.folder / str(names[0])).write_text(str(limit))
        if names[1] and (self.folder / names[1]).exists():
            (self.folder / names[1]).write_text("0")
        elif self.version == 1:
            with contextlib.suppress(OSError):  # a kernel without swap accounting has no such file
                (self.folder / "memory.memsw.limit_in_bytes").write_text(str(limit))

    def start(
        self, command: Sequence[str], env: Mapping[str, str], stdout: int = subprocess.PIPE
    ) -> subprocess.Popen[str]:
        """Start a command as a member of this group; what it starts are members too."""
        procs = str(self.folder / "cgroup.procs")

        def join() -> None:
            fd = os.open(procs, os.O_WRONLY)
            os.write(fd, b"0")  # 0: whoever writes
            os.close(fd)

        return subprocess.Popen(
            command, stdout=stdout, stderr=subprocess.STDOUT, text=True, env=dict(env), preexec_fn=join
        )

    @property
    def kills(self) -> int:
        """How often the kernel has killed a member for memory."""
        name = "memory.events" if self.version == 2 else "memory.oom_control"
        return cgroup.read_table(self.folder / name)["oom_kill"]

    @property
    def anonymous(self) -> int:
        """Bytes of the members that the kernel cannot take back by dropping file cache."""
        stat = cgroup.read_table(self.folder / "memory.stat")
        return stat["anon"] if self.version == 2 else stat["total_rss"]

    def remove(self) -> None:
        """End what is left in the group (all of it was started by `start`), and remove it."""
        deadline = clock.monotonic() + REMOVAL_SECONDS
        while True:
            for pid in (self.folder / "cgroup.procs").read_text().split():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(int(pid), signal.SIGKILL)
            try:
                return self.folder.rmdir()
            except OSError:
                if clock.monotonic() > deadline:
                    raise
                clock.sleep(0.1)  # the kernel lets go of a dead process's group a moment later


@contextlib.contextmanager
def group(limit: int) -> Iterator[Group]:
    """A memory cgroup with that limit, removed afterwards. Raises Impossible where this machine does not allow it."""
    place, version = _place()
    try:
        made = Group(Path(tempfile.mkdtemp(prefix="rddkit-", dir=place)), version)
    except OSError as error:
        raise Impossible(f"no memory cgroup can be made here: {error}") from error
    try:
        try:
            made.limit(limit)
            _ = made.kills
        except (OSError, KeyError) as error:
            raise Impossible(f"the memory cgroup cannot be used: {error!r}") from error
        _warm()
        yield made
    finally:
        made.remove()


def _warm() -> None:
    """Have the libraries in the page cache on this group's account, not on the new one's.

    The kernel charges a page to whoever reads it first. Were torch's code the small group's own, the kernel would drop
    and read it again for minutes before it kills: 35 000 major faults in 150 s were seen, and no kill.
    """
    subprocess.run([sys.executable, "-c", READ_LIBRARIES], check=True, stdout=subprocess.DEVNULL)


def _place() -> tuple[Path, int]:
    """Where this machine has its memory cgroups, and the version."""
    if (V1 / "memory.limit_in_bytes").exists():
        return V1, 1
    with contextlib.suppress(OSError):
        if "memory" in (V2 / "cgroup.subtree_control").read_text():
            return V2, 2
    raise Impossible("no memory cgroup hierarchy is mounted here")
