"""What a trial's worker held at most, as its watcher sees it; the trials themselves are in faults/test_estimate.py."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from rddkit import calibration, checks, clock, memory
from rddkit.memory import MIB
from rddkit.paths import RunPaths

# In a trial's worker's place: reads 100 MB of a file, then holds as much of its own for a moment, and says its last.
SPIKE = """
import mmap, os, sys, time
say = lambda text: os.write(int(sys.argv[1]), text.encode())
with open(sys.argv[2], "rb") as file:
    held = mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ)
sum(held[at] for at in range(0, len(held), 4096))
for size in (100, 40):
    block = bytearray(b"1") * (size << 20)
    time.sleep(0.1)
    del block
say('odd\\n{"kind": "end", "outcome": "done"}\\n')
"""


@pytest.fixture
def trial(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A call that watches a worker that runs such code."""
    if not sys.platform.startswith("linux") or checks.in_memory(tmp_path):
        pytest.skip("pages of files are told apart on Linux, and on a disk")
    file = tmp_path / "file"
    file.write_bytes(b"1" * (100 * MIB))
    popen = subprocess.Popen

    def start(command: list[str], **how: Any) -> subprocess.Popen[bytes]:
        return popen([sys.executable, "-c", SPIKE, command[-1], str(file)], **how)

    monkeypatch.setattr(calibration.subprocess, "Popen", start)
    monkeypatch.setattr(calibration, "environment", lambda record: {})
    record: Any = SimpleNamespace(
        plan={"batch": 1}, config={"optimizer": "SGD"}, device="cpu", budget={"bytes": 1 << 30}
    )
    return lambda go_on=lambda: True: calibration._watched(record, RunPaths(tmp_path), go_on)


def test_a_trials_peak_is_what_it_held_for_a_moment_without_the_files_it_read(trial: Any) -> None:
    found = trial()
    assert found.died is None and not found.too_big
    assert 100 * MIB < found.peak < 150 * MIB, "neither the later 40 MiB nor the file's 100 as well"


def test_one_that_asks_to_stop_is_asked_less_often_than_memory_is_read(
    trial: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked, read = [], []
    process = memory.process
    monkeypatch.setattr(memory, "process", lambda pid: read.append(pid) or process(pid))
    trial(lambda: asked.append(clock.monotonic()) or True)
    assert 1 <= len(asked) < len(read)
    assert all(later - earlier >= calibration.ASK_SECONDS for earlier, later in zip(asked, asked[1:], strict=False))
    with pytest.raises(calibration.Stopped):
        trial(lambda: False)
