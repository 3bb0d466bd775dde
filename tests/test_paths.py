"""Paths: where the root is, what a run's files are called, and which run is meant."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from workshop import REPOSITORY

from rddkit import paths
from rddkit.paths import RunPaths


def make_run(project: Path, name: str, age: float = 0.0) -> RunPaths:
    run = RunPaths(project / name)
    run.folder.mkdir(parents=True)
    run.run_yaml.write_text("schema: 1\n")
    moment = run.run_yaml.stat().st_mtime - age
    os.utime(run.run_yaml, (moment, moment))
    return run


def test_the_root_is_the_repository_unless_another_is_chosen(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert paths.root() == root
    monkeypatch.delenv("RDDKIT_ROOT")
    assert paths.root() == REPOSITORY


def test_relative_paths_resolve_from_the_root_and_absolute_ones_stay(root: Path) -> None:
    assert paths.resolve("data/x.yaml") == root / "data" / "x.yaml"
    assert paths.resolve("data/../x.yaml") == root / "x.yaml"
    assert paths.resolve("/a/b.yaml") == Path("/a/b.yaml")
    assert paths.resolve("~/b.yaml") == Path.home() / "b.yaml"


def test_a_runs_files_are_called_as_the_design_says() -> None:
    run = RunPaths(Path("/r/night one"))
    names = {
        run.args_yaml: "args.yaml",
        run.results_csv: "results.csv",
        run.last: "weights/last.pt",
        run.best: "weights/best.pt",
        run.run_yaml: "run.yaml",
        run.journal: "events.jsonl",
        run.steps_csv: "steps.csv",
        run.memory_csv: "memory.csv",
        run.progress: "progress.json",
        run.snapshots: "snapshots",
        run.log(1): "logs/attempt-001.log",
        run.log(1234): "logs/attempt-1234.log",
        run.report_html: "report.html",
        run.report: "report",
    }
    assert {str(path.relative_to(run.folder)): name for path, name in names.items()} == {
        name: name for name in names.values()
    }
    assert run.name == "night one"


def test_the_newest_run_is_the_most_recently_active_one(root: Path) -> None:
    old, new = make_run(root / "results", "a", age=100), make_run(root / "results", "b", age=200)
    (root / "results" / "notebooks").mkdir()
    assert [run.name for run in paths.runs()] == ["b", "a"]
    new.progress.write_text("{}")
    assert paths.find_run(None) == new == paths.find_run("")
    assert paths.find_run("a") == old


def test_a_run_is_found_by_name_by_path_from_the_root_and_from_here(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = make_run(root / "results", "Läufe 1")
    other = make_run(tmp_path / "here", "x")
    monkeypatch.chdir(tmp_path)
    assert paths.find_run("Läufe 1") == paths.find_run("results/Läufe 1") == paths.find_run(run.folder) == run
    assert paths.find_run("here/x") == other


def test_no_run_at_all_says_how_to_start_one(root: Path) -> None:
    assert paths.runs() == []
    with pytest.raises(FileNotFoundError) as caught:
        paths.find_run(None)
    assert str(caught.value) == f"no run in {root}/results yet; start one with: rddkit train"


def test_an_unknown_run_is_told_with_those_that_are_there(root: Path) -> None:
    make_run(root / "results", "a", age=5)
    make_run(root / "results", "b")
    with pytest.raises(FileNotFoundError) as caught:
        paths.find_run("c")
    assert str(caught.value) == f"no run 'c': no run.yaml in {root}/results/c; runs there: a, b"
