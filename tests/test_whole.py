"""Checkpoints that are streamed hold the same bytes as those that Ultralytics builds in memory."""

from __future__ import annotations

import copy
import datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import ultralytics.engine.trainer as engine
from torch import nn
from ultralytics.utils.torch_utils import ModelEMA

from rddkit.whole import WholePath, streamed


class Today(datetime.datetime):
    """A clock that stands still."""

    @classmethod
    def now(cls, tz: Any = None) -> Today:
        return cls(2026, 11, 28, tzinfo=datetime.timezone.utc)


def trainer(folder: Path, optimizer: type[torch.optim.Optimizer]) -> SimpleNamespace:
    """As much of a trainer as saving needs, after one step."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8))
    one = SimpleNamespace(model=model, ema=ModelEMA(model), epoch=2, best_fitness=0.5, fitness=0.5, save_period=1)
    one.optimizer = optimizer(model.parameters(), lr=0.1, **({"momentum": 0.9} if optimizer is torch.optim.SGD else {}))
    model(torch.ones(2, 3, 8, 8)).sum().backward()
    one.optimizer.step()
    one.stopper = SimpleNamespace(best_fitness=0.5, best_epoch=2)
    one.scaler = torch.amp.GradScaler("cpu", enabled=False)
    one.args, one.metrics = SimpleNamespace(lr0=0.1), {"metrics/mAP50(B)": 0.4}
    one.read_results_csv = dict
    one.wdir = WholePath(folder)
    one.last, one.best = one.wdir / "last.pt", one.wdir / "best.pt"
    return one


@pytest.mark.parametrize("optimizer", [torch.optim.SGD, torch.optim.AdamW])
def test_a_streamed_checkpoint_is_bit_for_bit_what_ultralytics_writes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, optimizer: type[torch.optim.Optimizer]
) -> None:
    monkeypatch.setattr(engine, "datetime", Today)
    own, ours = (trainer(tmp_path / name, optimizer) for name in ("own", "ours"))
    before = copy.deepcopy(ours.optimizer.state_dict())
    assert engine.BaseTrainer.save_model(own)
    with streamed(ours.last):
        assert engine.BaseTrainer.save_model(ours)
    for name in ("last.pt", "best.pt", "epoch2.pt"):
        assert (tmp_path / "ours" / name).read_bytes() == (tmp_path / "own" / name).read_bytes(), name
    after = ours.optimizer.state_dict()
    for key, values in before["state"].items():
        for name, value in values.items():
            assert after["state"][key][name].dtype == value.dtype
            assert torch.equal(after["state"][key][name], value)
    assert sorted(path.name for path in (tmp_path / "ours").iterdir()) == ["best.pt", "epoch2.pt", "last.pt"]


def test_saving_that_fails_leaves_the_checkpoint_before_and_torch_as_it_was(tmp_path: Path) -> None:
    one, save, deepcopy = trainer(tmp_path / "run", torch.optim.SGD), torch.save, engine.deepcopy
    one.last.parent.mkdir()
    one.last.write_bytes(b"the one before")
    one.metrics = {"broken": lambda: None}  # which cannot be saved
    with pytest.raises(Exception, match="lambda"), streamed(one.last):
        engine.BaseTrainer.save_model(one)
    assert one.last.read_bytes() == b"the one before"
    assert [path.name for path in one.wdir.iterdir()] == ["last.pt"]
    assert torch.save is save and engine.deepcopy is deepcopy
