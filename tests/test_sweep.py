"""A sweep's file: read, expanded, refused in words; how its trials stand; and the command without Ray."""

from __future__ import annotations

import os
import re
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from fabricate import fabricate_run
from workshop import REPOSITORY, Cli

from rddkit import standings, sweep
from rddkit.config import ConfigError
from rddkit.paths import find_run
from rddkit.standings import ASHA, Standing, Standings


@pytest.fixture
def write(make_root: Callable[..., Path], root: Path) -> Callable[..., Path]:
    """`write(grid={...})`: a sweep of configs/tiny.yaml with these, as a file."""
    make_root(root)

    def write(name: str = "many", **content: Any) -> Path:
        path = root / "configs" / f"{name}.yaml"
        path.write_text(yaml.safe_dump({"config": "configs/tiny.yaml", **content}, sort_keys=False), encoding="utf-8")
        return path

    return write


def test_a_grid_makes_every_combination_a_run_of_readable_name(write: Callable[..., Path], root: Path) -> None:
    found = sweep.read(write(grid={"lr0": [0.01, 0.002], "seed": [1, 2]}))
    assert [trial.name for trial in found.trials] == [
        "many-lr0_0.01-seed_1",
        "many-lr0_0.01-seed_2",
        "many-lr0_0.002-seed_1",
        "many-lr0_0.002-seed_2",
    ]
    first = found.trials[0]
    assert first.overrides == {"lr0": 0.01, "seed": 1} and first.asked.args["lr0"] == 0.01
    assert first.paths.folder == root / "results" / "many-lr0_0.01-seed_1"
    assert found.book == root / "results" / "many" / "sweep.json"
    assert first.command == (
        f"rddkit train --config {root}/configs/tiny.yaml --name many-lr0_0.01-seed_1 lr0=0.01 seed=1"
    )
    assert not (root / "results" / "many").exists(), "reading touches nothing"


def test_a_list_of_trials_is_taken_as_it_is_and_may_name_them(write: Callable[..., Path]) -> None:
    found = sweep.read(write(name="s", trials=[{"imgsz": 64, "batch": 2}, {"name": "small", "imgsz": 32}]))
    assert [trial.name for trial in found.trials] == ["s-imgsz_64-batch_2", "s-small"]
    assert found.trials[1].overrides == {"imgsz": 32}


def test_names_hold_only_what_a_folder_and_a_command_line_take() -> None:
    assert sweep.run_name("s", {"model": "my models/yolov8s.pt", "classes": [0, 1]}) == "s-model_yolov8s-classes_0_1"
    long = sweep.run_name("s", {"a": "x" * 300})
    assert len(long) < 140 and long != sweep.run_name("s", {"a": "x" * 301})


def test_off_is_what_yaml_reads_as_no(write: Callable[..., Path]) -> None:
    path = write(grid={"seed": [1]})
    path.write_text(path.read_text() + "pack: off\n")
    assert sweep.read(path).file.pack == "off"


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ({"grdi": {"seed": [1]}}, "unknown setting 'grdi'. Did you mean 'grid'?"),
        ({"grid": {"sede": [1]}}, "unknown setting 'sede'. Did you mean 'seed'?"),
        ({"grid": {"seed": [1, "two"]}}, "seed='two' is a str; seed takes int"),
        ({"grid": {"seed": []}}, "grid: seed has no values; such as seed: [1, 2]"),
        ({"grid": {"seed": 1}}, "grid="),
        ({"grid": {"name": ["a"]}}, "'name' is not set here; the sweep names its runs"),
        ({"grid": {"project": ["a"]}}, "'project' is not set here; set it in the config"),
        ({}, "give `grid:` (lists of values by setting) or `trials:` (a list of settings), one of them"),
        ({"grid": {"seed": [1]}, "trials": [{"seed": 2}]}, "one of them"),
        ({"grid": {"seed": [1, 1]}}, "would both be the run 'many-seed_1'; give each of them a `name:`"),
        ({"grid": {"seed": [1]}, "metric": "map"}, "metric='map': input should be 'mAP50' or 'mAP50-95'"),
        ({"grid": {"seed": [1]}, "asha": {"grace": 1}}, "asha="),
        ({"grid": {"seed": [1]}, "cpus": 0}, "cpus=0"),
        ({"grid": {"model": ["nowhere.pt"]}}, "rddkit download nowhere.pt"),
        ({"grid": {"data": ["nowhere/rdd2022.yaml"]}}, "rddkit prepare RDD2022 "),
        ({"grid": {"seed": [1]}, "config": "configs/none.yaml"}, "no config file"),
    ],
)
def test_what_cannot_be_used_is_said_with_what_to_write_instead(
    write: Callable[..., Path], content: dict[str, Any], told: str
) -> None:
    with pytest.raises(ConfigError) as error:
        sweep.read(write(**content))
    assert told in str(error.value)


def test_a_run_of_other_settings_in_the_way_is_named_and_left_alone(
    write: Callable[..., Path],
) -> None:
    path = write(grid={"seed": [1]})
    (trial,) = sweep.read(path).trials
    assert sweep.standing(trial) == "new"
    trial.paths.folder.mkdir()
    (trial.paths.folder / "mine.txt").write_text("mine")
    with pytest.raises(ConfigError, match="is not a run of rddkit"):
        sweep.standing(trial)
    assert (trial.paths.folder / "mine.txt").read_text() == "mine"


def test_a_sweep_does_not_take_a_runs_name(write: Callable[..., Path], root: Path) -> None:
    fabricate_run(root / "results" / "many")
    with pytest.raises(ConfigError, match="is a run; give the sweep another `name:`"):
        sweep.read(write(grid={"seed": [1]}))


def test_without_ray_sweep_says_what_to_install_and_the_rest_works(
    write: Callable[..., Path], run_cli: Cli, tmp_path: Path
) -> None:
    (tmp_path / "sitecustomize.py").write_text("import sys\nsys.modules['ray'] = None\n")  # as if it were not there
    without = {"PYTHONPATH": str(tmp_path), "PATH": os.environ["PATH"]}
    done = run_cli("sweep", str(write(grid={"seed": [1]})), env=without)
    assert done.returncode == 2
    assert "a sweep needs Ray, which is not installed" in done.stderr
    assert "pip install -c constraints.txt -e '.[ray]'" in done.stderr
    assert "Everything else works without it" in done.stderr
    assert run_cli("estimate", "--config", "configs/tiny.yaml", env=without).returncode == 0
    run = fabricate_run(write().parent.parent / "results" / "one")
    assert run_cli("status", "one", env=without).returncode == 0 and find_run("one") == run


def some(*states: tuple[str, int]) -> Standings:
    trials = [Standing(f"s-{i}", "", state=state, exit=code) for i, (state, code) in enumerate(states)]
    return Standings(Path("sweep.json"), "s", "mAP50", trials)


@pytest.mark.parametrize(
    ("states", "code"),
    [
        ([("done", 0), ("done", 0)], 0),
        ([("done", 0), (ASHA, 75)], 0),
        ([("done", 0), ("stopped", 75), ("failed", 1)], 75),
        ([("done", 0), ("failed", 1), ("failed", 69)], 1),
        ([("done", 0), ("failed", 69)], 69),
        ([("waiting", 75)], 75),
    ],
)
def test_the_exit_code_is_75_while_something_can_be_continued(states: list[tuple[str, int]], code: int) -> None:
    assert some(*states).exit_code == code


def test_the_sentence_counts_states_and_names_the_winner() -> None:
    told = some(("done", 0), ("done", 0), (ASHA, 75), ("failed", 1))
    assert told.sentence == "2 of 4 done, 1 stopped by ASHA, 1 failed" and told.winner() is None
    told.trials[1].best = {"mAP50": 0.4125, "mAP50-95": 0.2}
    told.trials[0].best = {"mAP50": 0.3}
    assert told.sentence.endswith("; best mAP50 0.412: s-1")
    assert [row[0] for row in told.rows()] == ["s-1", "s-0", "s-2", "s-3"]


def test_sweep_json_gives_back_what_was_written_and_passes_over_what_it_does_not_know(tmp_path: Path) -> None:
    told = some(("done", 0))
    told.path = tmp_path / "s" / "sweep.json"
    told.write()
    assert standings.read(told.path) == told
    told.path.write_text(told.path.read_text().replace('"address"', '"later": 1, "address"', 1))
    assert standings.read(told.path) == told
    told.path.write_text("{torn")
    assert standings.read(told.path) is None and standings.read(tmp_path / "none") is None


def test_a_trial_looks_into_its_runs_folder(root: Path) -> None:
    run = fabricate_run(root / "results" / "one")
    one = Standing("one", str(run.folder))
    one.settle()
    assert one.epochs > 0 and one.best_epoch and 0 < one.best["mAP50"] <= 1
    assert one.peak_bytes > 0 and one.seconds > 0


def test_a_trial_that_could_not_be_started_has_failed_and_is_not_tried_for_ever(root: Path) -> None:
    one = Standing("one", str(root / "results" / "one"), note="ConfigError: the data set is not there")
    one.settle()
    assert (one.state, one.exit) == ("failed", 1) and "data set" in one.note


def test_a_trial_that_asha_stopped_stays_so_until_somebody_finishes_it(root: Path) -> None:
    run = fabricate_run(root / "results" / "one", total=60, end="run_stopped")
    one = Standing("one", str(run.folder), state=ASHA)
    one.settle()
    assert one.state == ASHA
    one = Standing("two", str(fabricate_run(root / "results" / "two").folder), state=ASHA)
    one.settle()
    assert (one.state, one.exit) == ("done", 0)


def test_the_script_for_slurm_passes_the_notice_on_and_asks_for_a_requeue_on_75(tmp_path: Path) -> None:
    text = (REPOSITORY / "docs" / "scaling.md").read_text(encoding="utf-8")
    (script,) = re.findall(r"```bash\n(#!/bin/bash\n#SBATCH.*?)```", text, re.DOTALL)
    (tmp_path / ".venv" / "bin").mkdir(parents=True)
    stands_in = {
        "job": script,
        ".venv/bin/rddkit": "#!/bin/bash\ntrap 'sleep 0.5; exit 75' TERM\necho ready\nwhile :; do sleep 0.05; done\n",
        "scontrol": '#!/bin/bash\necho "$@" > asked\n',
    }
    for name, content in stands_in.items():
        (tmp_path / name).write_text(content)
        (tmp_path / name).chmod(0o755)
    slurm = {"SLURM_SUBMIT_DIR": str(tmp_path), "SLURM_JOB_ID": "41", "SLURM_ARRAY_TASK_ID": "2"}
    path = f"{tmp_path}:{os.environ['PATH']}"
    job = subprocess.Popen(
        ["bash", tmp_path / "job"], env={**os.environ, **slurm, "PATH": path}, stdout=subprocess.PIPE, text=True
    )
    assert job.stdout is not None and job.stdout.readline() == "ready\n"
    job.send_signal(signal.SIGTERM)
    assert job.wait(timeout=20) == 75
    assert (tmp_path / "asked").read_text() == "requeue 41\n"
