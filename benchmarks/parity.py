"""Is a supervised run the same as a plain one, bit for bit, killed or not?

For each recipe: plain Ultralytics, our loop uninterrupted, and a supervised run killed with SIGKILL again and again;
every tensor and every csv row is compared. All of it takes about half an hour on two cores:
`python benchmarks/parity.py`; a part of it: `python benchmarks/parity.py --recipes yolo11n-SGD`
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

from rddkit import Run, clock, dataset, status
from rddkit.journal import read_events

HERE = Path(__file__).resolve().parent.parent
# A batch of 2 accumulated to 64, a warm-up, mosaic that closes: what a resume can get wrong.
BASE = {"imgsz": 64, "batch": 2, "nbs": 64, "workers": 0, "seed": 42, "device": "cpu", "plots": False}
BASE |= {"close_mosaic": 2, "warmup_epochs": 1.0, "epochs": 6, "patience": 50}
OPTIMIZERS = {"SGD": {"optimizer": "SGD", "cos_lr": True}, "AdamW": {"optimizer": "AdamW", "lr0": 0.001}}
RECIPES = [f"{model}-{optimizer}" for model in ("yolov8n", "yolo11n", "yolo26n") for optimizer in OPTIMIZERS]
KILLED = ("yolov8n-SGD", "yolo11n-AdamW", "yolo26n-SGD")  # a killed run takes minutes: one optimizer a model
KILL_POINTS = ("batch", "snapshot_write", "snapshot_renamed", "validated", "before_csv_row", "csv_row", "checkpoint")
OFTEN = KILL_POINTS[:3]  # reached many times in an epoch; waiting for the third of the others would use up the epochs
FINAL_POINT = "stripped_last"  # in the final evaluation


def once(kind: str, folder: Path, args: dict[str, object]) -> None:
    words = [f"{key}={value}" for key, value in args.items()]
    command = [sys.executable, str(HERE / "tests/faults/train_once.py"), kind, str(folder), *words]
    subprocess.run(command, check=True, cwd=HERE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def equal_tensors(one: Path, other: Path) -> str:
    """`355 of 355`: the tensors of two saved states, or two checkpoints, that are equal to the bit."""
    first, second = (torch.load(path, map_location="cpu", weights_only=False) for path in (one, other))
    if "model" in first and hasattr(first["model"], "state_dict"):
        first, second = first["model"].state_dict(), second["model"].state_dict()
    same = sum(key in second and torch.equal(value, second[key]) for key, value in first.items())
    return f"{same} of {len(first)}"


def rows(folder: Path) -> list[dict[str, str]]:
    with open(folder / "results.csv", newline="") as file:
        return [{k.strip(): v for k, v in row.items() if k.strip() != "time"} for row in csv.DictReader(file)]


def reached(progress: dict[str, object]) -> float:
    """How far a run is, in epochs, of which validation is the last fifth."""
    if progress.get("phase") not in ("train", "validate") or not progress.get("batch"):
        return 0.0
    share = 0.8 * progress["batch"] / progress["batches"] if progress["phase"] == "train" else 0.9
    return progress["epoch"] - 1 + share


def killed(folder: Path, args: dict[str, object], kills: int, seed: int) -> list[str]:
    """A supervised run with `kills` real SIGKILLs: at named places, at random instants from there to its end, and once
    in the final evaluation; what was killed where.
    """
    rng = random.Random(seed)
    times = {point: rng.randint(1, 3) if point in OFTEN else 1 for point in KILL_POINTS}
    named = [f"{n}:{point}@{times[point]}" for n, point in enumerate(KILL_POINTS, 1)][: kills // 2]
    final = [f"{attempt}:{FINAL_POINT}@1" for attempt in range(len(named) + 1, kills + 1)]
    safety = folder.parent / f"{folder.name}-safety.yaml"
    safety.write_text(
        "snapshot_seconds: 1.0\nretries: 100\nbackoff_seconds: 0.0\nestimate: false\npredictions: false\n"
    )
    os.environ["RDDKIT_KILL"] = ",".join([*named, *final])
    config = folder.parent / f"{folder.name}.yaml"
    config.write_text("\n".join(f"{k}: {v}" for k, v in args.items()))
    run = Run.create(config, safety=safety, project=str(folder.parent), name=folder.name).start()
    os.environ.pop("RDDKIT_KILL")
    story: list[str] = []
    last = 0
    places: list[float] = []
    while run.is_alive():
        clock.sleep(0.02)
        progress = status.read_progress(run.paths.progress)
        attempt, place = progress.get("attempt") or 0, reached(progress)
        if attempt <= len(named) or attempt == last or not place:
            continue
        if not places:  # the named places are behind: the others lie between here and the end
            places = sorted(rng.uniform(place, args["epochs"]) for _ in range(kills - 1 - len(named)))
        if len(story) < len(places) and place >= places[len(story)]:
            last = attempt
            clock.sleep(rng.uniform(0.0, 0.2))
            now = status.read_progress(run.paths.progress)
            story.append(f"{now['phase']} {now['epoch']}.{now['batch']}")
            with contextlib.suppress(ProcessLookupError):  # between two attempts there is none
                os.kill(progress["worker_pid"], signal.SIGKILL)
    run.wait()
    return [*named, *story, FINAL_POINT]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--recipes", nargs="+", choices=RECIPES, default=RECIPES)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--images", type=int, default=96)
    parser.add_argument("--keep", type=Path)
    words = parser.parse_args()
    base = words.keep or Path(tempfile.mkdtemp(prefix="parity-"))
    base.mkdir(parents=True, exist_ok=True)
    dataset.write_sample(base / "raw", images=words.images)
    dataset.prepare(base / "raw", base / "data")
    table = Table("recipe", "our loop = plain", "callbacks", "killed = plain (last.pt)", "rows", "attempts", "exact")
    good = True
    for recipe in words.recipes:
        model, optimizer = recipe.split("-")
        args = {**BASE, **OPTIMIZERS[optimizer], "epochs": words.epochs, "model": f"{model}.yaml"}
        args["data"] = str(base / "data" / "rdd2022.yaml")
        plain, ours, dead = base / f"{recipe}-plain", base / f"{recipe}-ours", base / f"{recipe}-killed"
        for folder in (plain, ours, dead):
            shutil.rmtree(folder, ignore_errors=True)
        once("plain", plain, args)
        once("ours", ours, args)
        whole = equal_tensors(plain / "ema.pt", ours / "ema.pt")
        names = [json.loads((folder / "callbacks.json").read_text()) for folder in (plain, ours)]
        line = [recipe, whole, "equal" if names[0] == names[1] else "DIFFER"]
        if words.kills and recipe in KILLED:
            story = killed(dead, args, words.kills, seed=7)
            events = read_events(dead / "events.jsonl")
            resumed = [event for event in events if event["event"] == "resumed"]
            ends = [event["cause"] for event in events if event["event"] == "attempt_ended"]
            same = equal_tensors(plain / "weights/last.pt", dead / "weights/last.pt")
            exact = sum(bool(event["exact"]) for event in resumed)
            equal = "equal" if rows(plain) == rows(dead) else "DIFFER"
            line += [same, equal, f"{len(ends)}: {ends.count('killed')} killed", f"{exact} of {len(resumed)}"]
            print(recipe, "killed at:", ", ".join(story), file=sys.stderr)
            good &= equal == "equal" and len(set(same.split(" of "))) == 1
        good &= names[0] == names[1] and len(set(whole.split(" of "))) == 1
        table.add_row(*line)
    Console(width=140).print(table)
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
