"""One life of the worker, as the supervisor attends to it."""

from __future__ import annotations

import os
from types import SimpleNamespace

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
