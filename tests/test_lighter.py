"""A lighter plan taken by hand: what it writes down, and when it is refused."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from fabricate import fabricate_run

from rddkit import fallbacks, journal, lighter, lock, runfile
from rddkit.config import ConfigError
from rddkit.journal import Journal, last
from rddkit.paths import RunPaths
from rddkit.run import Run
from rddkit.runfile import RunFile
from rddkit.safety import Safety

GUARD = "our guard: 118 MiB free, 2.9% of the budget, below 5%"
PLAN = {"model": "yolov8n.pt", "batch": 2, "imgsz": 640, "workers": 0, "plots": True, "cache": False}


def fallen(folder: Path, end: str | None = None, **more: Any) -> RunPaths:
    """A run whose first attempt ran out of memory; its second, at batch 2, was lost."""
    return fabricate_run(folder, epochs=3, total=9, memory_rows=60, end=end, fallback=True, evidence=GUARD, **more)


@pytest.fixture
def night(tmp_path: Path) -> RunPaths:
    return fallen(tmp_path / "night")


def record_of(paths: RunPaths) -> RunFile:
    return runfile.read(paths.run_yaml)


def change(paths: RunPaths, **settings: Any) -> None:
    record = record_of(paths)
    for key, value in settings.items():
        setattr(record, key, value)
    record.write(paths.run_yaml)


def test_the_next_fallback_becomes_the_runs_plan_and_the_one_before_counts_as_failed(night: RunPaths) -> None:
    before = record_of(night)
    event = Run.open(night.folder).fall_back()
    after = record_of(night)
    assert after.plan == {**before.plan, "plots": False, "allocator": "lean", "val_batch": 2, "checkpointing": "norms"}
    assert after.failed == [
        *before.failed,
        {**before.plan, "evidence": "attempt 2 was lost without a last word; chosen by hand"},
    ]
    assert event == last(journal.read_events(night.journal), "fallback")
    assert {key: event[key] for key in event if key != "t"} == {
        "event": "fallback",
        "attempt": 2,
        "kind": "lean",
        "epoch": 3,
        "from": {"plots": True, "val_batch": None, "allocator": None, "checkpointing": None},
        "to": {"plots": False, "val_batch": 2, "allocator": "lean", "checkpointing": "norms"},
        "reason": "attempt 2 was lost without a last word; chosen by hand",
        "costs": fallbacks.COSTS["lean"],
    }
    assert not lock.is_held(night.lock)


def test_a_chosen_fallback_tells_the_steps_that_it_passes_over(night: RunPaths) -> None:
    event = Run.open(night.folder).fall_back("imgsz 512")
    lean = {"plots": False, "val_batch": 1, "allocator": "lean", "checkpointing": "norms"}
    assert event["to"] == {"batch": 1, "imgsz": 512, **lean}
    assert event["from"] == {"batch": 2, "imgsz": 640, **dict.fromkeys(lean), "plots": True}
    assert (event["kind"], event["costs"]) == ("imgsz", fallbacks.COSTS["imgsz"])
    assert record_of(night).plan["val_imgsz"] == 640, "validation compares like with like"


def test_each_further_one_is_lighter_until_none_is_left(night: RunPaths) -> None:
    run = Run.open(night.folder)
    taken = [run.fall_back()["kind"] for _ in range(5)]
    assert taken == ["lean", "batch", "imgsz", "imgsz", "imgsz"]
    before = night.journal.read_bytes(), night.run_yaml.read_bytes()
    with pytest.raises(ConfigError) as error:
        run.fall_back()
    assert str(error.value) == (
        "the run 'night' (dead) keeps its plan: no lighter plan is left "
        "(checkpointing: left out, safety.yaml allows lean, batch, imgsz)\n"
        "Next: close other programs, or allow smaller images (min_imgsz in configs/safety.yaml), or take a smaller "
        "model: --name NEW model=yolov8n.pt; then: rddkit train --name night --resume"
    )
    assert (night.journal.read_bytes(), night.run_yaml.read_bytes()) == before


def test_a_run_that_is_being_trained_is_refused(night: RunPaths) -> None:
    before = night.run_yaml.read_bytes()
    descriptor = lock.take(night.lock)
    try:
        lock.sign(descriptor, supervisor_pid=os.getpid(), supervisor_started=lock.started(os.getpid()))
        with pytest.raises(lock.Busy) as error:
            Run.open(night.folder).fall_back()
    finally:
        os.close(descriptor)
    assert str(error.value).startswith(
        f"no lighter plan was taken: the run 'night' is being trained by process {os.getpid()} since "
    )
    assert str(error.value).endswith("Stop it: rddkit stop night")
    assert night.run_yaml.read_bytes() == before


def test_a_finished_run_and_one_that_never_began_are_refused(tmp_path: Path) -> None:
    done = fallen(tmp_path / "done", end="run_done")
    with pytest.raises(ConfigError) as error:
        Run.open(done.folder).fall_back()
    assert str(error.value) == (
        "the run 'done' is finished and needs no lighter plan; another run: rddkit train --name NEW"
    )
    new = fallen(tmp_path / "new")
    new.journal.unlink()
    with pytest.raises(ConfigError) as error:
        Run.open(new.folder).fall_back()
    assert str(error.value) == ("the run 'new' has not been started yet; start it: rddkit train --name new --resume")


def test_a_choice_that_there_is_not_names_the_run_its_state_and_the_nearest(night: RunPaths) -> None:
    with pytest.raises(ConfigError) as error:
        Run.open(night.folder).fall_back("imgsz 500")
    assert str(error.value) == (
        "the run 'night' (dead) keeps its plan: there is no fallback 'imgsz 500' below this plan. "
        "Did you mean 'imgsz 512'? "
        "There are: lean, batch 1, imgsz 512, imgsz 416, imgsz 320; or next, the first of them"
    )


def test_settings_of_a_start_that_was_not_made_are_not_lost_silently(night: RunPaths) -> None:
    run = Run.open(night.folder)
    run.decision.changes["device"] = "cpu"
    with pytest.raises(ConfigError, match="settings here that it was not started with yet"):
        run.fall_back()


def test_other_safety_settings_are_chosen_by_and_kept(night: RunPaths, root: Path) -> None:
    (root / "configs" / "more.yaml").write_text("fallbacks: [checkpointing]\nretries: 7\n")
    run = Run.open(night.folder)
    assert [one.fallback.name for one in run.fallbacks("configs/more.yaml") if one.standing == "open"] == [
        "checkpointing"
    ]
    assert [one.fallback.name for one in run.fallbacks() if one.standing == "open"][0] == "lean"
    assert run.fall_back(safety="configs/more.yaml")["to"] == {"checkpointing": "layers"}
    kept = record_of(night).safety
    assert kept == Safety(fallbacks=["checkpointing"], retries=7).model_dump()


@pytest.mark.parametrize(
    ("end", "reason"),
    [
        ({"cause": "oom", "evidence": f"{GUARD}\nmore"}, f"{GUARD}; chosen by hand"),
        (
            {"cause": "killed", "evidence": "SIGKILL from outside"},
            "killed from outside: SIGKILL from outside; chosen by hand",
        ),
        ({"cause": "stopped", "evidence": ""}, "stopped as asked: no evidence; chosen by hand"),
        (None, "attempt 4 was lost without a last word; chosen by hand"),
    ],
)
def test_the_evidence_is_how_the_last_attempt_ended_and_that_a_person_judged_it(
    end: dict[str, Any] | None, reason: str
) -> None:
    events: list[dict[str, Any]] = [{"event": "attempt_started", "attempt": 4}]
    events += [{"event": "attempt_ended", "attempt": 4, **end}] if end else []
    assert lighter.judgement(events) == reason


def test_the_supervisors_event_is_of_the_same_form(tmp_path: Path) -> None:
    paths = RunPaths(tmp_path)
    record = RunFile("night", "", {}, "c.yaml", dict(PLAN), {}, "cpu", 1)
    lean, batch, *_ = fallbacks.ladder(PLAN, ("lean", "batch"), 320)
    event = lighter.take(paths, Journal(paths.journal), record, batch, 3, 2, f"{GUARD}\nlog lines")
    assert (event["attempt"], event["epoch"], event["kind"], event["reason"]) == (3, 2, "batch", GUARD)
    assert event["to"] == {**lean.changes, **batch.changes}
    assert record_of(paths).failed == [{**PLAN, "evidence": GUARD}]
    assert record_of(paths).plan == batch.plan


def test_start_takes_the_plan_that_run_yaml_has_now(night: RunPaths, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Run, "_spawn", lambda *_: None)
    early, late = Run.open(night.folder), Run.open(night.folder)
    late.fall_back()
    change(night, budget={"bytes": 7})  # as a supervisor does before each attempt
    now = record_of(night)
    early.start()
    assert record_of(night) == now
    late.start().start()
    assert record_of(night) == now and late.record == now
