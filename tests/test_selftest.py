"""The self-test: each verdict from what was seen, the table, and once the whole command on a tiny model."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml

from rddkit import checks, dataset, paths, verdicts
from rddkit.checks import Failed, guarded
from rddkit.memory import MIB, Reading
from rddkit.selftest import Outcome, prepare
from rddkit.verdicts import Row

OOM = "[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory: you tried"


# -- readings ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "result"), [(200, "pass"), (171, "pass"), (229, "pass"), (0, "FAIL"), (231, "FAIL"), (-200, "FAIL")]
)
def test_a_reading_passes_when_it_saw_what_a_child_took(change: int, result: str) -> None:
    row = verdicts.moved("process", change * MIB, 200 * MIB, "here")
    assert row == Row("process", result, f"{change:+} MB when a child took 200 MB", "here")


@pytest.mark.parametrize(
    ("change", "shown", "result"),
    [(0, 200, "pass"), (29, 171, "pass"), (31, 200, "FAIL"), (-31, 200, "FAIL"), (0, 169, "FAIL")],
)
def test_a_mapped_file_must_be_resident_and_not_held(change: int, shown: int, result: str) -> None:
    row = verdicts.left_out("file", change * MIB, shown * MIB, 200 * MIB, "here")
    figure = f"{change:+} MB held, {shown:+} MB resident when a child read 200 MB of it"
    assert row == Row("file", result, figure, "here")


def test_files_in_shared_memory_cannot_be_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    mounts = [
        SimpleNamespace(mountpoint=at, fstype=kind) for at, kind in [("/", "ext4"), ("/a", "tmpfs"), ("/a/b", "xfs")]
    ]
    monkeypatch.setattr(checks.psutil, "disk_partitions", lambda all: mounts)
    assert [checks.in_memory(Path(at)) for at in ("/a", "/a/c", "/a/b/c", "/d")] == [True, True, False, False]


@pytest.mark.parametrize(
    ("whole", "free", "budget", "results"),
    [
        (8, 6, 5, ["pass", "pass"]),
        (9, 6, 5, ["FAIL", "pass"]),  # more than the machine has
        (8, 6, 7, ["pass", "FAIL"]),
        (4, 6, 5, ["pass", "FAIL"]),
        (8, 6, 0, ["pass", "FAIL"]),  # nothing to train in
    ],
)
def test_budget_free_and_all_must_be_in_order_and_in_the_machine(
    whole: int, free: int, budget: int, results: list[str]
) -> None:
    rows = verdicts.bounds(*(Reading(size << 30, "x") for size in (whole, free, budget)), machine=8 << 30)
    assert [row.result for row in rows] == results
    order = f"{budget or '0 MB'}{'.0 GB' if budget else ''} <= {free}.0 GB <= {whole}.0 GB"
    assert rows[1].figure == (order if results[1] == "pass" else f"not true: {order}")


# -- the cap -----------------------------------------------------------------------------------------------------------


def told(**changes: Any) -> dict[str, Any]:
    seen = {"cap": "RLIMIT_DATA", "taken": 448 * MIB, "device_memory": None, "works": True}
    return {**seen, "kind": "RuntimeError", "text": OOM, **changes}


@pytest.mark.parametrize(
    ("seen", "result", "figure"),
    [
        (told(), "pass", "torch on the CPU raised RuntimeError after 448 MB; the process lives on"),
        (told(works=False), "FAIL", "torch on the CPU raised RuntimeError, and could not be used afterwards"),
        (told(kind="", text=""), "FAIL", "nothing was raised, and 448 MB were taken beside torch"),
        (told(text="a bug"), "FAIL", "raised, but not known as memory: RuntimeError: a bug"),
        (
            told(kind="OutOfMemoryError", text="CUDA out of memory."),
            "pass",
            "torch on CUDA raised OutOfMemoryError after 448 MB; the process lives on",
        ),
    ],
)
def test_a_cap_passes_when_it_raises_what_is_known_as_memory(seen: dict[str, Any], result: str, figure: str) -> None:
    assert verdicts.raised(seen) == [Row("cap raises", result, figure, "RLIMIT_DATA")]


@pytest.mark.parametrize(("read", "result"), [(450, "pass"), (0, "FAIL"), (900, "FAIL")])
def test_on_a_device_its_memory_is_held_against_what_was_taken(read: int, result: str) -> None:
    device, cap = verdicts.raised(told(device_memory=read * MIB))
    assert (device.what, device.result, cap.what) == ("device memory", result, "cap raises")


# -- killed and resumed ------------------------------------------------------------------------------------------------


def ended(*causes: str) -> list[dict[str, Any]]:
    evidence = {"killed": "SIGKILL from outside, no sign of memory", "done": "all epochs done, exit 0"}
    return [{"event": "attempt_ended", "cause": one, "evidence": evidence.get(one, "why")} for one in causes]


def resumed(**changes: Any) -> list[dict[str, Any]]:
    where = {"epoch": 2, "batch": 2, "lost_batches": 1, "lost_seconds": 1.5, "exact": True, "reason": "same state"}
    return [{"event": "resumed", **where, "source": "000004-epoch2-batch2.pt", **changes}]


def test_a_kill_passes_when_it_is_named_and_continued_within_the_epoch() -> None:
    kill, resume = verdicts.killed(ended("killed") + resumed() + ended("done"), batches=4)
    assert kill == Row("killed mid-epoch", "pass", "SIGKILL from outside, no sign of memory", "journal")
    figure = "at epoch 2, batch 2 of 4; batches done again: 1 (1.5 s); exact: same state"
    assert resume == Row("resumed mid-epoch", "pass", figure, "000004-epoch2-batch2.pt")


@pytest.mark.parametrize("where", [{"batch": 0}, {"epoch": 1}, {"epoch": 3, "batch": 0}, {"batch": 4}])
def test_a_resume_from_elsewhere_than_the_middle_of_the_epoch_fails(where: dict[str, int]) -> None:
    _, resume = verdicts.killed(ended("killed") + resumed(**where) + ended("done"), batches=4)
    assert resume.result == "FAIL"


@pytest.mark.parametrize(
    ("causes", "said"),
    [
        (["done"], "attempts ended as done, not as killed, done: all epochs done, exit 0"),
        (["oom", "done"], "attempts ended as oom, done, not as killed, done: why; all epochs done, exit 0"),
        ([], "attempts ended as none, not as killed, done: "),
    ],
)
def test_a_kill_that_is_named_something_else_fails(causes: list[str], said: str) -> None:
    assert verdicts.killed(ended(*causes), batches=4) == [Row("killed mid-epoch", "FAIL", said, "journal")]


@pytest.mark.parametrize(
    ("same", "largest", "exact", "result"),
    [
        (355, 0.0, True, "pass"),
        (354, 1e-7, True, "FAIL"),  # to the bit on the CPU
        (58, 1e-4, False, "pass"),  # elsewhere the difference is a figure
        (58, None, False, "FAIL"),  # not finite, or another shape
    ],
)
def test_weights_must_be_equal_to_the_bit_where_that_is_promised(
    same: int, largest: float | None, exact: bool, result: str
) -> None:
    row = verdicts.same_weights({"of": 355, "same": same, "largest": largest, "where": "model.0"}, exact)
    assert row.result == result
    assert row.figure.startswith(f"{same} of 355 tensors equal to the bit")


def rows(**changes: float) -> list[dict[str, float]]:
    return [{"epoch": 1.0, "time": 1.0, "loss": 3.0}, {"epoch": 2.0, "time": 2.0, "loss": 2.0, **changes}]


@pytest.mark.parametrize(
    ("killed", "exact", "result", "figure"),
    [
        (rows(time=9.0), True, "pass", "2 rows equal but for their time"),
        (rows(loss=2.5), True, "FAIL", "largest difference 0.5 (loss)"),
        (rows(loss=2.5), False, "pass", "largest difference 0.5 (loss)"),
        (rows(loss=float("nan")), False, "FAIL", "largest difference nan (loss)"),
        (rows() + rows()[1:], False, "FAIL", "epochs [1, 2], and [1, 2, 2] when killed, or other columns"),
        (rows(more=1.0), False, "FAIL", "epochs [1, 2], and [1, 2] when killed, or other columns"),
    ],
)
def test_results_csv_must_have_each_epoch_once_with_the_same_numbers(
    killed: list[dict[str, float]], exact: bool, result: str, figure: str
) -> None:
    assert verdicts.same_rows(rows(), killed, 2, exact) == Row("rows as if never killed", result, figure, "results.csv")


# -- the table ---------------------------------------------------------------------------------------------------------


def test_a_check_that_breaks_is_a_failed_row_with_its_reason() -> None:
    def broken(error: Exception) -> list[Row]:
        raise error

    assert guarded("cap", broken, Failed("the child died of it")) == [Row("cap", "FAIL", "the child died of it", "")]
    assert guarded("cap", broken, KeyError("x")) == [Row("cap", "FAIL", "KeyError: 'x'", "")]


def test_the_table_is_markdown_and_the_title_counts() -> None:
    good, bad = Row("cap", "pass", "a|b\nc", "here"), Row("process", "FAIL", "0 MB", "")
    whole = Outcome([good], ["yolov8n on cpu"], 65.0, None)
    assert whole.exit_code == 0
    assert whole.text().splitlines() == [
        "rddkit selftest: passed, 65 s",
        "yolov8n on cpu",
        "",
        "| what | result | figure | source |",
        "| ---- | ------ | ------ | ------ |",
        "| cap  | pass   | a\\|b c | here   |",
    ]
    failed = Outcome([good, bad, good._replace(result="skipped")], [], 5.0, Path("/kept"))
    assert failed.exit_code == 1
    assert failed.text().startswith("rddkit selftest: 1 of 3 FAILED, 1 skipped, 5 s\n")
    assert failed.text().endswith("kept to be looked at: /kept")


# -- on real things ----------------------------------------------------------------------------------------------------


def test_a_few_images_become_a_dataset_and_the_whole_is_left_alone(tiny_data: Path, tmp_path: Path) -> None:
    before = sorted(tiny_data.parent.rglob("*"))
    few, count = dataset.write_subset(tiny_data, tmp_path / "few", train=20, val=2)
    content = dataset.read_data_yaml(few)
    for split, number in {"train": 20, "val": 2}.items():
        images = dataset.split_images(content, split)
        assert len(images) == number and all(image.is_file() for image in images)
    assert count == len(dataset.split_images(dataset.read_data_yaml(tiny_data), "train")) < 20
    assert content.names == dataset.read_data_yaml(tiny_data).names
    labels = {path.name.split("-", 1)[1]: path.read_bytes() for path in (tmp_path / "few/labels/train").iterdir()}
    assert labels == {path.name: path.read_bytes() for path in (tiny_data.parent / "labels/train").glob("*.txt")}
    assert sorted(tiny_data.parent.rglob("*")) == before


def test_what_is_tried_instead_of_what_was_asked_is_said(root: Path, tmp_path: Path) -> None:
    asked = {"model": "yolov8n.pt", "data": "data/none.yaml", "batch": "auto", "imgsz": 64, "epochs": 200}
    (root / "configs" / "asked.yaml").write_text(yaml.safe_dump(asked))
    settings, about = prepare("configs/asked.yaml", tmp_path)
    assert about == [
        "batch 2 instead of auto, to be quick",
        "the weights yolov8n.pt are not here: yolov8n.yaml, untrained, instead",
        f"the data set is not at {root / 'data/none.yaml'}: the painted sample instead",
        "2 epochs of 8 images (the training set has 40)",
    ]
    assert {key: settings[key] for key in ("model", "batch", "nbs", "imgsz", "epochs")} == {
        "model": "yolov8n.yaml",
        "batch": 2,
        "nbs": 4,
        "imgsz": 64,
        "epochs": 2,
    }
    assert Path(settings["data"]).is_relative_to(tmp_path)


def test_two_checkpoints_are_compared_tensor_by_tensor(tmp_path: Path) -> None:
    import torch

    from rddkit.checkpoint import compare

    def save(name: str, bias: float, outputs: int = 2) -> Path:
        model = torch.nn.Linear(3, outputs)
        torch.nn.init.ones_(model.weight)
        torch.nn.init.constant_(model.bias, bias)
        torch.save({"model": None, "ema": model}, tmp_path / name)
        return tmp_path / name

    one = save("one.pt", 0.0)
    assert compare(one, save("same.pt", 0.0)) == {"of": 2, "same": 2, "largest": 0.0, "where": ""}
    assert compare(one, save("near.pt", 0.25)) == {"of": 2, "same": 1, "largest": 0.25, "where": "bias"}
    assert compare(one, save("nan.pt", float("nan"))) == {"of": 2, "same": 1, "largest": None, "where": "bias"}
    assert compare(one, save("wide.pt", 0.0, outputs=4))["largest"] is None


def test_a_child_that_takes_memory_is_seen() -> None:
    with checks.holder() as (pid, hold):
        hold(0)
        before = checks.memory.process(pid).bytes
        hold(20 * MIB)
        assert checks.memory.process(pid).bytes - before == pytest.approx(20 * MIB, rel=0.2)


@pytest.mark.skipif(sys.platform != "linux", reason="the resident set is told apart on Linux")
def test_a_file_that_a_child_maps_is_resident_and_not_held(root: Path) -> None:
    (row,) = [row for row in checks.readings() if row.what == "file that is mapped"]
    if row.result == "skipped":
        pytest.skip(row.figure)
    assert row.result == "pass", row
    assert not list(paths.cache().iterdir()), "the file is gone"
    assert row.figure.endswith("MB resident when a child read 200 MB of it")


@pytest.mark.faults
@pytest.mark.slow
def test_the_self_test_passes_here_and_leaves_nothing(
    root: Path, make_root: Callable[..., Path], run_cli: Any, tiny_data: Path
) -> None:
    make_root(root)
    before = sorted(tiny_data.parent.rglob("*"))
    answer = run_cli("selftest", "--config", "configs/tiny.yaml", timeout=240)
    assert answer.returncode == 0, answer.stdout + answer.stderr
    assert "\nrddkit selftest: passed" in answer.stdout
    assert "yolov8n.yaml, batch 4, imgsz 32 on cpu" in answer.stdout
    table = [line for line in answer.stdout.splitlines() if line.startswith("|")]
    found = {line.split("|")[1].strip(): line.split("|")[2].strip() for line in table[2:]}
    assert list(found) == [
        "process",
        "process tree",
        "file that is mapped",
        "memory in all",
        "budget <= free <= all",
        "kill counter",
        "cap raises",
        "trained",
        "killed mid-epoch",
        "resumed mid-epoch",
        "weights as if never killed",
        "rows as if never killed",
    ]
    assert set(found.values()) <= {"pass", "skipped"}
    assert found["weights as if never killed"] == "pass"
    assert list((root / "results").iterdir()) == [] and list((root / ".cache").glob("selftest-*")) == []
    assert sorted(tiny_data.parent.rglob("*")) == before


def test_a_setting_that_cannot_be_used_is_said_before_anything_starts(root: Path, run_cli: Any) -> None:
    (root / "configs" / "odd.yaml").write_text(yaml.safe_dump({"model": "yolov8n.yaml", "data": "x", "imgsz": 33}))
    answer = run_cli("selftest", "--config", "configs/odd.yaml")
    assert answer.returncode == 2
    assert "imgsz=33 must be a multiple of 32" in answer.stderr
    assert not list((root / ".cache").glob("selftest-*")), json.dumps(answer.stdout)
