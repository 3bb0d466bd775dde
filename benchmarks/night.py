"""A night in small: 30 epochs with a fault every 20 to 40 seconds and a snapshot every 5. What is lost, and is it told?

`python benchmarks/night.py --seed 1`: about ten minutes. Faults, in an order drawn from the seed: `kill -9` of the
worker, of its supervisor (then started again), a safe stop (then started again), memory that runs out in the forward
pass, the backward pass and validation, a hang, a loss that is not a number. Exit 0 if the run finishes with one row per
epoch, no fault cost more work than an interval and the batch in which a snapshot was due, and the report lists every
fault and sums up to the journal's figures.
"""

from __future__ import annotations

import argparse
import html
import json
import os
import random
import re
import shutil
import signal
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import yaml
from rich.console import Console
from rich.table import Table

from rddkit import Run, clock, dataset, journal, status, words

HERE = Path(__file__).resolve().parent.parent
EPOCHS, INTERVAL = 30, 5.0
BATCH_SECONDS = 1.0  # a batch of this recipe takes 0.1 s on two quiet cores
ARGS = {"model": "yolov8n.yaml", "batch": 16, "imgsz": 128, "workers": 0, "device": "cpu", "plots": False}
ARGS |= {"seed": 42, "epochs": EPOCHS, "nbs": 16}
SAFETY = f"snapshot_seconds: {INTERVAL}\nbackoff_seconds: 0.0\nhang_seconds: 15\nretries: 5\n"
SAFETY += "estimate: false\npredictions: false\n"
MESSAGE = (
    "[enforce fail at alloc_cpu.cpp:124] err == 0. DefaultCPUAllocator: can't allocate memory: you tried to allocate "
    "52428800 bytes. Error code 12 (Cannot allocate memory)"
)
INJECTED = [
    {"what": "oom", "where": "forward", "message": MESSAGE},
    {"what": "oom", "where": "backward", "message": MESSAGE},
    {"what": "oom", "where": "validation", "message": MESSAGE},
    {"what": "hang", "where": "batch"},
    {"what": "nan", "where": "batch"},
]
OTHERS = ["kill -9 worker", "kill -9 supervisor", "stop"]
CAUSES = {"oom": "oom", "hang": "hang", "nan": "nonfinite", "kill -9 worker": "killed", "stop": "stopped"}


def start(config: Path, safety: Path, base: Path) -> Run:
    return Run.create(config, safety=safety, project=str(base), name="night").start()


def training(run: Run) -> dict[str, object]:
    """The progress once a worker trains or validates; empty when all epochs are done: a kill would hit nothing."""
    while run.is_alive() and len(status.read_rows(run.paths.results_csv)) < EPOCHS:
        now = status.read_progress(run.paths.progress)
        if now.get("phase") in ("train", "validate") and run.status().worker_pid:
            return now
        clock.sleep(0.05)
    return {}


def bring_faults(run: Run, rng: random.Random, fired: Path, again: Callable[[], Run]) -> tuple[Run, list[str]]:
    """A fault every 20 to 40 s until the run ends; `again` starts it after one that ended its supervisor."""
    waiting: list[object] = [*faults(), *OTHERS]
    rng.shuffle(waiting)
    told: list[str] = []
    while run.is_alive():
        clock.sleep(rng.uniform(20, 40))
        now = training(run)
        if not now:
            break
        fault = waiting.pop() if waiting else "kill -9 worker"
        if isinstance(fault, dict):
            (fired / f"armed-{fault['id']}").touch()
            told.append(fault["what"])
        elif fault == "kill -9 supervisor":
            os.kill(int(str(now["supervisor_pid"])), signal.SIGKILL)
            run.wait()
            told.append(fault)
            run = again()
        elif fault == "stop":
            run.stop()
            run.wait()
            told.append(fault)
            run = again()
        else:
            os.kill(int(str(now["worker_pid"])), signal.SIGKILL)
            told.append(str(fault))
        print(f"epoch {now['epoch']}: {told[-1]}", flush=True)
    return run, told


def faults() -> list[dict[str, object]]:
    """The injected ones, which wait to be armed."""
    return [{"id": str(number), "armed": True, **fault} for number, fault in enumerate(INJECTED)]


def judge(run: Run, told: list[str]) -> tuple[Table, bool]:
    """What the faults cost and whether all is as it should be."""
    events = journal.read_events(run.paths.journal)
    ended = [event for event in events if event["event"] == "attempt_ended"]
    lost = [event["lost_seconds"] for event in events if event["event"] == "resumed"]
    epochs = [row["epoch"] for row in status.read_rows(run.paths.results_csv)]
    shown = html.unescape(re.sub(r"<[^>]+>", "", run.paths.report_html.read_text()))
    missing = [words.describe(event) for event in ended if words.describe(event) not in shown]
    expected = sorted(CAUSES[name] for name in told if name in CAUSES)
    seen = sorted(event["cause"] for event in ended if event["cause"] in CAUSES.values())
    checks = {
        "finishes: exit 0, one row per epoch": run.wait() == 0 and epochs == list(range(1, EPOCHS + 1)),
        "each fault has its cause": expected == seen,
        "most work lost by a fault is an interval": max(lost, default=0.0) <= INTERVAL + BATCH_SECONDS,
        "the report lists every attempt's end": not missing,
        "its sum is the journal's": abs(run.status().lost_seconds - sum(lost)) < 0.01,
    }
    table = Table("", "")
    table.add_row("faults", f"{len(told)}: {', '.join(told)}")
    table.add_row("attempts, causes", f"{len(ended)}: {', '.join(event['cause'] for event in ended)}")
    table.add_row("work lost, each in s", ", ".join(f"{seconds:.1f}" for seconds in lost))
    table.add_row("in all, most", f"{sum(lost):.1f} s, {max(lost, default=0.0):.1f} s")
    for check, good in checks.items():
        table.add_row(check, "yes" if good else "NO")
    for text in missing:
        table.add_row("not in the report", text)
    return table, all(checks.values())


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--images", type=int, default=240)
    asked = parser.parse_args()
    base = Path(tempfile.mkdtemp(prefix="night-"))
    dataset.write_sample(base / "raw", images=asked.images)
    dataset.prepare(base / "raw", base / "data")
    config, safety, fired = base / "night.yaml", base / "safety.yaml", base / "fired"
    fired.mkdir()
    config.write_text(yaml.safe_dump({**ARGS, "data": str(base / "data" / "rdd2022.yaml")}))
    safety.write_text(SAFETY)
    os.environ["PYTHONPATH"] = str(HERE / "tests" / "faults" / "inject")
    os.environ["RDDKIT_INJECT"], os.environ["RDDKIT_INJECT_DIR"] = json.dumps(faults()), str(fired)

    def again() -> Run:
        return start(config, safety, base)

    run, told = bring_faults(again(), random.Random(asked.seed), fired, again)
    table, good = judge(run, told)
    Console(width=110).print(table)
    print(run.status().sentence)
    if good:
        shutil.rmtree(base, ignore_errors=True)
    else:
        print(f"kept: {base}", file=sys.stderr)
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
