"""steps.csv and memory.csv: whole rows only, and nothing beyond what a resume continues from."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rddkit import tables
from rddkit.tables import Memory, Steps


def beat(epoch: int, batch: int, batches: int = 10, **more: Any) -> dict[str, Any]:
    return {
        "t": "2026-11-23T03:12:05.123Z",
        "phase": "train",
        "epoch": epoch,
        "batch": batch,
        "batches": batches,
        "losses": {"box_loss": 1.5, "cls_loss": 2.5},
        "lr": 0.01,
        "images_per_second": 3.0,
        **more,
    }


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "steps.csv"


def places(file: Path) -> list[tuple[int, int]]:
    with open(file, newline="") as rows:
        return [(int(row["epoch"]), int(row["batch"])) for row in csv.DictReader(rows)]


def test_steps_have_a_header_and_a_row_every_few_seconds_and_at_each_epochs_last_batch(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [100.0]
    monkeypatch.setattr("rddkit.clock.monotonic", lambda: now[0])
    steps = Steps(file)
    for batch in range(1, 11):
        steps.add(1, beat(1, batch))
        now[0] += 0.75
    assert file.read_text().splitlines()[0] == "time,attempt,epoch,batch,batches,box_loss,cls_loss,lr,images_per_second"
    assert places(file) == [(1, 1), (1, 4), (1, 7), (1, 10)]


def test_validation_and_a_beat_without_losses_are_no_step(file: Path) -> None:
    steps = Steps(file)
    steps.add(1, beat(1, 1, phase="validate"))
    steps.add(1, beat(1, 1, losses={}))
    assert not file.exists()


def test_rows_beyond_the_place_of_a_resume_are_forgotten(file: Path) -> None:
    steps = Steps(file)
    for epoch in (1, 2, 3):
        for batch in (5, 10):
            steps.written = -100.0
            steps.add(1, beat(epoch, batch))
    steps.drop_after(epoch=2, batch=5)
    assert places(file) == [(1, 5), (1, 10), (2, 5)]
    steps.drop_after(epoch=1, batch=0)
    assert places(file) == []
    assert file.read_text().startswith("time,attempt,")


def test_forgetting_before_the_first_row_is_nothing(file: Path) -> None:
    Steps(file).drop_after(1, 0)
    assert not file.exists()


@pytest.mark.parametrize("junk", ["\n", "a,b\n", "a,b,3\n", "a,b,3,x\n", ",,,\n"])
def test_a_foreign_row_does_not_stop_a_resume(file: Path, junk: str) -> None:
    steps = Steps(file)
    steps.add(1, beat(1, 10))
    with open(file, "a") as out:
        out.write(junk)
    steps.drop_after(5, 0)
    assert "2026-11-23" in file.read_text()


@given(st.binary(max_size=60).map(lambda raw: raw.replace(b"\n", b"")))
def test_a_torn_last_row_is_cut_off(tmp_path_factory: pytest.TempPathFactory, torn: bytes) -> None:
    file = tmp_path_factory.mktemp("torn") / "steps.csv"
    Steps(file).add(1, beat(1, 10))
    whole = file.read_bytes()
    with open(file, "ab") as out:
        out.write(torn)
    Steps(file)
    assert file.read_bytes() == whole


def test_memory_has_the_designs_columns_and_empty_cells_for_what_is_unknown(tmp_path: Path) -> None:
    memory = Memory(tmp_path / "memory.csv")
    memory.add(attempt=1, worker=5, device=None, available=6, budget=7, swap=0)
    header, row = (tmp_path / "memory.csv").read_text().splitlines()
    assert header == "time,attempt,worker,device,available,budget,swap"
    assert row.endswith("Z,1,5,,6,7,0")


def test_a_disk_that_is_full_loses_the_row_and_not_the_run(tmp_path: Path) -> None:
    tables.append(tmp_path / "missing folder" / "x.csv", ["a"], [1])
    assert not (tmp_path / "missing folder").exists()


def test_a_cell_with_a_comma_is_quoted() -> None:
    assert tables.csv_line(["a,b", None, 1.5]) == '"a,b",,1.5\n'
