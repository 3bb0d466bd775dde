"""The supervisor's books: whole rows and events whatever happens, and lost work told right."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from rddkit import books, durable, lock, tables
from rddkit.books import LOG_TAIL_BYTES, Books, log_tail, lost_work
from rddkit.journal import last
from rddkit.paths import RunPaths


@pytest.fixture
def paths(tmp_path: Path) -> RunPaths:
    return RunPaths(tmp_path)


def beat(epoch: int, batch: int, batches: int = 10, **more: Any) -> dict[str, Any]:
    return {
        "t": "2026-11-23T03:12:05.123Z",
        "phase": "train",
        "epoch": epoch,
        "epochs": 5,
        "batch": batch,
        "batches": batches,
        "losses": {"box_loss": 1.5},
        "lr": 0.01,
        "images_per_second": 3.0,
        "train_seconds": float(10 * ((epoch - 1) * batches + batch)),
        **more,
    }


def rows(path: Path) -> list[dict[str, Any]]:
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


# A supervisor that does nothing but write, until it is killed.
WRITER = """
import sys
from pathlib import Path
from rddkit.books import Books
from rddkit.paths import RunPaths
books = Books(RunPaths(Path(sys.argv[1])), None)
for turn in range(10**6):
    books.journal.add("epoch", 1, epoch=turn + 1, metrics={"x": 0.5}, text="\\u00e4" * 500)
    books.memory.add(attempt=1, worker=turn, available=6, budget=7, swap=0)
    books.progress("running", 1, 42, {"t": "2026-11-23T03:12:05.123Z", "phase": "train", "epoch": turn + 1})
    if turn == 20:
        print("up", flush=True)
"""


def test_books_of_a_writer_that_was_killed_have_whole_rows_and_events_and_are_continued(paths: RunPaths) -> None:
    writer = subprocess.Popen([sys.executable, "-c", WRITER, str(paths.folder)], stdout=subprocess.PIPE)
    assert writer.stdout is not None and writer.stdout.readline() == b"up\n"
    writer.kill()
    writer.wait()
    writer.stdout.close()
    after = Books(paths, None)
    after.journal.add("attempt_ended", 1, cause="killed")
    after.memory.add(attempt=2, worker=5)
    events = [json.loads(line) for line in paths.journal.read_text(encoding="utf-8").splitlines()]
    assert [event["epoch"] for event in events[:-1]] == list(range(1, len(events)))
    assert events[-1]["event"] == "attempt_ended"
    table = rows(paths.memory_csv)
    assert all(None not in row and None not in row.values() for row in table), "as many cells as columns"
    assert [int(row["worker"]) for row in table] == [*range(len(table) - 1), 5]
    assert json.loads(paths.progress.read_text())["epoch"] >= 20


@pytest.mark.parametrize("torn", ["{", '{"event": "epo', "2026-11-23T0", "\u00e4"])
def test_what_a_kill_tore_is_cut_off_before_anything_is_added(paths: RunPaths, torn: str) -> None:
    first = Books(paths, None)
    first.journal.add("run_started", 0)
    first.memory.add(attempt=1, worker=1)
    first.steps.add(1, beat(1, 10))
    for file in (paths.journal, paths.memory_csv, paths.steps_csv):
        with open(file, "a", encoding="utf-8") as out:
            out.write(torn)
    second = Books(paths, None)
    second.journal.add("attempt_started", 1)
    second.memory.add(attempt=2, worker=2)
    second.steps.add(2, beat(2, 10))
    assert [event["event"] for event in second.events()] == ["run_started", "attempt_started"]
    assert len(paths.journal.read_text().splitlines()) == 2
    assert [row["attempt"] for row in rows(paths.memory_csv)] == ["1", "2"]
    assert [row["epoch"] for row in rows(paths.steps_csv)] == ["1", "2"]


def test_progress_says_where_the_run_stands_who_runs_it_and_until_when(paths: RunPaths) -> None:
    Books(paths, "2026-11-24T07:00:00.000Z").progress("running", 3, 42, beat(2, 5))
    content = json.loads(paths.progress.read_text())
    assert set(content) == {
        "state",
        *tables.PROGRESS_KEYS,
        *"heartbeat attempt worker_pid supervisor_pid supervisor_started until".split(),
    }
    assert (content["state"], content["attempt"], content["worker_pid"]) == ("running", 3, 42)
    assert (content["epoch"], content["batch"], content["heartbeat"]) == (2, 5, "2026-11-23T03:12:05.123Z")
    assert content["until"] == "2026-11-24T07:00:00.000Z"
    assert lock.is_same(content["supervisor_pid"], content["supervisor_started"])
    assert content["supervisor_pid"] == os.getpid()


def test_progress_before_the_first_word_is_written_with_empty_places(paths: RunPaths) -> None:
    Books(paths, None).progress("running", 1, None, {})
    content = json.loads(paths.progress.read_text())
    assert content["epoch"] is content["heartbeat"] is content["worker_pid"] is content["until"] is None


def test_progress_that_a_full_disk_does_not_take_ends_nothing(paths: RunPaths, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(path: Path, content: str) -> None:
        raise OSError(28, "No space left on device")

    book = Books(paths, None)
    book.progress("running", 1, 42, beat(1, 1))
    before = paths.progress.read_bytes()
    monkeypatch.setattr(durable, "write_quickly", full)
    book.progress("running", 1, 42, beat(1, 2))
    assert paths.progress.read_bytes() == before


@pytest.mark.parametrize(
    ("events", "reached"),
    [
        ([], 0),
        ([("epoch", {"epoch": 3})], 3_000_000),
        ([("snapshot", {"epoch": 1, "batch": 5, "batches": 10})], 500_000),
        ([("snapshot", {"epoch": 3, "batch": 0, "batches": 10})], 2_000_000),
        ([("snapshot", {"epoch": 3, "batch": 0, "batches": 0})], 2_000_000),
        ([("epoch", {"epoch": 2}), ("snapshot", {"epoch": 3, "batch": 1, "batches": 3})], 2_333_333),
        ([("snapshot", {"epoch": 3, "batch": 9, "batches": 10}), ("epoch", {"epoch": 2})], 2_900_000),
        ([("snapshot_failed", {"reason": "full"}), ("resumed", {"epoch": 9, "batch": 0})], 0),
    ],
)
def test_how_far_the_run_has_come_is_told_by_what_is_on_disk(
    paths: RunPaths, events: list[tuple[str, dict[str, Any]]], reached: int
) -> None:
    book = Books(paths, None)
    for event, fields in events:
        book.journal.add(event, 1, **fields)
    assert book.reached() == reached


LOST = [
    ("within an epoch", (2, 5, 150.0), (2, 3, 130.0), (2, 20.0)),
    ("over an epoch's end", (3, 2, 220.0), (2, 8, 180.0), (4, 40.0)),
    ("from an epoch's beginning", (2, 5, 150.0), (2, 0, 100.0), (5, 50.0)),
    ("nothing", (2, 5, 150.0), (2, 5, 150.0), (0, 0.0)),
    ("the snapshot was newer than progress.json", (2, 5, 150.0), (2, 7, 170.0), (0, 0.0)),
    ("everything", (2, 5, 150.0), (1, 0, None), (15, 150.0)),
    ("killed before its first batch", (2, 0, None), (2, 0, 100.0), (0, 0.0)),
    ("tenths of a second", (2, 5, 150.04), (2, 4, 140.0), (1, 10.0)),
]


@pytest.mark.parametrize(("left", "resumed", "lost"), [row[1:] for row in LOST], ids=[row[0] for row in LOST])
def test_lost_work_is_what_a_resume_repeats(
    left: tuple[int, int, float | None], resumed: tuple[int, int, float | None], lost: tuple[int, float]
) -> None:
    epoch, batch, seconds = left
    before = {"epoch": epoch, "batch": batch, "batches": 10, "train_seconds": seconds}
    now = dict(zip(("epoch", "batch", "train_seconds"), resumed, strict=True))
    assert lost_work(before, now) == {"lost_batches": lost[0], "lost_seconds": lost[1]}


@pytest.mark.parametrize("before", [{}, {"epoch": None, "batch": None, "batches": None, "train_seconds": None}])
def test_without_an_attempt_before_nothing_is_lost(before: dict[str, Any]) -> None:
    resumed = {"epoch": 2, "batch": 3, "train_seconds": 10.0}
    assert lost_work(before, resumed) == {"lost_batches": 0, "lost_seconds": 0.0}


def resume(book: Books, attempt: int, epoch: int, batch: int, seconds: float) -> dict[str, Any]:
    """A worker's word that it continues there, and the event that was written about it."""
    where = {"event": "resumed", "epoch": epoch, "batch": batch, "train_seconds": seconds, "exact": True, "reason": ""}
    book.resumed(attempt, where)
    return last(book.events(), "resumed") or {}


def test_a_resume_is_journaled_with_what_was_lost_and_steps_beyond_it_are_forgotten(paths: RunPaths) -> None:
    book = Books(paths, None)
    for batch in (3, 5):
        book.steps.written = -100.0
        book.steps.add(1, beat(2, batch))
    book.progress("running", 1, 42, beat(2, 5))
    book.remember_progress()
    event = resume(book, 2, epoch=2, batch=3, seconds=130.0)
    assert (event["attempt"], event["epoch"], event["batch"]) == (2, 2, 3)
    assert (event["lost_batches"], event["lost_seconds"]) == (2, 20.0)
    assert [row["batch"] for row in rows(paths.steps_csv)] == ["3"]


def test_a_new_supervisor_tells_what_the_one_before_it_lost(paths: RunPaths) -> None:
    Books(paths, None).progress("running", 1, 42, beat(2, 5))
    book = Books(paths, None)
    book.remember_progress()
    assert resume(book, 2, epoch=2, batch=0, seconds=100.0)["lost_batches"] == 5


def test_an_attempt_that_ended_before_it_began_does_not_hide_what_was_lost(paths: RunPaths) -> None:
    book = Books(paths, None)
    book.progress("running", 1, 42, beat(2, 5))
    book.remember_progress()
    book.progress("running", 2, 43, {"phase": "start"})
    book.remember_progress()
    assert resume(book, 3, epoch=2, batch=3, seconds=130.0)["lost_batches"] == 2


def test_what_was_lost_is_told_once_though_the_attempt_that_told_it_ended_before_training(paths: RunPaths) -> None:
    book = Books(paths, None)
    book.progress("running", 1, 42, beat(2, 5))
    book.remember_progress()
    assert resume(book, 2, epoch=2, batch=3, seconds=130.0)["lost_batches"] == 2
    book.progress("running", 2, 43, {"phase": "start"})
    book.remember_progress()
    assert resume(book, 3, epoch=2, batch=3, seconds=130.0)["lost_batches"] == 0


@pytest.mark.parametrize(
    ("content", "tail"),
    [
        (b"", ""),
        (b"one\ntwo\n", "one\ntwo"),
        (b"\n\n  one \n", "one"),
        (b"x" * 20_000 + b"end", "x" * (LOG_TAIL_BYTES - 3) + "end"),
        (b"\xff\xfe bad", "\ufffd\ufffd bad"),
        ("ä".encode() * 10_000 + b"e", "\ufffd" + "ä" * (LOG_TAIL_BYTES // 2 - 1) + "e"),
    ],
    ids=["empty", "short", "blanks", "long", "foreign", "a character cut in two"],
)
def test_a_logs_last_lines_are_for_people_whatever_is_in_them(tmp_path: Path, content: bytes, tail: str) -> None:
    log = tmp_path / "attempt-001.log"
    log.write_bytes(content)
    assert log_tail(log) == tail


def test_a_log_that_is_not_there_has_no_last_lines(tmp_path: Path) -> None:
    assert log_tail(tmp_path / "attempt-001.log") == ""
    assert log_tail(tmp_path) == "", "a folder"
    assert books.log_tail(tmp_path / "x" / "y") == ""
