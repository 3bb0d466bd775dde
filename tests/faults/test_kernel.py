"""Kills by the kernel itself, in a real memory cgroup: each named for what it was, and every run finishes."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import kernel
import psutil
import pytest
from compare import RECIPE, same_weights, train_once
from workshop import TINY, Workshop, events, one_row_per_epoch, wait_for

from rddkit.run import Run
from rddkit.status import read_progress

pytestmark = pytest.mark.faults
MIB = 1 << 20
# The group was charged with 972 MiB at batch 12, 687 MiB at batch 6, 541 MiB at batch 3 (torch 2.14, CPU).
BIG = {"batch": 12, "imgsz": 320, "epochs": 2}
BETWEEN = 830 * MIB
HABITS = "estimate: false\npredictions: false\nbackoff_seconds: 0.0\nsnapshot_seconds: 1.0\nfallbacks: [batch]\n"
BARE = HABITS + "cap: false\nguard: false\n"
# The smallest plan holds 396 MiB; the limit leaves it room to grow for some whole epochs, not for all of them.
SMALLEST = {**RECIPE, "batch": 1, "imgsz": 64, "epochs": 8}
GROWTH_MIB = 100
ROOM = 840 * MIB


class Confined:
    """A run whose command, supervisor and workers live in one memory cgroup."""

    def __init__(self, shop: Workshop, group: kernel.Group, safety: str) -> None:
        self.shop, self.group, self.run = shop, group, shop.run
        self.supervisor_peak = 0
        (shop.root / "configs" / "safety.yaml").write_text(safety)

    def train(self, meanwhile: Callable[[], object] = lambda: None, **env: str) -> int:
        """Train to the run's end, looking at the supervisor all the time; the exit code."""
        command = [sys.executable, "-m", "rddkit.cli", "train", "--config", "configs/tiny.yaml"]
        with open(self.shop.root / "said", "w") as said:
            caller = self.group.start(command, {**self.shop.environment, **env}, said.fileno())
            meanwhile()
            wait_for(lambda: self._look() or caller.poll() is not None, seconds=150)
        return caller.wait()

    def _look(self) -> None:
        with contextlib.suppress(psutil.Error, KeyError, OSError):
            pid = read_progress(self.run.progress)["supervisor_pid"]
            self.supervisor_peak = max(self.supervisor_peak, psutil.Process(pid).memory_info().rss)

    @property
    def said(self) -> str:
        return (self.shop.root / "said").read_text()

    def ended(self) -> list[tuple[str, str]]:
        return [(event["cause"], event["evidence"]) for event in events(self.run, "attempt_ended")]


@pytest.fixture
def confined(workshop: Callable[..., Workshop], request: pytest.FixtureRequest) -> Iterator[Callable[..., Confined]]:
    """`confined(limit, safety, **settings)`: a tiny run in a memory cgroup with that limit."""
    with contextlib.ExitStack() as stack:

        def make(limit: int, safety: str, **settings: Any) -> Confined:
            try:
                group = stack.enter_context(kernel.group(limit))
            except kernel.Impossible as reason:
                pytest.skip(str(reason))
            return Confined(workshop(request.node.name[:40], **settings), group, safety)

        yield make


def test_a_plan_that_the_kernel_kills_is_named_oom_by_its_counter_and_a_lighter_one_finishes(
    confined: Callable[..., Confined],
) -> None:
    one = confined(BETWEEN, BARE, **BIG)
    assert one.train() == 0, one.said
    (cause, evidence), *_, (last, _) = one.ended()
    assert (cause, last) == ("oom", "done")
    assert str(one.group.folder) in evidence and "the kernel's kill counter went up by 1" in evidence
    assert one.group.kills == len(one.ended()) - 1
    assert events(one.run, "fallback")[0]["to"] == {"batch": 6}
    one_row_per_epoch(one.run, BIG["epochs"])
    assert 0 < one.supervisor_peak <= 40 * MIB


def test_with_cap_and_guard_the_kernel_never_kills_and_a_lighter_plan_finishes(
    confined: Callable[..., Confined],
) -> None:
    one = confined(BETWEEN, HABITS, **BIG)
    assert one.train() == 0, one.said
    assert one.group.kills == 0
    *tried, (last, _) = one.ended()
    assert tried and [cause for cause, _ in tried] == ["oom"] * len(tried) and last == "done"
    assert all("counter" not in evidence for _, evidence in tried)
    assert len(events(one.run, "fallback")) == len(tried)
    one_row_per_epoch(one.run, BIG["epochs"])


@pytest.mark.campaign
def test_a_plain_kill_in_the_same_group_is_no_sign_of_memory(confined: Callable[..., Confined]) -> None:
    one = confined(BETWEEN, BARE, batch=2, imgsz=64)

    def kill() -> None:
        wait_for(lambda: events(one.run, "epoch"))
        os.kill(read_progress(one.run.progress)["worker_pid"], signal.SIGKILL)

    assert one.train(kill) == 0, one.said
    assert [cause for cause, _ in one.ended()] == ["killed", "done"]
    assert one.group.kills == 0 and not events(one.run, "fallback")
    first, second = events(one.run, "attempt_started")
    assert first["plan"] == second["plan"]
    one_row_per_epoch(one.run, TINY["epochs"])


@pytest.mark.campaign
@pytest.mark.timeout(400)
def test_the_smallest_plan_with_growing_memory_finishes_in_fresh_processes_with_the_same_weights(
    confined: Callable[..., Confined],
) -> None:
    inject = Path(__file__).resolve().parent / "inject_growth"
    one = confined(ROOM, BARE, **SMALLEST)
    assert one.train(PYTHONPATH=str(inject), RDDKIT_GROW_MIB=str(GROWTH_MIB)) == 0, one.said
    *leaks, (last, _) = one.ended()
    assert leaks and [cause for cause, _ in leaks] == ["leak"] * len(leaks) and last == "done", one.ended()
    assert one.group.kills == len(leaks)
    assert all("peaks grew from" in evidence and str(one.group.folder) in evidence for _, evidence in leaks)
    assert not events(one.run, "fallback")
    plans = [event["plan"] for event in events(one.run, "attempt_started")]
    assert all(plan == plans[0] for plan in plans)
    one_row_per_epoch(one.run, SMALLEST["epochs"])
    record = Run.open(one.run.folder).record
    assert record is not None
    settings = {**TINY, **SMALLEST, "data": record.config["data"]}
    same_weights(one.run.folder, train_once("plain", one.shop.root / "plain" / "run", settings))
