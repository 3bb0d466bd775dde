"""Reading on several cores gives what reading on one gives, and does without the others where they fail."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
from hostile import build
from PIL import Image

from rddkit.dataset import OFFICIAL, reading
from rddkit.dataset.layout import Pair, find
from rddkit.dataset.reading import read_all

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="pipes, devices and names of any bytes")


def hostile_pairs(tmp_path: Path) -> tuple[Path, list[Pair]]:
    """A folder of defects and its pairs."""
    raw = tmp_path / "raw"
    build(raw, tmp_path / "outside")
    return raw, find(raw).pairs


def test_several_processes_read_what_one_reads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    raw, pairs = hostile_pairs(tmp_path)
    alone = read_all(pairs, raw, OFFICIAL, None, lambda done: None)
    monkeypatch.setattr(reading, "ENOUGH", 1)
    monkeypatch.setattr(os, "cpu_count", lambda: 3)
    told: list[int] = []
    assert read_all(pairs, raw, OFFICIAL, None, told.append) == alone
    assert len(told) == len(pairs) // 3 and told[-1] <= len(pairs)


def test_a_process_that_holds_ultralytics_reads_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    raw, pairs = hostile_pairs(tmp_path)
    alone = read_all(pairs, raw, OFFICIAL, None, lambda done: None)
    monkeypatch.setattr(Image, "open", lambda *args, **more: pytest.fail("Ultralytics patches it to install pi-heif"))
    assert read_all(pairs, raw, OFFICIAL, None, lambda done: None) == alone


@pytest.mark.parametrize("program", ["/bin/false", "/bin/cat"])
def test_where_another_process_fails_its_share_is_read_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, program: str
) -> None:
    raw, pairs = hostile_pairs(tmp_path)
    alone = read_all(pairs, raw, OFFICIAL, None, lambda done: None)
    monkeypatch.setattr(reading, "ENOUGH", 1)
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    monkeypatch.setattr(sys, "executable", program)
    assert read_all(pairs, raw, OFFICIAL, None, lambda done: None) == alone


def test_an_interruption_leaves_no_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    raw = tmp_path / "raw"
    build(raw, tmp_path / "outside")
    monkeypatch.setattr(reading, "ENOUGH", 1)
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    started = []
    popen = reading.subprocess.Popen
    monkeypatch.setattr(reading.subprocess, "Popen", lambda *a, **k: started.append(popen(*a, **k)) or started[-1])

    def stop(done: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        read_all(find(raw).pairs, raw, OFFICIAL, None, stop)
    assert started[0].returncode is not None
