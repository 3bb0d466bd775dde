"""The notebooks, really executed: by papermill as it is headless, and by a frontend that can ask a person."""

from __future__ import annotations

import contextlib
import json
import os
import queue
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jupyter_client
import nbformat
import papermill
import pytest
from workshop import LAUNCH, alive, clean_up, events, one_row_per_epoch, wait_for

from rddkit import clock, journal, lock, runfile
from rddkit.paths import RunPaths
from rddkit.status import read_rows, read_status

REPOSITORY = Path(__file__).resolve().parent.parent
INJECT = Path(__file__).resolve().parent / "faults" / "inject"
REAL = REPOSITORY.parent / "shared" / "rdd2022-sample"
SMALL = 1_000_000  # bytes of a saved notebook
PLOTLY = "application/vnd.plotly.v1+json"
LOOK = 'import sys\nprint(f\'heavy: {sorted({"torch", "ultralytics"} & set(sys.modules))}\')'
pytestmark = pytest.mark.slow


class Executed:
    """A notebook after papermill, asked for what it shows."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.book = nbformat.read(path, as_version=4)

    def outputs(self) -> Iterator[Any]:
        for cell in self.book.cells:
            yield from cell.get("outputs", [])

    @property
    def text(self) -> str:
        """Everything printed, and the tables as plain text."""
        parts = [out.get("text") or out.get("data", {}).get("text/plain", "") for out in self.outputs()]
        return "\n".join(parts)

    def count(self, mimetype: str) -> int:
        return sum(mimetype in out.get("data", {}) for out in self.outputs())


def execute(name: str, folder: Path, root: Path, /, **parameters: Any) -> Executed:
    """Papermill over a notebook, from a folder that is not the root, with one more cell that looks for torch."""
    folder.mkdir(parents=True, exist_ok=True)
    book = nbformat.read(REPOSITORY / "notebooks" / f"{name}.ipynb", as_version=4)
    book.cells.append(nbformat.v4.new_code_cell(LOOK))
    nbformat.write(book, folder / f"{name}.in.ipynb")
    saved = folder / f"{name}.ipynb"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RDDKIT_ROOT", str(root))
        papermill.execute_notebook(folder / f"{name}.in.ipynb", saved, parameters, cwd=folder, progress_bar=False)
    done = Executed(saved)
    assert "heavy: []" in done.text, "a notebook's kernel holds torch"
    assert saved.stat().st_size < SMALL
    return done


@pytest.fixture(scope="module")
def books(make_root: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A root for all tests here, in a folder with a space and an umlaut."""
    return make_root(tmp_path_factory.mktemp("books") / "the räddkit root", epochs=2)


@pytest.fixture(scope="module")
def trained(books: Path, tmp_path_factory: pytest.TempPathFactory) -> Executed:
    """02 by papermill, to the end: the run `notebook`; and beside it the same from the command line: `terminal`."""
    out = tmp_path_factory.mktemp("out")
    words = ["train", "--config", "configs/tiny.yaml", "--name", "terminal", "--batch", "2"]
    environment = {**os.environ, "RDDKIT_ROOT": str(books)}
    terminal = subprocess.Popen([sys.executable, "-m", "rddkit.cli", *words], cwd=out, env=environment)
    done = execute("02_training", out, books, config="configs/tiny.yaml", name="notebook", batch=2)
    assert terminal.wait(timeout=120) == 0
    return done


def rows_but_time(run: Path) -> list[dict[str, float]]:
    return [{key: value for key, value in row.items() if key != "time"} for row in read_rows(run / "results.csv")]


def test_setup_shows_the_machine_the_boxes_and_the_plan(books: Path, tmp_path: Path) -> None:
    done = execute("01_setup", tmp_path, books, config="configs/tiny.yaml", batch=2, overrides="nbs=16")
    assert "memory limit" in done.text and "available on the machine" in done.text
    assert "16 images" in done.text and "D40 pothole" in done.text
    assert "2 x 8 = 16" in done.text and "MISSING" not in done.text
    assert "What will hurt:" in done.text and "thinnest boxes: " in done.text
    assert done.count("image/jpeg") == 4 and done.count(PLOTLY) >= 2


def test_setup_without_a_data_set_says_what_to_run(books: Path, tmp_path: Path) -> None:
    done = execute("01_setup", tmp_path, books, config="configs/tiny.yaml", overrides={"data": "nowhere/rdd2022.yaml"})
    assert "rddkit prepare" in done.text and "rddkit sample" in done.text and "MISSING" in done.text
    assert not (books / "nowhere").exists()


def test_training_headless_tells_every_epoch_and_shows_the_result(trained: Executed, books: Path) -> None:
    assert "Epoch 1 of 2 done" in trained.text and "Epoch 2 of 2 done" in trained.text
    assert "Finished" in trained.text and "mAP50-95" in trained.text
    assert trained.count(PLOTLY) == 1
    assert (books / "results" / "notebook" / "weights" / "best.pt").is_file()


def test_training_by_papermill_gives_the_rows_of_the_command_line(trained: Executed, books: Path) -> None:
    rows = rows_but_time(books / "results" / "terminal")
    assert len(rows) == 2
    assert rows == rows_but_time(books / "results" / "notebook")


def test_training_a_finished_run_again_says_so_and_passes(trained: Executed, books: Path, tmp_path: Path) -> None:
    done = execute("02_training", tmp_path, books, config="configs/tiny.yaml", name="notebook", batch=2)
    assert "the run notebook is finished" in done.text
    events = journal.read_events(RunPaths(books / "results" / "notebook").journal)
    assert sum(event["event"] == "attempt_started" for event in events) == 1


def test_training_that_fails_fails_the_notebook_and_names_the_exit_code(books: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken.pt"
    broken.write_bytes(b"no weights")
    with pytest.raises(papermill.PapermillExecutionError) as error:
        execute("02_training", tmp_path, books, config="configs/tiny.yaml", name="fails", overrides=f"model='{broken}'")
    told = str(error.value)
    assert "NotDone: the run 'fails' ended with exit code 1. Failed" in told
    assert "rddkit status fails --exit-code" in told and "attempt-001.log" in told


@pytest.mark.parametrize(
    ("name", "wrong", "told"),
    [
        ("01_setup", {"confg": "x.yaml"}, "unknown parameter 'confg'. Did you mean 'config'?"),
        ("02_training", {"config": "configs/tiny.yaml", "batc": 1}, "unknown parameter 'batc'. Did you mean 'batch'?"),
        ("03_monitoring", {"runs": "x"}, "unknown parameter 'runs'. Did you mean 'run'?"),
        ("04_fallback", {"chioce": "lean"}, "unknown parameter 'chioce'. Did you mean 'choice'?"),
        ("05_evaluation", {"weigths": "last"}, "unknown parameter 'weigths'. Did you mean 'weights'?"),
        ("06_sweep", {"swep": "x.yaml"}, "unknown parameter 'swep'. Did you mean 'sweep'?"),
    ],
)
def test_an_unknown_parameter_is_an_error(
    name: str, wrong: dict[str, Any], told: str, books: Path, tmp_path: Path
) -> None:
    before = sorted((books / "results").iterdir())
    with pytest.raises(papermill.PapermillExecutionError) as error:
        execute(name, tmp_path, books, **wrong)
    assert told in str(error.value)
    assert sorted((books / "results").iterdir()) == before


def test_monitoring_a_finished_run(trained: Executed, books: Path, tmp_path: Path) -> None:
    done = execute("03_monitoring", tmp_path, books, run="notebook")
    assert "notebook: Finished" in done.text and "Every file of the run could be read" in done.text
    assert "Epoch 2 of 2 done" in done.text
    assert done.count(PLOTLY) == 5


def test_monitoring_a_running_run_and_taking_the_newest(trained: Executed, books: Path, tmp_path: Path) -> None:
    root = copy_of(books, tmp_path / "root", closing=False)
    run = RunPaths(root / "results" / "notebook")
    descriptor = lock.take(run.lock)
    try:
        done = execute("03_monitoring", tmp_path / "out", root)
    finally:
        os.close(descriptor)
    assert "notebook: Running, epoch 2 of 2" in done.text
    assert done.count(PLOTLY) == 5


def test_monitoring_a_run_that_died_before_its_first_epoch(trained: Executed, books: Path, tmp_path: Path) -> None:
    root = copy_of(books, tmp_path / "root", closing=False)
    run = RunPaths(root / "results" / "notebook")
    for path in (run.results_csv, run.steps_csv):
        path.unlink()
    started = [
        event for event in journal.read_events(run.journal) if event["event"] in ("run_started", "attempt_started")
    ]
    run.journal.write_text("".join(json.dumps(event) + "\n" for event in started), encoding="utf-8")
    done = execute("03_monitoring", tmp_path / "out", root, run="notebook")
    assert "notebook: Dead at" in done.text and "results.csv is not there" in done.text
    assert "No epoch is done yet" in done.text


@pytest.mark.campaign
@pytest.mark.skipif(not os.environ.get("RDDKIT_CAMPAIGN"), reason="Ray wants a quiet machine: RDDKIT_CAMPAIGN=1")
def test_a_sweep_headless_trains_compares_and_names_the_winner(books: Path, tmp_path: Path) -> None:
    (books / "configs" / "few.yaml").write_text("config: configs/tiny.yaml\ngrid: {seed: [1, 2]}\n", encoding="utf-8")
    done = execute("06_sweep", tmp_path, books, sweep="configs/few.yaml")
    assert "few-seed_1 | seed=1  | will be trained" in done.text
    assert "few: 2 of 2 done; best mAP50" in done.text and "ahead of the next by" in done.text
    assert done.count(PLOTLY) == 2
    again = execute("06_sweep", tmp_path / "again", books, sweep="configs/few.yaml")
    assert "few-seed_1 | seed=1  | is done" in again.text
    started = [e for e in journal.read_events(RunPaths(books / "results" / "few-seed_1").journal) if "plan" in e]
    assert sum(event["event"] == "attempt_started" for event in started) == 1


def copy_of(books: Path, root: Path, closing: bool) -> Path:
    """The root with the run `notebook` alone, its journal with or without the run's end."""
    shutil.copytree(books / "configs", root / "configs")
    shutil.copytree(books / "results" / "notebook", root / "results" / "notebook")
    run = RunPaths(root / "results" / "notebook")
    kept = [e for e in journal.read_events(run.journal) if closing or e["event"] not in ("attempt_ended", "run_done")]
    run.journal.write_text("".join(json.dumps(event) + "\n" for event in kept), encoding="utf-8")
    return root


OOM = "[enforce fail at alloc_cpu.cpp:127] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes."


@pytest.fixture(scope="module")
def fallen(books: Path) -> RunPaths:
    """The run `fallen`, dead: it ran out of memory in epoch 1, fell back, and in epoch 2 every process was killed."""
    plan = [
        {"id": "first", "what": "oom", "where": "forward", "epoch": 1, "message": OOM},
        {"id": "second", "what": "hang", "where": "batch", "epoch": 2},  # to be killed there
    ]
    (books / "fired").mkdir()
    environment = {**os.environ, "RDDKIT_ROOT": str(books), "PYTHONPATH": str(INJECT)}
    environment |= {"RDDKIT_INJECT": json.dumps(plan), "RDDKIT_INJECT_DIR": str(books / "fired")}
    words = ["train", "--config", "configs/tiny.yaml", "--name", "fallen", "--imgsz", "64", "--detach"]
    subprocess.run([sys.executable, "-m", "rddkit.cli", *words], env=environment, check=True, timeout=60)
    run = RunPaths(books / "results" / "fallen")
    try:
        wait_for((books / "fired" / "second").exists)
        assert alive(run).epoch == 2
    finally:
        clean_up(run)
    wait_for(lambda: not lock.is_held(run.lock))
    return run


def aside(run: RunPaths, root: Path) -> RunPaths:
    """The run again in a root of its own, with the same configs."""
    shutil.copytree(run.folder.parents[1] / "configs", root / "configs")
    return RunPaths(shutil.copytree(run.folder, root / "results" / run.name))


def test_fallback_tells_why_a_dead_run_ended_and_changes_nothing_unasked(
    fallen: RunPaths, books: Path, tmp_path: Path
) -> None:
    before = fallen.run_yaml.read_bytes(), fallen.journal.read_bytes()
    done = execute("04_fallback", tmp_path, books, run="fallen")
    assert "fallen: Dead at epoch 2 of 2" in done.text and "lost without a last word" in done.text
    cells = [[cell.strip() for cell in line.split("|")] for line in done.text.splitlines()]
    told = {name: rest for name, *rest in cells}
    assert told["failed before"][2].startswith("failed: ") and "can't allocate memory" in told["failed before"][2]
    assert told["failed before"][0] == "val_batch by default, allocator by default, checkpointing by default"
    assert told["in use"][0].endswith("batch 4, imgsz 64, workers 0, allocator lean, checkpointing norms")
    assert told["batch 2"][2].startswith("next; needs up to ") and told["batch 1"][2].startswith("can be taken; needs")
    assert "Nothing was changed. `-p apply True` takes 'batch 2' (batch 4 -> 2" in done.text
    assert done.count(PLOTLY) == 1
    assert (fallen.run_yaml.read_bytes(), fallen.journal.read_bytes()) == before


def test_fallback_applied_by_parameter_trains_on_to_the_end_with_the_chosen_plan(
    fallen: RunPaths, tmp_path: Path
) -> None:
    run = aside(fallen, tmp_path / "root")
    done = execute("04_fallback", tmp_path, tmp_path / "root", run=str(run.folder), choice="batch 1", apply=True)
    assert "Lighter plan at epoch 2: batch 4 -> 1" in done.text and "Finished" in done.text
    *_, taken = events(run, "fallback")
    *_, started = events(run, "attempt_started")
    assert taken["reason"] == "attempt 2 was lost without a last word; chosen by hand"
    assert (started["attempt"], started["plan"]["batch"]) == (3, 1)
    assert runfile.read(run.run_yaml).plan == started["plan"]
    one_row_per_epoch(run, epochs=2)


def test_fallback_by_the_button_trains_on_in_the_background(
    fallen: RunPaths, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = aside(fallen, tmp_path / "root")
    monkeypatch.setenv("RDDKIT_ROOT", str(tmp_path / "root"))
    lab = Lab(tmp_path)
    try:
        for source in code_of("04_fallback"):
            lab.run(source)
        names = lab.state("fallback")["_options_labels"]
        assert names == ["batch 2 (nearly free)", "batch 1 (nearly free)"]
        lab.send("fallback", {"method": "update", "state": {"index": 1}, "buffer_paths": []})
        lab.send("Apply and continue", {"method": "custom", "content": {"event": "click"}})
        assert lab.hears("Lighter plan at epoch 2: batch 4 -&gt; 1") and lab.hears("Running")
        assert lab.run("print(6 * 7)").strip() == "42", "the kernel is free while it trains: its end is heard later"
        assert lab.hears("Finished") and lab.hears("is finished and needs no lighter plan")
        assert lab.state("Apply and continue")["disabled"]
    finally:
        lab.client.stop_channels()
        lab.manager.shutdown_kernel(now=True)
        clean_up(run)
    assert events(run, "attempt_started")[-1]["plan"]["batch"] == 1
    one_row_per_epoch(run, epochs=2)


class Lab:
    """A kernel driven as JupyterLab drives it: every request says that a person can be asked."""

    def __init__(self, cwd: Path) -> None:
        self.widgets: dict[str, dict[str, Any]] = {}  # states by comm
        self.manager, self.client = jupyter_client.manager.start_new_kernel(kernel_name="python3", cwd=str(cwd))
        self.client.allow_stdin = True

    def state(self, description: str) -> dict[str, Any]:
        """What a frontend knows of the widget of that description."""
        return self.widgets[self._comm(description)]

    def send(self, description: str, data: dict[str, Any]) -> None:
        """A person's doing, as a frontend tells it: a message over the comm of the widget of that description."""
        content = {"comm_id": self._comm(description), "data": data}
        self.client.shell_channel.send(self.client.session.msg("comm_msg", content))

    def _comm(self, description: str) -> str:
        return next(comm for comm, state in self.widgets.items() if state.get("description") == description)

    def _hear(self, message: Any) -> str:
        content = message["content"]
        if message["msg_type"] == "comm_open":
            self.widgets[content["comm_id"]] = dict(content["data"]["state"])
        if message["msg_type"] == "comm_msg":
            known = self.widgets.setdefault(content["comm_id"], {})  # some open while nobody listens
            known |= content["data"].get("state", {})
        return content_text(message)

    def run(self, source: str, seconds: float = LAUNCH) -> str:
        """What a cell prints or shows; AssertionError with the traceback if it raises."""
        said: list[str] = []
        reply = self.client.execute_interactive(
            source, allow_stdin=True, timeout=seconds, output_hook=lambda message: said.append(self._hear(message))
        )
        assert reply["content"]["status"] == "ok", reply["content"].get("traceback")
        return "\n".join(said)

    def hears(self, text: str, seconds: float = LAUNCH) -> bool:
        """Whether something with that text is shown anew within some seconds, without any cell running."""
        deadline = clock.monotonic() + seconds
        while clock.monotonic() < deadline:
            with contextlib.suppress(queue.Empty):
                message = self.client.get_iopub_msg(timeout=0.5)
                told = self._hear(message)
                if text in told and message["msg_type"] in ("update_display_data", "comm_msg"):
                    return True
        return False


def content_text(message: Any) -> str:
    content = message["content"]
    data = content.get("data", {})
    return str(content.get("text") or data.get("text/plain") or data.get("state", {}).get("value", ""))


def code_of(name: str) -> list[str]:
    book = nbformat.read(REPOSITORY / "notebooks" / f"{name}.ipynb", as_version=4)
    return [cell.source for cell in book.cells if cell.cell_type == "code"]


def test_watched_training_runs_in_the_background_and_outlives_its_kernel(
    books: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RDDKIT_ROOT", str(books))
    run = RunPaths(books / "results" / "watched")
    lab = Lab(tmp_path)
    try:
        imports, _, check, train, *_ = code_of("02_training")
        lab.run(imports)
        lab.run("\n".join(f"{word} = None" for word in "batch imgsz workers device".split()))
        lab.run("config, name, epochs, overrides = 'configs/tiny.yaml', 'watched', 3, ''\nresume = fresh = False")
        lab.run(check)
        assert "new run watched" in lab.run(train)
        assert lab.run("print(6 * 7)").strip() == "42" and read_status(run).state == "running", "the kernel is free"
        assert lab.hears("Running")
        lab.manager.interrupt_kernel()
    finally:
        lab.client.stop_channels()
        lab.manager.shutdown_kernel(now=True)
    wait_for(lambda: read_status(run).state != "running", 3 * LAUNCH)
    assert read_status(run).state == "done"


@pytest.mark.skipif(not REAL.is_dir(), reason=f"no real images at {REAL}")
def test_real_images_from_the_release_to_a_trained_model(books: Path, tmp_path: Path) -> None:
    overrides = f"data='{tmp_path}/real/rdd2022.yaml' fraction=0.03"
    setup = execute(
        "01_setup", tmp_path / "out", books, config="configs/tiny.yaml", raw=str(REAL), overrides=overrides, epochs=1
    )
    assert "407 images" in setup.text and "121 boxes of other labels left out" in setup.text
    assert "China_Drone" in setup.text and setup.count("image/jpeg") == 4
    settings = {"config": "configs/tiny.yaml", "name": "real", "overrides": overrides, "epochs": 1}
    done = execute("02_training", tmp_path / "out", books, **settings)
    assert "Finished" in done.text
    assert len(read_rows(books / "results" / "real" / "results.csv")) == 1
