"""A run that nobody interrupts is plain Ultralytics' own, to the bit and to the callback."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from compare import HERE, RECIPE, equal_tensors, plain_run, rows, same_weights, train_once
from workshop import TINY

pytestmark = pytest.mark.faults
BENCHMARK = HERE.parent / "benchmarks" / "parity.py"


@pytest.fixture(scope="module")
def plain(tiny_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return plain_run(tiny_data, tmp_path_factory.getbasetemp())


def campaign(*words: str) -> None:
    answer = subprocess.run([sys.executable, str(BENCHMARK), *words], capture_output=True, text=True, check=False)
    assert answer.returncode == 0, answer.stdout + answer.stderr


def test_our_loop_is_ultralytics_own_to_the_bit_and_to_the_callback(
    plain: Path, tiny_data: Path, tmp_path: Path
) -> None:
    ours = train_once("ours", tmp_path / "run", {**TINY, **RECIPE, "data": str(tiny_data)})
    same, of = equal_tensors(plain / "ema.pt", ours / "ema.pt")
    assert same == of == 355
    assert json.loads((ours / "callbacks.json").read_text()) == json.loads((plain / "callbacks.json").read_text())
    assert rows(ours) == rows(plain)
    same_weights(ours, plain)
    kept = [torch.load(folder / "weights" / "last.pt", weights_only=False)["train_results"] for folder in (ours, plain)]
    assert kept[0].pop("time") != kept[1].pop("time")
    assert kept[0] == kept[1]


@pytest.mark.campaign
@pytest.mark.timeout(900)
def test_parity_of_three_models_over_six_epochs_with_sgd_and_adamw(tmp_path: Path) -> None:
    campaign("--kills", "0", "--images", "24", "--keep", str(tmp_path / "parity"))


@pytest.mark.campaign
@pytest.mark.timeout(1800)
@pytest.mark.skipif(
    not os.environ.get("RDDKIT_CAMPAIGN"),
    reason="20 kills take ten minutes: RDDKIT_CAMPAIGN=1",
)
def test_twenty_kills_of_a_run(tmp_path: Path) -> None:
    """For the other models: python benchmarks/parity.py."""
    campaign("--kills", "20", "--recipes", "yolo26n-SGD", "--keep", str(tmp_path / "parity"))
