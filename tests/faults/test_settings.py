"""The rows of docs/exactness.md that only a training can show."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from compare import RECIPE, Attempts, images_of, plain_run, rows, same_weights, train_once
from workshop import TINY, Workshop, events, one_row_per_epoch, wait_for

from rddkit.exactness import EPOCH_LEVEL, WORKERS
from rddkit.run import Run
from rddkit.status import read_progress, read_status

pytestmark = pytest.mark.faults
EPOCHS = 3


@pytest.mark.parametrize(
    "settings",
    [
        {"multi_scale": 0.5, "cache": "ram", "amp": True, "optimizer": "MuSGD"},
        pytest.param({"rect": True, "cache": "disk"}, marks=pytest.mark.campaign),
    ],
)
def test_stopped_twice_it_ends_with_the_weights_of_a_plain_run(
    attempts: Callable[..., Attempts], tiny_data: Path, tmp_path: Path, settings: dict[str, Any]
) -> None:
    settings = {**RECIPE, **settings, "epochs": EPOCHS}
    one = attempts(**settings)
    parts = [one.attempt(stop_after=2), one.attempt(stop_after=9), one.attempt()]
    assert [part.code for part in parts] == [75, 75, 0]
    assert all(event["exact"] for part in parts for event in part.told("resumed"))
    plain = train_once("plain", tmp_path / "run", {**TINY, **settings, "data": str(tiny_data)})
    same_weights(one.paths.folder, plain)
    assert rows(one.paths.folder) == rows(plain)


def test_loader_workers_keep_the_order_and_are_said_to_be_inexact(
    attempts: Callable[..., Attempts],
) -> None:
    one = attempts(workers=1, epochs=2)
    parts = [one.attempt(stop_after=2), one.attempt()]
    (resumed,) = parts[1].told("resumed")
    assert (resumed["exact"], resumed["reason"]) == (False, WORKERS)
    for epoch in (1, 2):
        seen = images_of(parts, epoch)
        assert len(seen) == len(set(seen)) == 12
    one_row_per_epoch(one.paths, 2)


@pytest.mark.campaign
def test_what_ultralytics_own_loop_trains_is_resumed_from_its_last_whole_epoch(
    workshop: Callable[..., Workshop], tiny_data: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Killed in the third epoch of a distillation; the teacher is a student of the same images."""
    teacher = plain_run(tiny_data, tmp_path_factory.getbasetemp()) / "weights" / "best.pt"
    shop = workshop("epochs", **{**RECIPE, "epochs": 4, "distill_model": str(teacher)})
    run = Run.create(shop.root / "configs" / "tiny.yaml", project=str(shop.root / "results")).start()
    wait_for(lambda: (read_progress(run.paths.progress).get("epoch") or 0) >= 3, 200)
    os.kill(read_progress(run.paths.progress)["worker_pid"], signal.SIGKILL)
    assert run.wait(timeout=200) == 0, read_status(run.paths).sentence
    assert [event["cause"] for event in events(run.paths, "attempt_ended")] == ["killed", "done"]
    (resumed,) = events(run.paths, "resumed")
    assert resumed["exact"] is False and EPOCH_LEVEL["distill_model"] in resumed["reason"]
    assert (resumed["epoch"], resumed["batch"], resumed["source"]) == (3, 0, "last.pt")
    one_row_per_epoch(run.paths, 4)
