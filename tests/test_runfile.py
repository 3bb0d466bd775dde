"""run.yaml: reads back what was written, and refuses what it cannot understand."""

from __future__ import annotations

import subprocess
from dataclasses import asdict
from pathlib import Path

import pytest
import yaml

from rddkit import runfile
from rddkit.config import ConfigError
from rddkit.runfile import RunFile


def record() -> RunFile:
    return RunFile(
        name="Läufe 1",
        created="2026-11-23T03:12:05.123Z",
        config={"batch": 2, "data": "/x/rdd2022.yaml", "patience": None},
        config_file="configs/x.yaml",
        plan={"batch": 2},
        safety={"retries": 3},
        device="cpu",
        threads=1,
    )


def test_what_was_written_reads_back(tmp_path: Path) -> None:
    file = tmp_path / "run.yaml"
    record().write(file)
    assert runfile.read(file) == record()
    assert yaml.safe_load(file.read_text(encoding="utf-8"))["schema"] == 1
    assert "Läufe 1" in file.read_text(encoding="utf-8")


def test_keys_of_a_later_version_of_the_same_schema_are_passed_over(tmp_path: Path) -> None:
    file = tmp_path / "run.yaml"
    file.write_text(yaml.safe_dump({**asdict(record()), "moon": "full"}))
    assert runfile.read(file) == record()


def test_a_newer_schema_says_to_update(tmp_path: Path) -> None:
    file = tmp_path / "run.yaml"
    file.write_text(yaml.safe_dump({**asdict(record()), "schema": 2}))
    with pytest.raises(ConfigError) as caught:
        runfile.read(file)
    assert str(caught.value) == f"{file} has schema 2, newer than this rddkit's 1; update rddkit: git pull"


def test_a_missing_part_is_named_with_the_way_on(tmp_path: Path) -> None:
    file = tmp_path / "run.yaml"
    content = asdict(record())
    del content["threads"]
    file.write_text(yaml.safe_dump(content))
    with pytest.raises(ConfigError, match=r"run.yaml lacks a part \(.*threads.*\); set the folder aside.*--fresh"):
        runfile.read(file)


@pytest.mark.parametrize("content", [b"", b"- 1", b"a: [", b"\xff\xfe\x00", b"name: x", b"schema: one", b"\0"])
def test_what_is_no_run_file_is_refused_with_the_way_on(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "run.yaml"
    file.write_bytes(content)
    with pytest.raises(ConfigError, match="(?s)is not a run's file .*; set the folder aside and start again: --fresh"):
        runfile.read(file)


def test_the_commit_is_recorded_and_whether_the_tree_had_changes(tmp_path: Path) -> None:
    assert runfile.git_commit(tmp_path) == {}
    git = ["git", "-C", str(tmp_path), "-c", "user.name=x", "-c", "user.email=x@x"]
    subprocess.run([*git, "init", "-q"], check=True)
    subprocess.run([*git, "commit", "-q", "--allow-empty", "-m", "one"], check=True)
    clean = runfile.git_commit(tmp_path)
    assert len(clean["commit"]) == 40 and clean["changed"] is False
    (tmp_path / "new").touch()
    assert runfile.git_commit(tmp_path) == {**clean, "changed": True}
