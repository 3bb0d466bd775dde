"""Offline: our own copy of Ultralytics' settings, a font in the place where it would fetch one, and the switches."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from rddkit import offline


@pytest.fixture
def users(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A user's own settings file, where Ultralytics looks for it."""
    monkeypatch.setenv("YOLO_CONFIG_DIR", str(tmp_path))
    file = tmp_path / "Ultralytics" / "settings.json"
    file.parent.mkdir()
    file.write_text(json.dumps({"sync": True, "wandb": True, "uuid": "x"}))
    return file


def test_the_switches_are_those_ultralytics_reads(root: Path) -> None:
    folder = str(root / ".cache" / "ultralytics")
    switches = {"YOLO_OFFLINE": "1", "YOLO_AUTOINSTALL": "False", "ULTRALYTICS_API_KEY": ""}
    assert offline.environment() == {**switches, "YOLO_CONFIG_DIR": folder}
    assert offline.environment(kept=False) == {**switches, "YOLO_CONFIG_DIR": f"{folder}-trials"}


def ours(kept: bool = True) -> dict[str, Any]:
    """Our copy of the settings, brought up to the user's."""
    return json.loads((offline.prepare_home(kept) / "settings.json").read_text())


def test_the_users_settings_are_kept_in_our_copy_but_for_the_silence_and_the_keys(root: Path, users: Path) -> None:
    users.write_text(json.dumps({"sync": True, "wandb": True, "uuid": "x", "api_key": "secret"}))
    before = users.read_bytes()
    assert offline.prepare_home() == root / ".cache" / "ultralytics" / "Ultralytics"
    assert ours() == {"wandb": True, "uuid": "x", **offline.SILENT}
    assert "secret" not in (offline.prepare_home() / "settings.json").read_text()
    assert users.read_bytes() == before, "read, never written"


@pytest.mark.parametrize("content", ["", "{", "[]", "\0"])
def test_broken_settings_of_the_user_are_as_none(users: Path, content: str) -> None:
    users.write_text(content)
    assert ours() == offline.SILENT


@pytest.mark.parametrize("content", ["", "{", "[]", '{"sync": true}'])
def test_our_copy_is_mended_where_it_is_not_silent(users: Path, content: str) -> None:
    (offline.prepare_home() / "settings.json").write_text(content)
    assert ours()["sync"] is False


def test_what_the_user_changes_later_holds_from_the_next_start(users: Path) -> None:
    assert ours()["wandb"] is True
    users.write_text(json.dumps({"wandb": False}))
    assert ours()["wandb"] is False


def test_of_a_copy_that_ultralytics_completed_only_values_change(users: Path) -> None:
    """A key or a version it does not know makes it write its settings anew, and say so, at every start."""
    completed = {**offline.SILENT, "settings_version": "9", "wandb": False}
    (offline.prepare_home() / "settings.json").write_text(json.dumps(completed))
    users.write_text(json.dumps({"wandb": True, "hub": True, "settings_version": "4"}))
    assert ours() == {**completed, "wandb": True}


def test_what_is_thrown_away_is_told_to_nobody(users: Path) -> None:
    told = ours(kept=False)
    assert not any(told[name] for name in offline.INTEGRATIONS)
    assert ours()["wandb"] is True


def test_a_font_lies_where_arial_would_be_fetched() -> None:
    folder = offline.prepare_home()
    for name in ("Arial.ttf", "Arial.Unicode.ttf"):
        assert (folder / name).read_bytes()[:4] == b"\0\1\0\0", "TrueType"


@pytest.mark.parametrize(
    ("platform", "path"),
    [
        ("darwin", "Library/Application Support/Ultralytics/settings.json"),
        ("linux", ".config/Ultralytics/settings.json"),
    ],
)
def test_the_users_settings_are_where_ultralytics_keeps_them(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, platform: str, path: str
) -> None:
    monkeypatch.delenv("YOLO_CONFIG_DIR", raising=False)
    monkeypatch.delenv("XDG_CONFIG_HOME", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr(sys, "platform", platform)
    assert offline.users_settings() == tmp_path / path


def test_ultralytics_itself_takes_our_settings_and_stays_silent(users: Path) -> None:
    offline.prepare_home()
    code = "from ultralytics.utils import SETTINGS, ONLINE; print(SETTINGS['sync'], SETTINGS['wandb'], ONLINE)"
    environment = {**os.environ, **offline.environment()}
    answer = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert answer.stdout.split()[-3:] == ["False", "True", "False"]
