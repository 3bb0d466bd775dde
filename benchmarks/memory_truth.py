"""What a plan really needs: the most that a fresh worker is charged for while it trains, validates and saves.

`python benchmarks/memory_truth.py --keep FOLDER [--count N] [--workers 2] [--seconds BUDGET]` draws plans at random and
measures those that FOLDER does not hold yet; after them a tenth once more, which tells how much runs of one plan
differ. `--shifts` measures pairs of plans that differ by one setting, and prints the table of what each shifts.
`--table CSV` writes what FOLDER holds as a table. Linux only: charged bytes are anonymous and shared memory and page
tables (RssAnon + RssShmem + VmPTE in /proc/PID/status), which a cgroup counts and the kernel cannot take back; they are
read every 3 ms. 140 plans take about 50 minutes, two at a time on two cores: what a process holds does not depend on
how fast it is.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import random
import select
import shutil
import subprocess
import sys
import threading
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

from PIL import Image

from rddkit import clock, dataset, estimate, fallbacks, life, need, offline, paths, runfile
from rddkit.memory import GIB, MIB
from rddkit.need import Facts
from rddkit.recording import cpu_threads
from rddkit.safety import Safety
from rddkit.traits import table

SAMPLE = Path(__file__).resolve().parent.parent.parent / "shared" / "rdd2022-sample"
TABLE = Path(__file__).with_name("memory_truths.csv")
# Chosen before any truth was seen: the constants are fitted to the first families, the others are never fitted.
FITTED = ("yolov8", "yolov9", "yolo11", "yolo26")
UNSEEN = ("yolov5", "yolov10", "yolo12")
# The forward pass of an image of 640 pixels in billions of operations, as Ultralytics' documentation has it: they tell
# which plans are too slow to be measured. Larger models are drawn less often.
OPERATIONS: dict[str, dict[str, float]] = {
    "yolov8": {"n": 8.7, "s": 28.6, "m": 78.9, "l": 165.2},
    "yolov9": {"t": 7.7, "s": 26.4, "m": 76.3, "c": 102.1},
    "yolo11": {"n": 6.5, "s": 21.5, "m": 68.0, "l": 86.9},
    "yolo26": {"n": 5.4, "s": 20.7, "m": 68.2, "l": 86.4},
    "yolov5": {"n": 7.7, "s": 24.0, "m": 64.2, "l": 135.0},
    "yolov10": {"n": 6.7, "s": 21.6, "m": 59.1, "b": 92.0},
    "yolo12": {"n": 6.5, "s": 21.4, "m": 67.5, "l": 88.9},
}
SCALES = (0.40, 0.30, 0.20, 0.10)  # how often each of a family's scales is drawn
BATCHES = (1, 2, 3, 4, 6, 8, 12, 16)
SMALLEST, LARGEST, STRIDE = 160, 960, 32
OPTIMIZERS = ("SGD", "AdamW", "MuSGD")
LEAN, LAYERS, PLOTS = 0.25, 0.10, 0.05  # shares of plans
MOST_BYTES, MOST_SECONDS = 2.5 * GIB, 90.0  # of a plan's live tensors; of its measurement
START_SECONDS, SPEED = 16.0, 22e9  # of a worker; operations a second, two workers at a time
SEED, COUNT, AGAIN = 2026, 140, 0.1
OURS = ("allocator", "val_batch", "checkpointing")  # keys of a plan that Ultralytics does not know
DATA = ("wide", "steps")  # keys of a plan that are about its images: half as high, so many batches
SINGLE = ("epochs", "cache", "fraction", "workers", "rect", "multi_scale")  # those that `--shifts` changes
# Plans with a setting and without it, as (setting, without, with). One epoch of 32 steps: many images, many sizes.
FEW = {"model": "yolov8n.yaml", "batch": 4, "imgsz": 416, "optimizer": "SGD", "epochs": 1, "steps": 32}
SHIFTS: list[tuple[str, dict[str, Any], dict[str, Any]]] = [
    ("cache: ram", FEW, {**FEW, "cache": "ram"}),
    ("fraction: 0.25 of what is cached", {**FEW, "cache": "ram"}, {**FEW, "cache": "ram", "fraction": 0.25}),
    ("workers: 4", FEW, {**FEW, "workers": 4}),
    ("rect, images 2:1", {**FEW, "wide": True}, {**FEW, "wide": True, "rect": True}),
    ("multi_scale: 0.5", FEW, {**FEW, "multi_scale": 0.5}),
]
# Three epochs: what the first leaves behind in the heap, validation and saving included, is held in all later ones.
EPOCHS, STEPS, MANY_STEPS, VAL_BATCHES = 3, 2, 8, 2
PLAN = {"workers": 0, "cache": False, "plots": False, "amp": False, "multi_scale": 0.0, "val_batch": None}
POLL_MS = 3
CHARGED = ("RssAnon", "RssShmem", "VmPTE")


class Held(NamedTuple):
    """What a process holds in bytes: charged now, and the most that was resident."""

    charged: int
    resident: int


def held(pid: int) -> Held:
    """What a process holds; nothing for one that is gone."""
    found = {}
    try:
        with open(f"/proc/{pid}/status", encoding="ascii") as file:
            for line in file:
                name, _, rest = line.partition(":")
                if name in CHARGED or name == "VmHWM":
                    found[name] = int(rest.split()[0]) << 10
    except (OSError, ValueError):
        pass
    return Held(sum(found.get(name, 0) for name in CHARGED), found.get("VmHWM", 0))


# -- plans -------------------------------------------------------------------------------------------------------------


def family(model: str) -> str:
    """The family of a model: `yolov8` of `yolov8n.yaml`, `yolov5` of `yolov5nu`."""
    return Path(model).stem.removesuffix("u")[:-1]


def operations(plan: Mapping[str, Any]) -> float:
    """Operations of a training step: three forward passes, and one more where layers are computed twice."""
    scale = Path(plan["model"]).stem.removesuffix("u")[-1]
    each = 1e9 * OPERATIONS[family(plan["model"])][scale] * (plan["imgsz"] / 640) ** 2
    return (4 if plan.get("checkpointing") == "layers" else 3) * each * plan["batch"]


def steps(plan: Mapping[str, Any]) -> int:
    """Steps of an epoch: more where they are cheap, so that mosaics keep as many images as they will."""
    return MANY_STEPS if operations(plan) / SPEED < 0.5 else STEPS


def seconds(plan: Mapping[str, Any]) -> float:
    """About what measuring takes: training, and a third of a step for as many images validated."""
    validated = (EPOCHS + 1) * VAL_BATCHES * (plan.get("val_batch") or 2 * plan["batch"])
    each = operations(plan) / plan["batch"] / SPEED
    return START_SECONDS + each * (EPOCHS * steps(plan) * plan["batch"] + validated / 3)


def live(plan: Mapping[str, Any]) -> float:
    """Bytes of a plan's live tensors by the trace, with what an optimizer keeps."""
    traits = table()[Path(plan["model"]).stem]
    step = need.left(plan) * traits.backward.at(plan["batch"], float(plan["imgsz"] ** 2))
    return step + 2 * traits.state + (1 + need.kept_by(plan["optimizer"])) * traits.trained


def drawn(draw: random.Random, name: str) -> dict[str, Any]:
    """A random plan of a family that can be measured here; the model is drawn first, so that large ones have theirs."""
    scale = draw.choices(list(OPERATIONS[name]), SCALES)[0]
    while True:
        imgsz = STRIDE * round(SMALLEST * (LARGEST / SMALLEST) ** draw.random() / STRIDE)
        batch = draw.choice(BATCHES)
        model = f"{name}{scale}{'u' if name == 'yolov5' else ''}.yaml"
        plan: dict[str, Any] = {"model": model, "batch": batch, "imgsz": imgsz, "optimizer": draw.choice(OPTIMIZERS)}
        kind = draw.random()
        if kind < LEAN:
            plan |= {**fallbacks.LEAN, "val_batch": batch, "checkpointing": "norms"}
        elif kind < LEAN + LAYERS:
            plan |= {**fallbacks.LEAN, "val_batch": batch, "checkpointing": "layers"}
        elif kind < LEAN + LAYERS + PLOTS:
            plan["plots"] = True
        if live(plan) < MOST_BYTES and seconds(plan) < MOST_SECONDS:
            return plan


def plans(seed: int = SEED, count: int = COUNT) -> list[dict[str, Any]]:
    """Plans drawn at random, one of each family in turn: log-uniform over batch and image size.

    The same seed gives the same plans, and a smaller count their beginning. None comes twice.
    """
    draw, found = random.Random(seed), dict[str, dict[str, Any]]()
    names = [*FITTED, *UNSEEN]
    for place in range(count):
        plan = drawn(draw, names[place % len(names)])
        while label(plan) in found:
            plan = drawn(draw, names[place % len(names)])
        found[label(plan)] = plan
    return list(found.values())


def label(plan: Mapping[str, Any]) -> str:
    """A plan's name, for tables and folders."""
    more = [f"{key}={plan[key]}" for key in ("plots", *OURS, *DATA, *SINGLE) if plan.get(key)]
    model = str(plan["model"]).removesuffix(".yaml")
    return "-".join([model, f"{plan['batch']}x{plan['imgsz']}", plan["optimizer"], *more])


# -- measuring ---------------------------------------------------------------------------------------------------------


def images(keep: Path, wide: bool = False) -> Path:
    """The prepared sample's YAML; `wide`: its images half as high, whose labels, being shares, stay as they are."""
    whole = keep / ("wide" if wide else "data")
    if not (whole / "rdd2022.yaml").is_file():
        dataset.prepare(SAMPLE, whole, val_fraction=0.2)
        for file in (whole / "images").rglob("*.*") if wide else ():
            with Image.open(file) as picture:
                flat = picture.convert("RGB").resize((640, 320))
            file.unlink()  # a link: what is saved through it would replace the sample's own image
            flat.save(file)
    return whole / "rdd2022.yaml"


def settings(data: Path, plan: Mapping[str, Any]) -> dict[str, Any]:
    """The Ultralytics arguments of a plan: three epochs, mosaic on to the end, no warm-up.

    The optimizer steps after every third batch: within the first epoch gradients are still held when it ends in
    validation, as they are in most epochs of a long training; in the second the optimizer has its state too.
    """
    asked = {key: value for key, value in plan.items() if key not in (*OURS, *DATA)}
    more = {"data": str(data), "epochs": EPOCHS, "seed": 42, "close_mosaic": 0, "workers": 0}
    slow = {"nbs": 3 * plan["batch"], "warmup_epochs": 0.0, "lr0": 1e-3}
    return {"plots": False, "amp": False, **more, **slow, **asked}


def counts(plan: Mapping[str, Any]) -> tuple[int, int]:
    """Images to train on and to validate on."""
    train = int(plan.get("steps") or steps(plan)) * plan["batch"]
    return train, VAL_BATCHES * (plan.get("val_batch") or 2 * plan["batch"])


def record_of(data: Path, plan: Mapping[str, Any]) -> runfile.RunFile:
    """A run of a plan."""
    whole = {**PLAN, **{key: plan[key] for key in plan if key not in DATA}, "val_imgsz": plan["imgsz"]}
    safety, threads = Safety().model_dump(), cpu_threads()[0]
    record = runfile.RunFile("truth", clock.stamp(), settings(data, plan), "", whole, safety, "cpu", threads)
    record.budget = {"bytes": 18 * GIB, "source": "the benchmark"}
    return record


def measure(keep: Path, plan: Mapping[str, Any]) -> dict[str, Any]:
    """One fresh worker as the supervisor starts it: its peak, overall and by phase, and its seconds."""
    folder = keep / "runs" / f"{label(plan)}-{threading.get_ident()}"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    data, _ = dataset.write_subset(images(keep, bool(plan.get("wide"))), folder / "data", *counts(plan))
    record = record_of(data, plan)
    record.write(paths.RunPaths(folder).run_yaml)
    ours, theirs = os.pipe()
    began = clock.monotonic()
    with open(folder / "log", "wb") as log:
        child = subprocess.Popen(
            [sys.executable, "-m", "rddkit.worker", str(folder), "1", str(theirs)],
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=log,
            pass_fds=[theirs],
            env={**os.environ, **life.environment(record)},
        )
    os.close(theirs)
    phases, resident = watched(child.pid, ours, Phases(int(plan.get("epochs", EPOCHS))))
    if child.wait() != 0:
        raise SystemExit(f"{label(plan)} failed:\n{(folder / 'log').read_text()[-2000:]}")
    shutil.rmtree(folder)
    times = {"seconds": round(clock.monotonic() - began, 1)}
    return {"peak": max(phases.values()), "phases": phases, "resident": resident, **times}


class Phases:
    """In which phase of an epoch a worker is, by its messages: start, train, validate, save, final."""

    def __init__(self, epochs: int) -> None:
        self.epochs, self.now, self.starts, self.validated = epochs, "start", 0, 0

    def hear(self, message: Mapping[str, Any]) -> None:
        """Saving begins when validation's last batch is done and ends with the epoch; the next one begins at once."""
        told = message.get("phase")
        if message.get("kind") == "event" and message.get("event") == "epoch":
            self.now, self.validated = "final" if message["epoch"] >= self.epochs else "train", 0
        elif self.now == "final" or told is None:
            return
        elif told == "start":
            self.starts += 1
            self.now = "train" if self.starts > 1 else "start"  # the second comes when all is set up
        elif told == "validate":
            self.validated += 1  # one as it begins, one with each batch
            self.now = "save" if self.validated > VAL_BATCHES else "validate"


def watched(pid: int, messages: int, phases: Phases) -> tuple[dict[str, int], int]:
    """The most a worker is charged for by phase, until its messages end, and the most that is resident of it."""
    peaks, resident, buffer = dict[str, int](), 0, b""
    while True:
        ready, _, _ = select.select([messages], [], [], POLL_MS / 1000)
        now = held(pid)
        resident = max(resident, now.resident)
        peaks[phases.now] = max(peaks.get(phases.now, 0), now.charged)
        if not ready:
            continue
        block = os.read(messages, 1 << 16)
        if not block:
            os.close(messages)
            return peaks, resident
        *lines, buffer = (buffer + block).split(b"\n")
        for line in lines:
            phases.hear(json.loads(line))


def known(keep: Path, plan: Mapping[str, Any]) -> dict[str, Any]:
    """What has been measured of a plan so far."""
    file = keep / "truth" / f"{label(plan)}.json"
    return dict(json.loads(file.read_text())) if file.is_file() else {"plan": dict(plan), "runs": []}


def truth(keep: Path, plan: Mapping[str, Any], times: int = 1) -> dict[str, Any]:
    """The truths of a plan so far, measured until there are `times`."""
    file = keep / "truth" / f"{label(plan)}.json"
    file.parent.mkdir(parents=True, exist_ok=True)
    found = known(keep, plan)
    while len(found["runs"]) < times:
        found["runs"].append(measure(keep, plan))
        file.write_text(json.dumps(found, indent=1))
        newest = found["runs"][-1]
        told = " ".join(f"{phase} {value // MIB}" for phase, value in newest["phases"].items())
        print(f"{label(plan)}: {newest['peak'] / MIB:.0f} MiB in {newest['seconds']:.0f} s ({told})", flush=True)
    return found


def measure_all(keep: Path, wanted: list[tuple[dict[str, Any], int]], workers: int, most: float) -> None:
    """Measure plans so many times each, several at a time, and begin none after `most` seconds."""
    images(keep)
    deadline = clock.monotonic() + most

    def one(task: tuple[dict[str, Any], int]) -> None:
        if clock.monotonic() < deadline:
            try:
                truth(keep, *task)
            except SystemExit as failed:  # it says which; the others go on
                print(failed, flush=True)

    with ThreadPoolExecutor(workers) as pool:
        list(pool.map(one, wanted))


def wanted(count: int, seed: int = SEED) -> list[tuple[dict[str, Any], int]]:
    """Every plan once, and then every tenth once more."""
    every = plans(seed, count)
    return [(plan, 1) for plan in every] + [(plan, 2) for plan in every[:: round(1 / AGAIN)]]


# -- tables ------------------------------------------------------------------------------------------------------------

COLUMNS = ("model", "batch", "imgsz", "optimizer", "allocator", "val_batch", "checkpointing", "plots")
IMAGES = ("objects", "train_images", "val_images")
PHASES = ("start", "train", "validate", "save", "final")


class Truth(NamedTuple):
    """A plan with what a run of it was charged for at most, in bytes; `again`: another run of it, 0 without one."""

    plan: dict[str, Any]
    facts: Facts
    phases: dict[str, int]
    peak: int
    again: int

    @property
    def name(self) -> str:
        return label(self.plan)

    @property
    def fitted(self) -> bool:
        """Whether the constants were fitted to its family."""
        return family(self.plan["model"]) in FITTED


def write_table(keep: Path, file: Path, count: int, seed: int = SEED) -> int:
    """Write what is known of the plans drawn as a table; how many there are."""
    objects = round(boxes(keep), 2)
    rows = []
    for plan in plans(seed, count):
        runs = known(keep, plan)["runs"]
        if runs:
            again = runs[1]["peak"] if len(runs) > 1 else 0
            asked = [plan.get(key, "") for key in COLUMNS]
            measured = [runs[0]["phases"].get(phase, 0) for phase in PHASES]
            rows.append([*asked, objects, *counts(plan), *measured, runs[0]["peak"], again, runs[0]["resident"]])
    with open(file, "w", newline="", encoding="utf-8") as out:
        writer = csv.writer(out, lineterminator="\n")
        writer.writerow([*COLUMNS, *IMAGES, *PHASES, "peak", "again", "resident"])
        writer.writerows(rows)
    return len(rows)


def boxes(keep: Path) -> float:
    """Boxes of a training image on average."""
    files = [file.read_text() for file in (images(keep).parent / "labels" / "train").glob("*.txt")]
    pictures = sum(1 for _ in (images(keep).parent / "images" / "train").iterdir())
    return sum(text.count("\n") for text in files) / pictures


def read_table(file: Path = TABLE) -> list[Truth]:
    """The truths of a table that `write_table` wrote."""
    found = []
    with open(file, newline="", encoding="utf-8") as source:
        for row in csv.DictReader(source):
            plan: dict[str, Any] = {key: row[key] for key in COLUMNS if row[key]}
            plan |= {key: int(plan[key]) for key in ("batch", "imgsz", "val_batch") if key in plan}
            if "plots" in plan:
                plan["plots"] = plan["plots"] == "True"
            images_of = {key: int(row[key]) for key in IMAGES[1:]}
            facts = Facts(plan["optimizer"], objects=float(row["objects"]), **images_of)
            phases = {phase: int(row[phase]) for phase in PHASES}
            found.append(Truth(plan, facts, phases, int(row["peak"]), int(row["again"])))
    return found


def judged(keep: Path, plan: Mapping[str, Any]) -> need.Need:
    """What is estimated of a plan, not calibrated, on the images that it was measured with."""
    folder = keep / "judged" / label(plan)
    shutil.rmtree(folder, ignore_errors=True)
    data, _ = dataset.write_subset(images(keep, bool(plan.get("wide"))), folder, *counts(plan))
    record = record_of(data, plan)
    known = estimate.know(record)
    shutil.rmtree(folder)
    return need.need(known.traits, record.plan, known.facts)


def shifts(keep: Path) -> list[list[str]]:
    """A row for each setting that was measured: what it shifts the peak by, estimated and in truth."""
    rows = [["setting", "without, MiB", "estimated", "measured", "difference of the peak"]]
    for name, *pair in SHIFTS:
        truths, estimates = [], []
        for plan in pair:
            truths += [run["peak"] / MIB for run in known(keep, plan)["runs"][:1]]
            estimates.append(judged(keep, plan).estimate / MIB)
        if len(truths) == len(pair):
            told, seen = (values[1] - values[0] for values in (estimates, truths))
            share = (told - seen) / truths[1]
            rows.append([name, f"{truths[0]:.0f}", f"{told:+.0f}", f"{seen:+.0f}", f"{share:+.1%}"])
    return rows


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--keep", type=Path, required=True)
    parser.add_argument("--count", type=int, default=COUNT)
    parser.add_argument("--workers", type=int, default=1, help="so many plans are measured at a time")
    parser.add_argument("--seconds", type=float, default=1e9, help="begin no measurement after so many")
    parser.add_argument("--table", type=Path, help="measure nothing, and write what FOLDER holds as CSV")
    parser.add_argument("--shifts", action="store_true", help="measure what single settings shift, and print a table")
    words = parser.parse_args()
    offline.prepare_home()
    keep = words.keep.resolve()
    if words.table:
        print(f"{write_table(keep, words.table, words.count)} plans in {words.table}")
    elif words.shifts:
        pairs = {label(plan): plan for _name, *pair in SHIFTS for plan in pair}
        measure_all(keep, [(plan, 1) for plan in pairs.values()], words.workers, words.seconds)
        for row in shifts(keep):
            print("| " + " | ".join(row) + " |")
    else:
        measure_all(keep, wanted(words.count), words.workers, words.seconds)
    return 0


if __name__ == "__main__":
    sys.exit(main())
