"""Settings: what is refused and in which words, and that every way of giving them means the same."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from workshop import REPOSITORY, Cli

from rddkit import cli, config, paths
from rddkit.config import ConfigError, load_config
from rddkit.run import Run

BASE = {"model": "yolov8n.yaml", "data": "data/x/rdd2022.yaml", "epochs": 3, "batch": 2, "imgsz": 64}


def write(root: Path, file_name: str = "training.yaml", /, **settings: Any) -> Path:
    file = root / "configs" / file_name
    file.write_text(yaml.safe_dump({**BASE, **settings}, allow_unicode=True), encoding="utf-8")
    return file


def error(root: Path, **overrides: Any) -> str:
    write(root)
    with pytest.raises(ConfigError) as caught:
        load_config("configs/training.yaml", overrides)
    return str(caught.value)


REFUSED = [
    ({"bacth": 2}, "given setting: unknown setting 'bacth'. Did you mean 'batch'?"),
    ({"zzzzzzzz": 2}, "given setting: unknown setting 'zzzzzzzz'."),
    ({"epochs": "many"}, "given setting: epochs='many' is a str; epochs takes int, such as 100"),
    ({"epochs": 2.5}, "given setting: epochs=2.5 is a float; epochs takes int, such as 100"),
    ({"epochs": True}, "given setting: epochs=True is a bool; epochs takes int, such as 100"),
    ({"lr0": float("nan")}, "given setting: lr0=nan is a float; lr0 takes float, such as 0.01"),
    ({"name": 5}, "given setting: name=5 is a int; name takes str"),
    ({"batch": 0}, "given setting: batch=0; batch is a whole number of images, 1 or more, or auto"),
    ({"batch": -1}, "given setting: batch=-1; batch is a whole number of images, 1 or more, or auto"),
    ({"batch": 0.7}, "given setting: batch=0.7; batch is a whole number of images, 1 or more, or auto"),
    ({"imgsz": 650}, "given setting: imgsz=650 must be a multiple of 32; the nearest is 640"),
    ({"imgsz": 1}, "given setting: imgsz=1 must be a multiple of 32; the nearest is 32"),
    ({"imgsz": [640, 640]}, "given setting: imgsz=[640, 640] must be a multiple of 32; the nearest is 640"),
    ({"epochs": 0}, "given setting: epochs=0 must be 1 or more"),
    ({"workers": -1}, "given setting: workers=-1 must be 0 or more"),
    ({"name": "a/b"}, "given setting: name='a/b' must be one folder's name, without / and not starting with a dot"),
    ({"name": ".."}, "given setting: name='..' must be one folder's name, without / and not starting with a dot"),
    ({"name": "  "}, "given setting: name='  ' must be one folder's name, without / and not starting with a dot"),
    ({"save": False}, "given setting: save=False would leave nothing to resume from; leave `save` out"),
    (
        {"time": 2.0},
        "given setting: time=2.0 would cut epochs off the run; keep hours by --for 9h or --until 07:00",
    ),
    ({"resume": True}, "given setting: 'resume' is not set here; use --resume"),
    ({"cfg": "x.yaml"}, "given setting: 'cfg' is not set here; use --config"),
    (
        {"exist_ok": True},
        "given setting: 'exist_ok' is not set here; folders are never numbered; use --name or --fresh",
    ),
]


@pytest.mark.parametrize(("overrides", "text"), REFUSED, ids=[str(row[0]) for row in REFUSED])
def test_a_setting_that_cannot_be_used_is_refused_in_one_line(root: Path, overrides: dict[str, Any], text: str) -> None:
    assert error(root, **overrides) == text


def test_an_error_in_the_file_names_the_file(root: Path) -> None:
    file = write(root, imgz=640)
    with pytest.raises(ConfigError) as caught:
        load_config(file)
    assert str(caught.value) == f"{file}: unknown setting 'imgz'. Did you mean 'imgsz'?"


def test_a_key_that_is_not_a_word_is_refused_by_name(root: Path) -> None:
    file = root / "configs" / "odd.yaml"
    file.write_text("model: yolov8n.yaml\n1: 2\n")
    with pytest.raises(ConfigError, match=r"odd.yaml: unknown setting 1\."):
        load_config(file)


def test_an_empty_value_is_refused_where_ultralytics_needs_one(root: Path) -> None:
    with pytest.raises(ConfigError, match="workers must not be empty; the default is 8"):
        load_config(write(root, workers=None))


def test_a_missing_file_is_told_with_what_is_there(root: Path) -> None:
    write(root, "one.yaml")
    write(root, "two.yaml")
    with pytest.raises(ConfigError) as caught:
        load_config("configs/three.yaml")
    assert str(caught.value) == f"no config file {root}/configs/three.yaml; in {root}/configs: one.yaml, two.yaml"


def test_a_missing_file_elsewhere_is_told_with_what_configs_holds(root: Path) -> None:
    write(root, "one.yaml")
    for name in ("one", "nowhere/one.yaml"):
        with pytest.raises(ConfigError) as caught:
            load_config(name)
        assert str(caught.value) == f"no config file {root}/{name}; in {root}/configs: one.yaml"


@pytest.mark.parametrize("text", ["- a\n- b\n", "just words\n", "", "7\n"])
def test_yaml_without_keys_is_refused(root: Path, text: str) -> None:
    file = root / "configs" / "list.yaml"
    file.write_text(text)
    with pytest.raises(ConfigError, match="list.yaml must hold keys and values, one `key: value` a line; it holds"):
        load_config(file)


@pytest.mark.parametrize("content", [b"a: [1\n", b"\xff\xfe\x00", b"a: b: c\n", b"\t\n-"])
def test_broken_yaml_is_refused_by_name(root: Path, content: bytes) -> None:
    file = root / "configs" / "broken.yaml"
    file.write_bytes(content)
    with pytest.raises(ConfigError, match="broken.yaml (is not readable YAML|must hold)"):
        load_config(file)


@pytest.mark.parametrize(
    ("word", "value"),
    [
        ("lr0=1e-3", 0.001),
        ("lr0=1E3", 1000.0),
        ("lr0=.5", 0.5),
        ("batch=2", 2),
        ("plots=False", False),
        ("plots=true", True),
        ("patience=None", None),
        ("name=a=b", "a=b"),
        ("name=", None),
        ("freeze=[1, 2]", [1, 2]),
        ("name={", "{"),
    ],
)
def test_a_typed_value_means_what_people_mean(word: str, value: Any) -> None:
    assert config.parse_overrides([word]) == {word.partition("=")[0]: value}


@pytest.mark.parametrize("word", ["epochs", "=5", "--lr0"])
def test_a_word_without_key_and_value_is_refused(word: str) -> None:
    with pytest.raises(ConfigError, match="is not key=value; any Ultralytics argument can follow, such as lr0=0.001"):
        config.parse_overrides([word])


@given(st.text(max_size=30))
def test_any_typed_word_is_a_value_or_a_config_error(text: str) -> None:
    try:
        config.check_arguments(config.parse_overrides([text]), "given setting")
    except ConfigError as refused:
        assert str(refused)


@given(
    st.dictionaries(
        st.sampled_from([*config.known_arguments(), "nonsense"]),
        st.none()
        | st.booleans()
        | st.integers()
        | st.floats()
        | st.text(max_size=5)
        | st.lists(st.integers(), max_size=2),
    )
)
def test_any_settings_are_taken_or_a_config_error(args: dict[str, Any]) -> None:
    try:
        config.check_arguments(args, "here")
    except ConfigError as refused:
        assert str(refused).startswith("here: ")


def test_every_default_of_ultralytics_is_itself_accepted() -> None:
    defaults = {key: kind.default for key, kind in config.known_arguments().items() if key not in config.OURS}
    config.check_arguments(defaults | {"batch": 1}, "defaults")


def test_paths_resolve_from_the_root_whatever_the_folder(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(root, project="results", name="x")
    monkeypatch.chdir(tmp_path)
    loaded = load_config("configs/training.yaml")
    assert Path.cwd() == tmp_path
    assert loaded.args["data"] == str(root / "data/x/rdd2022.yaml")
    assert loaded.folder == root / "results" / "x"


def test_a_config_below_the_current_folder_is_found_too(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(BASE))
    monkeypatch.chdir(tmp_path)
    assert load_config("mine.yaml").source == str(tmp_path / "mine.yaml")


def test_a_run_without_a_name_is_named_like_its_config(root: Path) -> None:
    assert load_config(write(root, "my_run.yaml")).folder == root / "results" / "my_run"


def test_folders_with_spaces_and_accents_are_kept(root: Path) -> None:
    loaded = load_config(write(root, project="Straße & Co/läufe", name="nächtlicher Lauf 1"))
    assert loaded.folder == root / "Straße & Co/läufe" / "nächtlicher Lauf 1"


def test_a_number_and_its_text_name_the_same_device(root: Path) -> None:
    write(root, device=0)
    assert load_config("configs/training.yaml").args == load_config("configs/training.yaml", {"device": "0"}).args


def test_a_config_without_model_or_data_says_what_to_add(root: Path) -> None:
    with pytest.raises(ConfigError, match="names no model; add `model: yolov8s.pt`, or `model: yolov8s.yaml`"):
        load_config(write(root, model=None))
    with pytest.raises(ConfigError, match="names no data; add `data: data/rdd2022/rdd2022.yaml`"):
        load_config(write(root, data=None))


def test_missing_weights_are_told_with_download_first_then_placing_then_scratch(root: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        config.find_model("yolov8s.pt")
    assert str(caught.value).splitlines() == [
        f"the weights 'yolov8s.pt' are not here (looked for {root}/yolov8s.pt), and nothing is fetched unasked. "
        "One of:",
        "  rddkit download yolov8s.pt",
        f"  put the file at {root}/yolov8s.pt",
        "  train from scratch: model=yolov8s.yaml",
    ]


def test_weights_that_are_there_are_named_by_their_whole_path(root: Path) -> None:
    (root / "my weights.pt").write_bytes(b"x")
    assert config.find_model("my weights.pt") == str(root / "my weights.pt")


@pytest.mark.parametrize("model", ["yolov8n.yaml", "yolov8s.yaml", "yolo11n.yaml", "yolov8.yaml", "yolo26x.yaml"])
def test_architectures_that_ultralytics_ships_need_no_file(model: str) -> None:
    assert config.find_model(model) == model


def test_unknown_models_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"no model 'yolov88n.yaml'.*Did you mean 'yolov8.yaml'\?"):
        config.find_model("yolov88n.yaml")
    with pytest.raises(ConfigError, match=r"model='yolov8s' is neither weights \(.pt\) nor an architecture \(.yaml\)"):
        config.find_model("yolov8s")


def test_missing_data_names_the_commands_that_make_it(root: Path) -> None:
    with pytest.raises(ConfigError, match="no data set at /no/where.yaml. From the official release: rddkit download"):
        config.find_data("/no/where.yaml")


def test_a_setting_left_out_counts_as_its_default() -> None:
    assert config.differences({"epochs": 3}, {"epochs": 3, "patience": 100}) == {}
    assert config.differences({"epochs": 3}, {"epochs": 4, "lr0": 0.1}) == {"epochs": (3, 4), "lr0": (0.01, 0.1)}


def test_the_shipped_configs_are_valid(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RDDKIT_ROOT", str(REPOSITORY))
    for file in ("training_phase1_mps_safe", "training_cuda", "demo"):
        assert load_config(f"configs/{file}.yaml").folder.parent == paths.results()
    seed = load_config().args
    assert (seed["batch"], seed["imgsz"], seed["epochs"], seed["workers"], seed["seed"]) == (2, 640, 200, 0, 42)


# -- the same through every door ---------------------------------------------------------------------------------------


@pytest.fixture
def workshop(root: Path, tiny_data: Path) -> Path:
    write(root, data=str(tiny_data), device="cpu")
    return root


def test_command_line_papermill_and_python_give_the_same_plan(
    workshop: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = {"cuda": [], "mps": False, "torch": "2", "cpu": "any"}  # looking for real loads torch each time
    monkeypatch.setattr("rddkit.recording.look_at_devices", lambda: seen)
    python = Run.create("configs/training.yaml", batch=1, imgsz=96, workers=0, lr0=0.001, device="cpu")
    # papermill hands a parameters cell's names over as keywords, those left alone as None
    papermill = Run.create(
        **{"config_file": "configs/training.yaml", "batch": 1, "imgsz": 96, "workers": 0, "epochs": None, "name": None},
        **{"lr0": 1e-3, "device": "cpu"},
    )
    ask = (
        f"import sys, json\nfrom rddkit import cli, run\nrun.look_at_devices = lambda: {seen}\n"
        "tell = lambda self, **how: sys.exit(print(json.dumps([self.record.config, self.record.plan])))\n"
        "run.Run.start = tell\n"
        "cli.main()"
    )
    words = ["train", "--config", "configs/training.yaml", "--batch", "1", "--imgsz", "96", "--workers", "0"]
    words += ["--device", "cpu", "lr0=1e-3"]
    answer = subprocess.run(
        [sys.executable, "-c", ask, *words],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        env={**os.environ},
        check=False,
    )
    line = yaml.safe_load(answer.stdout.splitlines()[-1])
    assert python.record is not None and papermill.record is not None
    assert line == [python.record.config, python.record.plan] == [papermill.record.config, papermill.record.plan]
    assert python.record.plan["batch"] == 1 and python.record.plan["imgsz"] == 96
    assert not (workshop / "results").exists(), "deciding a run creates nothing"


COMMANDS = [
    (["--config", "configs/training.yaml", "epoch=3"], "unknown setting 'epoch'. Did you mean 'epochs'?"),
    (["--config", "configs/training.yaml", "epochs=x"], "epochs='x' is a str; epochs takes int, such as 100"),
    (["--config", "configs/missing.yaml"], "no config file"),
    (
        ["--config", "configs/training.yaml", "--batch", "0"],
        "batch=0; batch is a whole number of images, 1 or more, or auto",
    ),
    (["--config", "configs/training.yaml", "--imgsz", "100"], "imgsz=100 must be a multiple of 32; the nearest is 96"),
    (
        ["--config", "configs/training.yaml", "--device", "cuda:9"],
        "device='cuda:9' is not on this machine; there are: cpu",
    ),
    (["--config", "configs/training.yaml", "model=yolov8s.pt"], "rddkit download yolov8s.pt"),
    (["--config", "configs/training.yaml", "data=nowhere.yaml"], "no data set at"),
    (["--config", "configs/training.yaml", "--resume"], "nothing to resume: no run in"),
    (["--config", "configs/training.yaml", "--safety", "configs/none.yaml"], "no config file"),
]


@pytest.mark.parametrize(("words", "text"), COMMANDS, ids=[row[1][:30] for row in COMMANDS])
def test_the_command_line_refuses_with_exit_2_and_creates_nothing(
    workshop: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    words: list[str],
    text: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["rddkit", "train", *words])
    before = sorted(workshop.rglob("*"))
    with pytest.raises(SystemExit) as left:
        cli.main()
    said = capsys.readouterr().err
    assert left.value.code == 2
    assert said.startswith("rddkit: ") and text in said
    assert sorted(workshop.rglob("*")) == before


def test_a_refusal_is_the_same_in_a_process_of_its_own_from_another_folder(workshop: Path, run_cli: Cli) -> None:
    before = sorted(workshop.rglob("*"))
    answer = run_cli("train", "--config", "configs/training.yaml", "--batch", "0")
    assert answer.returncode == 2
    assert answer.stderr == "rddkit: given setting: batch=0; batch is a whole number of images, 1 or more, or auto\n"
    assert sorted(workshop.rglob("*")) == before


def test_a_repository_in_a_folder_with_spaces_and_accents_works(tmp_path: Path, workshop: Path, run_cli: Cli) -> None:
    home = tmp_path / "Straße & Co" / "mein repo"
    shutil.copytree(workshop, home)
    answer = run_cli("train", "--config", "configs/training.yaml", "model=yolov8s.pt", env={"RDDKIT_ROOT": str(home)})
    assert answer.returncode == 2
    assert f"put the file at {home}/yolov8s.pt" in answer.stderr
