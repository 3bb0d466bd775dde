"""Causes: every ending has one name, its evidence, and one step that follows."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rddkit import cause
from rddkit.cause import Cause, Ending, Step, name_cause, next_step, without_progress

ENDINGS = [
    (Ending(0, "done"), "done", "all epochs done, exit 0"),
    (Ending(0, "done", asked="asked to stop (SIGTERM)"), "done", "all epochs done, exit 0"),
    (Ending(75, "stopped", "asked to stop", "asked to stop (SIGTERM)"), "stopped", "asked to stop (SIGTERM)"),
    (Ending(75, "stopped", "the supervisor is gone"), "stopped", "the supervisor is gone"),
    (Ending(75, "stopped"), "stopped", "asked to stop"),
    (Ending(1, "crash", "ValueError: no images"), "crash", "ValueError: no images"),
    (Ending(1, "crash", "ValueError: no images", "asked to stop (SIGINT)"), "crash", "ValueError: no images"),
    (Ending(1, "crash"), "crash", "an exception without a text"),
    (Ending(-9), "killed", "SIGKILL from outside, no sign of memory"),
    (Ending(-15), "killed", "SIGTERM from outside, no sign of memory"),
    (Ending(-9, asked="asked to stop (SIGTERM)"), "stopped", "asked to stop (SIGTERM); ended by SIGKILL"),
    (Ending(-9, "done"), "killed", "SIGKILL from outside, no sign of memory"),
    (Ending(143, asked="asked to stop (SIGTERM)"), "stopped", "asked to stop (SIGTERM); ended by a second SIGTERM"),
    (Ending(130), "stopped", "asked to stop; ended by a second SIGINT"),
    (Ending(-11, log_tail="Fatal"), "crash", "SIGSEGV: the interpreter or a library died; last log lines:\nFatal"),
    (Ending(-6, log_tail="x"), "crash", "SIGABRT: the interpreter or a library died; last log lines:\nx"),
    (Ending(-77), "crash", "signal 77: the interpreter or a library died; last log lines:\n"),
    (Ending(1, log_tail="ImportError: y"), "crash", "exit 1 without a last word; last log lines:\nImportError: y"),
    (Ending(0), "crash", "exit 0 without a last word; last log lines:\n"),
]


@pytest.mark.parametrize(("ending", "name", "evidence"), ENDINGS, ids=[str(row[0].exit) for row in ENDINGS])
def test_an_ending_has_one_cause_with_its_evidence(ending: Ending, name: str, evidence: str) -> None:
    assert name_cause(ending) == Cause(name, evidence)  # type: ignore[arg-type]
    assert name_cause(ending) == name_cause(ending)


@given(
    st.integers(-64, 255),
    st.sampled_from([None, "done", "stopped", "crash"]),
    st.text(max_size=5),
    st.sampled_from([None, "asked to stop"]),
)
def test_any_ending_has_a_cause_with_words_and_a_step(
    exit_: int, outcome: str | None, error: str, asked: str | None
) -> None:
    why = name_cause(Ending(exit_, outcome, error, asked))
    assert why.evidence
    assert next_step(why, 1, 3, 10.0).action in ("finish", "stop", "retry", "fail")
    if why.name == "done":
        assert exit_ == 0


@pytest.mark.parametrize(
    ("marks", "start", "stuck"),
    [
        ([], 0, 0),
        ([1], 0, 0),
        ([0], 0, 1),
        ([0, 0, 0], 0, 3),
        ([1, 1, 2], 0, 0),
        ([1, 2, 2, 2], 0, 2),
        ([3, 2], 0, 1),
        ([5], 5, 1),
        ([5, 6], 5, 0),
        ([5, 5], 5, 2),
    ],
)
def test_attempts_without_progress_are_counted_from_the_newest(marks: list[int], start: int, stuck: int) -> None:
    assert without_progress(marks, start) == stuck


@pytest.mark.parametrize(
    ("name", "stuck", "step"),
    [
        ("done", 0, Step("finish", "all epochs done")),
        ("stopped", 0, Step("stop", "why", exit=75)),
        ("crash", 0, Step("fail", "a crash is not a memory matter and would repeat itself", exit=1)),
        ("killed", 0, Step("retry", "same plan, a fresh process", wait_seconds=0.0)),
        ("killed", 1, Step("retry", "same plan, a fresh process", wait_seconds=0.0)),
        ("killed", 2, Step("retry", "same plan, a fresh process", wait_seconds=10.0)),
        ("killed", 3, Step("retry", "same plan, a fresh process", wait_seconds=20.0)),
        ("killed", 4, Step("fail", "4 attempts in a row without progress; 3 are allowed", exit=1)),
    ],
)
def test_what_follows_a_cause(name: cause.Name, stuck: int, step: Step) -> None:
    assert next_step(Cause(name, "why"), stuck, retries=3, backoff_seconds=10.0) == step


def test_without_retries_the_first_kill_without_progress_is_the_last() -> None:
    assert next_step(Cause("killed", ""), 1, 0, 1.0).action == "fail"
    assert next_step(Cause("killed", ""), 0, 0, 1.0).action == "retry"


def test_kills_without_progress_come_to_an_end() -> None:
    marks: list[int] = []
    while next_step(Cause("killed", ""), without_progress(marks), 3, 10.0).action == "retry":
        marks.append(0)
        assert len(marks) < 10
    assert len(marks) == 4
