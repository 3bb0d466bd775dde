"""The command line: exit codes, texts, and status in its forms, on runs that are made up."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
from fabricate import fabricate_run

from rddkit import cli, lock, memory
from rddkit.config import ConfigError
from rddkit.journal import Journal
from rddkit.paths import RunPaths
from rddkit.run import _session_end
from rddkit.runfile import RunFile
from rddkit.safety import load_safety


@pytest.fixture
def call(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Any:
    """`call("status", "x")`: (exit code, output, errors) of the command line in this process."""

    def run(*words: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["rddkit", *words])
        with pytest.raises(SystemExit) as left:
            cli.main()
        said = capsys.readouterr()
        code = left.value.code
        return (code if isinstance(code, int) else 0 if code is None else 1), said.out, said.err

    return run


@pytest.fixture
def night(root: Path) -> RunPaths:
    """A run of 40 epochs, one kill, finished."""
    paths = fabricate_run(root / "results" / "night", epochs=4, memory_rows=20)
    RunFile("night", "", {"epochs": 4}, "c.yaml", {}, {}, "cpu", 1).write(paths.run_yaml)
    return paths


def test_status_is_one_sentence_for_the_newest_run(night: RunPaths, call: Any) -> None:
    code, said, _ = call("status")
    assert code == 0
    assert said.startswith("night: Finished ") and "; 1 kill, " in said


def test_status_as_json_is_for_programs(night: RunPaths, call: Any) -> None:
    code, said, _ = call("status", "night", "--json")
    content = json.loads(said)
    assert code == 0
    assert (content["name"], content["state"], content["exit_code"], content["kills"]) == ("night", "done", 0, 1)


@pytest.mark.parametrize(
    ("event", "fields", "code"),
    [
        ("run_done", {}, 0),
        ("run_stopped", {"reason": "x"}, 75),
        ("run_stopped", {"reason": "x", "exit": 130}, 130),
        ("run_failed", {"cause": "crash", "exit": 1}, 1),
        ("run_failed", {"cause": "oom", "exit": 69}, 69),
        ("attempt_started", {}, 75),
    ],
)
def test_exit_code_is_the_runs(night: RunPaths, call: Any, event: str, fields: dict[str, Any], code: int) -> None:
    Journal(night.journal).add(event, 9, **fields)
    assert call("status", "night", "--exit-code")[0] == code


def test_exit_code_of_a_running_run_is_3(night: RunPaths, call: Any) -> None:
    lock.take(night.lock)
    assert call("status", "--exit-code")[0] == 3


def test_watching_ends_with_the_run(night: RunPaths, call: Any) -> None:
    assert call("status", "--watch")[0] == 0


@pytest.mark.parametrize("command", ["status", "stop", "report"])
def test_a_run_that_is_not_there_is_exit_2_with_what_is(night: RunPaths, call: Any, command: str) -> None:
    code, _, errors = call(command, "nigth")
    assert code == 2
    assert errors == f"rddkit: no run 'nigth': no run.yaml in {night.folder.parent}/nigth; runs there: night\n"


def test_stopping_a_run_that_does_not_run_says_how_it_stands(night: RunPaths, call: Any) -> None:
    code, said, _ = call("stop", "night")
    assert code == 0
    assert said.startswith("night is not running. Finished ")


@pytest.mark.parametrize("words", [("trian",), ("train", "--batch", "two"), ("train", "--no-such"), ("sample",)])
def test_a_command_that_cannot_be_read_is_exit_2(call: Any, words: tuple[str, ...]) -> None:
    assert call(*words)[0] == 2


def test_a_place_that_cannot_be_written_is_one_sentence(
    root: Path, call: Any, make_root: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = {"cuda": [], "mps": False, "torch": "", "cpu": ""}
    monkeypatch.setattr("rddkit.recording.look_at_devices", lambda: seen)
    make_root(root)
    (root / "results").rmdir()
    (root / "results").write_text("a file of that name")
    code, _, said = call("train", "--config", "configs/tiny.yaml")
    assert code == 1
    assert said.startswith(f"rddkit: {root / 'results'}") and said.endswith("make room or choose project=FOLDER\n")
    assert "Traceback" not in said


@pytest.mark.parametrize("span", [{"for_": "99999999d"}, {"for_": "9"}, {"until": "25:00"}, {"until": "7"}])
def test_a_session_window_that_is_none_is_said(span: dict[str, str]) -> None:
    with pytest.raises(ConfigError, match="the session window cannot be read: .*such as --until 07:00 or --for 9h"):
        _session_end(span.get("until"), span.get("for_"))


def test_a_safety_file_that_is_not_text_is_said(tmp_path: Path) -> None:
    (tmp_path / "safety.yaml").write_bytes(b"retries: \xff\n")
    with pytest.raises(ConfigError, match="is not readable YAML"):
        load_safety(tmp_path / "safety.yaml")


def test_sample_and_prepare_make_a_data_set_from_relative_folders(root: Path, call: Any) -> None:
    code, said, _ = call("sample", "data/raw", "--images", "8")
    assert code == 0 and "next: rddkit prepare data/raw data/sample" in said
    code, said, errors = call("prepare", "data/raw", "data/set")
    assert code == 0, errors
    assert (root / "data" / "set" / "rdd2022.yaml").exists()


def test_preparing_what_is_not_there_is_exit_2(root: Path, call: Any) -> None:
    code, _, errors = call("prepare", "data/none", "data/set")
    assert code == 2 and errors.startswith("rddkit: ")
    assert not (root / "data").exists()


def test_weights_of_no_name_are_exit_2(call: Any) -> None:
    code, _, errors = call("download", "../yolov8s.pt")
    assert (code, errors) == (2, "rddkit: '../yolov8s.pt' is not the name of weights, such as yolov8s.pt\n")


def test_weights_without_their_ending_are_not_taken_for_a_wish_for_13_gb(call: Any) -> None:
    code, _, errors = call("download", "yolov8s")
    assert code == 2 and "names of weights end in .pt, such as yolov8s.pt" in errors


def test_doctor_says_what_this_machine_is(call: Any) -> None:
    code, said, _ = call("doctor")
    assert code == 0
    for word in ("device", "memory limit", "budget", "disk free", "ultralytics", "torch"):
        assert word in said
    assert ("container limit" in said) == (memory.container() is not None)


def test_doctor_in_a_container_says_what_its_limit_is_full_of(call: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    mib = 1 << 20
    inside = memory.Container(600 * mib, 120 * mib, 80 * mib, 480 * mib, "/cg/memory.max")
    monkeypatch.setattr(memory, "container", lambda system=None: inside)
    _, said, _ = call("doctor")
    rows = {line.strip("│ ").split("│")[0].strip(): line for line in said.splitlines() if "│" in line}
    told = {"limit": "600 MB", "charged": "120 MB", "reclaimable": "80 MB", "free": "480 MB"}
    assert all(size in rows[f"container {name}"] for name, size in told.items())
