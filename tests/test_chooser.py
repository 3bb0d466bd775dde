"""What 04_fallback shows of a run's last attempt and of its fallbacks, and the button that takes one."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from fabricate import fabricate_run

from rddkit import chooser, endings, journal, lock, notebook, records, runfile, words
from rddkit.chooser import Chooser, rungs
from rddkit.config import ConfigError
from rddkit.endings import ending, last_attempt
from rddkit.journal import last
from rddkit.paths import RunPaths
from rddkit.records import Records
from rddkit.run import Run

GUARD = "our guard: 118 MiB free, 2.9% of the budget, below 5%"


def fallen(folder: Path, end: str | None = None, attempts: int = 2, **more: Any) -> RunPaths:
    """A run whose first attempts ran out of memory; the last was lost, or has the end."""
    settings = {"total": 9, "memory_rows": 90, "fallback": True, "evidence": GUARD, **more}
    return fabricate_run(folder, epochs=3, attempts=attempts, end=end, **settings)


@pytest.fixture
def night(tmp_path: Path) -> RunPaths:
    return fallen(tmp_path / "night")


def read(paths: RunPaths, *events: dict[str, Any]) -> Records:
    """What is known of the run, with events more in its journal."""
    for event in events:
        journal.Journal(paths.journal).add(**{"attempt": 2, **event})
    return records.read_records(paths)


# -- why the last attempt ended ----------------------------------------------------------------------------------------


def test_a_lost_attempt_is_told_by_what_was_seen_of_it(night: RunPaths) -> None:
    rows = dict(ending(read(night), "dead"))
    assert rows["attempt"] == "2: yolov8n.pt, batch 2, imgsz 640, workers 0"
    assert rows["ended"] == "lost without a last word, and its supervisor with it"
    assert rows["where"] == "epoch 3, batch 120 of 120, train"
    assert rows["memory"].startswith("held up to ") and rows["memory"].endswith("free on the machine at the last look")
    assert "whether memory was short" in rows["which means"]
    assert "evidence" not in rows and "exit" not in rows, "what is not known has no row"


def test_an_out_of_memory_kill_is_told_with_its_evidence_and_what_followed(night: RunPaths) -> None:
    evidence = "SIGKILL, and the kernel's kill counter went up by 1 (memory.events of /sys/fs/cgroup)"
    end = {"event": "attempt_ended", "cause": "oom", "evidence": evidence, "exit": -9, "peak_bytes": 4 << 30}
    failed = {"event": "run_failed", "cause": "oom", "evidence": evidence, "what_to_do": "close other programs"}
    rows = dict(ending(read(night, end, failed), "failed"))
    assert rows["ended"].endswith(": out of memory")
    assert rows["evidence"] == evidence
    assert rows["exit"] == "-9 (SIGKILL)"
    assert rows["memory"].startswith("held up to 4.0 GB; ")
    rows = dict(ending(read(night, {**end, "peak_resident_bytes": 5 << 30}, failed), "failed"))
    assert rows["memory"].startswith("held up to 4.0 GB (5.0 GB resident, as top shows it); ")
    assert rows["what followed"].endswith("What to do: close other programs.")
    assert rows["which means"] == "the plan was too big for the memory there was: a lighter one, below"


@pytest.mark.parametrize(
    ("name", "means"),
    [
        ("leak", "the same plan in a fresh process"),
        ("crash", "mend what the evidence names"),
        ("killed", "nothing points to memory"),
        ("hang", "not a matter of memory"),
        ("stopped", "nothing went wrong"),
    ],
)
def test_a_cause_that_a_lighter_plan_does_not_help_says_what_does(night: RunPaths, name: str, means: str) -> None:
    rows = dict(ending(read(night, {"event": "attempt_ended", "cause": name, "evidence": "e", "exit": 1}), "stopped"))
    assert means in rows["which means"] and "02_training" in rows["which means"]
    assert rows["exit"] == "1"


def test_every_cause_has_its_meaning() -> None:
    assert set(endings.MEANING) == {*words.CAUSES, endings.LOST, ""}


def test_of_a_running_run_the_attempt_before_is_told(night: RunPaths) -> None:
    start, end = last_attempt(read(night), "running")
    assert (start["attempt"], end["cause"]) == (1, "oom")
    rows = dict(ending(read(night), "running"))
    assert rows["evidence"] == GUARD
    assert rows["what followed"] == "Lighter plan at epoch 2: batch 4 -> 2, because the kernel killed attempt 1."
    assert "where" not in rows, "progress.json tells of the attempt that runs"


def test_a_first_attempt_that_runs_and_a_run_without_any_say_so(tmp_path: Path) -> None:
    first = fallen(tmp_path / "first", attempts=1)
    rows = dict(ending(read(first), "running"))
    assert (rows["ended"], rows["which means"]) == ("not yet", "the attempt is still running")
    first.journal.unlink()
    assert ending(read(first), "new") == [("attempt", "none has started yet")]
    assert last_attempt(read(first), "new") == ({}, {})


def test_long_evidence_is_cut(night: RunPaths) -> None:
    told = read(night, {"event": "attempt_ended", "cause": "crash", "evidence": "log line\n" * 999})
    assert len(dict(ending(told, "failed"))["evidence"]) == endings.EVIDENCE_CHARACTERS


def test_an_attempt_without_a_memory_reading_is_told_without_it(night: RunPaths) -> None:
    night.memory_csv.unlink()
    rows = dict(ending(read(night), "dead"))
    assert "memory" not in rows


# -- the fallbacks -----------------------------------------------------------------------------------------------------


def shown(paths: RunPaths) -> list[tuple[str, str, str, str]]:
    run = Run.open(paths.folder)
    return rungs(runfile.read(paths.run_yaml), run.events(), run.fallbacks())


def test_the_plans_are_shown_from_the_heaviest_that_failed_to_the_lightest(tmp_path: Path) -> None:
    rows = shown(fallen(tmp_path / "night", attempts=3))
    assert [row[0] for row in rows] == [
        *("failed before", "failed before", "in use", "lean", "checkpointing", "imgsz 512", "imgsz 416", "imgsz 320"),
    ]
    known = {(row[0], row[1]): row[3] for row in rows}
    assert known["failed before", "batch 4"] == "failed: the kernel killed attempt 1; held up to 3.9 GB"
    assert known["failed before", "batch 2"] == "failed: the kernel killed attempt 2; held up to 3.9 GB"
    assert known["in use", "yolov8n.pt, batch 1, imgsz 640, workers 0"] == "the plan of the next attempt"
    assert known["lean", "plots True -> False, allocator lean, val_batch 1, checkpointing norms"] == "next"
    assert known["checkpointing", "checkpointing layers"] == "left out: safety.yaml allows lean, batch, imgsz"
    assert known["imgsz 512", "imgsz 640 -> 512"] == "can be taken"
    assert {row[0]: row[2] for row in rows}["imgsz 512"] == "accuracy: small damage is harder to see"


def test_a_failed_plan_below_the_one_in_use_stands_at_its_place_once(night: RunPaths) -> None:
    record = runfile.read(night.run_yaml)
    record.failed.append({**Run.open(night.folder).fallbacks()[0].fallback.plan, "evidence": "SIGKILL"})
    record.write(night.run_yaml)
    rows = shown(night)
    assert [row[3] for row in rows if row[0] == "lean"] == ["failed: SIGKILL"]
    assert [row[0] for row in rows].count("failed before") == 1


def test_a_plan_left_for_a_lean_one_is_told_by_what_was_heavier(night: RunPaths) -> None:
    Run.open(night.folder).fall_back("lean")
    lean = "plots True, val_batch by default, allocator by default, checkpointing by default"
    assert [row[1] for row in shown(night)][:2] == [f"batch 4, {lean}", lean]


# -- taking one --------------------------------------------------------------------------------------------------------


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The plans that runs were started with; nothing is really trained."""
    plans: list[str] = []
    monkeypatch.setattr(Run, "start", lambda run, detach=False: plans.append(f"{run.record.plan['batch']} {detach}"))
    monkeypatch.setattr(notebook, "REFRESH_SECONDS", 0.01)
    return plans


def test_headless_without_apply_only_says_what_would_be_done(
    night: RunPaths, capsys: pytest.CaptureFixture[str]
) -> None:
    before = night.run_yaml.read_bytes()
    chooser.offer(Run.open(night.folder), "batch 1")
    assert capsys.readouterr().out == (
        "Nothing was changed. `-p apply True` takes 'batch 1' "
        "(batch 2 -> 1, plots True -> False, val_batch 1, allocator lean, checkpointing norms) "
        "and trains on to the end.\n"
    )
    assert night.run_yaml.read_bytes() == before


def test_headless_a_finished_run_says_why_nothing_is_offered(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    chooser.offer(Run.open(fallen(tmp_path / "done", end="run_done").folder))
    assert "the run 'done' is finished and needs no lighter plan" in capsys.readouterr().out


def test_a_mistyped_choice_is_an_error_although_nothing_is_applied(night: RunPaths) -> None:
    with pytest.raises(ConfigError, match="Did you mean 'batch 1'"):
        chooser.offer(Run.open(night.folder), "batch1")


def test_the_list_has_what_can_be_taken_and_tells_what_each_costs(night: RunPaths) -> None:
    made = Chooser(Run.open(night.folder), "next", None)
    assert [name for _, name in made.list.options] == ["lean", "batch 1", "imgsz 512", "imgsz 416", "imgsz 320"]
    assert [label for label, _ in made.list.options][1:3] == ["batch 1 (nearly free)", "imgsz 512 (accuracy)"]
    assert made.list.value == "lean" and not made.button.disabled
    made.list.value = "batch 1"
    assert (
        "batch 2 -&gt; 1, plots True -&gt; False, val_batch 1, allocator lean, checkpointing norms. Costs: nearly free"
        in made.about.value
    )
    assert Chooser(Run.open(night.folder), "imgsz 416", None).list.value == "imgsz 416"


def click(made: Chooser, meanwhile: Callable[[], None] = lambda: None) -> None:
    """Click the button; `meanwhile` is called once the click was answered."""

    async def clicked() -> None:
        made.loop = asyncio.get_running_loop()
        made.place = SimpleNamespace(update=lambda *_, **__: None)  # a cell's output is only had in a kernel
        made.button.click()
        assert made.button.disabled, "a second click does nothing"
        while not made.happened.value:
            await asyncio.sleep(0.01)
        meanwhile()
        assert made.task is not None
        await asyncio.wrap_future(made.task)

    asyncio.run(clicked())


def test_a_click_takes_the_chosen_one_starts_detached_and_offers_what_is_left(
    night: RunPaths, started: list[str]
) -> None:
    made = Chooser(Run.open(night.folder), "batch 1", None)
    click(made)
    assert started == ["1 True"]
    event = last(journal.read_events(night.journal), "fallback")
    assert event is not None and event["to"]["batch"] == 1
    assert "Lighter plan at epoch 3: batch 2 -&gt; 1" in made.happened.value
    assert [name for _, name in made.list.options] == ["imgsz 512", "imgsz 416", "imgsz 320"]
    assert not made.button.disabled


def test_a_click_that_is_refused_says_so_and_starts_nothing(night: RunPaths, started: list[str]) -> None:
    made = Chooser(Run.open(night.folder), "next", None)
    descriptor = lock.take(night.lock)  # started elsewhere since the list was made
    before = night.run_yaml.read_bytes()
    click(made, meanwhile=lambda: os.close(descriptor))
    assert started == [] and night.run_yaml.read_bytes() == before
    assert "Nothing was started. no lighter plan was taken" in made.happened.value
    assert not made.button.disabled, "it has ended since"


def test_a_running_run_has_nothing_to_choose_and_says_what_to_do_first(night: RunPaths) -> None:
    descriptor = lock.take(night.lock)
    try:
        made = Chooser(Run.open(night.folder), "next", None)
    finally:
        os.close(descriptor)
    assert made.button.disabled and made.list.disabled and made.list.options == ()
    assert "stop it first: rddkit stop night" in made.about.value
