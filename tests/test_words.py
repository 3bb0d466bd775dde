from __future__ import annotations

from typing import Any

import pytest

from rddkit import words
from rddkit.journal import EVENTS

PLAN = {"model": "yolov8n.pt", "batch": 2, "imgsz": 640, "workers": 0, "cache": False}
TOLD: list[tuple[dict[str, Any], str]] = [
    (
        {"event": "run_started", "name": "demo", "plan": PLAN},
        "Run 'demo' started: yolov8n.pt, batch 2, imgsz 640, workers 0.",
    ),
    ({"event": "imported", "source": "old/last.pt"}, "Taken in from old/last.pt."),
    (
        {"event": "estimated", "peak_bytes": 3 << 30, "budget": 4 << 30, "seconds": 7200},
        "Estimated: peak bytes 3.0 GB, budget 4.0 GB, seconds 2 h 0 min.",
    ),
    (
        {"event": "attempt_started", "attempt": 2, "plan": PLAN},
        "Attempt 2 started: yolov8n.pt, batch 2, imgsz 640, workers 0.",
    ),
    (
        {"event": "epoch", "epoch": 3, "epochs": 40, "seconds": 5400, "metrics": {"metrics/mAP50(B)": 0.4123}},
        "Epoch 3 of 40 done in 90 min: mAP50 0.412.",
    ),
    (
        {"event": "snapshot", "epoch": 3, "batch": 41, "bytes": 52 << 20, "seconds": 0.42},
        "Snapshot at epoch 3, batch 41: 52 MB in 0.4 s.",
    ),
    (
        {"event": "snapshot_failed", "error": "No space left on device"},
        "A snapshot could not be written: No space left on device.",
    ),
    (
        {"event": "cache_cleared", "freed_bytes": 1 << 30, "when": "before_validation"},
        "Device cache cleared (before validation): 1.0 GB freed.",
    ),
    ({"event": "cache_cleared", "freed_bytes": 0}, "Device cache cleared: nothing to free."),
    (
        {"event": "memory_warning", "available": 1 << 29, "reason": "swap grows"},
        "Memory is getting short: swap grows; available 512 MB.",
    ),
    ({"event": "slept", "seconds": 25920}, "The machine slept for 7 h 12 min."),
    (
        {"event": "attempt_ended", "attempt": 1, "cause": "oom", "evidence": "oom_kill 0 -> 1", "peak_bytes": 3 << 30},
        "Attempt 1 ended: out of memory (oom_kill 0 -> 1); peak memory 3.0 GB.",
    ),
    (
        {
            "event": "attempt_ended",
            "attempt": 1,
            "cause": "done",
            "peak_bytes": 3 << 30,
            "peak_resident_bytes": 4 << 30,
        },
        "Attempt 1 ended: all epochs are done; peak memory 3.0 GB (4.0 GB resident, as top shows it).",
    ),
    (
        {"event": "fallback", "from": PLAN, "to": {**PLAN, "batch": 1}, "reason": "it was out of memory", "epoch": 37},
        "Lighter plan at epoch 37: batch 2 -> 1, because it was out of memory.",
    ),
    (
        {
            "event": "resumed",
            "epoch": 3,
            "batch": 41,
            "lost_batches": 12,
            "lost_seconds": 41,
            "exact": True,
            "reason": "newest snapshot",
        },
        "Continued at epoch 3, batch 41 exactly (newest snapshot); 12 batches and 41 s of work lost.",
    ),
    (
        {
            "event": "resumed",
            "epoch": 3,
            "lost_batches": 0,
            "lost_seconds": 0,
            "exact": False,
            "reason": "from last.pt",
        },
        "Continued at epoch 3 not exactly (from last.pt); nothing lost.",
    ),
    (
        {"event": "run_stopped", "reason": "SIGINT", "epoch": 2, "batch": 5},
        "Stopped at epoch 2, batch 5: SIGINT; the same command continues it.",
    ),
    (
        {"event": "run_done", "epochs": 40, "best_epoch": 31, "best_map50": 0.5812, "seconds": 12000},
        "Finished after 40 epochs in 3 h 20 min; best mAP50 0.581 at epoch 31.",
    ),
    (
        {"event": "run_failed", "cause": "crash", "evidence": "KeyError: 'x'", "what_to_do": "rddkit doctor"},
        "Failed: an error in the program (KeyError: 'x'). What to do: rddkit doctor.",
    ),
]


@pytest.mark.parametrize(("event", "sentence"), TOLD, ids=[event["event"] for event, _ in TOLD])
def test_an_event_is_told_in_one_sentence(event: dict[str, Any], sentence: str) -> None:
    assert words.describe(event) == sentence


@pytest.mark.parametrize("name", sorted(EVENTS))
def test_every_event_of_the_design_is_told_even_without_its_fields(name: str) -> None:
    sentence = words.describe({"event": name})
    assert sentence.endswith(".") and "None" not in sentence and "_" not in sentence


@pytest.mark.parametrize("name", sorted(EVENTS))
def test_fields_of_the_wrong_kind_do_not_raise(name: str) -> None:
    keys = "name plan epoch epochs metrics seconds batch bytes error freed_bytes when cause evidence exit".split()
    keys += "peak_bytes from to reason lost_batches lost_seconds exact best_epoch best_map50 what_to_do source".split()
    for value in (None, "text", [1], {"a": 1}, float("nan"), -1, True):
        assert words.describe({"event": name, **dict.fromkeys(keys, value)})


def test_an_unknown_event_falls_back_to_its_name_and_fields() -> None:
    event = {
        "t": "2026-11-23T03:12:05.123Z",
        "event": "moon_landed",
        "attempt": 1,
        "crater_bytes": 3 << 20,
        "soft": True,
    }
    assert words.describe(event) == "Moon landed: crater bytes 3 MB, soft yes."
