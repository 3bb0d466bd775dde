"""What does supervision cost? Time and peak memory against plain `yolo train`, in interleaved pairs.

`python benchmarks/overhead.py --pairs 10` prints the ratio of training times with its 95 % interval, the ratio of the
median peaks, and the share of time that the worker's own timers say was spent in our code. About half an hour.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import psutil
import yaml
from rich.console import Console
from rich.table import Table

from rddkit import Run, clock, dataset, memory, offline, status

ARGS = {"model": "yolov8n.yaml", "batch": 2, "imgsz": 640, "workers": 0, "device": "cpu", "plots": False}
ARGS |= {"seed": 42, "epochs": 2}
POLL_SECONDS = 0.1


def watch(pid: int) -> int:
    """The most bytes that a process and its children held until it was gone."""
    peak = 0
    while psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE:
        peak = max(peak, memory.tree(pid).bytes)
        clock.sleep(POLL_SECONDS)
    return peak


def seconds(folder: Path) -> float:
    """The training time that results.csv tells."""
    return status.read_rows(folder / "results.csv")[-1]["time"]


def plain(folder: Path, config: Path, threads: int) -> tuple[float, int]:
    """Seconds and peak bytes of plain Ultralytics."""
    number = str(threads)
    environment = {**os.environ, **offline.environment(), "OMP_NUM_THREADS": number, "MKL_NUM_THREADS": number}
    command = [str(Path(sys.executable).with_name("yolo")), "detect", "train", f"cfg={config}"]
    words = [f"project={folder.parent}", f"name={folder.name}"]
    null = subprocess.DEVNULL
    child = subprocess.Popen([*command, *words], env=environment, stdout=null, stderr=null)
    peak = watch(child.pid)
    if child.wait() != 0:
        raise SystemExit(f"plain Ultralytics failed with exit code {child.returncode}: {' '.join(command)}")
    return seconds(folder), peak


def supervised(folder: Path, config: Path) -> tuple[float, int, float]:
    """Seconds, peak bytes of the worker, and the share of time in our code, of a supervised run."""
    safety = folder.parent / "safety.yaml"
    safety.write_text("estimate: false\npredictions: false\n")
    run = Run.create(config, safety=safety, project=str(folder.parent), name=folder.name).start()
    while not (pid := run.status().worker_pid):
        clock.sleep(POLL_SECONDS)
    peak = watch(pid)
    if run.wait() != 0:
        raise SystemExit(run.status().sentence)
    own = max(event["own_seconds"] for event in run.events() if event["event"] == "epoch")
    return seconds(folder), peak, own / seconds(folder)


def interval(ratios: list[float], draws: int = 10_000) -> tuple[float, float]:
    """The 95 % interval of the median of `ratios`, by bootstrap."""
    rng = random.Random(0)
    medians = sorted(statistics.median(rng.choices(ratios, k=len(ratios))) for _ in range(draws))
    return medians[int(0.025 * draws)], medians[int(0.975 * draws)]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, default=10)
    parser.add_argument("--images", type=int, default=72)
    parser.add_argument("--model", default=ARGS["model"])
    words = parser.parse_args()
    offline.prepare_home()
    base = Path(tempfile.mkdtemp(prefix="overhead-"))
    dataset.write_sample(base / "raw", images=words.images)
    dataset.prepare(base / "raw", base / "data")
    config = base / "overhead.yaml"
    config.write_text(yaml.safe_dump({**ARGS, "model": words.model, "data": str(base / "data" / "rdd2022.yaml")}))
    threads = len(psutil.Process().cpu_affinity() or [1])
    times, peaks, own = [], ([], []), []
    for pair in range(words.pairs):
        order = ("plain", "ours") if pair % 2 == 0 else ("ours", "plain")
        found: dict[str, tuple[float, int]] = {}
        for kind in order:
            folder = base / f"{kind}-{pair}"
            if kind == "plain":
                found[kind] = plain(folder, config, threads)
            else:
                took, peak, share = supervised(folder, config)
                found[kind] = (took, peak)
                own.append(share)
        times.append(found["ours"][0] / found["plain"][0])
        peaks[0].append(found["plain"][1])
        peaks[1].append(found["ours"][1])
        print(f"pair {pair + 1}: {found} own {own[-1]:.2%}", file=sys.stderr, flush=True)
    low, high = interval(times)
    ratio = statistics.median(peaks[1]) / statistics.median(peaks[0])
    table = Table("measure", "value", "wanted")
    table.add_row("time, ours / plain: median", f"{statistics.median(times):.3f}", "")
    table.add_row("time, ours / plain: 95 % interval", f"{low:.3f} to {high:.3f}", "lower end at most 1.03")
    table.add_row("median peak, ours / plain", f"{ratio:.3f}", "at most 1.02")
    table.add_row("time in our code", f"{statistics.median(own):.2%}", "at most 1 %")
    Console(width=100).print(table)
    shutil.rmtree(base, ignore_errors=True)
    return 0 if low <= 1.03 and ratio <= 1.02 and statistics.median(own) <= 0.01 else 1


if __name__ == "__main__":
    sys.exit(main())
