"""The most memory of a training, ours beside plain Ultralytics: charged bytes, default settings, the same weights.

`python benchmarks/peak.py --pairs 5` trains yolov8s, batch 2, 640 pixels, three epochs of a few steps on the CPU, ours
and plain in turn. The peak is the sum over all processes of a training (the caller, the supervisor and the worker of
ours) of what counts against a memory limit, read every few milliseconds. Ultralytics' Ray callback is off for both:
where Ray is installed it imports it, another 90 MiB. Linux. About fifteen minutes on two cores.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import yaml
from kernel_kills import images
from rich.console import Console
from rich.table import Table

from rddkit import clock, memory, offline
from rddkit.memory import MIB

ARGS = {"model": "yolov8s.yaml", "batch": 2, "imgsz": 640, "epochs": 3, "workers": 0, "seed": 7, "device": "cpu"}
ARGS |= {"plots": False, "optimizer": "AdamW", "close_mosaic": 0, "nbs": 4}
ALLOWED = 0.78
POLL_SECONDS = 0.005
PLAIN = """
import sys, yaml
from ultralytics.models.yolo.detect import DetectionTrainer
import ultralytics.utils.torch_utils as torch_utils
import torch
torch_utils.NUM_THREADS = THREADS
torch.set_num_threads(THREADS)
DetectionTrainer(overrides=yaml.safe_load(open(sys.argv[1]))).train()
"""


@dataclass
class Measured:
    """One training: charged bytes of all its processes and of the largest at the peak, seconds, and what it learned."""

    name: str
    peak: int
    largest: int
    seconds: float
    weights: str


def watched(command: list[str], env: dict[str, str], log: Path) -> tuple[int, int, float]:
    """Run a command; the most that all its processes held at once, the most that one held, and its seconds."""
    began, peak, largest = clock.monotonic(), 0, 0
    with open(log, "wb") as output:
        child = subprocess.Popen(command, stdout=output, stderr=output, env=env)
    family = psutil.Process(child.pid)
    members, looked = [family], began
    while child.poll() is None:
        if clock.monotonic() - looked > 0.2:  # to look for children takes longer than to read what they hold
            looked = clock.monotonic()
            members = [family, *family.children(recursive=True)]
        held = [memory.process(member.pid).bytes for member in members]
        peak, largest = max(peak, sum(held)), max(largest, *held)
        clock.sleep(POLL_SECONDS)
    if child.returncode != 0:
        raise SystemExit(f"{command} failed:\n{log.read_text()[-3000:]}")
    return peak, largest, clock.monotonic() - began


def weights(last: Path) -> str:
    """A hash of a checkpoint's weights."""
    import torch

    state = torch.load(last, map_location="cpu", weights_only=False)["model"].state_dict()
    return hashlib.sha256(b"".join(tensor.numpy().tobytes() for tensor in state.values())).hexdigest()


def train(name: str, root: Path, data: Path, threads: int) -> Measured:
    """One training in a folder of its own."""
    args: dict[str, Any] = {**ARGS, "data": str(data), "project": str(root / "results"), "name": "one"}
    (root / "results").mkdir(parents=True)
    (root / "one.yaml").write_text(yaml.safe_dump(args))
    env = {**os.environ, "RDDKIT_ROOT": str(root), "OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads)}
    if name == "plain":
        command = [sys.executable, "-c", PLAIN.replace("THREADS", str(threads)), str(root / "one.yaml")]
        env |= offline.environment()
    else:
        (root / "safety.yaml").write_text("estimate: false\npredictions: false\nsnapshot_seconds: 5.0\n")
        command = [sys.executable, "-m", "rddkit.cli", "train", "--config", str(root / "one.yaml")]
        command += ["--safety", str(root / "safety.yaml")]
    peak, largest, seconds = watched(command, env, root / "log")
    return Measured(name, peak, largest, seconds, weights(root / "results" / "one" / "weights" / "last.pt"))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--images", type=int, default=12)
    words = parser.parse_args()
    offline.prepare_home()
    from rddkit.recording import cpu_threads

    base = Path(tempfile.mkdtemp(prefix="peak-"))
    data, found = images(base, words.images), []
    out = Console(width=110)
    for number in range(words.pairs):
        for name in ("ours", "plain") if number % 2 else ("plain", "ours"):
            root = base / f"{name}-{number}"
            found.append(one := train(name, root, data, cpu_threads()[0]))
            out.print(f"{name} {number + 1}: {one.peak / MIB:.0f} MiB ({one.largest / MIB:.0f}), {one.seconds:.0f} s")
            shutil.rmtree(root)
    table = Table("", "median peak", "largest process", "seconds")
    for name in ("plain", "ours"):
        of = [one for one in found if one.name == name]
        sizes = [f"{statistics.median(getattr(one, key) for one in of) / MIB:.0f} MiB" for key in ("peak", "largest")]
        table.add_row(name, *sizes, f"{statistics.median(one.seconds for one in of):.0f}")
    pairs = list(zip(*([one for one in found if one.name == name] for name in ("ours", "plain")), strict=True))
    ratio = statistics.median(ours.peak / plain.peak for ours, plain in pairs)
    same = len({one.weights for one in found}) == 1
    out.print(table)
    out.print(f"ours / plain: {ratio:.3f} (allowed {ALLOWED}); weights {'equal to the bit' if same else 'NOT EQUAL'}")
    shutil.rmtree(base, ignore_errors=True)
    return 0 if same and ratio <= ALLOWED else 1


if __name__ == "__main__":
    sys.exit(main())
