"""What lighter plans save and what they cost, at yolov8s, batch 2, 640 pixels on the CPU.

Trains a plan and the one before it in turn, each in a fresh supervised worker: `--what lean` against the default one,
`--what checkpointing` (of whole layers) against lean. Prints the median peaks (charged bytes) and the medians of the
pairs' ratios of time; weights must be equal to the bit. Five pairs take about ten minutes on two idle cores; `--keep
FILE` adds to the pairs of earlier calls. Real images where ../shared/rdd2022-sample is there, else painted ones. Linux
alone: peaks are read from /proc.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import shutil
import statistics
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from kernel_kills import images
from rich.console import Console
from rich.table import Table

from rddkit import Run, clock, fallbacks, memory, offline, status
from rddkit.paths import RunPaths

# The seed's configuration, which is yolov8s at 2x640. Without plots, which a lean plan leaves out too: they would only
# make the default look heavier.
CONFIG = "configs/training_phase1_mps_safe.yaml"
ARGS = {"model": "yolov8s.yaml", "device": "cpu", "epochs": 1, "plots": False}
PLANS = ("default", "lean", "checkpointing")
BEFORE = {"lean": "default", "checkpointing": "lean"}
POLL_SECONDS = 0.005
LESS_MEMORY, MORE_TIME = 0.12, 0.10  # what a plan must save to be worth at most that


@dataclass
class Measured:
    """One run: its plan, the most it held in bytes, its training and processor time in seconds, and what it learned."""

    plan: str
    peak: int
    seconds: float
    processor: float
    losses: list[float]
    weights: str


def plan_of(name: str, plan: dict[str, Any]) -> dict[str, Any]:
    """The plan that the fallbacks would take, from the default one."""
    for kind in PLANS[1 : PLANS.index(name) + 1]:
        steps = fallbacks.ladder(plan, [kind], least_imgsz=plan["imgsz"])
        plan = steps[0].plan
    return plan


def last_seen(pid: int) -> tuple[int, float]:
    """The most charged bytes and the seconds of processor time of a process (proc(5)), read until it is gone."""
    peak, processor = 0, 0.0
    while held := memory.process(pid).bytes:  # 0 for a zombie
        try:
            spent = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[11:13]
        except OSError:
            break
        peak, processor = max(peak, held), sum(map(int, spent)) / 100
        clock.sleep(POLL_SECONDS)
    return peak, processor


def weights(run: RunPaths) -> str:
    """A hash of the last checkpoint's weights."""
    state = torch.load(run.last, map_location="cpu", weights_only=False)["model"].state_dict()
    return hashlib.sha256(b"".join(tensor.numpy().tobytes() for tensor in state.values())).hexdigest()


def train(name: str, data: Path, folder: Path) -> Measured:
    """One supervised run under a plan."""
    folder.parent.mkdir(exist_ok=True)
    safety = folder.parent / "safety.yaml"
    safety.write_text("estimate: false\npredictions: false\n")
    place = {"project": str(folder.parent), "name": folder.name}
    run = Run.create(CONFIG, safety=safety, data=str(data), **place, **ARGS)
    assert run.record is not None
    run.record.plan = plan_of(name, run.record.plan)
    run.start()
    while not (pid := run.status().worker_pid):
        clock.sleep(POLL_SECONDS)
    peak, processor = last_seen(pid)
    if run.wait() != 0 or len([event for event in run.events() if event["event"] == "attempt_started"]) != 1:
        raise SystemExit(f"{name}: {run.status().sentence}")
    row = status.read_rows(run.paths.results_csv)[-1]
    losses = [value for key, value in row.items() if key.startswith("train/")]
    return Measured(name, peak, row["time"], processor, losses, weights(run.paths))


def table(found: list[Measured]) -> tuple[Table, bool]:
    """Medians by plan against the plan before it; whether it saves what it must and the weights are equal."""
    out = Table("plan", "runs", "median peak", "against", "less memory", "more time", "more processor time")
    met = len({one.weights for one in found}) == len({tuple(one.losses) for one in found}) == 1
    for name in PLANS:
        of = [one for one in found if one.plan == name]
        before = [one for one in found if one.plan == BEFORE.get(name)]
        if not of:
            continue
        cells = [name, str(len(of)), f"{statistics.median(one.peak for one in of) / 2**20:.0f} MiB"]
        if before:
            less = 1 - statistics.median(one.peak for one in of) / statistics.median(one.peak for one in before)
            pairs = list(zip(of, before, strict=False))
            more = statistics.median(one.seconds / other.seconds for one, other in pairs) - 1
            cpu = statistics.median(one.processor / other.processor for one, other in pairs) - 1
            cells += [BEFORE[name], f"{less:.1%}", f"{more:+.1%}", f"{cpu:+.1%}"]
            met &= less >= LESS_MEMORY and more <= MORE_TIME
        out.add_row(*cells)
    return out, met


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--what", choices=PLANS[1:], default="lean")
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--images", type=int, default=32)
    parser.add_argument("--keep", type=Path, help="a JSON lines file of measured runs to add to")
    words = parser.parse_args()
    offline.prepare_home()
    plans = (BEFORE[words.what], words.what)
    found = []
    if words.keep and words.keep.exists():
        found = [Measured(**json.loads(line)) for line in words.keep.read_text().splitlines()]
    base = Path(tempfile.mkdtemp(prefix="lean-"))
    data = images(base, words.images)
    for number in range(len(found) // 2, len(found) // 2 + words.pairs):
        for name in plans if number % 2 == 0 else reversed(plans):
            one = train(name, data, base / "runs" / f"{name}-{number}")
            found.append(one)
            print(json.dumps({**asdict(one), "weights": one.weights[:12]}), file=sys.stderr, flush=True)
            if words.keep:
                with open(words.keep, "a") as file:
                    file.write(json.dumps(asdict(one)) + "\n")
            shutil.rmtree(base / "runs")
    shown, met = table(found)
    out = Console(width=120)
    out.print(shown)
    same = len({one.weights for one in found}) == 1
    out.print(f"weights of all {len(found)} runs: {'equal to the bit' if same else 'NOT EQUAL'}")
    shutil.rmtree(base, ignore_errors=True)
    return 0 if met else 1


if __name__ == "__main__":
    sys.exit(main())
