"""Memory cgroups: made-up trees of both versions, and a real one where this machine lets us make it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rddkit import cgroup, checks, clock, memory
from rddkit.cgroup import System

MIB = 1 << 20
V1_UNLIMITED = "9223372036854771712"


class Tree:
    """A made-up machine: /proc/self and the cgroup files below a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.system = System(folder)
        self.mounts: list[str] = []
        (folder / "proc/self").mkdir(parents=True)

    def file(self, path: str, text: str) -> Path:
        file = self.folder / path.lstrip("/")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
        return file

    def own(self, *lines: str) -> None:
        self.file("/proc/self/cgroup", "".join(f"{line}\n" for line in lines))

    def mount(self, version: int, where: str = "/sys/fs/cgroup", mounted: str = "/") -> None:
        kind = "cgroup2 cgroup2 rw" if version == 2 else "cgroup cgroup rw,memory"
        self.mounts.append(f"35 31 0:32 {mounted} {where} rw,relatime shared:9 - {kind}\n")
        self.file("/proc/self/mountinfo", "22 1 8:1 / / rw - ext4 /dev/sda1 rw\nnonsense\n" + "".join(self.mounts))

    def v2(
        self, folder: str, limit: str, used: str = str(100 * MIB), inactive: int = 0, active: int = 0, slab: int = 0
    ) -> None:
        self.file(f"{folder}/memory.max", f"{limit}\n")
        self.file(f"{folder}/memory.current", f"{used}\n")
        lists = f"inactive_file {inactive}\nactive_file {active}\nslab_reclaimable {slab}\n"
        self.file(f"{folder}/memory.stat", f"anon 5\nfile 6\nshmem 3\nslab 99\n{lists}slab_unreclaimable 7\n")

    def v1(self, folder: str, limit: str, used: str = str(100 * MIB), inactive: int = 0, active: int = 0) -> None:
        self.file(f"{folder}/memory.limit_in_bytes", f"{limit}\n")
        self.file(f"{folder}/memory.usage_in_bytes", f"{used}\n")
        lists = f"total_inactive_file {inactive}\ntotal_active_file {active}\n"
        self.file(f"{folder}/memory.stat", f"cache 5\nshmem 3\ninactive_file 1\nactive_file 2\n{lists}")


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    return Tree(tmp_path)


def limits(tree: Tree) -> list[int | None]:
    return [group.limit for group in cgroup.groups(system=tree.system)]


def test_v2_gives_the_limits_of_a_group_and_all_its_ancestors_nearest_first(tree: Tree) -> None:
    tree.own("0::/user/job/step")
    tree.mount(2)
    tree.v2("/sys/fs/cgroup/user/job/step", "max")
    tree.v2("/sys/fs/cgroup/user/job", str(500 * MIB), str(450 * MIB), inactive=30 * MIB)
    tree.v2("/sys/fs/cgroup/user", str(4096 * MIB))
    assert limits(tree) == [None, 500 * MIB, 4096 * MIB]
    tightest = cgroup.tightest(cgroup.groups(system=tree.system))
    assert tightest is not None
    assert tightest.limit_file == tree.folder / "sys/fs/cgroup/user/job/memory.max"
    assert tightest.free == 80 * MIB, "the file cache counts as free"


def test_v1_gives_the_same_from_its_own_files(tree: Tree) -> None:
    tree.own("4:memory:/job/step", "1:name=systemd:/x", "0::/")
    tree.mount(1, "/sys/fs/cgroup/memory")
    tree.v1("/sys/fs/cgroup/memory/job/step", V1_UNLIMITED)
    tree.v1("/sys/fs/cgroup/memory/job", str(300 * MIB), str(310 * MIB), inactive=4 * MIB)
    tree.v1("/sys/fs/cgroup/memory", V1_UNLIMITED)
    assert limits(tree) == [None, 300 * MIB, None]
    tightest = cgroup.tightest(cgroup.groups(system=tree.system))
    assert tightest is not None and tightest.free == 0, "over the limit is nothing left, never negative"
    assert tightest.limit_file.name == "memory.limit_in_bytes"


def test_both_file_lists_can_be_reclaimed_and_on_v2_what_the_kernel_holds_of_files(tree: Tree) -> None:
    tree.own("4:memory:/job", "0::/job")
    tree.mount(1, "/sys/fs/cgroup/memory")
    tree.mount(2, "/sys/fs/cgroup/unified")
    tree.v1("/sys/fs/cgroup/memory/job", str(600 * MIB), str(500 * MIB), inactive=60 * MIB, active=240 * MIB)
    tree.v2("/sys/fs/cgroup/unified/job", str(600 * MIB), str(500 * MIB), 60 * MIB, 240 * MIB, slab=10 * MIB)
    found = {group.version: group for group in cgroup.groups(system=tree.system)}
    assert [found[1].reclaimable, found[1].charged, found[1].free] == [300 * MIB, 200 * MIB, 400 * MIB]
    assert [found[2].reclaimable, found[2].charged, found[2].free] == [310 * MIB, 190 * MIB, 410 * MIB]


COUNT = st.integers(0, 1 << 40)


@given(limit=COUNT, used=COUNT, reclaimable=COUNT)
def test_charged_and_free_are_never_negative_and_make_up_the_limit(limit: int, used: int, reclaimable: int) -> None:
    group = cgroup.Group(Path("/cg"), 2, limit, used, reclaimable)
    assert group.free is not None
    assert 0 <= group.charged <= used and 0 <= group.free <= limit
    assert group.free == max(0, limit - group.charged)


def test_a_container_says_its_limit_what_is_charged_what_can_be_reclaimed_and_what_is_free(tree: Tree) -> None:
    tree.own("0::/a/b")
    tree.mount(2)
    tree.v2("/sys/fs/cgroup/a/b", str(600 * MIB), str(200 * MIB), 50 * MIB, 30 * MIB)
    tree.v2("/sys/fs/cgroup/a", str(1 << 50), str((1 << 50) - 1))
    file = tree.folder / "sys/fs/cgroup/a/b/memory.max"
    inside = memory.container(tree.system)
    assert inside == memory.Container(600 * MIB, 120 * MIB, 80 * MIB, 480 * MIB, str(file))
    assert str(inside) == "limit 600 MB, charged 120 MB, reclaimable 80 MB, free 480 MB"


@pytest.mark.parametrize("limit", ["max", str(1 << 50)])
def test_a_limit_that_does_not_bind_is_no_container(tree: Tree, limit: str) -> None:
    tree.own("0::/a")
    tree.mount(2)
    tree.v2("/sys/fs/cgroup/a", limit)
    assert memory.container(tree.system) is None


def test_the_smallest_limit_is_the_total_and_the_fullest_group_is_what_is_left(tree: Tree) -> None:
    tree.own("0::/a/b")
    tree.mount(2)
    tree.v2("/sys/fs/cgroup/a/b", str(200 * MIB), str(10 * MIB))
    tree.v2("/sys/fs/cgroup/a", str(300 * MIB), str(299 * MIB))
    assert memory.total(tree.system) == (200 * MIB, str(tree.folder / "sys/fs/cgroup/a/b/memory.max"))
    assert memory.available(tree.system) == (1 * MIB, str(tree.folder / "sys/fs/cgroup/a/memory.max"))


def test_without_any_limit_the_machine_itself_is_the_answer(tree: Tree) -> None:
    tree.own("0::/a")
    tree.mount(2)
    tree.v2("/sys/fs/cgroup/a", "max")
    assert memory.total(tree.system).source == "the machine's memory"
    assert memory.available(tree.system).source == "available on the machine"


def test_a_limit_above_the_machines_memory_is_none(tree: Tree) -> None:
    tree.own("0::/a")
    tree.mount(2)
    tree.v2("/sys/fs/cgroup/a", str(1 << 50))
    assert memory.total(tree.system).source == "the machine's memory"


@pytest.mark.parametrize("text", ["max", V1_UNLIMITED, "-1", "", "\n", "12 MB", "9223372036854775807"])
def test_what_is_no_limit_reads_as_none(tree: Tree, text: str) -> None:
    assert cgroup.read_number(tree.file("/limit", text)) is None


def test_files_that_cannot_be_read_are_no_limit(tree: Tree) -> None:
    # Permissions do not bind root, a folder in the file's place does: both are an OSError on reading.
    tree.own("0::/a")
    tree.mount(2)
    for name in ("memory.max", "memory.stat", "memory.events", "memory.pressure"):
        (tree.folder / "sys/fs/cgroup/a" / name).mkdir(parents=True)
    tree.file("/sys/fs/cgroup/a/memory.current", "5\n")
    assert limits(tree) == [None]
    assert cgroup.kills(system=tree.system) is None
    assert cgroup.pressure(system=tree.system) is None


@pytest.mark.skipif(os.geteuid() == 0, reason="permissions do not bind root")
def test_a_file_without_permission_is_no_limit(tree: Tree) -> None:
    file = tree.file("/limit", "5")
    file.chmod(0)
    assert cgroup.read_number(file) is None


def test_a_limit_counts_even_where_the_use_cannot_be_read(tree: Tree) -> None:
    tree.own("0::/a")
    tree.mount(2)
    tree.file("/sys/fs/cgroup/a/memory.max", str(100 * MIB))
    assert limits(tree) == [100 * MIB]


def test_a_container_that_mounts_its_own_group_is_found_at_the_mount_itself(tree: Tree) -> None:
    # The process's path is the host's; the hierarchy is mounted at that very group.
    tree.own("4:memory:/docker/abc")
    tree.mount(1, "/sys/fs/cgroup/memory", mounted="/docker/abc")
    tree.v1("/sys/fs/cgroup/memory", str(256 * MIB))
    assert limits(tree) == [256 * MIB]


def test_a_group_below_the_mounted_one_is_found_relative_to_it(tree: Tree) -> None:
    tree.own("4:memory:/docker/abc/job")
    tree.mount(1, "/sys/fs/cgroup/memory", mounted="/docker/abc")
    tree.v1("/sys/fs/cgroup/memory/job", str(128 * MIB))
    tree.v1("/sys/fs/cgroup/memory", str(256 * MIB))
    assert limits(tree) == [128 * MIB, 256 * MIB]


def test_a_path_outside_of_the_mount_falls_back_to_the_mount(tree: Tree) -> None:
    for path in ("0::/other/group", "0::/../other"):
        tree.own(path)
        tree.mounts.clear()
        tree.mount(2, mounted="/kubepods/pod1")
        tree.v2("/sys/fs/cgroup", str(64 * MIB))
        assert limits(tree) == [64 * MIB]


def test_both_versions_side_by_side_are_both_read(tree: Tree) -> None:
    tree.own("4:memory:/job", "0::/job")
    tree.mount(1, "/sys/fs/cgroup/memory")
    tree.mount(2, "/sys/fs/cgroup/unified")
    tree.v1("/sys/fs/cgroup/memory/job", str(70 * MIB))
    (tree.folder / "sys/fs/cgroup/unified/job").mkdir(parents=True)
    assert limits(tree) == [70 * MIB]


def test_mounts_with_spaces_are_unescaped(tree: Tree) -> None:
    tree.own("0::/")
    tree.mount(2, "/mnt/my\\040group")
    tree.v2("/mnt/my group", str(50 * MIB))
    assert limits(tree) == [50 * MIB]


def test_a_system_without_cgroups_has_no_groups(tmp_path: Path) -> None:
    assert cgroup.groups(system=System(tmp_path)) == []
    assert cgroup.tightest([]) is None
    assert cgroup.kills(system=System(tmp_path)) is None


def test_odd_lines_in_the_processs_groups_are_passed_over(tree: Tree) -> None:
    tree.own("", "nonsense", "0::/a")
    tree.mount(2)
    tree.v2("/sys/fs/cgroup/a", str(5 * MIB))
    assert limits(tree) == [5 * MIB]


def test_kills_are_counted_in_the_nearest_group_and_only_without_one_for_the_host(tree: Tree) -> None:
    tree.own("0::/a/b")
    tree.mount(2)
    tree.file("/proc/vmstat", "pgfault 5\noom_kill 9\n")
    (tree.folder / "sys/fs/cgroup/a/b").mkdir(parents=True)
    host = cgroup.kills(system=tree.system)
    assert host == cgroup.Kills(9, "/proc/vmstat", own=False)
    events = tree.file("/sys/fs/cgroup/a/memory.events", "low 0\nhigh 0\nmax 17\noom 3\noom_kill 2\noom_group_kill 1\n")
    assert cgroup.kills(system=tree.system) == cgroup.Kills(2, str(events), own=True)


def test_kills_of_v1_are_in_its_oom_control(tree: Tree) -> None:
    tree.own("4:memory:/job")
    tree.mount(1, "/sys/fs/cgroup/memory")
    file = tree.file("/sys/fs/cgroup/memory/job/memory.oom_control", "oom_kill_disable 0\nunder_oom 0\noom_kill 4\n")
    assert cgroup.kills(system=tree.system) == cgroup.Kills(4, str(file), own=True)


def test_pressure_is_the_groups_else_the_hosts(tree: Tree) -> None:
    tree.own("0::/a")
    tree.mount(2)
    line = "some avg10={} avg60=0.00 avg300=0.00 total=0\nfull avg10=0.00 avg60=0.00 avg300=0.00 total=0\n"
    host = tree.file("/proc/pressure/memory", line.format("1.50"))
    assert cgroup.pressure(system=tree.system) == (1.5, str(host))
    own = tree.file("/sys/fs/cgroup/a/memory.pressure", line.format("22.75"))
    assert cgroup.pressure(system=tree.system) == (22.75, str(own))


# -- the real thing ----------------------------------------------------------------------------------------------------


def memory_mount() -> tuple[Path, int] | None:
    """Where this machine lets groups be made, and the version."""
    v1, v2 = Path("/sys/fs/cgroup/memory"), Path("/sys/fs/cgroup")
    if (v1 / "memory.limit_in_bytes").exists():
        return v1, 1
    controllers = v2 / "cgroup.subtree_control"
    return (v2, 2) if controllers.exists() and "memory" in controllers.read_text() else None


@pytest.fixture
def real_group() -> Iterator[tuple[Path, int]]:
    """A memory cgroup of our own with 300 MiB."""
    place = memory_mount()
    if place is None:
        pytest.skip("no memory cgroup hierarchy is mounted here")
    folder, version = place[0] / f"rddkit-test-{os.getpid()}", place[1]
    try:
        folder.mkdir()
        name = "memory.limit_in_bytes" if version == 1 else "memory.max"
        (folder / name).write_text(str(300 * MIB))
    except OSError as error:
        if folder.exists():
            folder.rmdir()
        pytest.skip(f"no permission to make a memory cgroup: {error}")
    yield folder, version
    for _ in range(50):
        try:
            folder.rmdir()
            return
        except OSError:
            clock.sleep(0.1)  # the kernel lets go of a dead process's group a moment later


JOIN = "import os, sys; open(sys.argv[1] + '/cgroup.procs', 'w').write(str(os.getpid()))\n"


def test_a_child_in_a_real_group_says_its_limit_and_names_the_file(real_group: tuple[Path, int]) -> None:
    folder, version = real_group
    code = JOIN + "import json; from rddkit import memory; print(json.dumps([memory.total(), memory.available()]))"
    answer = subprocess.run([sys.executable, "-c", code, str(folder)], capture_output=True, text=True, check=True)
    total, available = json.loads(answer.stdout)
    name = "memory.limit_in_bytes" if version == 1 else "memory.max"
    assert total == [300 * MIB, str(folder / name)]
    assert available[1] == str(folder / name)
    assert 100 * MIB < available[0] < 300 * MIB


@pytest.fixture
def big_file(tmp_path: Path) -> Path:
    """100 MiB that are in nobody's page cache: what is in it already is charged to whoever read it first."""
    if checks.in_memory(tmp_path):
        pytest.skip("files are shared memory themselves here (tmpfs)")
    file = tmp_path / "big"
    file.write_bytes(b"1" * (100 * MIB))
    with open(file, "rb") as opened:
        os.fsync(opened.fileno())
        os.posix_fadvise(opened.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    return file


def test_a_file_read_in_a_real_group_is_used_but_not_charged_and_memory_taken_is(
    real_group: tuple[Path, int], big_file: Path
) -> None:
    folder, _ = real_group
    code = JOIN + (
        "import json, mmap\n"
        "from rddkit import cgroup, memory\n"
        "def look():\n"
        "    group = cgroup.groups()[0]\n"
        "    return [group.used, group.charged, memory.container().charged, memory.process(os.getpid()).bytes]\n"
        "seen = [look()]\n"
        "file = open(sys.argv[2], 'rb')\n"
        "for _ in range(2):\n"  # read twice: then the pages are active ones
        "    file.seek(0)\n"
        "    while file.read(1 << 20): pass\n"
        "code = mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ)\n"
        "sum(code[at] for at in range(0, len(code), 4096))\n"
        "seen.append(look())\n"
        "held = bytearray(b'1') * (60 << 20)\n"
        "seen.append(look())\n"
        "shared = mmap.mmap(-1, 40 << 20); shared[:] = bytes(40 << 20)\n"
        "seen.append(look())\n"
        "print(json.dumps(seen))\n"
    )
    command = [sys.executable, "-c", code, str(folder), str(big_file)]
    answer = subprocess.run(command, capture_output=True, text=True, check=True)
    before, read, taken, shared = json.loads(answer.stdout)
    assert read[0] - before[0] > 90 * MIB, "the kernel counts the file's pages"
    assert all(abs(read[at] - before[at]) < 12 * MIB for at in (1, 2, 3)), "and nobody else does"
    assert all(54 * MIB < taken[at] - read[at] < 72 * MIB for at in (1, 2, 3))
    assert all(36 * MIB < shared[at] - taken[at] < 52 * MIB for at in (1, 2, 3)), "shared memory cannot be dropped"


def test_the_kernel_drops_a_file_that_is_mapped_before_it_kills(real_group: tuple[Path, int], big_file: Path) -> None:
    folder, _ = real_group
    code = JOIN + (
        "import mmap\n"
        "from rddkit import cgroup\n"
        "file = open(sys.argv[2], 'rb')\n"
        "code = mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ)\n"
        "for _ in range(2): sum(code[at] for at in range(0, len(code), 4096))\n"
        "free = cgroup.groups()[0].free\n"
        "held = bytearray(b'1') * (free - (24 << 20))\n"
        "print(free >> 20, cgroup.kills().count)\n"
    )
    command = [sys.executable, "-c", code, str(folder), str(big_file)]
    answer = subprocess.run(command, capture_output=True, text=True, check=True)
    free, kills = map(int, answer.stdout.split())
    assert free > 240 and kills == 0, "nearly all of 300 MiB could be taken, though 100 of them were the file's"


def test_a_real_kill_by_the_kernel_is_counted_in_the_groups_own_counter(real_group: tuple[Path, int]) -> None:
    folder, _ = real_group
    code = (
        JOIN + "from rddkit import cgroup; print(cgroup.kills().count, cgroup.kills().source, flush=True)\n"
        "blocks = [bytearray(10 << 20) for _ in range(60)]\n"
    )
    child = subprocess.run([sys.executable, "-c", code, str(folder)], capture_output=True, text=True, check=False)
    before, source = child.stdout.split(maxsplit=1)
    assert child.returncode == -9
    assert before == "0" and source.strip().startswith(str(folder))
    assert cgroup.read_table(Path(source.strip()))["oom_kill"] == 1
