"""What a plan really needs: the highest peak of a few fresh workers that train, validate and save on real images.

`python benchmarks/memory_truth.py --keep FOLDER [--models n s m] [--plans N]` measures the grid; a finished truth stays
in FOLDER and is not measured again. Linux only: the peak is VmHWM, set back by writing 5 to /proc/self/clear_refs.
All of it takes about two hours on one idle core.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from rddkit import clock, dataset, fallbacks, life, offline, paths, runfile
from rddkit.memory import GIB, MIB
from rddkit.recording import cpu_threads
from rddkit.safety import Safety

SAMPLE = Path(__file__).resolve().parent.parent.parent / "shared" / "rdd2022-sample"
OURS = ("allocator", "val_batch", "checkpointing")  # keys of a plan that Ultralytics does not know
# Three epochs: what the first leaves behind in the heap, validation and saving included, is held in all later ones.
STEPS, EPOCHS, VAL_BATCHES, TIMES = 12, 3, 2, 3
PLAN = {"workers": 0, "cache": False, "plots": False, "amp": False, "multi_scale": 0.0, "val_batch": None}
# The worker as the supervisor starts it, but that its peak is read when it is done.
CHILD = """
import os, sys
with open("/proc/self/clear_refs", "w") as file:
    file.write("5")
from rddkit import worker
code = worker.main()
sys.stdout.flush()
with open("/proc/self/status") as file:
    peak = next(int(line.split()[1]) << 10 for line in file if line.startswith("VmHWM"))
with open(os.path.join(sys.argv[1], "peak"), "w") as file:
    file.write(str(peak))
os._exit(code)
"""


def grid() -> list[dict[str, Any]]:
    """The plans: two families, three sizes, batch 1-8, 256-640 pixels, two optimizers; small models first."""
    shapes = {
        "n": "1x640 2x640 4x640 8x640 2x320 8x320 4x416 1x256 8x512 2x512 8x256",
        "s": "1x640 2x640 4x640 2x320 8x320 4x416 1x512 2x512",
        "m": "1x640 2x640 2x320 4x320 1x416",
    }
    found = []
    for size, wanted in shapes.items():
        for place, shape in enumerate(wanted.split()):
            batch, imgsz = map(int, shape.split("x"))
            for family in ("yolov8", "yolo11"):
                optimizer = ("SGD", "AdamW")[(place + (family == "yolo11")) % 2]
                found.append({"model": f"{family}{size}.yaml", "batch": batch, "imgsz": imgsz, "optimizer": optimizer})
    return found


def others() -> list[dict[str, Any]]:
    """Plans that no estimate was made with: lean ones, other families, optimizer, plots, validation."""
    lean = {**fallbacks.LEAN, "val_batch": 2, "checkpointing": "norms"}
    return [
        {"model": "yolov8s.yaml", "batch": 2, "imgsz": 640, "optimizer": "AdamW", **lean},
        {"model": "yolo11n.yaml", "batch": 8, "imgsz": 416, "optimizer": "SGD", **lean},
        {"model": "yolo11s.yaml", "batch": 2, "imgsz": 640, "optimizer": "SGD", **lean, "checkpointing": "layers"},
        {"model": "yolov8n.yaml", "batch": 4, "imgsz": 512, "optimizer": "AdamW", "plots": True},
        {"model": "yolov8n.yaml", "batch": 6, "imgsz": 448, "optimizer": "SGD", "val_batch": 2},
        {"model": "yolo26n.yaml", "batch": 4, "imgsz": 416, "optimizer": "auto"},
        {"model": "yolov10n.yaml", "batch": 2, "imgsz": 512, "optimizer": "SGD"},
        {"model": "yolov9t.yaml", "batch": 2, "imgsz": 512, "optimizer": "AdamW"},
        {"model": "yolov5nu.yaml", "batch": 4, "imgsz": 320, "optimizer": "MuSGD"},
        {"model": "yolo26s.yaml", "batch": 2, "imgsz": 480, "optimizer": "AdamW"},
    ]


def label(plan: dict[str, Any]) -> str:
    """A plan's name, for tables and folders."""
    more = [f"{key}={plan[key]}" for key in ("plots", *OURS) if plan.get(key)]
    model = str(plan["model"]).removesuffix(".yaml")
    return "-".join([model, f"{plan['batch']}x{plan['imgsz']}", plan["optimizer"], *more])


def data(keep: Path, images: int, validated: int) -> Path:
    """So many training and validation images of the prepared sample, as a data set of its own; its YAML file."""
    whole = keep / "data"
    if not (whole / "rdd2022.yaml").is_file():
        dataset.prepare(SAMPLE, whole, val_fraction=0.2)
    part = keep / f"data-{images}-{validated}"
    if not (part / "rdd2022.yaml").is_file():
        for split, most in (("train", images), ("val", validated)):
            for picture in sorted((whole / "images" / split).iterdir())[:: 2 if images < 100 else 1][:most]:
                for kind, suffix in (("images", picture.suffix), ("labels", ".txt")):
                    source = whole / kind / split / (picture.stem + suffix)
                    target = part / kind / split / source.name
                    target.parent.mkdir(parents=True, exist_ok=True)
                    if source.exists():
                        shutil.copyfile(source, target)
        text = (whole / "rdd2022.yaml").read_text().replace(str(whole), str(part))
        (part / "rdd2022.yaml").write_text(text)
    return part / "rdd2022.yaml"


def settings(keep: Path, plan: dict[str, Any]) -> dict[str, Any]:
    """The Ultralytics arguments of a plan: three epochs of four steps, mosaic on to the end, two validation batches."""
    validated = VAL_BATCHES * (plan.get("val_batch") or 2 * plan["batch"])
    asked = {key: value for key, value in plan.items() if key not in OURS}
    more = {
        "data": str(data(keep, STEPS // EPOCHS * plan["batch"], validated)),
        "epochs": EPOCHS,
        "seed": 42,
        "close_mosaic": 0,
        "workers": 0,
    }
    return {"plots": False, "amp": False, **more, **asked}


def measure(keep: Path, plan: dict[str, Any]) -> dict[str, Any]:
    """One fresh worker's peak, by phase too (read as its phases change), and its seconds."""
    folder = keep / "runs" / label(plan)
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    threads = cpu_threads()[0]
    args = settings(keep, plan)
    whole = {**PLAN, **plan, "val_imgsz": plan["imgsz"]}
    record = runfile.RunFile(folder.name, clock.stamp(), args, "", whole, Safety().model_dump(), "cpu", threads)
    record.budget = {"bytes": 18 * GIB, "source": "the benchmark"}
    record.write(paths.RunPaths(folder).run_yaml)
    ours, theirs = os.pipe()
    with open(folder / "log", "wb") as log:
        child = subprocess.Popen(
            [sys.executable, "-c", CHILD, str(folder), "1", str(theirs)],
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=log,
            pass_fds=[theirs],
            env={**os.environ, **life.environment(record)},
        )
    os.close(theirs)
    began, phases, phase = clock.monotonic(), {}, "start"
    with open(ours, "rb") as messages:
        for line in messages:
            news = json.loads(line)
            if news.get("phase"):
                phases[phase] = peak_of(child.pid) or phases.get(phase, 0)
                phase = news["phase"]
    if child.wait() != 0:
        raise SystemExit(f"{label(plan)} failed:\n{(folder / 'log').read_text()[-2000:]}")
    peak = int((folder / "peak").read_text())
    shutil.rmtree(folder)
    return {"peak": peak, "phases": {**phases, phase: peak}, "seconds": clock.monotonic() - began}


def peak_of(pid: int) -> int | None:
    """The highest resident set of a process so far, in bytes."""
    try:
        with open(f"/proc/{pid}/status", encoding="ascii") as file:
            return next(int(line.split()[1]) << 10 for line in file if line.startswith("VmHWM"))
    except (OSError, StopIteration):
        return None


def known(keep: Path, plan: dict[str, Any]) -> dict[str, Any]:
    """What has been measured of a plan so far."""
    file = keep / "truth" / f"{label(plan)}.json"
    return dict(json.loads(file.read_text())) if file.is_file() else {"plan": plan, "runs": []}


def truth(keep: Path, plan: dict[str, Any], times: int = TIMES) -> dict[str, Any]:
    """The truths of a plan so far, measured until there are `times`."""
    file = keep / "truth" / f"{label(plan)}.json"
    file.parent.mkdir(parents=True, exist_ok=True)
    found = known(keep, plan)
    while len(found["runs"]) < times:
        found["runs"].append(measure(keep, plan))
        file.write_text(json.dumps(found, indent=1))
        newest = found["runs"][-1]
        told = {phase: value // MIB for phase, value in newest["phases"].items()}
        print(f"{label(plan)}: {newest['peak'] / MIB:.0f} MiB in {newest['seconds']:.0f} s {told}", flush=True)
    return found


def chosen(models: Iterable[str], plans: int | None) -> list[dict[str, Any]]:
    """The plans of the grid of these sizes, and after them the others, at most `plans` of them."""
    sized = [plan for plan in grid() + others() if Path(plan["model"]).stem.removesuffix("u")[-1] in {*models, "t"}]
    return sized[:plans]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--keep", type=Path, required=True)
    parser.add_argument("--models", nargs="+", default=["n", "s", "m"])
    parser.add_argument("--plans", type=int)
    parser.add_argument("--times", type=int, default=TIMES)
    parser.add_argument("--most", type=int, help="leave after this many measurements")
    words = parser.parse_args()
    offline.prepare_home()
    keep, left = words.keep.resolve(), words.most if words.most is not None else sys.maxsize
    for times in range(1, words.times + 1):  # one of each first: a night that ends early knows something of all
        for plan in chosen(words.models, words.plans):
            if left and len(known(keep, plan)["runs"]) < times:
                truth(keep, plan, times)
                left -= 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
