"""Runs of plain `yolo` that were killed are taken in and finished; what was there stays as it was."""

from __future__ import annotations

import hashlib
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from compare import RECIPE, plain_run
from workshop import TINY, Workshop, events, one_row_per_epoch, wait_for

from rddkit import clock
from rddkit.paths import RunPaths
from rddkit.status import read_rows

pytestmark = pytest.mark.faults
EPOCHS = 5


def yolo(folder: Path, data: Path) -> subprocess.Popen[bytes]:
    """Ultralytics' own command, as people type it."""
    settings = {**TINY, **RECIPE, "epochs": EPOCHS, "data": data, "project": folder, "name": "thesis", "exist_ok": True}
    words = [f"{key}={value}" for key, value in settings.items()]
    command = [str(Path(sys.executable).with_name("yolo")), "train", *words]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)


def content(folder: Path) -> dict[str, str]:
    files = [file for file in sorted(folder.rglob("*")) if file.is_file()]
    return {str(file.relative_to(folder)): hashlib.sha256(file.read_bytes()).hexdigest() for file in files}


def test_a_plain_run_killed_in_epoch_3_is_taken_in_and_finishes(
    workshop: Callable[..., Workshop], tiny_data: Path
) -> None:
    shop = workshop("adopted")
    process = yolo(shop.root / "runs", tiny_data)
    there = shop.root / "runs" / "thesis"
    row, last = there / "results.csv", there / "weights" / "last.pt"

    def in_epoch_3() -> bool:
        size = last.stat().st_size if last.exists() else 0
        clock.sleep(0.1)  # Ultralytics writes it in place
        rows, saved = len(read_rows(row)), last.stat() if size else None
        return bool(saved and rows >= 2 and saved.st_size == size and saved.st_mtime_ns > row.stat().st_mtime_ns)

    wait_for(in_epoch_3, 120, 0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    # As it would be had it begun from weights that are not here, with AutoBatch, and within hours.
    args = yaml.safe_load((there / "args.yaml").read_text())
    odd = {"model": "yolov8n.pt", "batch": -1, "time": 9, "imgsz": args["imgsz"] - 1}
    (there / "args.yaml").write_text(yaml.safe_dump(args | odd))
    before, first = content(there), read_rows(row)[:2]
    assert len(read_rows(row)) < EPOCHS

    refused = shop.cli("train", "--resume", str(last), "epochs=9", "model=yolo11n.yaml")
    assert refused.returncode == 2 and "epochs, model cannot be changed in a run that is taken in" in refused.stderr

    (shop.root / "configs" / "safety.yaml").write_text("snapshot_seconds: 0.1\nestimate: false\npredictions: false\n")
    answer = shop.cli("train", "--resume", str(last), RDDKIT_KILL="1:batch@3,2:batch@3")
    assert answer.returncode == 0, answer.stdout + answer.stderr
    assert f"taken in: {there}" in answer.stdout and "inexactly this once; its `time` is left out" in answer.stdout
    assert content(there) == before, "the original is untouched"
    run = RunPaths(shop.root / "results" / "thesis")
    one_row_per_epoch(run, EPOCHS)
    assert read_rows(run.results_csv)[:2] == first, "the rows of the epochs that plain yolo trained are kept"
    (imported,) = events(run, "imported")
    resumed, *later = events(run, "resumed")
    assert [event["exact"] for event in later] == [True, True], "from snapshots, which need no weights to begin from"
    assert imported["source"] == str(there) and imported["epochs"] >= 2
    assert (resumed["epoch"], resumed["exact"]) == (imported["epochs"] + 1, False)
    assert "last.pt" in resumed["reason"]

    again = shop.cli("train", "--resume", str(there))
    assert again.returncode == 0 and "the run thesis is finished" in again.stdout, "the same command continues"
    own = shop.cli("train", "--resume", str(run.folder))
    assert own.returncode == 2 and "continue it: rddkit train --name thesis --resume" in own.stderr
    other = shutil.copytree(there, shop.root / "elsewhere" / "thesis")
    taken = shop.cli("train", "--resume", str(other))
    assert taken.returncode == 2
    assert f"{run.folder} is there already" in taken.stderr and "--name NEW" in taken.stderr


def test_what_cannot_be_taken_in_says_why_and_what_to_type(
    workshop: Callable[..., Workshop], tiny_data: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    shop = workshop("refused")
    finished = shutil.copytree(plain_run(tiny_data, tmp_path_factory.getbasetemp()), shop.root / "runs" / "finished")
    answer = shop.cli("train", "--resume", str(finished))
    assert answer.returncode == 2
    assert f"{finished} is finished: its last.pt is stripped and cannot be resumed" in answer.stderr
    assert f"rddkit train --name finished-2 model={finished / 'weights' / 'best.pt'}" in answer.stderr

    last = finished / "weights" / "last.pt"
    last.write_bytes(last.read_bytes()[:9999])  # Ultralytics writes it in place: a kill meanwhile leaves a part
    answer = shop.cli("train", "--resume", str(finished))
    assert answer.returncode == 2
    assert f"{last} is torn: the run was killed while it was written" in answer.stderr
    assert f"rddkit train --name finished-2 model={finished / 'weights' / 'best.pt'}" in answer.stderr

    (finished / "args.yaml").unlink()
    answer = shop.cli("train", "--resume", str(finished))
    assert (answer.returncode, "it has no args.yaml" in answer.stderr) == (2, True)
    answer = shop.cli("train", "--resume", str(shop.root / "nothing"))
    assert (answer.returncode, "neither a run's folder nor a last.pt" in answer.stderr) == (2, True)
    assert not [entry for entry in (shop.root / "results").iterdir() if entry.name != ".gitkeep"]
