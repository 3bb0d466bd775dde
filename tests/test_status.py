"""Status: a run's state, exit code and sentence, from its files alone."""

from __future__ import annotations

import json
import os
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from rddkit import clock, lock, status
from rddkit.journal import Journal
from rddkit.paths import RunPaths
from rddkit.status import EXIT_CODES, judge, read_rows, read_status

NOW = datetime(2026, 11, 23, 3, 12, tzinfo=timezone.utc)
AT = NOW.astimezone().strftime("%H:%M")


def event(name: str, attempt: int = 1, **fields: Any) -> dict[str, Any]:
    return {"t": clock.stamp(NOW), "event": name, "attempt": attempt, **fields}


BEGUN = [event("run_started", 0), event("attempt_started", plan={"batch": 2})]
PROGRESS = {"epoch": 41, "epochs": 200, "batch": 7, "batches": 90, "phase": "train", "heartbeat": clock.stamp(NOW)}


def told(events: list[dict[str, Any]], held: bool = False, progress: dict[str, Any] | None = None, **later: Any) -> Any:
    now = NOW + timedelta(**later)
    return judge(RunPaths(Path("/r/night")), events, PROGRESS if progress is None else progress, [], held, now)


def test_every_state_has_its_exit_code() -> None:
    stopped = [*BEGUN, event("run_stopped", reason="asked to stop (SIGTERM)")]
    table = {
        "new": told([]),
        "running": told(BEGUN, held=True),
        "dead": told(BEGUN),
        "stopped": told(stopped),
        "failed": told([*BEGUN, event("run_failed", cause="crash", evidence="ValueError: x", exit=1)]),
        "done": told([*BEGUN, event("run_done")]),
    }
    assert {state: found.state for state, found in table.items()} == {state: state for state in table}
    assert {state: found.exit_code for state, found in table.items()} == EXIT_CODES
    assert EXIT_CODES == {"done": 0, "stopped": 75, "dead": 75, "failed": 1, "running": 3, "new": 75}
    assert told([*BEGUN, event("run_failed", exit=69)]).exit_code == 69, "the command's own exit code, where told"
    assert told([*BEGUN, event("run_stopped", exit=143)]).exit_code == 143
    assert told([*stopped, event("attempt_started", 2)]).state == "dead"
    assert told([*stopped, event("attempt_started", 2)], held=True).state == "running"
    assert told([event("run_started", 0)]).state == "dead"


@pytest.mark.parametrize(
    ("events", "held", "progress", "sentence"),
    [
        ([], False, {}, "Not started yet; start it with: rddkit train"),
        (BEGUN, True, {}, "Running, getting ready"),
        (BEGUN, True, PROGRESS, "Running, epoch 41 of 200"),
        (
            BEGUN,
            True,
            {**PROGRESS, "phase": "validate", "eta_seconds": 7800},
            "Running, epoch 41 of 200, validate, 2 h 10 min to go",
        ),
        (
            BEGUN,
            False,
            PROGRESS,
            "Dead at epoch 41 of 200: the supervisor is gone without a last word; continue with the same command",
        ),
        (
            [*BEGUN, event("run_stopped", reason="the caller went away")],
            False,
            PROGRESS,
            f"Stopped {AT} at epoch 41 of 200: the caller went away; resumable with the same command",
        ),
        (
            [*BEGUN, event("run_failed", cause="crash", evidence="ValueError: no images\nmore\n")],
            False,
            PROGRESS,
            f"Failed {AT} at epoch 41 of 200: crash, ValueError: no images",
        ),
        (
            [*BEGUN, event("run_failed", cause="crash", evidence="")],
            False,
            PROGRESS,
            f"Failed {AT} at epoch 41 of 200: crash, no evidence",
        ),
        ([*BEGUN, event("run_done")], False, PROGRESS, f"Finished {AT}"),
    ],
)
def test_the_sentence_says_it(events: list[Any], held: bool, progress: dict[str, Any], sentence: str) -> None:
    assert told(events, held, progress).sentence == sentence


def test_a_quiet_run_says_since_when() -> None:
    assert told(BEGUN, held=True, seconds=59).sentence == "Running, epoch 41 of 200"
    assert told(BEGUN, held=True, minutes=5).sentence == "Running, epoch 41 of 200; no heartbeat for 5 min"


def test_a_finished_run_tells_kills_losses_fallbacks_and_its_best() -> None:
    events = [
        *BEGUN,
        event("attempt_ended", cause="killed"),
        event("resumed", 2, lost_seconds=30.0),
        event("attempt_ended", 2, cause="stopped"),
        event("resumed", 3, lost_seconds=0),
        event("attempt_ended", 3, cause="oom"),
        event("fallback", 3, **{"from": {"batch": 2, "imgsz": 640}, "to": {"batch": 1, "imgsz": 640}, "epoch": 37}),
        event("resumed", 4, lost_seconds=11.2),
        event("attempt_ended", 4, cause="done"),
        event("run_done", 4),
    ]
    rows = [
        {"epoch": 1.0, "metrics/mAP50(B)": float("nan")},
        {"epoch": 119.0, "metrics/mAP50(B)": 0.58},
        {"epoch": 120.0},
    ]
    found = judge(RunPaths(Path("/r/night")), events, PROGRESS, rows, False, NOW)
    assert (
        found.sentence == f"Finished {AT}; 2 kills, 41 s lost; batch 2 -> 1 at epoch 37; best mAP50 0.58 at epoch 119"
    )
    assert (found.kills, found.attempt, found.best["epoch"], found.latest["epoch"]) == (2, 4, 119.0, 120.0)


def test_pids_are_told_only_while_the_run_is_alive() -> None:
    progress = {**PROGRESS, "worker_pid": 5, "supervisor_pid": 6}
    assert (told(BEGUN, True, progress).worker_pid, told(BEGUN, True, progress).supervisor_pid) == (5, 6)
    assert told(BEGUN, False, progress).worker_pid is None


def test_the_status_is_plain_json() -> None:
    assert json.loads(json.dumps(told(BEGUN, held=True).as_dict()))["state"] == "running"


def test_files_and_lock_of_a_folder_are_read(tmp_path: Path) -> None:
    paths = RunPaths(tmp_path)
    assert read_status(paths).state == "new"
    book = Journal(paths.journal)
    book.add("run_started", 0)
    book.add("attempt_started", 1, plan={"batch": 2})
    paths.results_csv.write_text("epoch,time,metrics/mAP50(B)\n1,2.5,0.25\n2,5,0.5\n3,7.5,0.3\n")
    held = lock.take(paths.lock)
    running = read_status(paths)
    assert (running.state, running.plan, running.epoch, running.best["epoch"]) == ("running", {"batch": 2}, 3, 2.0)
    os.close(held)
    assert read_status(paths).state == "dead"


def test_a_run_whose_supervisor_still_writes_the_report_reads_as_ended(tmp_path: Path) -> None:
    paths = RunPaths(tmp_path)
    book = Journal(paths.journal)
    for _ in range(2):
        held = lock.take(paths.lock)
        lock.sign(held, supervisor_pid=os.getpid(), supervisor_started=lock.started(os.getpid()))
        assert read_status(paths).state == "running", "an earlier session's last word is not this one's"
        clock.sleep(0.01)
        book.add("run_stopped", 1, exit=75)
        assert read_status(paths).state == "stopped"
        os.close(held)
        clock.sleep(0.01)


@pytest.mark.parametrize("content", ["", "{", "[]", "7", "\0"])
def test_a_progress_that_cannot_be_read_is_none(tmp_path: Path, content: str) -> None:
    (tmp_path / "p.json").write_text(content)
    assert status.read_progress(tmp_path / "p.json") == {}
    assert status.read_progress(tmp_path / "missing.json") == {}


@pytest.mark.parametrize("torn", ["2", "2,5", "2,5,0.31", "2,5,\n", "2,x,1\n", "2,5,1,7\n", "\0\0\0", "\n\n"])
def test_a_torn_row_of_results_is_left_out(tmp_path: Path, torn: str) -> None:
    file = tmp_path / "results.csv"
    file.write_text("epoch,  time,metrics/mAP50(B)\n1,2.5,0.25\n" + torn)
    assert read_rows(file) == [{"epoch": 1.0, "time": 2.5, "metrics/mAP50(B)": 0.25}]


@given(st.binary(max_size=80))
@example(b"\r\x01\n")
def test_any_bytes_of_results_are_read_without_an_error(
    tmp_path_factory: pytest.TempPathFactory, content: bytes
) -> None:
    file = tmp_path_factory.getbasetemp() / "any.csv"
    file.write_bytes(content)
    assert isinstance(read_rows(file), list)


def test_the_best_row_is_the_first_of_the_highest_and_nan_is_none() -> None:
    key = "metrics/mAP50(B)"
    rows = [{"epoch": 1.0, key: float("nan")}, {"epoch": 2.0, key: 0.5}, {"epoch": 3.0, key: 0.5}, {"epoch": 4.0}]
    assert status.best_row(rows)["epoch"] == 2.0
    assert status.best_row([{"epoch": 1.0}]) == {}
