"""The lock: one owner, handed down to children, and told apart from a later process of the same number."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from rddkit import clock, lock


@pytest.fixture
def file(tmp_path: Path) -> Path:
    (tmp_path / "night").mkdir()
    return tmp_path / "night" / ".lock"


@pytest.fixture
def orphan(file: Path) -> Iterator[psutil.Process]:
    """A child that inherited the lock of a parent which took it, signed it and was killed."""
    code = (
        "import os, subprocess, sys, pathlib\nfrom rddkit import lock\n"
        "fd = lock.take(pathlib.Path(sys.argv[1]))\n"
        "lock.sign(fd, supervisor_pid=os.getpid(), supervisor_started=lock.started(os.getpid()))\n"
        "child = subprocess.Popen(['sleep', '60'], pass_fds=(fd,), start_new_session=True)\n"
        "print(child.pid, flush=True)\nchild.wait()\n"
    )
    parent = subprocess.Popen([sys.executable, "-c", code, str(file)], stdout=subprocess.PIPE)
    assert parent.stdout is not None
    child = psutil.Process(int(parent.stdout.readline()))
    parent.kill()
    parent.wait()
    parent.stdout.close()
    yield child
    if child.is_running():
        child.kill()


def test_a_second_owner_is_refused_while_the_first_is_there(file: Path) -> None:
    assert not lock.is_held(file)
    fd = lock.take(file)
    assert lock.is_held(file)
    with pytest.raises(lock.Busy):
        lock.take(file, wait_seconds=0.1)
    os.close(fd)
    assert not lock.is_held(file)
    os.close(lock.take(file, wait_seconds=0))


def test_the_refusal_names_the_owner_and_what_to_type(file: Path) -> None:
    fd = lock.take(file)
    lock.sign(fd, supervisor_pid=os.getpid(), supervisor_started=lock.started(os.getpid()))
    since = json.loads(file.read_text())["t"]
    with pytest.raises(lock.Busy) as caught:
        lock.take(file, wait_seconds=0)
    assert str(caught.value) == (
        f"the run 'night' is being trained by process {os.getpid()} since {since}. "
        "Look at it: rddkit status night. Stop it: rddkit stop night"
    )
    os.close(fd)


def test_a_child_that_inherited_the_lock_keeps_it_after_its_parent_was_killed(
    file: Path, orphan: psutil.Process
) -> None:
    assert lock.is_held(file)
    with pytest.raises(lock.Busy) as caught:
        lock.take(file, wait_seconds=0.1)
    assert str(caught.value) == (
        "the run 'night' is still held by a worker whose supervisor is gone; it leaves within 10 s, then start again"
    )
    orphan.kill()
    os.close(lock.take(file, wait_seconds=60))


def test_taking_waits_for_an_owner_that_is_about_to_leave(
    file: Path, orphan: psutil.Process, monkeypatch: pytest.MonkeyPatch
) -> None:
    sleep, waited = clock.sleep, []

    def leaves_meanwhile(seconds: float) -> None:
        waited.append(seconds)
        orphan.kill()
        sleep(seconds)

    monkeypatch.setattr(clock, "sleep", leaves_meanwhile)
    os.close(lock.take(file, wait_seconds=60))
    assert waited


@pytest.mark.parametrize(
    "content", [b"", b"not json", b"{}", b"[]", b'{"supervisor_pid": 1}', b'{"supervisor_pid": null}']
)
def test_an_unsigned_or_torn_lock_is_refused_without_a_name(file: Path, content: bytes) -> None:
    fd = lock.take(file)
    os.pwrite(fd, content, 0)
    with pytest.raises(lock.Busy, match="still held by a worker whose supervisor is gone"):
        lock.take(file, wait_seconds=0)
    os.close(fd)


def test_signing_replaces_a_longer_signature(file: Path) -> None:
    fd = lock.take(file)
    lock.sign(fd, supervisor_pid=123456789, note="x" * 500)
    lock.sign(fd, supervisor_pid=1)
    assert json.loads(file.read_text())["supervisor_pid"] == 1
    os.close(fd)


def test_a_later_process_with_the_same_number_is_another() -> None:
    since = lock.started(os.getpid())
    assert since is not None
    assert lock.is_same(os.getpid(), since)
    assert not lock.is_same(os.getpid(), since + 0.5)
    assert not lock.is_same(os.getpid(), since - 3600)
    assert not lock.is_same(os.getpid(), None)
    assert not lock.is_same(None, since)


def test_a_process_that_ended_and_was_not_fetched_is_gone() -> None:
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    since = lock.started(child.pid)
    assert lock.is_same(child.pid, since)
    child.kill()
    while psutil.Process(child.pid).status() != psutil.STATUS_ZOMBIE:
        clock.sleep(0.01)
    assert not lock.is_same(child.pid, since)
    child.wait()


def test_the_last_owners_signature_does_not_outlive_its_lock(file: Path) -> None:
    fd = lock.take(file)
    lock.sign(fd, supervisor_pid=os.getpid(), supervisor_started=lock.started(os.getpid()))
    assert lock.signature(file)
    os.close(fd)
    os.close(lock.take(file))
    assert lock.signature(file) == {}


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere the kernel notes the moment itself")
def test_a_clock_that_is_set_makes_no_other_process(monkeypatch: pytest.MonkeyPatch) -> None:
    since = lock.started(os.getpid())
    booted = psutil.boot_time()
    for module in (psutil, psutil._pslinux):
        monkeypatch.setattr(module, "boot_time", lambda: booted + 7200)
    assert psutil.Process(os.getpid()).create_time() - booted > 7200
    assert lock.is_same(os.getpid(), since)


def test_a_process_that_is_gone_is_not_there() -> None:
    child = subprocess.Popen(["true"])
    child.wait()
    assert lock.started(child.pid) is None
    assert not lock.is_same(child.pid, clock.utc_now().timestamp())


def test_a_missing_lock_is_held_by_nobody(tmp_path: Path) -> None:
    assert not lock.is_held(tmp_path / "none" / ".lock")


def test_looking_at_the_lock_creates_nothing(file: Path) -> None:
    assert not lock.is_held(file)
    assert not file.exists()
