"""What the notebooks call, without a kernel: parameters, tables, pictures, texts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from rddkit import config, exhibits, notebook, parameters
from rddkit.config import ConfigError
from rddkit.parameters import check_parameters, parse_overrides
from rddkit.paths import RunPaths
from rddkit.run import Run

CELL = 'config = "a.yaml"  # settings\nbatch = None\noverrides = ""'


def kernel(*cells: str) -> dict[str, Any]:
    """The globals of a kernel that ran these cells."""
    names: dict[str, Any] = {}
    for cell in cells:
        exec(cell, names)
    return {**names, "In": ["", *cells, "given = check_parameters(globals(), ...)"]}


def test_parameters_are_given_back_by_name() -> None:
    names = kernel("import os", CELL, "# Parameters\nbatch = 1")
    assert check_parameters(names, "config batch overrides") == {"config": "a.yaml", "batch": 1, "overrides": ""}


def test_an_unknown_parameter_names_the_nearest_and_all() -> None:
    with pytest.raises(ConfigError) as error:
        check_parameters(kernel(CELL, "# Parameters\nbatc = 1"), "config batch overrides")
    assert str(error.value) == "unknown parameter 'batc'. Did you mean 'batch'? There are: config, batch, overrides"


def test_a_name_mistyped_in_the_cell_itself_is_unknown_too() -> None:
    with pytest.raises(ConfigError, match="unknown parameter 'confg'"):
        check_parameters(kernel(CELL, CELL + '\nconfg = "b.yaml"'), "config batch overrides")


def test_an_argument_of_ultralytics_is_shown_its_place() -> None:
    with pytest.raises(ConfigError, match="-p overrides 'lr0=VALUE ...'"):
        check_parameters(kernel(CELL, "# Parameters\nlr0 = 0.1"), "config batch overrides")


def test_other_variables_of_a_session_are_no_parameters() -> None:
    # In JupyterLab a person runs the check again after other cells, and after having mended a mistyped name.
    names = kernel(CELL + "\nbatc = 1", CELL, "x = 3\nfigure, axes = 1, 2", "_private = 1", "total: int = 2")
    assert check_parameters(names, "config batch overrides")["config"] == "a.yaml"


def test_cells_in_another_language_are_passed_over() -> None:
    names = kernel(CELL)
    names["In"] += ["%%bash\nls | head", "!ls"]
    assert check_parameters(names, "config batch overrides")["batch"] is None


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("batch = 'two'", "parameter batch='two' is a str; it takes int or None"),
        ("batch = True", "parameter batch=True is a bool; it takes int or None"),
        ("batch = 1.5", "parameter batch=1.5 is a float; it takes int or None"),
        ("config = None", "parameter config=None is a NoneType; it takes str"),
        ("config = 5", "parameter config=5 is a int; it takes str; papermill keeps it as text with: -r config 5"),
    ],
)
def test_a_value_of_the_wrong_type_is_an_error(line: str, told: str) -> None:
    with pytest.raises(ConfigError) as error:
        check_parameters(kernel(CELL, f"# Parameters\n{line}"), "config batch overrides")
    assert str(error.value) == told


def test_a_parameter_that_was_never_set_says_which_cell_to_run() -> None:
    with pytest.raises(ConfigError, match="'batch' is not set; run the cell tagged `parameters` first"):
        check_parameters(kernel('config = "a.yaml"'), "config batch")


def test_every_notebook_sets_exactly_the_parameters_it_checks() -> None:
    books = sorted((Path(__file__).resolve().parent.parent / "notebooks").glob("*.ipynb"))
    assert books
    for book in books:
        cells = [c for c in json.loads(book.read_text(encoding="utf-8"))["cells"] if c["cell_type"] == "code"]
        (tagged,) = ["".join(c["source"]) for c in cells if "parameters" in c["metadata"].get("tags", [])]
        after = "".join(cells[[("".join(c["source"])) for c in cells].index(tagged) + 1]["source"])
        assert "check_parameters(globals()" in after, f"{book.name}: the check comes right after the parameters"
        names = parameters._assigned(tagged)
        assert " ".join(names) in after and set(names) <= set(parameters.KINDS), f"{book.name}: {names}"


@pytest.mark.parametrize(
    ("given", "read"),
    [
        (None, {}),
        ("", {}),
        ({"lr0": 0.01}, {"lr0": 0.01}),
        ("lr0=0.01 plots=False", {"lr0": 0.01, "plots": False}),
        ("data='my roads/rdd2022.yaml'", {"data": "my roads/rdd2022.yaml"}),
    ],
)
def test_overrides_are_a_dict_or_as_typed(given: Any, read: dict[str, Any]) -> None:
    assert parse_overrides(given) == read


def test_a_script_without_a_kernel_is_headless() -> None:
    assert notebook.is_headless()


def test_a_table_is_plain_text_and_harmless_html() -> None:
    shown = exhibits.table([("a", 1), ("<b>long</b>", None)], ("what", "is"))
    assert shown["text/plain"] == "what        | is  \na           | 1   \n<b>long</b> | None"
    assert "&lt;b&gt;long&lt;/b&gt;" in shown["text/html"]


def test_pictures_of_boxes_stay_small_and_hold_the_colours(tmp_path: Path) -> None:
    path = tmp_path / "large.jpg"
    Image.new("RGB", (4040, 2035), "grey").save(path)
    boxes = [("D00", 100.0, 100.0, 2000.0, 1900.0), ("D40", 3900.0, 0.0, 4040.0, 40.0), ("other", 0.0, 0.0, 9.0, 9.0)]
    sheet = exhibits.draw_boxes([(path, boxes), (path, [])], ["D00", "D40"])
    assert sheet.size == (3 * 320, 220)
    assert len(sheet.getcolors(1 << 16) or []) > 3
    assert exhibits.draw_boxes([], []).size == (960, 220)


def make_run(root: Path, tiny_data: Path, events: list[dict[str, Any]]) -> Run:
    """A run that is only files."""
    (root / "configs" / "c.yaml").write_text(f"model: yolov8n.yaml\ndata: {tiny_data}\ndevice: cpu\nname: n\n")
    run = Run.create("configs/c.yaml")
    assert run.record is not None
    run.folder.mkdir(parents=True)
    run.record.write(run.paths.run_yaml)
    run.paths.journal.write_text("".join(json.dumps(event) + "\n" for event in events), encoding="utf-8")
    return Run.open(run.folder)


def test_a_run_that_is_not_done_says_its_exit_code_and_the_way_on(root: Path, tiny_data: Path) -> None:
    t = "2026-11-23T03:12:05.123Z"
    started = {"t": t, "event": "attempt_started", "attempt": 1, "plan": {}}
    stopped = {"t": t, "event": "run_stopped", "attempt": 1, "reason": "asked to stop (SIGTERM)"}
    told = notebook.not_done(make_run(root, tiny_data, [started, stopped]), 75)
    assert told.startswith("the run 'n' ended with exit code 75. Stopped")
    assert "Next: to continue, run this notebook again" in told
    assert told.endswith("rddkit status n --exit-code")


def test_a_failed_run_shows_its_last_log_lines(root: Path, tiny_data: Path) -> None:
    t = "2026-11-23T03:12:05.123Z"
    run = make_run(root, tiny_data, [{"t": t, "event": "attempt_started", "attempt": 1, "plan": {}}])
    with open(run.paths.journal, "a", encoding="utf-8") as file:
        failed = {"t": t, "event": "run_failed", "attempt": 1, "cause": "crash", "evidence": "x", "exit": 1}
        file.write(json.dumps(failed) + "\n")
    run.paths.logs.mkdir()
    run.paths.log(1).write_text("first\nRuntimeError: the last line\n", encoding="utf-8")
    told = notebook.not_done(run, 1)
    assert "RuntimeError: the last line" in told and "Next: mend that, then run this notebook again" in told


def test_progress_is_a_bar_and_the_sentence(root: Path, tiny_data: Path) -> None:
    t = "2026-11-23T03:12:05.123Z"
    events: list[dict[str, Any]] = [
        {"t": t, "event": "attempt_started", "attempt": 1, "plan": {}},
        {"t": t, "event": "epoch", "attempt": 1, "epoch": 1, "epochs": 4, "seconds": 3.0, "metrics": {}},
    ]
    run = make_run(root, tiny_data, events)
    place = {"epoch": 2, "epochs": 4, "batch": 5, "batches": 10}
    RunPaths(run.folder).progress.write_text(json.dumps(place), encoding="utf-8")
    shown = notebook._progress(run)
    assert 'value="0.3750"' in shown["text/html"] and "38%" in shown["text/html"]
    assert "Dead at epoch 2 of 4" in shown["text/plain"] and "Epoch 1 of 4 done" in shown["text/plain"]


def test_raw_needs_a_data_file_of_the_name_that_prepare_writes(root: Path, tiny_data: Path) -> None:
    (root / "configs" / "c.yaml").write_text(f"model: yolov8n.yaml\ndata: {tiny_data.parent}/mine.yaml\n")
    with pytest.raises(ConfigError, match="prepare writes rdd2022.yaml"):
        notebook.find_dataset("configs/c.yaml", raw=str(tiny_data.parent))


def test_a_data_set_that_is_not_there_says_what_to_run(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (root / "configs" / "c.yaml").write_text("model: yolov8n.yaml\ndata: nowhere/rdd2022.yaml\n")
    found = notebook.find_dataset("configs/c.yaml")
    assert found is None
    audit = notebook.read_audit(found)
    assert audit is None
    notebook.show_audit(audit)
    notebook.show_boxes(found)
    notebook.show_worst(found, audit)
    said = capsys.readouterr().out
    assert "rddkit prepare" in said and "run this notebook again" in said


def test_an_audit_of_an_older_version_is_told_and_not_shown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "audit.json").write_text('{"images": 3}')
    assert notebook.read_audit(tmp_path / "rdd2022.yaml") is None
    assert "written by an older rddkit: prepare the data set again" in capsys.readouterr().out


def test_the_plan_says_what_a_small_batch_means(root: Path, tiny_data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[Any] = []
    monkeypatch.setattr(notebook, "show_table", lambda rows, columns: shown.extend(rows))
    seen = {"cuda": [], "mps": False, "torch": "2", "cpu": "AVX2"}
    monkeypatch.setattr(notebook, "look_at_devices", lambda: seen)
    (root / "configs" / "c.yaml").write_text(f"model: yolov8s.pt\ndata: {tiny_data}\nbatch: 2\n")
    notebook.show_plan(
        {"config": "configs/c.yaml", "overrides": "imgsz=320", "raw": None, "batch": None, "device": None}
    )
    plan = {str(row[0]): row[1:] for row in shown}
    assert plan["batch"][0] == "2 x 32 = 64"
    assert plan["image size"][0] == "320 pixels"
    assert plan["model"][1].startswith("MISSING: the weights 'yolov8s.pt' are not here")
    assert plan["data"][1] == "12 images to train on, 6 batches an epoch; 4 to validate on"
    assert plan["device"] == ("cpu", "neither CUDA nor MPS is there")
    assert plan["run folder"][1] == "new; nothing is overwritten"


def test_parameters_have_the_names_of_the_command_lines_options() -> None:
    from rddkit import cli

    options = set(cli.train.__annotations__)
    named = {"batch", "imgsz", "workers", "epochs", "device", "name", "resume", "fresh"}
    assert named <= options and named <= set(parameters.KINDS)
    assert not named & set(config.OURS) - {"resume"}
