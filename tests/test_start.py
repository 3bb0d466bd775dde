"""The one start rule: begin, continue, say it is done, or refuse and name the ways on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from rddkit.config import Config, ConfigError
from rddkit.paths import RunPaths
from rddkit.runfile import RunFile
from rddkit.start import Start, choose_device, decide

ARGS: dict[str, Any] = {"model": "yolov8n.yaml", "data": "/d.yaml", "epochs": 3, "batch": 2, "name": "night"}


def found() -> RunFile:
    return RunFile("night", "", dict(ARGS), "c.yaml", {}, {}, "cpu", 1)


def rule(
    there: Path,
    changes: dict[str, Any] | None = None,
    state: str | None = "stopped",
    resume: bool = False,
    fresh: bool = False,
    run: RunFile | None = None,
    from_file: dict[str, Any] | None = None,
) -> Start:
    asked = Config({**ARGS, **(from_file or {}), **(changes or {}), "project": "/r"}, "c.yaml")
    record = run or found()
    record.config["project"] = "/r"
    known = None if state is None else record
    return decide(asked, set(changes or {}), RunPaths(there), known, state, resume=resume, fresh=fresh)


@pytest.fixture
def there(tmp_path: Path) -> Path:
    return tmp_path / "night"


def test_where_nothing_is_a_run_begins(there: Path) -> None:
    assert rule(there, state=None) == Start("new", "new run night")
    there.mkdir()
    assert rule(there, state=None).action == "new", "an empty folder is nothing"


@pytest.mark.parametrize("state", ["stopped", "dead", "failed", "new", "running"])
@pytest.mark.parametrize("resume", [False, True])
def test_the_same_settings_continue_an_unfinished_run(there: Path, state: str, resume: bool) -> None:
    assert rule(there, state=state, resume=resume) == Start("continue", "continuing night")


def test_a_setting_written_out_that_is_the_default_is_no_difference(there: Path) -> None:
    assert rule(there, {"patience": 100}).action == "continue"


def test_a_finished_run_says_so_and_how_to_start_another(there: Path) -> None:
    assert rule(there, state="done") == Start(
        "done", "the run night is finished; another: --name NEW, or again from the start: --fresh"
    )


def test_other_settings_are_refused_with_the_difference_and_the_ways_on(there: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        rule(there, {"batch": 1, "imgsz": 320})
    assert str(caught.value).splitlines() == [
        "the unfinished run 'night' has other settings:",
        "  batch: 2 there, 1 asked",
        "  imgsz: 640 there, 320 asked",
        "Ways on:",
        "  --resume batch=1 imgsz=320: continue it with the new batch, imgsz",
        "  --name NEW: another run beside it",
        "  --fresh: set the old folder aside and start again",
    ]


def test_settings_that_make_another_run_are_not_offered_for_resume(there: Path) -> None:
    for resume in (False, True):
        with pytest.raises(ConfigError) as caught:
            rule(there, {"epochs": 9, "batch": 1}, resume=resume)
        assert "  epochs: 3 there, 9 asked" in str(caught.value)
        assert "--resume" not in str(caught.value)
        assert "--fresh" in str(caught.value)


def test_allowed_changes_are_taken_with_resume(there: Path) -> None:
    assert rule(there, {"batch": 1, "device": "cpu", "imgsz": 320, "workers": 2}, resume=True).changes == {
        "batch": 1,
        "device": "cpu",
        "imgsz": 320,
        "workers": 2,
    }


def test_with_resume_only_what_was_given_counts_and_not_what_changed_in_the_file(there: Path) -> None:
    start = rule(there, {"batch": 1}, resume=True, from_file={"epochs": 9, "imgsz": 320})
    assert (start.action, start.changes) == ("continue", {"batch": 1})


def test_a_finished_run_is_finished_whatever_the_file_says_now(there: Path) -> None:
    assert rule(there, state="done", resume=True, from_file={"epochs": 9}).action == "done"


def test_the_settings_that_a_lighter_plan_left_can_be_asked_for_again(there: Path) -> None:
    run = found()
    run.plan = {"batch": 1, "imgsz": 640}
    assert rule(there, {"batch": 2}, resume=True, run=run).changes == {"batch": 2}
    assert rule(there, resume=True, run=run).changes == {}, "nobody asked: the lighter plan stays"


def test_a_moved_repository_is_no_other_run(there: Path, tmp_path: Path) -> None:
    """Its runs were found where they lie now, and weights of the same name take the place of those that are gone."""
    (tmp_path / "yolov8n.pt").touch()
    run = found()
    run.config |= {"model": "/old/place/yolov8n.pt"}
    asked = Config({**ARGS, "model": str(tmp_path / "yolov8n.pt"), "project": "/new/place/results"}, "c.yaml")
    start = decide(asked, set(), RunPaths(there), run, "stopped", resume=False, fresh=False)
    assert start == Start("continue", "continuing night")
    run.config["model"] = "/old/place/yolov8s.pt"
    with pytest.raises(ConfigError, match="model: '/old/place/yolov8s.pt' there"):
        decide(asked, set(), RunPaths(there), run, "stopped", resume=False, fresh=False)


def test_resume_and_fresh_together_are_refused(there: Path) -> None:
    with pytest.raises(ConfigError, match="--resume continues a run and --fresh sets it aside"):
        rule(there, resume=True, fresh=True)


def test_what_a_killed_first_start_left_is_nothing(there: Path) -> None:
    there.mkdir()
    for name in (".lock", ".starting", "results.csv"):
        (there / name).touch()
    assert rule(there, state=None) == Start("new", "new run night")
    assert RunPaths(there).is_vacant()
    (there / "run.yaml").touch()
    assert not RunPaths(there).is_vacant()


def test_a_finished_run_with_other_settings_is_refused_without_resume_as_a_way(there: Path) -> None:
    for resume in (False, True):
        with pytest.raises(ConfigError, match="the finished run 'night' has other settings") as caught:
            rule(there, {"batch": 1}, state="done", resume=resume)
        assert "--resume" not in str(caught.value)
        assert "  batch: 2 there, 1 asked" in str(caught.value)


def test_resume_with_nothing_there_is_refused(there: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        rule(there, state=None, resume=True)
    assert str(caught.value) == f"nothing to resume: no run in {there}. Start it without --resume"


def test_a_folder_of_somebody_else_is_refused_with_three_ways_on(there: Path) -> None:
    there.mkdir()
    (there / "results.csv").touch()
    with pytest.raises(ConfigError) as caught:
        rule(there, state=None)
    assert str(caught.value) == (
        f"{there} exists and is not a run of rddkit. Set it aside with --fresh, choose another --name, "
        f"or take a plain Ultralytics run in: rddkit train --resume {there}"
    )


def test_fresh_sets_any_old_folder_aside(there: Path) -> None:
    assert rule(there, state=None, fresh=True).action == "new"
    there.mkdir()
    for state in (None, "stopped", "done"):
        assert rule(there, {"epochs": 50}, state=state, fresh=True).action == "set_aside"


def seen(cuda: int = 0, mps: bool = False) -> dict[str, Any]:
    return {"cuda": [{"name": f"GPU {n}"} for n in range(cuda)], "mps": mps}


@pytest.mark.parametrize(
    ("asked", "there", "device", "why"),
    [
        (None, seen(2, True), "cuda:0", "first choice: GPU 0"),
        (None, seen(0, True), "mps", "no CUDA; Apple's GPU is there"),
        ("", seen(), "cpu", "neither CUDA nor MPS is there"),
        ("cpu", seen(1), "cpu", "asked for"),
        ("cuda", seen(1), "cuda:0", "asked for"),
        (0, seen(1), "cuda:0", "asked for"),
        ("1", seen(2), "cuda:1", "asked for"),
        ("MPS", seen(0, True), "mps", "asked for"),
        ("0,1", seen(2), "cuda:0,1", "asked for"),
        ([0, 1], seen(2), "cuda:0,1", "asked for"),
    ],
)
def test_the_device_is_the_one_asked_for_or_the_best_there_is(
    asked: Any, there: dict[str, Any], device: str, why: str
) -> None:
    assert choose_device(asked, there) == (device, why)


@pytest.mark.parametrize("asked", ["mps", "cuda", 0, "cuda:1", "0,1", "tpu", "cuda:", ",", -1])
def test_a_device_that_is_not_there_is_refused_with_those_that_are(asked: Any) -> None:
    with pytest.raises(ConfigError) as caught:
        choose_device(asked, seen())
    assert str(caught.value) == (
        f"device={asked!r} is not on this machine; there are: cpu. Leave device out to take the best there is"
    )


def test_one_of_two_gpus_missing_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"device='0,5' is not on this machine; there are: cpu, cuda:0, cuda:1"):
        choose_device("0,5", seen(2))
