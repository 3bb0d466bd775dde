"""Kills by the kernel, again and again: does every run finish, and is every kill named for what it was?

In a memory cgroup whose limit lies between two plans' peaks, `--times 20` trains yolov8n 20 times with cap and guard
off (the kernel kills: its counter goes up), 20 times with both on (it never does), and 20 times with a plain `kill -9`.
Real images where ../shared/rdd2022-sample is there, else painted ones. Needs root and a writable cgroup hierarchy.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

import yaml
from rich.console import Console
from rich.table import Table

from rddkit import clock, dataset, journal, status
from rddkit.paths import RunPaths

HERE = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(HERE / "tests" / "faults"))
import kernel  # noqa: E402

SAMPLE = HERE.parent / "shared" / "rdd2022-sample" / "China_MotorBike" / "train"
ARGS = {"model": "yolov8n.yaml", "imgsz": 320, "epochs": 2, "workers": 0, "seed": 7, "device": "cpu", "plots": False}
ARGS |= {"project": "results", "name": "one"}
BIG, LIGHT = 12, 6  # batches; the group was charged with 972 and 687 MiB
LIMIT = 830 << 20
SAFE = "estimate: false\npredictions: false\nbackoff_seconds: 0.0\nsnapshot_seconds: 1.0\nfallbacks: [batch]\n"
BARE = SAFE + "cap: false\nguard: false\n"
KINDS = {
    "the kernel's kill, cap and guard off": (BIG, BARE),
    "cap and guard on": (BIG, SAFE),
    "kill -9": (LIGHT, BARE),
}
SECONDS = 180.0  # a run takes 20 to 30


@dataclass
class Outcome:
    """What became of one run."""

    kind: str
    seconds: float
    kills: int
    causes: list[str]
    wrong: list[str] = field(default_factory=list)


def images(folder: Path, count: int) -> Path:
    """The data.yaml of a few dozen images, real ones where they are there."""
    if SAMPLE.is_dir():
        for path in sorted((SAMPLE / "images").glob("*.jpg"))[:count]:
            for source in (path, SAMPLE / "annotations" / "xmls" / f"{path.stem}.xml"):
                target = folder / "raw" / SAMPLE.parent.name / "train" / source.relative_to(SAMPLE)
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(source, target)
    else:
        dataset.write_sample(folder / "raw", images=count)
    dataset.prepare(folder / "raw", folder / "data", val_fraction=0.25, block=4)
    return folder / "data" / "rdd2022.yaml"


def train(kind: str, root: Path, data: Path, moment: float) -> Outcome:
    """One run in a group of its own. A plain kill comes `moment` seconds after the first batch."""
    batch, safety = KINDS[kind]
    (root / "configs").mkdir(parents=True)
    (root / "results").mkdir()
    (root / "configs" / "safety.yaml").write_text(safety)
    (root / "configs" / "one.yaml").write_text(yaml.safe_dump({**ARGS, "batch": batch, "data": str(data)}))
    run = RunPaths(root / "results" / "one")
    command = [sys.executable, "-m", "rddkit.cli", "train", "--config", "configs/one.yaml"]
    began, due = clock.monotonic(), kind == "kill -9"
    with kernel.group(LIMIT) as group, open(root / "said", "w") as said:
        caller = group.start(command, {**os.environ, "RDDKIT_ROOT": str(root)}, said.fileno())
        while caller.poll() is None and clock.monotonic() - began < SECONDS:
            now = status.read_progress(run.progress)
            if due and now.get("phase") == "train":
                due = False
                clock.sleep(moment)
                with contextlib.suppress(ProcessLookupError):
                    os.kill(int(now["worker_pid"]), signal.SIGKILL)
            clock.sleep(0.05)
        code, kills = caller.poll(), group.kills
    caller.wait()
    events = journal.read_events(run.journal)
    causes = [str(event["cause"]) for event in events if event["event"] == "attempt_ended"]
    outcome = Outcome(kind, clock.monotonic() - began, kills, causes)
    outcome.wrong = list(wrong(outcome, code, events, run))
    return outcome


def wrong(outcome: Outcome, code: int | None, events: list[journal.Event], run: RunPaths) -> list[str]:
    """What is not as it should be."""
    lighter = sum(event["event"] == "fallback" for event in events)
    *ended, last = outcome.causes or ["nothing"]
    said = [event["evidence"] for event in events if event["event"] == "attempt_ended"][:-1]
    epochs = [row["epoch"] for row in status.read_rows(run.results_csv)]
    checks = {f"exit {code}": code == 0, f"epochs {epochs}": epochs == [1, 2], f"ended {last}": last == "done"}
    if outcome.kind == "kill -9":
        checks[f"named {ended}"] = ended == ["killed"]
        checks[f"{lighter} lighter plans"] = lighter == 0
    else:
        checks[f"named {ended}"] = bool(ended) and set(ended) == {"oom"}
        checks[f"{lighter} lighter plans"] = lighter == len(ended)
    by_kernel = len(ended) if KINDS[outcome.kind] == (BIG, BARE) else 0
    checks[f"counter {outcome.kills}"] = outcome.kills == by_kernel
    checks[f"evidence {said}"] = sum("kill counter went up" in text for text in said) == by_kernel
    return [text for text, right in checks.items() if not right]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--times", type=int, default=20)
    parser.add_argument("--images", type=int, default=32)
    words = parser.parse_args()
    out = Console(width=120)
    rng = random.Random(0)
    outcomes: list[Outcome] = []
    with tempfile.TemporaryDirectory(prefix="kernel-kills-") as base:
        data = images(Path(base), words.images)
        for number in range(words.times):
            for place, kind in enumerate(KINDS):
                root = Path(base) / f"{number}-{place}"
                outcomes.append(one := train(kind, root, data, rng.uniform(0.0, 1.0)))
                told = "; ".join(one.wrong) or "as it should be"
                out.print(f"{kind} {number + 1}: {one.seconds:.0f} s, {one.causes}: {told}", markup=False)
                if one.wrong:
                    subprocess.run(["tail", "-n", "20", str(root / "said")], check=False)
                shutil.rmtree(root)
    table = Table("kind", "runs", "as it should be", "the kernel's kills", "causes", "seconds a run")
    for kind in KINDS:
        of = [one for one in outcomes if one.kind == kind]
        right = sum(not one.wrong for one in of)
        names = sorted({cause for one in of for cause in one.causes[:-1]})
        counted = str(sum(one.kills for one in of))
        mean = sum(one.seconds for one in of) / len(of)
        table.add_row(kind, str(len(of)), str(right), counted, ", ".join(names), f"{mean:.0f}")
    out.print(table)
    return 1 if any(one.wrong for one in outcomes) else 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except kernel.Impossible as reason:
        print(f"kernel_kills: {reason}", file=sys.stderr)
        sys.exit(1)
