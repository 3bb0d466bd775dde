"""Kills of real workers at moments nobody chose, again and again."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable

import psutil
import pytest
from workshop import Workshop, events, one_row_per_epoch, wait_for

from rddkit import clock
from rddkit.run import Run
from rddkit.status import read_rows, read_status

pytestmark = pytest.mark.faults


def kill_next_worker(shop: Workshop, attempt: int, when: Callable[[], object] = lambda: True) -> None:
    """Kill the worker of that attempt once `when` holds."""
    began = wait_for(lambda: next((e for e in events(shop.run, "attempt_started") if e["attempt"] == attempt), None))
    wait_for(when)
    os.kill(began["worker_pid"], signal.SIGKILL)


def test_kills_without_progress_end_the_run_with_exit_1_and_the_reason(workshop: Callable[..., Workshop]) -> None:
    shop = workshop("stuck")
    limits = "retries: 2\nbackoff_seconds: 0.2\nestimate: false\npredictions: false\n"
    (shop.root / "configs" / "safety.yaml").write_text(limits)
    assert shop.train("--detach").returncode == 0
    for attempt in (1, 2, 3):
        kill_next_worker(shop, attempt)  # while Python starts: nothing was trained
    assert Run.open(shop.run.folder).wait(timeout=30) == 1
    (failed,) = events(shop.run, "run_failed")
    assert (failed["cause"], failed["exit"]) == ("killed", 1)
    assert len(events(shop.run, "attempt_started")) == 3
    assert "3 attempts in a row without progress; 2 are allowed" in shop.run.supervisor_log.read_text()
    ended = [event["cause"] for event in events(shop.run, "attempt_ended")]
    assert ended == ["killed"] * 3
    assert read_status(shop.run).sentence.count("3 kills") == 1


@pytest.mark.campaign
@pytest.mark.timeout(400)
def test_a_run_killed_at_moments_nobody_chose_ends_whole(workshop: Callable[..., Workshop]) -> None:
    shop = workshop("often", epochs=10)
    assert shop.train("--detach").returncode == 0
    for attempt, moment in ((1, 2), (2, 4), (3, 6)):
        kill_next_worker(shop, attempt, lambda moment=moment: len(read_rows(shop.run.results_csv)) >= moment)
    assert Run.open(shop.run.folder).wait(timeout=200) == 0
    one_row_per_epoch(shop.run, 10)
    assert [event["cause"] for event in events(shop.run, "attempt_ended")] == ["killed", "killed", "killed", "done"]
    assert read_status(shop.run).kills == 3


def test_a_worker_killed_right_after_its_supervisor_frees_the_run_at_once(workshop: Callable[..., Workshop]) -> None:
    shop = workshop("both")
    assert shop.train("--detach").returncode == 0
    now = wait_for(lambda: (now := read_status(shop.run)).worker_pid and now)
    supervisor = psutil.Process(now.supervisor_pid)
    os.kill(supervisor.pid, signal.SIGKILL)
    os.kill(now.worker_pid, signal.SIGKILL)
    began = clock.monotonic()
    run = Run.open(shop.run.folder)
    wait_for(lambda: not run.is_alive(), 5)
    assert clock.monotonic() - began < 5
    assert run.status().state == "dead"


def test_a_stop_right_after_the_start_is_not_lost(workshop: Callable[..., Workshop]) -> None:
    shop = workshop("early")
    assert shop.train("--detach").returncode == 0
    stop = shop.cli("stop", "--now")
    assert stop.returncode == 0 and "Stopped" in stop.stdout
    assert read_status(shop.run).state == "stopped"
    assert read_status(shop.run).exit_code == 143
