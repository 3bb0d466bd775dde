"""One owner per run: a lock that the supervisor hands down to its worker, so that it holds until both are gone.

`flock` belongs to the open file, which children inherit; that is why this is not the filelock package, whose lock
ends with the process that took it.
"""

from __future__ import annotations

import fcntl
import json
import os
import sys
from pathlib import Path
from typing import Any

import psutil

from rddkit import clock, durable

SAME_SECONDS = 0.05


class Busy(RuntimeError):
    """Another process owns the run; the text says which."""


def started(pid: int) -> float | None:
    """When a process started, which tells it from a later one with its number; None if it is gone.

    Seconds since 1970; on Linux since the machine's start, as the kernel counts: psutil adds the clock's own idea of
    when that was, which moves when the clock is set.
    """
    try:
        process = psutil.Process(pid)
        if process.status() == psutil.STATUS_ZOMBIE:  # in a container nobody may ever fetch what it left
            return None
        return process.create_time() - (psutil.boot_time() if sys.platform.startswith("linux") else 0.0)
    except psutil.Error:
        return None


def is_same(pid: int | None, since: float | None) -> bool:
    """Whether the process that had this number then is alive now."""
    now = started(pid) if pid else None
    return now is not None and since is not None and abs(now - since) < SAME_SECONDS


def take(path: Path, wait_seconds: float = 2.0) -> int:
    """Own the run: the lock's descriptor, to be inherited or closed. Raises Busy after `wait_seconds`.

    The wait covers a reader that looks at the lock for a moment.
    """
    fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    deadline = clock.monotonic() + wait_seconds
    while True:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.ftruncate(fd, 0)  # the last owner's signature: it may be exiting still, and would be taken for this one
            os.utime(fd)  # since when it is held, for who reads it before it is signed
            return fd
        except BlockingIOError:
            if clock.monotonic() > deadline:
                os.close(fd)
                raise Busy(_who(path)) from None
            clock.sleep(0.05)


def sign(fd: int, **who: Any) -> None:
    """Write into the lock who owns it, for the message others get."""
    os.ftruncate(fd, 0)
    os.pwrite(fd, json.dumps({"t": clock.stamp(), **who}).encode(), 0)


def signature(path: Path) -> dict[str, Any]:
    """What the owner wrote with `sign` if that very process is alive, else {}."""
    who = durable.read_json(path)
    return who if is_same(who.get("supervisor_pid"), who.get("supervisor_started")) else {}


def _who(path: Path) -> str:
    run = path.parent.name
    if owner := signature(path):
        return (
            f"the run {run!r} is being trained by process {owner['supervisor_pid']} since {owner.get('t')}. "
            f"Look at it: rddkit status {run}. Stop it: rddkit stop {run}"
        )
    return (
        f"the run {run!r} is still held by a worker whose supervisor is gone; it leaves within 10 s, then start again"
    )


def is_held(path: Path) -> bool:
    """Whether some process owns the run now."""
    try:
        fd = os.open(path, os.O_RDONLY)
    except OSError:
        return False
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
        return False
    except BlockingIOError:
        return True
    finally:
        os.close(fd)
