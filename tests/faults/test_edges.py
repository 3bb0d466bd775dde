"""Where training meets what a loop of one's own forgets: early stopping, odd batches, caches that come and go."""

from __future__ import annotations

import json
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import pytest
import torch
from compare import RECIPE, Attempts, images_of, rows, same_weights, train_once
from workshop import TINY, one_row_per_epoch

from rddkit import clock, state
from rddkit.session import Found, Session
from rddkit.snapshot import Place, Store
from rddkit.trainer import RoadDamageTrainer

pytestmark = pytest.mark.faults


# Better, then not: the second epoch is the best, and a patience of two runs out after the fourth.
FITNESS = [0.1, 0.4, 0.2, 0.3, 0.5, 0.6]


def test_early_stopping_and_kills_end_as_a_plain_run_does(
    attempts: Callable[..., Attempts], tiny_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FITNESS", json.dumps(FITNESS))
    settings = {**RECIPE, "epochs": len(FITNESS), "patience": 2}
    plain = train_once("plain", tmp_path / "run", {**TINY, **settings, "data": str(tiny_data)})
    assert len(rows(plain)) == 4, "its patience ran out"
    one = attempts(**settings)
    # In epoch 2; in epoch 3, with half its patience gone; and when all is trained.
    kills = ("batch@8", "checkpoint@2", "stripped_last@1")
    parts = [*(one.attempt(kill=kill, snapshot_seconds=0.001) for kill in kills), one.attempt()]
    assert [part.code for part in parts] == [-signal.SIGKILL] * 3 + [0]
    told = [[event["epoch"] for event in part.told("epoch")] for part in parts]
    assert told == [[1], [2], [3, 4], [4]], "the final evaluation is not an epoch"
    same_weights(one.paths.folder, plain)
    assert rows(one.paths.folder) == rows(plain)


def test_a_batch_larger_than_the_data_set_keeps_its_order_where_mosaic_closes(
    attempts: Callable[..., Attempts], tiny_data: Path, tmp_path: Path
) -> None:
    settings = {**RECIPE, "batch": 16, "epochs": 4, "close_mosaic": 2}
    one = attempts(**settings)
    parts = [one.attempt(stop_after=2), one.attempt()]
    assert [part.code for part in parts] == [75, 0] and parts[1].told("resumed")[0]["exact"]
    same_weights(one.paths.folder, train_once("plain", tmp_path / "run", {**TINY, **settings, "data": str(tiny_data)}))


def test_a_kill_after_the_last_checkpoint_leaves_nothing_to_train(attempts: Callable[..., Attempts]) -> None:
    """Without a snapshot, as in Ultralytics' own loop; and where the kill came between last.pt and best.pt."""
    one = attempts(epochs=2)
    assert one.attempt(kill="checkpoint@2").code == -signal.SIGKILL
    shutil.rmtree(one.paths.snapshots)
    assert torch.load(one.paths.last, weights_only=False)["epoch"] == 1
    one.paths.best.unlink()
    assert one.attempt().code == 0
    for weights in (one.paths.last, one.paths.best):
        assert torch.load(weights, weights_only=False)["epoch"] == -1, "stripped, as a finished run's are"
    one_row_per_epoch(one.paths, 2)


def test_a_disk_that_takes_no_snapshot_for_an_hour_stops_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[dict[str, Any]] = []
    talk = SimpleNamespace(event=lambda event, **fields: told.append({"event": event, **fields}))
    orders = SimpleNamespace(stop=None, snapshot=False)
    safety = {"val_period": 1, "snapshot_seconds": 60.0, "snapshot_daily_bytes": 1e12, "disk_reserve": 0}
    store = Store(tmp_path / "snapshots")
    session = Session(store, talk, orders, Found(), safety)
    monkeypatch.setattr(state, "is_finite", lambda trainer: True)
    monkeypatch.setattr(state, "capture", lambda *about: {})
    monkeypatch.setattr(store, "take", Mock(side_effect=OSError(28, "No space left on device")))
    trainer = SimpleNamespace(batch_size=2, batches=6)
    for hours, stops in ((0.9, False), (1.1, True)):
        session.kept_at = clock.monotonic() - hours * 3600
        assert session.take(trainer, Place(0, 4, "train"), {}) is None
        assert told[-1]["event"] == "snapshot_failed" and bool(orders.stop) is stops
    assert orders.stop == "no snapshot could be written for 60 min: [Errno 28] No space left on device"


def test_rectangles_go_on_with_a_batch_that_does_not_divide_what_is_done(attempts: Callable[..., Attempts]) -> None:
    one = attempts(rect=True, batch=5, epochs=2)
    assert one.attempt(stop_after=1).code == 75
    one.change(batch=2)
    rest = one.attempt()
    assert rest.code == 0
    first = images_of([rest], 1)
    assert len(first) == len(set(first)) == 12 - 4, "5 were done: one of them is held again"
    one_row_per_epoch(one.paths, 2)


def test_a_cache_may_come_in_between_and_is_said(attempts: Callable[..., Attempts]) -> None:
    one = attempts(epochs=2)
    assert one.attempt(stop_after=3).code == 75
    one.change(cache="ram")
    rest = one.attempt()
    (resumed,) = rest.told("resumed")
    assert rest.code == 0
    assert (resumed["exact"], resumed["reason"]) == (False, "same state, other surroundings: cache False -> ram")


def test_the_optimizer_stays_when_a_smaller_batch_means_more_iterations() -> None:
    """`auto` takes MuSGD from 10,000 iterations on: another optimizer could not take the state in."""

    class Told(RoadDamageTrainer):
        def __init__(self, found: dict[str, Any] | None) -> None:
            self.model, self.data = torch.nn.Conv2d(3, 8, 1), {"nc": 4}
            self.session = SimpleNamespace(found=SimpleNamespace(state=found))
            self.args = SimpleNamespace(lr0=0.01, optimizer="auto", warmup_bias_lr=0.1)

    first = Told(None)
    assert type(first.build_optimizer(model=first.model, name="auto", iterations=9_000)).__name__ == "AdamW"
    later = Told({"iterations": first.iterations})
    assert type(later.build_optimizer(model=later.model, name="auto", iterations=18_000)).__name__ == "AdamW"


def test_gradients_that_are_no_numbers_are_not_kept() -> None:
    model = torch.nn.Linear(2, 1)
    scaler = SimpleNamespace(is_enabled=lambda: False)
    trainer = SimpleNamespace(loss=torch.tensor(1.0), model=model, ema=SimpleNamespace(ema=model), scaler=scaler)
    assert state.is_finite(trainer)
    model.weight.grad = torch.full_like(model.weight, torch.nan)
    assert not state.is_finite(trainer)
    scaler.is_enabled = lambda: True  # it overflows on purpose, and leaves that step out
    assert state.is_finite(trainer)


def test_other_random_numbers_are_not_set_back_by_a_validation_that_was_noted(tmp_path: Path) -> None:
    safety = {"val_period": 1, "snapshot_seconds": 60.0, "snapshot_daily_bytes": 1e12}
    session = Session(Store(tmp_path), SimpleNamespace(), SimpleNamespace(), Found(), safety)
    noted = {"rng": state.to_lists(state.random_state(torch.device("cpu"))), "epoch": 3}
    session.stage = {**noted, "metrics": {}, "fitness": 0.1, "best_fitness": 0.1}
    trainer = SimpleNamespace(epoch=3, device=torch.device("cpu"))
    for seed, same in ((None, True), (2, False)):
        session.seed = seed
        torch.manual_seed(99)
        before = torch.get_rng_state()
        assert session.take_stage(trainer)
        assert torch.equal(torch.get_rng_state(), before) is not same


@pytest.mark.parametrize(("val", "best", "written"), [(True, 0.5, False), (False, 0.5, False), (False, None, True)])
def test_an_epoch_that_nobody_validated_is_not_the_best(val: bool, best: float | None, written: bool) -> None:
    """But where no epoch ever is: there Ultralytics writes best.pt of each."""
    seen = []

    class Saved(RoadDamageTrainer):
        def __init__(self) -> None:
            self.args, self.best_fitness, self.fitness = SimpleNamespace(val=val), best, best

        def save_model(self) -> bool:
            seen.append(self.best_fitness == self.fitness)
            return True

    one = Saved()
    assert one._save(validated=False) and seen == [written]
    assert one.fitness == best
