"""One life of the worker, as the supervisor attends to it."""

from __future__ import annotations

import os
import subprocess
from types import SimpleNamespace

import psutil

from rddkit import hang
from rddkit.life import Life


def test_last_words_said_while_the_supervisor_looked_elsewhere_are_heard() -> None:
    worker = SimpleNamespace(exit=None)
    life = Life.__new__(Life)
    life.messages, write = os.pipe()
    life.process = SimpleNamespace(poll=lambda: worker.exit)  # type: ignore[assignment]
    life.buffer, life.poll, life.last_words, life.silence = b"", 0.01, {}, hang.Silence()

    def leaves() -> None:
        if worker.exit is None:
            os.write(write, b'{"kind": "end", "outcome": "oom"}\n')
            worker.exit = 1

    life._tick = leaves  # type: ignore[method-assign]
    try:
        life.watch([], lambda _fd: True)  # a grandchild holds the pipe open: there is no end of file
    finally:
        os.close(write)
    assert life.last_words == {"outcome": "oom"}


def test_a_worker_is_ended_with_the_processes_it_started() -> None:
    life = Life.__new__(Life)
    script = "sleep 60 & echo $!; wait"
    life.process = subprocess.Popen(["sh", "-c", script], stdout=subprocess.PIPE, start_new_session=True)
    with life.process:
        assert life.process.stdout
        child = psutil.Process(int(life.process.stdout.readline()))
        life.end()
        assert life.process.wait(5) == -9
        assert not child.is_running() or child.wait(5) is None
        life.end()  # nothing is left to end
