"""One life of the worker, as the supervisor attends to it."""

from __future__ import annotations

import os
import subprocess
from types import SimpleNamespace

import psutil
import pytest

from rddkit import hang, memory
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


@pytest.mark.parametrize(("device", "needed"), [("cpu", 700), ("mps", 700), ("cuda:0", 300), ("cuda:0,1", 300)])
def test_an_estimate_of_a_gpu_is_held_against_what_the_gpu_holds(device: str, needed: int) -> None:
    life = Life.__new__(Life)
    told: list[str] = []
    journal = SimpleNamespace(add=lambda *_words, **fields: told.append(fields["reason"]))
    life.books, life.number = SimpleNamespace(journal=journal), 1  # type: ignore[assignment]
    life.record = SimpleNamespace(device=device)  # type: ignore[assignment]
    life.beat, life.expected, life.exceeded = {"device_memory": 300}, {"estimate": 200, "safe_bound": 250}, False
    life.process = SimpleNamespace(pid=os.getpid())  # type: ignore[assignment]
    life.peak_bytes = life.peak_resident_bytes = life.epoch_held = life.epoch_needed = 0
    life._note_held(700)
    assert (life.peak_bytes, life.epoch_held, life.epoch_needed) == (700, 700, needed)
    assert len(told) == 1 and f"{needed / 200 - 1:+.0%} of the" in told[0]


def test_the_resident_size_is_noted_when_more_is_held_than_before(monkeypatch: pytest.MonkeyPatch) -> None:
    life = Life.__new__(Life)
    life.record = SimpleNamespace(device="cpu")  # type: ignore[assignment]
    life.process = SimpleNamespace(pid=os.getpid())  # type: ignore[assignment]
    life.beat, life.expected = {}, None
    life.peak_bytes = life.peak_resident_bytes = life.epoch_held = life.epoch_needed = 0
    shown = iter([900, 1100, 1000])
    monkeypatch.setattr(memory, "resident", lambda pid: memory.Reading(next(shown), "made up"))
    for held in (500, 400, 700, 700, 800):
        life._note_held(held)
    assert (life.peak_bytes, life.peak_resident_bytes) == (800, 1100)
    assert next(shown, None) is None, "and not looked at otherwise"
