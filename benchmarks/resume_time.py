"""From a SIGKILL to the next training step: how long, against plain `yolo train`'s start to its first step?

`python benchmarks/resume_time.py --times 5`: medians of interleaved starts and kills; wanted is at most plain's start +
2 s + reading the snapshot.
"""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import psutil
import yaml
from rich.console import Console
from rich.table import Table

from rddkit import Run, clock, dataset, offline, status
from rddkit.snapshot import Store

ARGS = {"model": "yolov8n.yaml", "batch": 2, "imgsz": 320, "workers": 0, "device": "cpu", "plots": False}
ARGS |= {"seed": 42, "epochs": 300}
# `yolo train` as its own command does it, ended after its first batch.
PLAIN = """
import os, sys
from ultralytics import YOLO
from ultralytics.utils import YAML
settings = YAML.load(sys.argv[1])
model = YOLO(settings.pop("model"))
model.add_callback("on_train_batch_end", lambda _: os._exit(0))
model.train(**settings, project=sys.argv[2], exist_ok=True)
"""


def plain(config: Path, folder: Path, threads: int) -> float:
    """Seconds from the start of plain Ultralytics to the end of its first batch."""
    number = str(threads)
    environment = {**os.environ, **offline.environment(), "OMP_NUM_THREADS": number, "MKL_NUM_THREADS": number}
    began = clock.monotonic()
    command = [sys.executable, "-c", PLAIN, str(config), str(folder)]
    subprocess.run(command, env=environment, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return clock.monotonic() - began


def trained(run: Run, attempt: int) -> int:
    """The worker's number once `attempt` has trained a batch."""
    while True:
        progress = status.read_progress(run.paths.progress)
        if progress.get("attempt") == attempt and progress.get("phase") == "train":
            return int(progress["worker_pid"])
        clock.sleep(0.01)


def killed(run: Run, attempt: int) -> tuple[float, float]:
    """Seconds from the SIGKILL of `attempt` to the next one's first batch, and of them what reading took."""
    pid = trained(run, attempt)
    run.snapshot()
    while not any(e["event"] == "snapshot" and e["attempt"] == attempt for e in run.events()):
        clock.sleep(0.05)
    clock.sleep(1.0)
    store = Store(run.paths.snapshots)
    began = clock.monotonic()
    store.newest(print)
    reading = clock.monotonic() - began
    began = clock.monotonic()
    os.kill(pid, signal.SIGKILL)
    trained(run, attempt + 1)
    return clock.monotonic() - began, reading


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--times", type=int, default=5)
    words = parser.parse_args()
    offline.prepare_home()
    base = Path(tempfile.mkdtemp(prefix="resume-"))
    dataset.write_sample(base / "raw", images=72)
    dataset.prepare(base / "raw", base / "data")
    config = base / "resume.yaml"
    config.write_text(yaml.safe_dump({**ARGS, "data": str(base / "data" / "rdd2022.yaml")}))
    safety = base / "safety.yaml"
    safety.write_text("retries: 100\nbackoff_seconds: 0.0\nestimate: false\npredictions: false\n")
    threads = len(psutil.Process().cpu_affinity() or [1])
    run = Run.create(config, safety=safety, project=str(base), name="killed").start()
    starts, resumes, readings = [], [], []
    for attempt in range(1, words.times + 1):
        took, reading = killed(run, attempt)
        resumes.append(took)
        readings.append(reading)
        os.kill(trained(run, attempt + 1), signal.SIGSTOP)  # so that plain has the machine to itself
        starts.append(plain(config, base / "plain", threads))
        os.kill(trained(run, attempt + 1), signal.SIGCONT)
    run.stop(at_once=True)
    run.wait()
    start, resume, reading = (statistics.median(values) for values in (starts, resumes, readings))
    table = Table("median of", "seconds")
    table.add_row("plain: start to first step", f"{start:.2f}")
    table.add_row("ours: SIGKILL to next step", f"{resume:.2f}")
    table.add_row("of that, reading the snapshot", f"{reading:.2f}")
    table.add_row("allowed", f"{start + 2 + reading:.2f}")
    Console(width=100).print(table)
    shutil.rmtree(base, ignore_errors=True)
    return 0 if resume <= start + 2 + reading else 1


if __name__ == "__main__":
    sys.exit(main())
