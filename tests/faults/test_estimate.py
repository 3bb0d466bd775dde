"""Runs that know before they start: a lighter plan from the beginning, none at all, and what was then held."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path

import kernel
import pytest
from workshop import Workshop, events

from rddkit import cgroup
from rddkit.memory import MIB

pytestmark = pytest.mark.faults
INJECT = Path(__file__).resolve().parent / "inject"


def allow(shop: Workshop, budget: int) -> None:
    text = f"estimate: true\nbudget: {budget}\nguard: false\nbackoff_seconds: 0.1\n"
    (shop.root / "configs" / "safety.yaml").write_text(text)


def test_a_plan_that_no_lighter_one_makes_fit_is_not_tried_and_the_smallest_need_is_said(
    workshop: Callable[..., Workshop],
) -> None:
    shop = workshop("none")
    allow(shop, 150 * MIB)
    done = shop.train()
    assert done.returncode == 69, done.stdout + done.stderr
    assert not events(shop.run, "attempt_started")
    (failed,) = events(shop.run, "run_failed")
    assert failed["cause"] == "oom"
    assert "the smallest plan, yolov8n.yaml, batch 1, imgsz 32, workers 0, needs " in failed["evidence"]
    assert "the budget is 150 MB (set in safety.yaml); no plan fits" in failed["evidence"]


@pytest.mark.slow
def test_a_run_starts_on_the_first_plan_that_fits_and_says_so_and_compares(
    workshop: Callable[..., Workshop], tmp_path: Path
) -> None:
    shop = workshop("lighter", imgsz=320, batch=8, epochs=1)
    allow(shop, 700 * MIB)
    done = shop.train()
    assert done.returncode == 0, done.stdout + done.stderr
    first, seen = events(shop.run, "estimated")
    (fallback,) = events(shop.run, "fallback")
    (started,) = events(shop.run, "attempt_started")
    assert started["plan"]["batch"] < 8 and fallback["to"] and "more than the budget of 700 MB" in fallback["reason"]
    assert first["fits"] and first["calibrated"] and first["safe_bound"] <= 700 * MIB
    assert first["seconds_per_epoch"] > 0
    assert seen["measured_bytes"] <= first["safe_bound"] and "were held at most" in seen["reason"]


def test_an_allocators_failure_in_a_trial_that_held_little_is_no_verdict_on_the_plan(
    workshop: Callable[..., Workshop],
) -> None:
    shop = workshop("no verdict", epochs=1, imgsz=64)  # a trial has one image, which Ultralytics refuses below
    (shop.root / "configs" / "safety.yaml").write_text("estimate: true\n")
    message = "DefaultCPUAllocator: can't allocate memory: you tried to allocate 52428800 bytes"
    fault = {"id": "0", "what": "oom", "where": "forward", "message": message}
    (shop.root / "fired").mkdir()
    inject = {"PYTHONPATH": str(INJECT), "RDDKIT_INJECT": json.dumps([fault])}
    done = shop.train(**inject, RDDKIT_INJECT_DIR=str(shop.root / "fired"))
    assert done.returncode == 0, done.stdout + done.stderr
    assert (shop.root / "fired" / "0").exists(), "it fired in the trial"
    told, _compared = events(shop.run, "estimated")
    assert told["fits"] and not told["calibrated"]
    assert not events(shop.run, "fallback")
    assert [event["cause"] for event in events(shop.run, "attempt_ended")] == ["done"]


def test_in_a_small_memory_cgroup_doctor_and_budget_say_its_limit_and_name_the_file() -> None:
    try:
        with kernel.group(2 << 30) as group:
            code = "import json; from rddkit import memory; print(json.dumps([memory.total(), memory.memory_budget()]))"
            told = group.start([sys.executable, "-c", code], os.environ).communicate(timeout=60)[0]
            table = group.start([sys.executable, "-m", "rddkit.cli", "doctor"], {**os.environ, "COLUMNS": "300"})
            shown = table.communicate(timeout=120)[0]
    except kernel.Impossible as why:
        pytest.skip(str(why))
    total, budget = json.loads(told.splitlines()[-1])
    limit_file = str(cgroup.Group(group.folder, group.version, None, 0, 0).limit_file)
    assert total == [2 << 30, limit_file]
    assert budget[0] < 2 << 30 and limit_file in budget[1]
    limit, free = (next(line for line in shown.splitlines() if name in line) for name in ("memory limit", "budget"))
    assert "2.0 GB" in limit and limit_file in limit and limit_file in free
    assert "limit 2.0 GB, charged " in budget[1] and "reclaimable " in budget[1] and "free " in budget[1]
    assert all(f"container {name}" in shown for name in ("limit", "charged", "reclaimable", "free"))
