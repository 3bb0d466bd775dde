"""What a night can bring, on real processes: memory that runs out in every phase, a hang, a pause, NaN, a lost disk."""

from __future__ import annotations

import html
import json
import os
import re
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from compare import RECIPE, rows, same_weights, train_once
from workshop import TINY, Workshop, alive, events, one_row_per_epoch, wait_for

from rddkit import clock, memory, words
from rddkit.run import Run
from rddkit.status import read_progress, read_status

pytestmark = pytest.mark.faults
INJECT = Path(__file__).resolve().parent / "inject"
SOON = "snapshot_seconds: 1.0\nbackoff_seconds: 0.0\nestimate: false\npredictions: false\n"
PHASES = {
    "forward": "the forward pass",
    "backward": "the backward pass",
    "step": "the optimizer's step",
    "loading": "loading images",
    "validation": "validation",
    "saving": "saving a checkpoint",
}
# As the allocators of torch 2.14 write them.
MESSAGES = {
    "cpu": {
        "message": "[enforce fail at alloc_cpu.cpp:124] err == 0. DefaultCPUAllocator: can't allocate memory: you "
        "tried to allocate 52428800 bytes. Error code 12 (Cannot allocate memory)"
    },
    "cuda": {
        "kind": "OutOfMemoryError",
        "message": "CUDA out of memory. Tried to allocate 20.00 MiB. GPU 0 has a total capacity of 7.79 GiB of which "
        "9.06 MiB is free.",
    },
    "mps": {
        "message": "MPS backend out of memory (MPS allocated: 8.00 GB, other allocations: 9.50 GB, max allowed: "
        "18.13 GB). Tried to allocate 256.00 MB on private pool. Use PYTORCH_MPS_HIGH_WATERMARK_RATIO=0.0 to disable "
        "upper limit for memory allocations (may cause system failure)."
    },
}


class Night:
    """A run in which faults are injected."""

    def __init__(
        self, shop: Workshop, patch: pytest.MonkeyPatch, faults: list[dict[str, Any]], safety: str, hang: str
    ) -> None:
        self.shop, self.patch = shop, patch
        self.run = shop.run
        fired = shop.root / "fired"
        fired.mkdir()
        plan = [{"id": str(number), **fault} for number, fault in enumerate(faults)]
        (shop.root / "configs" / "safety.yaml").write_text(safety)
        self.environment = {
            "PYTHONPATH": str(INJECT),
            "RDDKIT_INJECT": json.dumps(plan),
            "RDDKIT_INJECT_DIR": str(fired),
            "RDDKIT_HANG_SECONDS": hang,
        }
        self.fired = fired

    def train(self) -> int:
        answer = self.shop.train(**self.environment)
        self.said = answer.stdout + answer.stderr
        return answer.returncode

    def start(self) -> Run:
        """As a notebook does; the processes get the test's environment."""
        for key, value in {**self.shop.environment, **self.environment}.items():
            self.patch.setenv(key, value)
        return Run.create(self.shop.root / "configs" / "tiny.yaml").start()

    def causes(self) -> list[str]:
        return [event["cause"] for event in events(self.run, "attempt_ended")]


@pytest.fixture
def night(workshop: Callable[..., Workshop], monkeypatch: pytest.MonkeyPatch) -> Callable[..., Night]:
    def make(faults: list[dict[str, Any]], safety: str = SOON, hang: str = "", **settings: Any) -> Night:
        return Night(workshop("night", **{**RECIPE, **settings}), monkeypatch, faults, safety, hang)

    return make


def out_of_memory(epoch: int, shift: int) -> list[dict[str, Any]]:
    """One fault a phase of `epoch`, the three devices' messages in turn."""
    kinds = list(MESSAGES.values())
    return [
        {"what": "oom", "where": where, "epoch": epoch, **kinds[(number + shift) % 3]}
        for number, where in enumerate(PHASES)
    ]


SHIFTS = [0, pytest.param(1, marks=pytest.mark.campaign), pytest.param(2, marks=pytest.mark.campaign)]


@pytest.mark.parametrize("shift", SHIFTS)
@pytest.mark.parametrize("epoch", [1, pytest.param(3, marks=pytest.mark.campaign)])
def test_memory_that_runs_out_in_any_phase_is_named_and_leads_to_a_lighter_plan(
    night: Callable[..., Night], epoch: int, shift: int
) -> None:
    one = night(out_of_memory(epoch, shift), batch=32)
    assert one.train() == 0, one.said
    assert one.causes() == ["oom"] * len(PHASES) + ["done"]
    evidence = [event["evidence"] for event in events(one.run, "attempt_ended")][:-1]
    assert sorted(text[text.rindex("(in ") + 4 : -1] for text in evidence) == sorted(PHASES.values()), evidence
    told = events(one.run, "fallback")
    assert [event["kind"] for event in told] == ["lean", *["batch"] * 5]
    assert [event["to"]["batch"] for event in told[1:]] == [16, 8, 4, 2, 1]
    assert all(event["costs"] for event in told)
    one_row_per_epoch(one.run, RECIPE["epochs"])
    assert "batch 32 -> 16" in read_status(one.run).sentence


def test_a_hang_ends_with_stacks_in_the_log_and_the_same_plan(night: Callable[..., Night]) -> None:
    fault = {"what": "hang", "where": "batch", "epoch": 2}
    one = night([fault], hang="12")
    assert one.train() == 0, one.said
    assert one.causes() == ["hang", "done"]
    (hung, _) = events(one.run, "attempt_ended")
    assert "in phase train at epoch 2" in hung["evidence"] and "12 s are allowed" in hung["evidence"]
    log = one.run.log(1).read_text()
    assert "sitecustomize.py" in log[log.rindex("most recent call first") :], "the stack says where it hung"
    assert not events(one.run, "fallback")
    one_row_per_epoch(one.run, RECIPE["epochs"])


def test_both_processes_stopped_for_longer_than_the_deadline_are_no_hang(night: Callable[..., Night]) -> None:
    one = night([], hang="20", epochs=8)
    run = one.start()
    pids = [alive(run.paths).worker_pid, read_progress(run.paths.progress)["supervisor_pid"]]
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    clock.sleep(25)
    for pid in reversed(pids):
        os.kill(pid, signal.SIGCONT)
    assert run.wait(timeout=120) == 0
    assert one.causes() == ["done"]


def test_what_is_not_a_number_goes_back_to_the_last_good_snapshot(night: Callable[..., Night]) -> None:
    one = night([{"what": "nan", "where": "batch", "epoch": 2}])
    assert one.train() == 0, one.said
    assert one.causes() == ["nonfinite", "done"]
    (ended, _) = events(one.run, "attempt_ended")
    assert "the loss is nan at epoch 2" in ended["evidence"]
    (resumed,) = events(one.run, "resumed")
    assert resumed["exact"] is False and "other random numbers" in resumed["reason"]
    one_row_per_epoch(one.run, RECIPE["epochs"])
    assert all("nan" not in value.lower() for row in rows(one.run.folder) for value in row.values())


def test_what_is_never_a_number_ends_the_run_with_what_to_do(night: Callable[..., Night]) -> None:
    always = [{"what": "nan", "where": "batch", "epoch": 1} for _ in range(9)]
    one = night(always, SOON + "retries: 2\n")
    assert one.train() == 1
    assert one.causes() == ["nonfinite"] * 3
    assert "3 attempts in a row without progress; 2 are allowed" in one.said
    assert read_status(one.run).exit_code == 1


def test_a_crash_is_not_tried_again_and_shows_its_last_words(night: Callable[..., Night]) -> None:
    one = night([{"what": "crash", "where": "forward", "epoch": 2, "message": "a shape that does not fit"}])
    assert one.train() == 1
    assert one.causes() == ["crash"]
    assert "a shape that does not fit" in one.said and str(one.run.log(1)) in one.said
    assert one.train() == 0, "mended (the fault fires once), the same command continues"
    one_row_per_epoch(one.run, RECIPE["epochs"])


def test_a_data_set_that_goes_away_is_said_and_its_return_continues(night: Callable[..., Night]) -> None:
    one = night([], epochs=6)
    run = one.start()
    data = Path(data_of(one))
    worker = alive(run.paths).worker_pid
    assert worker
    away = data.rename(data.with_name("away.yaml"))
    try:
        os.kill(worker, signal.SIGKILL)
        assert run.wait(timeout=60) == 1
        assert "is not at" in read_status(run.paths).sentence
    finally:
        away.rename(data)
    assert one.train() == 0, one.said
    one_row_per_epoch(one.run, 6)


def test_the_supervisor_is_small_and_tells_whom_it_was_asked_to_tell(night: Callable[..., Night]) -> None:
    one = night([{"what": "oom", "where": "forward", "epoch": 1, **MESSAGES["cpu"]}])
    told = one.shop.root / "told.txt"
    script = one.shop.root / "tell"
    script.write_text(f'#!/bin/sh\necho "$RDDKIT_WHAT: $RDDKIT_SENTENCE" >> "{told}"\n')
    script.chmod(0o755)
    (one.shop.root / "configs" / "safety.yaml").write_text(SOON + f"notify: ['{script}']\n")
    run = one.start()
    alive(run.paths)
    held = memory.process(read_progress(run.paths.progress)["supervisor_pid"]).bytes
    assert run.wait(timeout=120) == 0
    assert held < 40 << 20
    lines = told.read_text().splitlines()
    assert [line.split(":")[0] for line in lines] == ["fallback", "done"]
    assert "Finished" in lines[-1]
    wait_for(lambda: not run.is_alive(), 5)


@pytest.mark.campaign
def test_a_run_with_every_fault_of_a_night_reports_what_the_journal_says(night: Callable[..., Night]) -> None:
    faults = [
        {"what": "nan", "where": "batch", "epoch": 1},
        {"what": "oom", "where": "backward", "epoch": 2, **MESSAGES["cpu"]},
        {"what": "oom", "where": "saving", "epoch": 3, **MESSAGES["mps"]},
    ]
    one = night(faults)
    assert one.train() == 0, one.said
    lost = sum(event["lost_seconds"] for event in events(one.run, "resumed"))
    assert one.causes() == ["nonfinite", "oom", "oom", "done"]
    assert read_status(one.run).lost_seconds == pytest.approx(lost)
    page = one.run.report_html.read_text()
    assert "in 3 kills" in re.sub(r"<[^>]+>", " ", page)
    for event in events(one.run, "attempt_ended"):
        assert words.describe(event) in html.unescape(page), "every fault is in the report"


@pytest.mark.campaign
def test_a_hang_in_validation_ends_with_the_weights_of_a_run_left_alone(night: Callable[..., Night]) -> None:
    one = night([{"what": "hang", "where": "validation", "epoch": 2}], hang="12")
    assert one.train() == 0, one.said
    assert one.causes() == ["hang", "done"]
    plain = train_once("plain", one.shop.root / "plain" / "run", {**TINY, **RECIPE, "data": data_of(one)})
    same_weights(one.run.folder, plain)


def data_of(one: Night) -> str:
    record = Run.open(one.run.folder).record
    assert record is not None
    return str(record.config["data"])
