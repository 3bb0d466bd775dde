from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest
from fabricate import fabricate_run
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rddkit import records
from rddkit.paths import RunPaths


def test_a_whole_run_is_read_without_a_note(tmp_path: Path) -> None:
    run = records.read_records(fabricate_run(tmp_path / "nuit é", epochs=6, memory_rows=50))
    assert run.notes == ()
    assert list(run.results["epoch"]) == [1, 2, 3, 4, 5, 6]
    assert len(run.memory) == 50 and set(run.memory["attempt"]) == {1, 2}
    assert str(run.steps["time"].dt.tz) == "UTC"
    assert run.batches == 120
    assert records.lost_work(run.events) == records.Lost(60, 150.0, 1)


def test_an_empty_folder_gives_empty_tables_and_says_what_is_not_there(tmp_path: Path) -> None:
    run = records.read_records(RunPaths(tmp_path))
    assert (len(run.results), len(run.steps), len(run.memory), run.events) == (0, 0, 0, [])
    assert {note.split()[0] for note in run.notes} == {
        "run.yaml", "events.jsonl", "results.csv", "steps.csv", "memory.csv", "progress.json",
    }  # fmt: skip
    assert set(records.MEMORY) <= set(run.memory.columns)


def test_a_torn_last_line_is_left_out_and_said(tmp_path: Path) -> None:
    paths = fabricate_run(tmp_path / "run", epochs=3, memory_rows=10)
    for path in (paths.memory_csv, paths.results_csv, paths.journal):
        path.write_bytes(path.read_bytes()[:-5])
    run = records.read_records(paths)
    assert len(run.memory) == 9 and len(run.results) == 2
    assert "memory.csv: its last line is torn and left out" in run.notes
    assert "events.jsonl: 1 line could not be read and is left out" in run.notes


def test_lines_torn_in_the_middle_are_counted(tmp_path: Path) -> None:
    path = tmp_path / "results.csv"
    path.write_text("  epoch, time, x\n1,2,3\n2,2\n2,2,3,4\n\nepoch,time,x\n\0\0\0\n3,2,nan\n4,2,inf\n")
    table = records.read_results(path)
    assert list(table.frame["epoch"]) == [1, 3, 4]
    assert table.notes == ("results.csv: 4 lines could not be read and are left out",)


def test_one_row_an_epoch_even_if_written_twice(tmp_path: Path) -> None:
    path = tmp_path / "results.csv"
    path.write_text("epoch,time,a\n1,1,1\n2,2,2\n2,3,9\n")
    table = records.read_results(path)
    assert list(table.frame["a"]) == [1, 9]
    assert table.notes == ("results.csv: 1 epoch written twice; the newer row counts",)


def test_missing_columns_are_empty_and_said(tmp_path: Path) -> None:
    path = tmp_path / "memory.csv"
    path.write_text("time,worker\n2026-11-23T03:12:05.123Z,5\n")
    table = records.read_memory(path)
    assert table.frame["worker"][0] == 5 and pd.isna(table.frame["budget"][0]) and table.frame["attempt"][0] == 1
    assert table.notes == ("memory.csv has no column attempt, device, available, budget, swap",)


def test_a_file_without_its_key_column_is_not_shown(tmp_path: Path) -> None:
    path = tmp_path / "results.csv"
    path.write_text("foo,bar\n1,2\n")
    assert records.read_results(path).notes == ("results.csv has no header with 'epoch'; none of it is shown",)


def test_reading_goes_on_where_it_ended(tmp_path: Path) -> None:
    path = tmp_path / "memory.csv"
    header, row = "time,attempt,worker,device,available,budget,swap\n", "2026-11-23T03:12:0{}Z,1,{},,,,\n"
    path.write_text(header + row.format(1, 10) + row.format(2, 20)[:-8])
    first = records.read_memory(path)
    path.write_text(header + row.format(1, 10) + row.format(2, 20) + row.format(3, 30))
    assert list(records.read_memory(path, first.end).frame["worker"]) == [20, 30]
    assert len(records.read_memory(path, path.stat().st_size).frame) == 0


def test_a_newer_schema_is_shown_as_far_as_known(tmp_path: Path) -> None:
    paths = fabricate_run(tmp_path / "run", epochs=1, attempts=1, memory_rows=5)
    paths.run_yaml.write_text(paths.run_yaml.read_text().replace("schema: 1", "schema: 7"))
    run = records.read_records(paths)
    assert run.notes == ("written by a newer rddkit (schema 7, this one knows 1); what is known is shown",)
    assert run.run["device"] == "cpu"


def test_missing_weights_are_said(tmp_path: Path) -> None:
    paths = fabricate_run(tmp_path / "run", epochs=1, attempts=1, memory_rows=5)
    paths.best.unlink()
    assert records.read_records(paths).notes == ("weights/best.pt is not there",)


@pytest.mark.parametrize("name", ["run.yaml", "progress.json"])
def test_a_broken_mapping_is_a_note(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b'{"a": [1, \xff')
    content, notes = records.read_mapping(tmp_path / name)
    assert content == {} and notes[0].startswith(f"{name} cannot be read: ")


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(
    body=st.binary(max_size=200),
    header=st.sampled_from([b"", b"time,attempt,worker\n", b'time,"attempt,x\n', b"\xff\n"]),
)
def test_no_bytes_make_reading_raise(tmp_path: Path, body: bytes, header: bytes) -> None:
    for name in ("memory.csv", "results.csv", "events.jsonl", "run.yaml", "progress.json", "steps.csv"):
        (tmp_path / name).write_bytes(header + body)
    records.read_records(RunPaths(tmp_path))


def test_the_best_epoch_is_the_first_of_equals_and_none_without_values() -> None:
    results = pd.DataFrame({"epoch": [1.0, 2.0, 3.0], records.MAP50: [None, 0.5, 0.5], records.MAP50_95: [None] * 3})
    assert records.best(results) == records.Best(2, 0.5)
    assert records.best(results, records.MAP50_95) is None
    assert records.best(results, "absent") is None
