"""What two runs are compared by, and ways to train without a supervisor where the test is about the loop alone."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from workshop import TINY

from rddkit import runfile
from rddkit.paths import RunPaths
from rddkit.recording import cpu_threads
from rddkit.run import Run

HERE = Path(__file__).resolve().parent
# Accumulation over epochs' ends, warm-up, mosaic that closes, a cosine: what a resume can get wrong.
RECIPE: dict[str, Any] = {
    "imgsz": 64,
    "batch": 2,
    "nbs": 16,
    "epochs": 4,
    "close_mosaic": 1,
    "warmup_epochs": 1.0,
    "cos_lr": True,
    "optimizer": "SGD",
}


def equal_tensors(one: Path, other: Path) -> tuple[int, int]:
    """How many tensors of two saved states, or of two checkpoints, are equal to the bit, and of how many."""
    import torch

    def load(path: Path) -> dict[str, Any]:
        content = torch.load(path, map_location="cpu", weights_only=False)
        return content["model"].state_dict() if hasattr(content.get("model"), "state_dict") else content

    first, second = load(one), load(other)
    assert first.keys() == second.keys()
    return sum(torch.equal(value, second[key]) for key, value in first.items()), len(first)


def same_weights(one: Path, other: Path) -> None:
    """Assert that last.pt and best.pt of two run folders hold the same tensors, every one."""
    for name in ("weights/last.pt", "weights/best.pt"):
        same, of = equal_tensors(one / name, other / name)
        assert same == of > 300, f"{name}: {same} of {of} tensors are equal"


def rows(folder: Path) -> list[dict[str, str]]:
    """The rows of results.csv without their times."""
    with open(folder / "results.csv", newline="") as file:
        return [{key.strip(): v for key, v in row.items() if key.strip() != "time"} for row in csv.DictReader(file)]


def steps(run: RunPaths) -> list[tuple[int, int]]:
    """(epoch, batch) of every row of steps.csv, in the file's order."""
    with open(run.steps_csv, newline="") as file:
        return [(int(row["epoch"]), int(row["batch"])) for row in csv.DictReader(file)]


def train_once(kind: str, folder: Path, settings: dict[str, Any]) -> Path:
    """Train in one child, `plain` Ultralytics or `ours`; the folder, with ema.pt and callbacks.json in it."""
    left_out = ("project", "name")
    words = [f"{key}={json.dumps(value)}" for key, value in settings.items() if key not in left_out]
    command = [sys.executable, str(HERE / "faults" / "train_once.py"), kind, str(folder), *words]
    threads = str(cpu_threads()[0])
    environment = {**os.environ, "PARITY_THREADS": threads, "OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads}
    answer = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert answer.returncode == 0, answer.stderr[-3000:]
    return folder


def plain_run(data: Path, temporary: Path) -> Path:
    """The folder of the uninterrupted run of RECIPE by Ultralytics alone, trained once a session; read only."""
    folder = temporary / "plain" / "run"
    if not folder.exists():
        folder.parent.mkdir()
        train_once("plain", folder, {**TINY, **RECIPE, "data": str(data)})
    return folder


@dataclass
class Recorded:
    """An attempt without a supervisor: its exit status, what it told, and what every batch was."""

    code: int
    events: list[dict[str, Any]]
    batches: list[dict[str, Any]]
    validated: list[list[int]]

    def told(self, name: str) -> list[dict[str, Any]]:
        return [event for event in self.events if event["event"] == name]


class Attempts:
    """A run whose attempts are started one by one, each in a process of its own."""

    def __init__(self, root: Path) -> None:
        """`root` holds configs/tiny.yaml. What is in this machine is not asked: the CPU, its usual threads."""
        self.root = root
        run = Run.create(root / "configs" / "tiny.yaml")
        assert run.record is not None
        self.paths, self.record = run.paths, run.record
        self.paths.folder.mkdir(parents=True)
        self.write()
        self.number = 0

    def write(self) -> None:
        self.record.write(self.paths.run_yaml)

    def change(self, **settings: Any) -> None:
        """As `rddkit train --resume key=value` does."""
        run = Run.create(self.root / "configs" / "tiny.yaml", resume=True, **settings)
        assert run.record is not None
        self.record = run.record
        self.write()

    def attempt(self, stop_after: int = 0, kill: str = "", snapshot_seconds: float = 600.0) -> Recorded:
        """The next attempt. It stops after `stop_after` batches, or is killed at the fault point `kill`, as batch@9."""
        self.number += 1
        self.record.safety["snapshot_seconds"] = snapshot_seconds
        self.write()
        out = self.paths.folder / f"recorded-{self.number}.jsonl"
        script = HERE / "faults" / "attempts.py"
        words = [str(self.paths.folder), str(self.number), str(stop_after), str(out)]
        threads = str(self.record.threads)
        environment = {**os.environ, "OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads}
        environment["RDDKIT_KILL"] = f"{self.number}:{kill}" if kill else ""
        answer = subprocess.run(
            [sys.executable, str(script), *words], capture_output=True, text=True, env=environment, check=False
        )
        assert answer.returncode in (0, 75, -9), answer.stderr[-3000:] + answer.stdout[-1000:]
        lines = [json.loads(line) for line in out.read_text().splitlines()]
        kinds = {kind: [line["is"] for line in lines if line["kind"] == kind] for kind in ("event", "batch", "val")}
        return Recorded(answer.returncode, kinds["event"], kinds["batch"], kinds["val"])


def images_of(attempts: list[Recorded], epoch: int) -> list[str]:
    """The images of an epoch in the order in which they were trained on, over several attempts."""
    return [image for one in attempts for batch in one.batches if batch["epoch"] == epoch for image in batch["images"]]


def run_yaml(run: RunPaths, **fields: Any) -> None:
    """Change fields of a run's record, as an editor would."""
    record = runfile.read(run.run_yaml)
    for key, value in fields.items():
        setattr(record, key, value)
    record.write(run.run_yaml)
