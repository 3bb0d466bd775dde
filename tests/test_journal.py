"""The journal: only grows, heals a torn last line, and is read whatever happened to it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from workshop import wait_for

from rddkit import clock, journal
from rddkit.journal import Journal, read_events


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "events.jsonl"


def test_an_event_has_time_name_attempt_and_its_own_fields(file: Path) -> None:
    added = Journal(file).add("fallback", 2, reason="Speicher für Stapel 2", to={"batch": 1})
    assert clock.age_seconds(added["t"]) < 5
    assert list(added) == ["t", "event", "attempt", "reason", "to"]
    assert read_events(file) == [added]
    assert "für" in file.read_text(encoding="utf-8")


def test_a_name_the_design_does_not_have_is_refused(file: Path) -> None:
    with pytest.raises(ValueError, match="'run_strated' is not an event; one of attempt_ended, attempt_started,"):
        Journal(file).add("run_strated", 1)
    assert not file.exists()


def test_an_event_is_flushed_to_the_drive_before_add_returns(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = []
    monkeypatch.setattr("rddkit.durable.flush_to_drive", lambda fd: sizes.append(os.fstat(fd).st_size))
    book = Journal(file)
    book.add("run_started", 0)
    assert sizes == [file.stat().st_size]


def test_two_openings_append_to_the_same_file(file: Path) -> None:
    Journal(file).add("run_started", 0)
    Journal(file).add("attempt_started", 1)
    again = Journal(file)
    again.add("attempt_ended", 1)
    assert [event["event"] for event in again.read()] == ["run_started", "attempt_started", "attempt_ended"]


def test_a_torn_last_line_is_cut_off_and_the_rest_kept(file: Path) -> None:
    first = Journal(file).add("run_started", 0)
    with open(file, "ab") as out:
        out.write(b'{"t": "2026-11-23T03:12:05.123Z", "event": "epo')
    assert read_events(file) == [first], "a reader does not wait for the healing"
    second = Journal(file).add("attempt_started", 1)
    assert read_events(file) == [first, second]
    assert len(file.read_text().splitlines()) == 2


def test_a_file_of_nothing_but_a_torn_line_heals_to_an_empty_one(file: Path) -> None:
    file.write_bytes(b'{"event"')
    assert Journal(file).read() == []
    assert file.read_bytes() == b""


@given(torn=st.binary(max_size=200).map(lambda raw: raw.replace(b"\n", b" ")))
def test_any_torn_bytes_heal_without_loss(tmp_path_factory: pytest.TempPathFactory, torn: bytes) -> None:
    file = tmp_path_factory.mktemp("torn") / "events.jsonl"
    whole = [Journal(file).add("epoch", 1, epoch=number) for number in (1, 2)]
    with open(file, "ab") as out:
        out.write(torn)
    assert read_events(file)[:2] == whole
    third = Journal(file).add("epoch", 1, epoch=3)
    assert read_events(file) == [*whole, third]


@given(junk=st.lists(st.binary(max_size=60), max_size=5))
def test_any_bytes_are_read_without_an_error(tmp_path_factory: pytest.TempPathFactory, junk: list[bytes]) -> None:
    file = tmp_path_factory.mktemp("junk") / "events.jsonl"
    file.write_bytes(b"\n".join(junk))
    for event in read_events(file):
        assert "event" in event


@pytest.mark.parametrize(
    "line",
    [b"\0" * 100, b"[" * 100_000, b"7", b'"event"', b'["event"]', b'{"t": 1}', b"\xff", b"9" * 5000],
    ids=range(8),
)
def test_a_line_that_is_no_event_is_passed_over(file: Path, line: bytes) -> None:
    good = Journal(file).add("run_started", 0)
    content = file.read_bytes()
    file.write_bytes(line + b"\n" + content)
    assert read_events(file) == [good]


def test_a_missing_journal_has_no_events(file: Path) -> None:
    assert read_events(file) == []


def test_a_writer_killed_over_and_over_leaves_only_whole_lines(file: Path) -> None:
    code = (
        "import sys, pathlib\nfrom rddkit.journal import Journal\nbook = Journal(pathlib.Path(sys.argv[1]))\n"
        "while True: book.add('epoch', 1, epoch=1, metrics={'m' * 50: 0.5})\n"
    )
    file.touch()
    for _ in range(3):
        before = file.stat().st_size
        writer = subprocess.Popen([sys.executable, "-c", code, str(file)])
        wait_for(lambda before=before: file.stat().st_size > before)
        writer.kill()
        writer.wait()
    Journal(file)
    lines = file.read_text().splitlines()
    assert lines and all(json.loads(line)["event"] == "epoch" for line in lines)


def test_the_newest_event_of_some_names_is_found() -> None:
    events = [{"event": name, "n": n} for n, name in enumerate(["epoch", "snapshot", "epoch", "resumed"])]
    assert journal.last(events, "epoch", "snapshot") == events[2]
    assert journal.last(events, "run_done") is None
