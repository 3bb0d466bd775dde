"""The machine around a run: kept awake, somebody told, warnings before a night; and nothing of it can end the run."""

from __future__ import annotations

import os
import stat
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from rddkit import clock, host

GB = 1 << 30
Tool = Callable[[str, str], Path]
NASTY = "epoch 3; $(touch pwned) `touch pwned` \"x\" 'y' && touch pwned | tee pwned > pwned * \\ %s\nnext line, häßlich"


@pytest.fixture
def tool(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Tool:
    """`tool(name, script)`: an executable found on PATH; scripts run in a folder of their own."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.chdir(tmp_path)

    def make(name: str, script: str) -> Path:
        path = folder / name
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(path.stat().st_mode | stat.S_IXUSR)
        return path

    return make


def lines(path: Path) -> list[str]:
    return path.read_text(encoding="utf-8").splitlines()


def test_a_mac_is_kept_awake_by_caffeinate_as_long_as_this_process_lives(
    tool: Tool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tool("caffeinate", 'printf "%s\\n" "$@" > asked')
    monkeypatch.setattr(sys, "platform", "darwin")
    awake = host.keep_awake(True)
    assert awake is not None and awake.wait(10) == 0
    assert lines(tmp_path / "asked") == ["-i", "-w", str(os.getpid())]


@pytest.mark.parametrize(
    ("wanted", "system", "there"), [(False, "darwin", True), (True, "linux", True), (True, "darwin", False)]
)
def test_it_is_not_kept_awake_unwanted_elsewhere_or_without_caffeinate(
    tool: Tool, monkeypatch: pytest.MonkeyPatch, wanted: bool, system: str, there: bool
) -> None:
    if there:
        tool("caffeinate", "exit 0")
    else:
        monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.setattr(sys, "platform", system)
    assert host.keep_awake(wanted) is None


def test_a_caffeinate_that_cannot_be_run_does_not_end_the_run(tool: Tool, monkeypatch: pytest.MonkeyPatch) -> None:
    tool("caffeinate", "").write_text("no program, and no #! either")
    monkeypatch.setattr(sys, "platform", "darwin")
    assert host.keep_awake(True) is None


def test_somebody_is_told_what_which_run_and_in_which_words(tool: Tool, tmp_path: Path) -> None:
    tool("tell", 'printf "%s\\n" "$#" "$RDDKIT_WHAT" "$RDDKIT_RUN" "$RDDKIT_SENTENCE" > told')
    assert host.notify(["tell"], "fallback", "night", "night: Running, epoch 3 of 5") == "told"
    assert lines(tmp_path / "told") == ["0", "fallback", "night", "night: Running, epoch 3 of 5"]


def test_no_shell_reads_what_is_told_or_the_commands_words(tool: Tool, tmp_path: Path) -> None:
    tool("tell", 'printf "%s" "$1" > word\nprintf "%s" "$RDDKIT_SENTENCE" > sentence')
    assert host.notify(["tell", NASTY], "done", "a 'run' $HOME", NASTY) == "told"
    assert (tmp_path / "word").read_text(encoding="utf-8") == NASTY
    assert (tmp_path / "sentence").read_text(encoding="utf-8") == NASTY
    assert not (tmp_path / "pwned").exists()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bin", "sentence", "word"]


def test_a_command_that_wants_to_read_gets_nothing_and_what_it_prints_is_kept_out(
    tool: Tool, capfd: pytest.CaptureFixture[str]
) -> None:
    tool("tell", "read answer\necho loud; echo louder >&2")
    assert host.notify(["tell"], "done", "night", "") == "told"
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("command", "script", "answer"),
    [
        (["tell"], "exit 3", "tell exited with 3"),
        (["tell"], "kill -9 $$", "tell exited with -9"),
        (["no-such-tool"], "", "no-such-tool could not be run: [Errno 2] No such file or directory: 'no-such-tool'"),
    ],
)
def test_what_became_of_a_failed_telling_is_said_and_nothing_raised(
    tool: Tool, command: list[str], script: str, answer: str
) -> None:
    tool("tell", script)
    assert host.notify(command, "failed", "night", "x") == answer


def test_a_file_that_is_no_program_is_said(tool: Tool) -> None:
    path = tool("tell", "")
    path.chmod(0o644)
    assert host.notify([str(path)], "done", "night", "x").startswith(f"{path} could not be run: [Errno 13]")


def test_a_command_that_does_not_end_is_ended(tool: Tool, monkeypatch: pytest.MonkeyPatch) -> None:
    tool("tell", "exec sleep 60")
    monkeypatch.setattr(host, "NOTIFY_SECONDS", 0.3)
    began = clock.monotonic()
    answer = host.notify(["tell"], "done", "night", "x")
    assert answer.startswith("tell could not be run: ") and "timed out" in answer
    assert clock.monotonic() - began < 10


def test_a_command_that_prints_latin_1_does_not_end_the_run(tool: Tool) -> None:
    tool("tell", "printf '\\344\\377'")
    assert host.notify(["tell"], "done", "night", "x") == "told"


@pytest.mark.parametrize("sentence", ["a torn file: \0\0", "half a pair: \ud800"], ids=["nul", "surrogate"])
def test_a_sentence_that_no_environment_can_hold_does_not_end_the_run(tool: Tool, sentence: str) -> None:
    tool("tell", "exit 0")
    assert host.notify(["tell"], "failed", "night", sentence)


def fake_power(folder: Path, monkeypatch: pytest.MonkeyPatch, files: dict[str, str]) -> None:
    """A /sys/class/power_supply for psutil to read."""
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(content)
    monkeypatch.setattr("psutil._pslinux.POWER_SUPPLY_PATH", str(folder))


@pytest.mark.skipif(sys.platform != "linux", reason="reads /sys")
@pytest.mark.parametrize(
    ("files", "power"),
    [
        ({}, {"plugged": None, "percent": None}),
        ({"AC/online": "1\n"}, {"plugged": None, "percent": None}),
        ({"BAT0/capacity": "41\n", "AC/online": "0\n"}, {"plugged": False, "percent": 41}),
        ({"BAT0/capacity": "41\n", "AC/online": "1\n"}, {"plugged": True, "percent": 41}),
        ({"BAT0/capacity": "41\n", "BAT0/status": "Discharging\n"}, {"plugged": False, "percent": 41}),
        ({"BAT0/capacity": "100\n", "BAT0/status": "Full\n"}, {"plugged": True, "percent": 100}),
        ({"BAT0/capacity": "41\n", "BAT0/status": "Unknown\n"}, {"plugged": None, "percent": 41}),
        ({"BAT0/energy_now": "1\n", "BAT0/energy_full": "4\n", "AC/online": "0"}, {"plugged": False, "percent": 25}),
    ],
)
def test_power_as_a_tree_of_the_kernels_files_says_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, files: dict[str, str], power: dict[str, Any]
) -> None:
    (tmp_path / "power_supply").mkdir()
    fake_power(tmp_path / "power_supply", monkeypatch, files)
    assert host.look() == power


@pytest.mark.skipif(sys.platform != "linux", reason="reads /sys")
def test_a_container_without_power_supplies_has_none_known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_power(tmp_path / "missing", monkeypatch, {})
    assert host.look() == {"plugged": None, "percent": None}


def test_a_system_of_which_psutil_knows_no_battery_has_none_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(psutil, "sensors_battery", raising=False)
    assert host.look() == {"plugged": None, "percent": None}


BATTERY = "on battery (41 %): plug the machine in, or the run ends when it is empty"
UNKNOWN = "on battery: plug the machine in, or the run ends when it is empty"
LID = "leave the lid open: a closed lid sleeps even when told to stay awake"
DISK = "1.0 GB free on the disk, 2.0 GB are wanted for checkpoints and snapshots"


@pytest.mark.parametrize(
    ("power", "free", "system", "found"),
    [
        ({"plugged": None, "percent": None}, 3 * GB, "linux", []),
        ({}, 3 * GB, "linux", []),
        ({"plugged": True, "percent": 41.4}, 3 * GB, "linux", []),
        ({"plugged": False, "percent": 41.4}, 3 * GB, "linux", [BATTERY]),
        ({"plugged": False, "percent": None}, 3 * GB, "linux", [UNKNOWN]),
        ({"plugged": True, "percent": 100}, 3 * GB, "darwin", [LID]),
        ({"plugged": None, "percent": None}, 1 * GB, "linux", [DISK]),
        ({"plugged": None, "percent": None}, 2 * GB, "linux", []),
        ({"plugged": False, "percent": 41.4}, 1 * GB, "darwin", [BATTERY, LID, DISK]),
    ],
)
def test_what_a_person_should_know_before_a_night(
    power: dict[str, Any], free: int, system: str, found: list[str]
) -> None:
    assert host.warnings(power, free, 2 * GB, system) == found
