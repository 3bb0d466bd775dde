"""What a dashboard reads again and again is what a report reads once, only faster and thinner."""

from __future__ import annotations

import os
from pathlib import Path

import pandas as pd
import pytest
from fabricate import fabricate_run

from rddkit import durable, records
from rddkit.live import Live
from rddkit.paths import RunPaths


@pytest.fixture
def run(tmp_path: Path) -> RunPaths:
    return fabricate_run(tmp_path / "run", epochs=6, attempts=3, memory_rows=600)


def grown(run: RunPaths, into: Path, share: float) -> RunPaths:
    """The beginning of a run's files, cut anywhere, as a reader may find them."""
    into.mkdir(exist_ok=True)
    for path in run.folder.iterdir():
        if path.is_file():
            content = path.read_bytes()
            cut = int(len(content) * share) if path.suffix in (".csv", ".jsonl") else len(content)
            with open(into / path.name, "r+b" if (into / path.name).exists() else "wb") as file:
                file.seek(0, os.SEEK_END)
                file.write(content[file.tell() : cut])
    return RunPaths(into)


def test_reading_on_gives_what_reading_at_once_gives(run: RunPaths, tmp_path: Path) -> None:
    live = Live(grown(run, tmp_path / "grown", 0.3))
    for share in (0.3, 0.31, 0.62, 0.8, 1.0):
        grown(run, tmp_path / "grown", share)
        now = live.refresh()
    whole = records.read_records(RunPaths(tmp_path / "grown"))
    assert now.events == whole.events and now.notes == whole.notes
    for mine, once in ((now.steps, whole.steps), (now.memory, whole.memory), (now.results, whole.results)):
        pd.testing.assert_frame_equal(mine.drop(columns="piece", errors="ignore"), once)
    assert now.steps["piece"].max() == 2, "three attempts, two cuts"


def test_old_rows_are_put_together_and_a_peak_stays(run: RunPaths) -> None:
    whole = records.read_records(run)
    thin = Live(run, most=50).refresh()
    assert len(thin.memory) <= 110 < len(whole.memory)
    assert thin.memory["worker"].max() == whole.memory["worker"].max()
    assert thin.memory["available"].min() == whole.memory["available"].min()
    assert thin.memory["time"].iloc[-1] == whole.memory["time"].iloc[-1]
    assert thin.steps["box_loss"].mean() == pytest.approx(whole.steps["box_loss"].mean(), rel=0.03)
    assert thin.steps["attempt"].unique().tolist() == [1, 2, 3]


def test_rows_dropped_by_a_resume_are_forgotten(run: RunPaths) -> None:
    live = Live(run)
    before = live.refresh()
    durable.edit_lines(run.steps_csv, lambda line: not line.split(",")[2:3] == ["6"])
    after = live.refresh()
    assert before.steps["epoch"].max() == 6 and after.steps["epoch"].max() == 5


def test_files_that_come_and_go_are_told(run: RunPaths) -> None:
    journal = run.journal.read_bytes()
    run.journal.unlink()
    live = Live(run)
    assert any("events.jsonl is not there" in note for note in live.refresh().notes)
    run.journal.write_bytes(journal + b'{"t": "torn')
    told = live.refresh()
    assert told.events[-1]["event"] == "run_done"
    assert told.notes == ("events.jsonl: 1 line could not be read and is left out",)
    run.memory_csv.unlink()
    assert any("memory.csv is not there" in note for note in live.refresh().notes)
