"""What is said of a resume, setting by setting, and the page that says it."""

from __future__ import annotations

from typing import Any

import pytest
from workshop import REPOSITORY

from rddkit.exactness import ALBUMENTATIONS, LAST_PT, WORKERS, Exactness, Loop, judge, loop_for, page

NOW = {"device": "cpu", "threads": 2, "cpu": "AVX2", "torch": "2.14.0", "batch": 2, "imgsz": 640, "workers": 0}
NOW |= {"cache": False, "val": True, "numpy": "2", "albumentations": False}
OURS = loop_for({}, [])


def judged(now: dict[str, Any], before: dict[str, Any], **words: Any) -> Exactness:
    return judge({"environment": before}, 0, now, words.get("loop", OURS), words.get("passed_over", []))


def test_the_page_is_what_the_code_says() -> None:
    assert (REPOSITORY / "docs" / "exactness.md").read_text() == page()


@pytest.mark.parametrize("settings", [{}, {"multi_scale": 0.5}, {"cache": "ram"}, {"rect": True}, {"amp": "bf16"}])
def test_what_our_loop_trains_is_resumed_within_the_epoch(settings: dict[str, Any]) -> None:
    assert loop_for(settings, []) == Loop(True, "one process: our own loop, resumed within the epoch")


@pytest.mark.parametrize(
    ("settings", "changed", "reason"),
    [
        (
            {"compile": True},
            [],
            "compile=True: a compiled model is trained by Ultralytics' own loop; resumed by epochs",
        ),
        ({"quantize": 8}, [], "quantize=8: quantization-aware training keeps its state where only Ultralytics can"),
        ({"distill_model": "t.pt"}, [], "distill_model='t.pt': distillation is set up by Ultralytics' own loop"),
        ({"device": "0,1"}, [], "several GPUs are trained by Ultralytics' DDP; resumed by epochs"),
        ({}, ["BaseTrainer.final_eval"], "this Ultralytics differs in BaseTrainer.final_eval; its own loop trains"),
    ],
)
def test_what_ultralytics_own_loop_trains_is_resumed_by_epochs(
    settings: dict[str, Any], changed: list[str], reason: str
) -> None:
    loop = loop_for(settings, changed)
    assert not loop.exact and loop.reason.startswith(reason) and "by epochs" in loop.reason
    assert judge(None, 3, NOW, loop, []) == Exactness(False, loop.reason)


def test_the_same_state_in_the_same_surroundings_is_exact() -> None:
    assert judged(NOW, NOW) == Exactness(True, "same state, same surroundings")


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("threads", 4, "threads 2 -> 4"),
        ("batch", 1, "batch 2 -> 1"),
        ("imgsz", 512, "imgsz 640 -> 512"),
        ("torch", "2.15.0", "torch 2.14.0 -> 2.15.0"),
        ("cpu", "AVX512", "cpu AVX2 -> AVX512"),
        ("device", "mps", "device cpu -> mps"),
        ("cache", "ram", "cache False -> ram"),
        ("val", False, "val True -> False"),
        ("numpy", "3", "numpy 2 -> 3"),
    ],
)
def test_other_surroundings_are_named(key: str, value: Any, said: str) -> None:
    assert judged({**NOW, key: value}, NOW) == Exactness(False, f"same state, other surroundings: {said}")


def test_loader_workers_are_inexact_though_nothing_changed() -> None:
    with_workers = {**NOW, "workers": 2}
    assert judged(with_workers, with_workers) == Exactness(False, WORKERS)


def test_albumentations_are_inexact_though_nothing_changed() -> None:
    installed = {**NOW, "albumentations": True}
    assert judged(installed, installed) == Exactness(False, ALBUMENTATIONS)


@pytest.mark.parametrize("device", ["cuda:0", "mps"])
def test_a_gpu_is_inexact_though_nothing_changed(device: str) -> None:
    same = {**NOW, "device": device}
    assert judged(same, same) == Exactness(False, f"same state; {device} itself is not deterministic to the bit")


def test_without_a_snapshot_it_is_said_what_is_continued_from() -> None:
    over = ["000003 does not match its hash"]
    assert judge(None, 3, NOW, OURS, over) == Exactness(False, f"{LAST_PT} (000003 does not match its hash)")
    assert judge(None, 0, NOW, OURS, []) == Exactness(True, "nothing to continue from: from the beginning")
