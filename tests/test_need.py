"""What a plan needs: the arithmetic, its corrections, and how a lighter plan is chosen by it."""

from __future__ import annotations

import csv
import dataclasses
import json
import math
import statistics
import subprocess
import sys
import time
from datetime import datetime, timezone
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from rddkit import calibration, choice, estimate, fallbacks, forecast, gpu, need
from rddkit.calibration import Trial
from rddkit.estimate import Known
from rddkit.memory import GIB, MIB, human
from rddkit.need import Correction, Facts
from rddkit.runfile import RunFile
from rddkit.traits import FAMILIES, table

PLAN: dict[str, Any] = {"model": "yolov8s.pt", "batch": 2, "imgsz": 640, "workers": 0, "cache": False, "plots": False}
FACTS = Facts("AdamW", "cpu", 2.2, 1.0)
TRUTHS = Path(__file__).resolve().parent.parent / "benchmarks" / "memory_truths.csv"


def known(budget: int, **more: Any) -> Known:
    return Known(table()["yolov8s"], "table", FACTS, budget, "a test", images=(100, 20), **more)


def trial(batch: int, peak: float, **more: Any) -> Trial:
    plan = {**PLAN, "batch": batch}
    return Trial(plan, "AdamW", round(peak), None, 1.0 + batch, 0.5, 1.0, more.get("died"), more.get("too_big", False))


def test_the_table_has_every_family_in_its_small_sizes() -> None:
    assert set(table()) == set(FAMILIES)


def test_the_parts_of_a_need_add_up_to_it_and_it_is_the_highest_phase() -> None:
    found = need.need(table()["yolov8s"], PLAN, FACTS)
    assert found.estimate == max(found.phases.values())
    assert sum(found.components.values()) == pytest.approx(found.estimate, abs=20)


def measured() -> list[tuple[bool, float, float]]:
    """Of every plan in the table of truths: whether its family was fitted, its estimate by its peak, and its bound."""
    found = []
    with open(TRUTHS, newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            plan: dict[str, Any] = {key: row[key] for key in ("allocator", "checkpointing") if row[key]}
            plan |= {key: int(row[key]) for key in ("batch", "imgsz", "val_batch") if row[key]}
            plan["plots"] = row["plots"] == "True"
            counts = int(row["train_images"]), int(row["val_images"])
            facts = Facts(row["optimizer"], "cpu", float(row["objects"]), 1.0, *counts)
            model = Path(row["model"]).stem
            told = need.need(table()[model], plan, facts).estimate
            fitted = model.startswith(("yolov8", "yolov9", "yolo11", "yolo26"))
            found.append((fitted, told / int(row["peak"]), need.safe_bound(told, "traced") / int(row["peak"])))
    return found


# Wanted of the families that were never fitted: a 95th percentile of 8 % and a median surplus of 10 %. Reached so far:
@pytest.mark.parametrize(
    ("fitted", "median", "percentile", "surplus"), [(True, 0.02, 0.09, 0.15), (False, 0.03, 0.11, 0.15)]
)
def test_measured_peaks_are_met_and_the_bound_is_never_below_one(
    fitted: bool, median: float, percentile: float, surplus: float
) -> None:
    rows = [(told, bound) for of, told, bound in measured() if of is fitted]
    errors = sorted(abs(told - 1) for told, _ in rows)
    assert len(rows) >= 48
    assert statistics.median(errors) <= median
    assert errors[int(0.95 * (len(errors) - 1))] <= percentile
    assert min(bound for _, bound in rows) >= 1
    assert statistics.median(bound for _, bound in rows) <= 1 + surplus


@pytest.mark.parametrize("key", ["batch", "imgsz"])
def test_more_of_anything_needs_more(key: str) -> None:
    traits = table()["yolo11m"]
    small = need.need(traits, PLAN, FACTS).estimate
    assert need.need(traits, {**PLAN, key: 2 * PLAN[key]}, FACTS).estimate > small


def test_a_plan_that_forgets_needs_less() -> None:
    needs = [
        need.need(table()["yolov8s"], {**PLAN, "checkpointing": kind}, FACTS).estimate
        for kind in (False, "norms", "layers")
    ]
    assert needs == sorted(needs, reverse=True) and needs[0] - needs[2] > 250 * MIB


def test_loaders_and_a_cache_in_memory_are_counted_where_they_are() -> None:
    facts = Facts("AdamW", "cpu", train_images=1000, val_images=100, aspect=0.5)
    image = 640 * 320 * 3
    assert need.loading(PLAN, facts) == 16 * image  # what mosaics are made of: eight batches of two
    assert need.loading({**PLAN, "workers": 4}, facts) == need.loading(PLAN, facts)  # Ultralytics takes none on the CPU
    assert need.loading({**PLAN, "cache": "ram"}, facts) == 1100 * image
    on_gpu = need.loading({**PLAN, "workers": 4}, Facts("AdamW", "cuda:0", train_images=1000))
    assert on_gpu > 4 * need.LOADER


def test_eight_thousand_images_in_memory_are_gigabytes_of_the_estimate() -> None:
    facts = Facts("AdamW", "cpu", train_images=7000, val_images=1000)
    more = need.need(table()["yolov8s"], {**PLAN, "cache": "ram"}, facts).estimate
    assert more - need.need(table()["yolov8s"], PLAN, facts).estimate == pytest.approx(9.15 * GIB, rel=0.01)


def test_sizes_that_change_and_batches_of_one_aspect_shift_the_estimate() -> None:
    wide = Facts("AdamW", "cpu", aspect=0.5, squarest=0.5)
    whole = need.need(table()["yolov8s"], PLAN, wide).estimate
    assert need.need(table()["yolov8s"], {**PLAN, "multi_scale": 0.5}, wide).estimate > 1.4 * whole
    assert need.need(table()["yolov8s"], PLAN, dataclasses.replace(wide, rect=True)).estimate < 0.8 * whole


@pytest.mark.parametrize(
    ("fraction", "train", "val"), [(1.0, 100, 20), (0.25, 25, 20), (0.001, 1, 20), (30, 30, 20), ([0.5, 0.5], 50, 10)]
)
def test_a_fraction_is_taken_off_as_ultralytics_does(fraction: Any, train: int, val: int) -> None:
    assert (estimate.used(fraction, 0, 100), estimate.used(fraction, 1, 20)) == (train, val)


def test_a_trial_that_held_what_was_predicted_changes_nothing() -> None:
    parts = need.phases(table()["yolov8s"], PLAN, FACTS)["training"]
    found = need.calibrate([(parts, sum(parts.values()))])
    assert found.offset == pytest.approx(0, abs=1) and found.slope == pytest.approx(1)


def test_trials_as_near_as_plans_are_on_the_machine_of_the_constants_change_little() -> None:
    told = known(8 * GIB)
    sizes = [need.phases(told.traits, {**PLAN, "batch": batch}, FACTS)["training"] for batch in (1, 4)]
    found = need.calibrate([(parts, 1.1 * sum(parts.values())) for parts in sizes])
    parts = need.phases(told.traits, {**PLAN, "batch": 8}, FACTS)["training"]
    assert sum(need.corrected(parts, found).values()) == pytest.approx(sum(parts.values()), rel=0.05)


def test_trials_far_from_the_prediction_pull_it_to_what_was_seen() -> None:
    told = known(8 * GIB)
    plans = {batch: need.phases(told.traits, {**PLAN, "batch": batch}, FACTS) for batch in (1, 4)}
    peaks = {batch: 1.3 * max(sum(sizes.values()) for sizes in found.values()) for batch, found in plans.items()}
    better = estimate.calibrated(told, [trial(batch, peak) for batch, peak in peaks.items()])
    assert better.correction is not None and better.correction.slope > 1
    told_4 = estimate.judged(better, {**PLAN, "batch": 4})
    assert told_4["estimate"] == pytest.approx(peaks[4], rel=0.06)
    assert told_4["calibrated"] and told_4["safe_bound"] > peaks[4]


def test_a_trial_that_died_of_memory_is_an_answer() -> None:
    told = estimate.calibrated(
        known(64 * GIB), [trial(1, GIB, died="torch on the CPU: can't allocate memory", too_big=True)]
    )
    answer = estimate.judged(told, PLAN)
    assert not answer["fits"] and not answer["calibrated"]
    assert estimate.verdict(answer) == (
        "does not fit: a trial with batch 1 at 640 pixels died: torch on the CPU: can't allocate memory"
    )
    assert estimate.judged(told, {**PLAN, "imgsz": 320})["fits"], (
        "a lighter plan than the one tried is not judged by it"
    )


def test_a_trial_that_died_of_something_else_is_no_verdict_on_its_plan() -> None:
    told = estimate.calibrated(known(64 * GIB), [trial(1, GIB, died="RuntimeError: no such image")])
    answer = estimate.judged(told, PLAN)
    assert answer["fits"] and not answer["calibrated"]
    assert answer["reasons"]["calibrated"] == (
        "its trial died (no sign that its plan is too big; RuntimeError: no such image)"
    )


@pytest.mark.parametrize(("held", "believed"), [(0.4, False), (0.9, True)])
def test_memory_that_ran_out_far_below_the_budget_was_not_the_plans(held: float, believed: bool) -> None:
    record = SimpleNamespace(device="cpu", budget={"bytes": 4 * GIB})
    assert calibration.is_credible(record, round(held * 4 * GIB)) is believed  # type: ignore[arg-type]
    record.device = "cuda:0"
    assert calibration.is_credible(record, 0), "a process does not count what its GPU holds"  # type: ignore[arg-type]


def test_the_verdict_says_what_is_to_spare_and_what_is_missing() -> None:
    bound = estimate.judged(known(8 * GIB), PLAN)["safe_bound"]
    assert estimate.verdict(estimate.judged(known(bound + GIB), PLAN)).endswith(", 1.0 GB to spare")
    short = estimate.verdict(estimate.judged(known(bound - GIB), PLAN))
    assert short == f"needs up to {human(bound)}, 1.0 GB more than the budget of {human(bound - GIB)}"


def test_the_first_lighter_plan_that_fits_is_taken_and_the_heavier_ones_are_skipped() -> None:
    plan = {**PLAN, "batch": 8}
    ladder = fallbacks.ladder(plan, ("batch", "imgsz"), 320)
    need_of = {step.plan["batch"]: estimate.judged(known(GIB), step.plan)["safe_bound"] for step in ladder[:3]}
    told = known(need_of[2])
    found = choice.choose(told, plan, ladder)
    assert found.takes and found.fallback is ladder[1] and found.fallback.plan["batch"] == 2
    assert [step["batch"] for step in choice.too_big(told, ladder)] == [4]


SMALLEST = "the smallest plan, yolov8s.pt, batch 1, imgsz 320, workers 0,"


def test_where_nothing_can_fit_the_smallest_need_is_named() -> None:
    found = choice.choose(known(100 * MIB), PLAN, fallbacks.ladder(PLAN, ("batch", "imgsz"), 320))
    assert not found.takes
    needs = human(found.told["least"])
    assert found.reason == (
        f"{SMALLEST} needs {needs} or more, and that is the estimate less its margin; the budget is 100 MB (a test)"
    )


@pytest.mark.parametrize("share", [-0.9, 0.0, 0.9])
def test_a_smallest_plan_whose_need_is_within_the_margin_is_tried(share: float) -> None:
    ladder = fallbacks.ladder(PLAN, ("batch", "imgsz"), 320)
    smallest = estimate.judged(known(GIB), ladder[-1].plan)
    budget = round(smallest["estimate"] + share * (smallest["estimate"] - smallest["least"]))
    told = known(budget)
    found = choice.choose(told, PLAN, ladder)
    assert found.takes and found.fallback is ladder[-1] and not found.told["fits"]
    assert found.reason.startswith(f"{SMALLEST} is tried, as it may fit: it needs {human(smallest['estimate'])}, and")
    assert choice.too_big(told, ladder) == [step.plan for step in ladder[:-1]]
    assert choice.too_big(known(100 * MIB), ladder) == [step.plan for step in ladder]


def test_the_plan_itself_is_tried_where_there_is_no_lighter_one() -> None:
    smallest = estimate.judged(known(GIB), PLAN)
    found = choice.choose(known(smallest["estimate"]), PLAN, [])
    assert found.takes and found.fallback is None and not found.told["fits"]


def test_a_lean_plan_is_not_judged_by_the_death_of_one_that_keeps_everything() -> None:
    told = estimate.calibrated(known(64 * GIB), [trial(1, GIB, died="can't allocate memory", too_big=True)])
    assert not estimate.judged(told, PLAN)["may_fit"]
    assert estimate.judged(told, {**PLAN, "checkpointing": "norms"})["fits"]


def test_the_largest_batch_is_a_power_of_two_that_fits_and_none_is_zero() -> None:
    bound = estimate.judged(known(GIB), {**PLAN, "batch": 4})["safe_bound"]
    assert estimate.largest_batch(known(bound), PLAN, 640) == 4
    assert estimate.largest_batch(known(bound - 1), PLAN, 640) == 2
    assert estimate.largest_batch(known(MIB), PLAN, 640) == 0


def test_each_of_several_devices_needs_what_its_share_needs_and_ddps_buckets() -> None:
    cuda = Facts("AdamW", "cuda:0,1", 2.2, 1.0)
    traits = table()["yolov8s"]
    one = need.need(traits, {**PLAN, "batch": 4}, cuda)
    two = need.need(traits, {**PLAN, "batch": 8, "devices": 2}, cuda)
    assert two.estimate - one.estimate == pytest.approx(traits.trained, abs=4 * MIB)  # the allocator rounds
    assert two.components["gradients on their way"] == pytest.approx(traits.trained, abs=1)
    shared = need.share({**PLAN, "batch": 8, "val_batch": 6, "devices": 2})
    assert (shared["batch"], shared["val_batch"]) == (4, 3)
    assert need.share(PLAN) == PLAN


def test_the_largest_batch_of_several_devices_is_one_that_they_can_share() -> None:
    plan = {**PLAN, "devices": 2}
    bound = estimate.judged(known(GIB), {**plan, "batch": 8})["safe_bound"]
    assert estimate.largest_batch(known(bound), plan, 640) == 8
    assert estimate.largest_batch(known(bound - 1), plan, 640) == 4
    assert estimate.largest_batch(known(bound), {**PLAN, "devices": 3}, 640) % 3 == 0


def test_the_budget_of_several_gpus_is_that_of_the_fullest() -> None:
    gpus = [{"name": name, "free": free * GIB, "total": 8 * GIB} for name, free in (("A", 8), ("B", 4), ("C", 2))]
    record = RunFile("night", "", {}, "c.yaml", dict(PLAN), {"budget": "auto"}, "cuda:0,1", 1, budget={"cuda": gpus})
    budget, source = estimate.budget_of(record)
    assert budget == pytest.approx(3.6 * GIB, abs=16) and source == "45% of B"


def test_several_devices_share_the_images_of_an_epoch() -> None:
    pace = forecast.Pace(step=0.0, pixel=1e-6, val_pixel=1e-6, save=2.0)
    one, two = pace.epoch(PLAN, 100, 20), pace.epoch({**PLAN, "devices": 2}, 100, 20)
    assert two - 2.0 == pytest.approx((one - 2.0) / 2)


def test_the_estimate_has_the_fields_that_programs_read() -> None:
    told = estimate.judged(known(8 * GIB), PLAN)
    assert list(told) == [
        "estimate", "safe_bound", "least", "budget", "budget_source", "fits", "may_fit", "components", "phase",
        "calibrated", "seconds_per_epoch", "hours", "reasons",
    ]  # fmt: skip
    json.dumps(told)


def test_the_optimizer_is_the_one_that_ultralytics_will_choose() -> None:
    assert estimate.optimizer_of({"optimizer": "SGD"}, 1000, 2, 100, 64)[0] == "SGD"
    assert estimate.optimizer_of({}, 1000, 2, 100, 64) == ("AdamW", "auto: 1600 optimizer steps, not more than 10000")
    assert estimate.optimizer_of({}, 38_385, 2, 200, 64)[0] == "MuSGD"


# -- time --------------------------------------------------------------------------------------------------------------


def test_two_batches_tell_the_time_of_any_plan() -> None:
    pace = forecast.pace({1: 1.5, 4: 4.5}, 640.0**2, 0.25, 2.0)
    assert pace.step == pytest.approx(0.5)
    plan = {"batch": 2, "imgsz": 640}
    assert pace.epoch(plan, 100, 20) == pytest.approx(50 * 0.5 + 100 * 1.0 + 20 * 0.25 + 2.0)
    assert pace.epoch({**plan, "imgsz": 320}, 100, 0) == pytest.approx(50 * 0.5 + 100 / 4 + 2.0)


def test_noise_never_makes_time_negative() -> None:
    for seen in ({1: 2.0, 4: 1.0}, {1: 1.0, 2: 9.0}, {2: 3.0}):
        pace = forecast.pace(seen, 1e5, 0.1)
        assert pace.step >= 0 and pace.pixel >= 0


def test_hours_are_told_in_nights() -> None:
    now = datetime(2026, 11, 25, 22, tzinfo=timezone.utc)
    morning = datetime(2026, 11, 26, 7, tzinfo=timezone.utc)
    assert forecast.words(5400, 200, now, morning) == (
        "90 min an epoch, 300.0 h in all: about 34 nights of 9 h; started now, epoch 6 is done by 07:00"
    )
    assert forecast.words(40, 3, now, morning).startswith("40 s an epoch, 0.0 h in all: one night is enough")
    assert forecast.nights(9.0) == 1 and forecast.nights(9.1) == 2


# -- GPUs, on the values in the allocators' sources --------------------------------------------------------------------


def test_cuda_requests_are_rounded_to_blocks_and_segments() -> None:
    assert gpu.cuda_segments([1]) == 2 * MIB
    assert gpu.cuda_segments([512] * 4096) == 2 * MIB
    assert gpu.cuda_segments([513] * 4096) == 4 * MIB
    assert gpu.cuda_segments([2 * MIB]) == 20 * MIB
    assert gpu.cuda_segments([11 * MIB]) == 12 * MIB
    assert gpu.cuda_segments([]) == 0


def test_mps_requests_share_heaps() -> None:
    assert gpu.mps_heaps([1]) == 8 * MIB
    assert gpu.mps_heaps([2 * MIB] * 17) == 64 * MIB
    assert gpu.mps_heaps([11 * MIB]) == 12 * MIB
    assert gpu.mps_heaps([11 * MIB], pressed=False) == GIB


def test_the_mps_limit_is_above_physical_memory_by_default_and_odd_ratios_are_refused() -> None:
    recommended = round(10.67 * GIB)  # a 16 GB Mac
    assert gpu.mps_limit(recommended) > 16 * GIB
    assert gpu.mps_limit(recommended, 0.85) == pytest.approx(9.07 * GIB, rel=0.01)
    with pytest.raises(ValueError, match="watermark ratio 2.5 is outside of 0 to 2.0"):
        gpu.mps_limit(recommended, 2.5)


def test_on_a_gpu_its_own_memory_counts() -> None:
    cuda = need.phases(table()["yolov8s"], PLAN, Facts("AdamW", "cuda:0"))["training"]
    half = need.phases(table()["yolov8s"], {**PLAN, "amp": True}, Facts("AdamW", "cuda:0"))["training"]
    assert cuda["context"] == gpu.CONTEXT and "framework" not in cuda
    assert half["activations"] == pytest.approx(gpu.HALF * cuda["activations"])
    mps = need.phases(table()["yolov8s"], PLAN, Facts("AdamW", "mps"))
    assert "framework" in mps["training"], "one memory for both"
    assert not math.isnan(need.need(table()["yolov8s"], PLAN, Facts("AdamW", "mps")).estimate)


def test_a_correction_moves_what_stands_and_scales_what_grows() -> None:
    found = need.corrected({"framework": 100.0, "activations": 10.0}, Correction(5.0, 2.0))
    assert found == {"framework": 105.0, "activations": 20.0}


# -- cost --------------------------------------------------------------------------------------------------------------


def test_an_answer_for_a_slider_takes_milliseconds_and_no_torch() -> None:
    code = """
import sys, time
from rddkit import need
from rddkit.traits import table
began = time.process_time()  # other programs do not count
for batch in (1, 2, 4, 8):
    plan = {"batch": batch, "imgsz": 640, "workers": 0}
    need.need(table()["yolo26m"], plan, need.Facts())
assert time.process_time() - began < 0.2
assert "torch" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


@pytest.mark.slow
def test_an_untabled_yolov8s_is_traced_in_seconds_and_in_little_memory() -> None:
    began = time.perf_counter()
    code = """
import resource, sys
from rddkit import estimate
from rddkit.traits import table
found = estimate.trace("yolov8s.yaml", 4)
assert found == table()["yolov8s"], found
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
"""
    answer = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, timeout=120)
    assert int(answer.stdout) * 1024 < 1.2e9
    assert time.perf_counter() - began < 60  # 6 s on a quiet machine; the figure is the benchmark's
