"""The ladder of lighter plans: its exact steps, and that every way down it ends."""

from __future__ import annotations

import random
from typing import Any

import pytest

from rddkit import fallbacks
from rddkit.config import ConfigError
from rddkit.fallbacks import COSTS, IMAGE_SIZES, KINDS, NEXT, choose, known, ladder, next_fallback, same

DEFAULT_KINDS = ("lean", "batch", "imgsz")
Plan = dict[str, Any]


def plan(**more: Any) -> Plan:
    """The seed's plan, as `run` writes it."""
    seed = {"model": "yolov8s.pt", "batch": 4, "imgsz": 640, "workers": 0, "cache": False, "plots": True}
    return {**seed, "amp": False, "multi_scale": 0.0, "val_batch": None, "val_imgsz": 640, **more}


def changes(start: Plan, kinds: tuple[str, ...] = DEFAULT_KINDS, least: int = 320) -> list[tuple[str, Plan]]:
    return [(step.kind, step.changes) for step in ladder(start, kinds, least)]


LEAN = ("lean", {"plots": False, "allocator": "lean", "val_batch": 4, "checkpointing": "norms"})
LAYERS = ("checkpointing", {"checkpointing": "layers"})
OTHERWISE_LEAN = ("lean", {"plots": False, "allocator": "lean", "val_batch": 4})
HALVES = [("batch", {"batch": 2, "val_batch": 2}), ("batch", {"batch": 1, "val_batch": 1})]
SIZES = [("imgsz", {"imgsz": 512}), ("imgsz", {"imgsz": 416}), ("imgsz", {"imgsz": 320})]
LADDERS: list[tuple[str, Plan, tuple[str, ...], int, list[tuple[str, Plan]]]] = [
    ("the seed's", plan(), DEFAULT_KINDS, 320, [LEAN, *HALVES, *SIZES]),
    ("a cache goes with lean", plan(cache="ram"), ("lean",), 320, [("lean", {**LEAN[1], "cache": False})]),
    ("all kinds", plan(), KINDS, 416, [LEAN, *HALVES, LAYERS, *SIZES[:2]]),
    ("the order is that of cost", plan(), ("imgsz", "batch", "lean"), 512, [LEAN, *HALVES, SIZES[0]]),
    ("batch alone", plan(), ("batch",), 320, [("batch", {"batch": 2}), ("batch", {"batch": 1})]),
    ("an odd batch", plan(batch=7), ("batch",), 320, [("batch", {"batch": 3}), ("batch", {"batch": 1})]),
    ("batch 1 has no half", plan(batch=1), ("batch",), 320, []),
    ("two devices", plan(batch=12, devices=2), ("batch",), 320, [("batch", {"batch": 6}), ("batch", {"batch": 2})]),
    ("three devices", plan(batch=9, devices=3), ("batch",), 320, [("batch", {"batch": 3})]),
    ("an image for each device", plan(batch=2, devices=2), ("batch",), 320, []),
    ("sizes below the own", plan(imgsz=500), ("imgsz",), 320, SIZES[1:]),
    ("the own size is no step", plan(imgsz=416), ("imgsz",), 320, SIZES[2:]),
    ("a large size", plan(imgsz=1280), ("imgsz",), 640, [("imgsz", {"imgsz": 640})]),
    ("a least size that is no step", plan(), ("imgsz",), 352, SIZES[:2]),
    ("a least size above the own", plan(imgsz=416), ("imgsz",), 640, []),
    ("no kinds", plan(), (), 320, []),
    ("nothing left", plan(batch=1, imgsz=320, **LEAN[1] | {"val_batch": 1}), DEFAULT_KINDS, 320, []),
    ("a plan that forgets whole layers already", plan(checkpointing="layers"), ("lean",), 320, [OTHERWISE_LEAN]),
    ("layers without lean", plan(), ("checkpointing",), 320, [LAYERS]),
]


@pytest.mark.parametrize(
    ("start", "kinds", "least", "steps"), [row[1:] for row in LADDERS], ids=[row[0] for row in LADDERS]
)
def test_the_ladders_exact_steps(
    start: Plan, kinds: tuple[str, ...], least: int, steps: list[tuple[str, Plan]]
) -> None:
    before = dict(start)
    assert changes(start, kinds, least) == steps
    assert start == before, "the plan itself is left as it was"


def test_each_step_contains_the_ones_before_it_and_says_what_it_costs() -> None:
    current = plan(cache="ram")
    for step in ladder(current, KINDS, 320):
        current = {**current, **step.changes}
        assert step.plan == current
        assert step.reason == COSTS[step.kind]


def weight(of: Plan) -> dict[str, float]:
    """How heavy each part of a plan is; validation's own batch is twice the training's where none is set."""
    return {
        "batch": of["batch"],
        "val_batch": of.get("val_batch") or 2 * of["batch"],
        "imgsz": of["imgsz"],
        "cache": bool(of["cache"]),
        "plots": bool(of["plots"]),
        "allocator": of.get("allocator") != "lean",
        "checkpointing": {"layers": 0, "norms": 1}.get(of.get("checkpointing") or "", 2),
    }


def any_plan(draw: random.Random) -> Plan:
    return plan(
        batch=draw.choice([1, 2, 3, 5, 8, 16, 63, 64]),
        imgsz=32 * draw.randint(1, 40),
        cache=draw.choice([False, "ram", "disk"]),
        plots=draw.random() < 0.5,
        checkpointing=draw.choice([False, False, "norms", "layers"]),
    )


def any_kinds(draw: random.Random) -> tuple[str, ...]:
    return tuple(draw.sample(KINDS, draw.randint(0, len(KINDS))))


def test_every_step_is_lighter_and_nothing_becomes_heavier() -> None:
    draw = random.Random(7)
    for _ in range(500):
        current, least = any_plan(draw), 32 * draw.randint(1, 20)
        for step in ladder(current, any_kinds(draw), least):
            before, after = weight(current), weight(step.plan)
            assert all(after[key] <= before[key] for key in before), (current, step)
            assert any(after[key] < before[key] for key in before), (current, step)
            assert step.plan["batch"] >= 1
            assert (step.plan["val_batch"] or 1) >= 1
            if step.kind == "imgsz":
                assert step.plan["imgsz"] % 32 == 0 and step.plan["imgsz"] >= least
            assert step.plan["model"] == current["model"] and step.plan["val_imgsz"] == current["val_imgsz"]
            current = step.plan


def test_a_run_in_which_every_plan_fails_comes_to_an_end_at_the_lightest() -> None:
    draw = random.Random(8)
    for _ in range(500):
        current, kinds, least = any_plan(draw), any_kinds(draw), 32 * draw.randint(1, 20)
        whole, taken, failed = ladder(current, kinds, least), [], [current]
        while lighter := next_fallback(current, failed, kinds, least):
            current = lighter.plan
            taken.append(current)
            failed.append({**current, "evidence": "torch on the CPU: RuntimeError"})
            assert len(taken) < 20
        assert taken == [step.plan for step in whole], "each of them once, in order"


def test_a_plan_that_failed_before_is_not_taken_again() -> None:
    steps = ladder(plan(), DEFAULT_KINDS, 320)
    failed = [steps[0].plan, {**steps[1].plan, "evidence": "our guard"}]
    chosen = next_fallback(plan(), failed, DEFAULT_KINDS, 320)
    assert chosen == steps[2]
    assert next_fallback(plan(), [step.plan for step in steps], DEFAULT_KINDS, 320) is None


@pytest.mark.parametrize(
    ("one", "other", "alike"),
    [
        (plan(), plan(), True),
        (plan(), plan(batch=2), False),
        (plan(), {**plan(), "evidence": "our guard"}, True),
        ({}, plan(), True),
        (plan(val_batch=4), plan(), False),
    ],
)
def test_plans_are_compared_by_what_both_of_them_say(one: Plan, other: Plan, alike: bool) -> None:
    assert same(one, other) is alike
    assert same(other, one) is alike


def test_checkpointing_is_taken_although_the_plan_never_said_that_it_was_off() -> None:
    lightest = plan(batch=1)
    chosen = next_fallback(lightest, [lightest], ("checkpointing",), 320)
    assert chosen is not None and chosen.kind == "checkpointing"


def test_lean_leaves_a_validation_batch_that_is_smaller_already() -> None:
    # The batch was raised with --resume after a fallback had lowered both.
    resumed = plan(batch=8, val_batch=1, plots=False, allocator="lean", checkpointing="norms")
    assert [step.plan["val_batch"] for step in ladder(resumed, ("lean", "batch"), 320)] == [1, 1, 1]


def test_every_kind_has_its_cost_and_every_size_is_a_multiple_of_the_stride() -> None:
    assert set(COSTS) == set(KINDS)
    assert all(size % 32 == 0 for size in IMAGE_SIZES)
    assert list(IMAGE_SIZES) == sorted(IMAGE_SIZES, reverse=True)
    assert set(fallbacks.LEAN) == {"plots", "cache", "allocator"}


def standings(
    failed: list[Plan], kinds: tuple[str, ...] = DEFAULT_KINDS, least: int = 416
) -> list[tuple[str, str, str]]:
    return [(one.fallback.name, one.standing, one.note) for one in known(plan(), failed, kinds, least)]


def test_what_is_known_of_each_fallback() -> None:
    lean, half, *_ = ladder(plan(), DEFAULT_KINDS, 416)
    failed = [{**lean.plan, "evidence": "our guard: 118 MiB free"}, dict(half.plan)]
    assert standings(failed) == [
        ("lean", "failed", "our guard: 118 MiB free"),
        ("batch 2", "failed", "no evidence was kept"),
        ("batch 1", "open", ""),
        ("checkpointing", "left out", "safety.yaml allows lean, batch, imgsz"),
        ("imgsz 512", "open", ""),
        ("imgsz 416", "open", ""),
        ("imgsz 320", "left out", "below min_imgsz 416"),
    ]
    assert {row[1:] for row in standings([], ())} == {("left out", "safety.yaml allows none")}


def test_the_plans_that_may_be_taken_hold_nothing_that_is_left_out() -> None:
    told = known(plan(), [], ("batch", "imgsz"), 512)
    usable = [one.fallback for one in told if one.standing == "open"]
    assert usable == ladder(plan(), ("batch", "imgsz"), 512)
    assert not any("checkpointing" in step.plan or "allocator" in step.plan for step in usable)


def test_next_is_what_the_supervisor_would_take() -> None:
    draw = random.Random(9)
    for _ in range(500):
        current, kinds, least = any_plan(draw), any_kinds(draw), 32 * draw.randint(1, 20)
        whole = ladder(current, kinds, least)
        failed = [step.plan for step in draw.sample(whole, draw.randint(0, len(whole)))]
        told = known(current, failed, kinds, least)
        assert len({one.fallback.name for one in told}) == len(told), "a name tells one of them"
        by_itself = next_fallback(current, [*failed, current], kinds, least)
        if by_itself is None:
            with pytest.raises(ConfigError, match="no lighter plan is left"):
                choose(told, NEXT)
        else:
            assert choose(told, NEXT) == choose(told, by_itself.name) == by_itself


THERE = "There are: batch 2, batch 1, imgsz 512, imgsz 416; or next, the first of them"


@pytest.mark.parametrize(
    ("choice", "said"),
    [
        ("batch 3", f"there is no fallback 'batch 3' below this plan. Did you mean 'batch 2'? {THERE}"),
        ("smaller", f"there is no fallback 'smaller' below this plan. {THERE}"),
        ("lean", f"the fallback 'lean' has failed in this run (SIGKILL). {THERE}"),
        ("imgsz 320", f"the fallback 'imgsz 320' is left out by the safety settings (below min_imgsz 416). {THERE}"),
    ],
)
def test_a_choice_that_cannot_be_had_says_why_and_what_there_is(choice: str, said: str) -> None:
    lean = ladder(plan(), DEFAULT_KINDS, 416)[0]
    told = known(plan(), [{**lean.plan, "evidence": "SIGKILL"}], DEFAULT_KINDS, 416)
    with pytest.raises(ConfigError) as error:
        choose(told, choice)
    assert str(error.value) == said


def test_where_nothing_is_left_every_reason_is_said() -> None:
    lightest = plan(batch=1, imgsz=512, **LEAN[1] | {"val_batch": 1})
    with pytest.raises(ConfigError) as error:
        choose(known(lightest, [{**lightest, "imgsz": 416, "evidence": "SIGKILL"}], DEFAULT_KINDS, 416), NEXT)
    assert str(error.value) == (
        "no lighter plan is left (checkpointing: left out, safety.yaml allows lean, batch, imgsz; "
        "imgsz 416: failed, SIGKILL; imgsz 320: left out, below min_imgsz 416)"
    )
    with pytest.raises(ConfigError, match="there is none below this one"):
        choose([], NEXT)
