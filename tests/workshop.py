"""Real runs for tests: a root with one tiny run in it, and ways to start, watch and clean it up."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rddkit import clock, journal, lock
from rddkit.paths import RunPaths
from rddkit.status import Status, read_rows, read_status

REPOSITORY = Path(__file__).resolve().parent.parent
# A model and images small enough that an epoch takes a second; the rest of an attempt is torch's start.
TINY = {
    "model": "yolov8n.yaml",
    "epochs": 3,
    "imgsz": 32,
    "batch": 4,
    "workers": 0,
    "seed": 7,
    "device": "cpu",
    "plots": False,
    "val": True,
    "warmup_epochs": 1.0,
    "close_mosaic": 1,
    "project": "results",
    "name": "tiny",
}
Cli = Callable[..., "subprocess.CompletedProcess[str]"]

LAUNCH = 60.0  # seconds to the first epoch: torch's start on a busy machine

# A process that starts a run as a notebook kernel does, and then only waits.
CALLER = """
import signal, sys, time
from rddkit.run import Run
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job starts with it ignored
run = Run.create("configs/tiny.yaml").start(detach=sys.argv[1] == "detach")
print(run._supervisor.pid, flush=True)
time.sleep(600)
"""


def wait_for(what: Callable[[], Any], seconds: float = LAUNCH, each: float = 0.05) -> Any:
    """The first true answer of `what`; fails the test after `seconds`."""
    deadline = clock.monotonic() + seconds
    while not (answer := what()):
        assert clock.monotonic() < deadline, f"nothing within {seconds:.0f} s"
        clock.sleep(each)
    return answer


def events(run: RunPaths, *names: str) -> list[journal.Event]:
    return [event for event in journal.read_events(run.journal) if event["event"] in names]


def one_row_per_epoch(run: RunPaths, epochs: int) -> None:
    rows = read_rows(run.results_csv)
    assert [row["epoch"] for row in rows] == list(range(1, epochs + 1))
    times = [row["time"] for row in rows]
    assert times == sorted(times) and len(set(times)) == len(times), "time is continuous over attempts"


def alive(run: RunPaths, seconds: float = LAUNCH) -> Status:
    """The status once a worker is training."""
    return wait_for(lambda: (now := read_status(run)).worker_pid and now.phase == "train" and now, seconds)


def clean_up(run: RunPaths) -> None:
    """End what a failed test may have left, by the numbers that this run wrote down."""
    if not lock.is_held(run.lock):
        return
    progress = json.loads(run.progress.read_text()) if run.progress.exists() else {}
    for key in ("supervisor_pid", "worker_pid"):
        with contextlib.suppress(ProcessLookupError, TypeError):
            os.kill(progress[key], signal.SIGKILL)


class Workshop:
    """A root with one tiny run in it; processes get its environment."""

    def __init__(self, root: Path, name: str = "tiny") -> None:
        self.root = root
        self.run = RunPaths(root / "results" / name)
        self.environment = {**os.environ, "RDDKIT_ROOT": str(root)}

    def cli(self, *words: str, **env: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "rddkit.cli", *words]
        environment = {**self.environment, **env}
        return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=280, check=False)

    def train(self, *words: str, **env: str) -> subprocess.CompletedProcess[str]:
        return self.cli("train", "--config", "configs/tiny.yaml", *words, **env)

    def caller(self, how: str) -> subprocess.Popen[bytes]:
        """A caller in a process group of its own, its run started."""
        command = [sys.executable, "-c", CALLER, how]
        caller = subprocess.Popen(command, stdout=subprocess.PIPE, env=self.environment, start_new_session=True)
        assert caller.stdout is not None and caller.stdout.readline().strip().isdigit()
        caller.stdout.close()
        return caller
