"""What does knowing cost, and are the hours right? The trace, the calibration, and forecasts against real epochs.

`python benchmarks/know.py`: about a quarter of an hour on two idle cores. Traces yolov8s in a child as an unknown model
would be (wanted: 6 s with imports, 1.2 GB), calibrates yolov8n at 320 pixels (60 s), and holds the forecast of a few
plans against the epochs of real runs (15 %). This kind of machine changes its speed by a quarter within minutes: each
run is trained between two calibrations, and their mean is held against it. The last plan is the seed's, and its hours
on the whole release follow. Real images where ../shared/rdd2022-sample is there, else painted ones.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import yaml
from kernel_kills import images
from rich.console import Console
from rich.table import Table

from rddkit import Run, clock, offline, outlook, paths, status
from rddkit.memory import GIB

PLANS = (("yolov8n", 4, 320), ("yolov8n", 2, 640), ("yolo11n", 8, 256), ("yolov8s", 2, 416), ("yolov8s", 2, 640))
RELEASE, SEED_EPOCHS = (32_627, 5_758), 200  # images of RDD2022 in train and val; what the seed says 12 to 24 hours of
EPOCHS = 3  # the first, slow one is not counted
TRACE_SECONDS, TRACE_GIB, CALIBRATION_SECONDS, FORECAST = 6.0, 1.2, 60.0, 0.15


def trace() -> tuple[float, float]:
    """Seconds and GiB of a trace in a fresh process."""
    began = clock.monotonic()
    environment = {**os.environ, **offline.environment()}
    command = [sys.executable, "-m", "rddkit.footprint", "yolov8s.yaml", "4"]
    child = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL)
    _, code, usage = os.wait4(child.pid, 0)
    child.returncode = os.waitstatus_to_exitcode(code)
    if child.returncode:
        raise SystemExit("the trace failed")
    return clock.monotonic() - began, usage.ru_maxrss / (GIB >> 10)


def calibrated(config: Path, safety: Path, name: str) -> tuple[outlook.Outlook, float]:
    """The outlook after trials made now, and the seconds that took."""
    shutil.rmtree(paths.cache() / "calibration", ignore_errors=True)
    began = clock.monotonic()
    return outlook.look(config, safety=safety, calibrate=True, name=name), clock.monotonic() - began


def real_epoch(config: Path, safety: Path, name: str) -> float:
    """Seconds of an epoch of a real run: the median of all but the first."""
    run = Run.create(config, safety=safety, name=name, epochs=EPOCHS).start()
    if run.wait() != 0:
        raise SystemExit(run.status().sentence)
    times = [row["time"] for row in status.read_rows(run.paths.results_csv)]
    return statistics.median(after - before for before, after in zip(times, times[1:], strict=False))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=64)
    parser.add_argument("--plans", type=int, default=len(PLANS))
    words = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="know-") as folder:
        base = Path(folder)
        os.environ["RDDKIT_ROOT"] = folder  # nothing is kept from earlier calibrations
        offline.prepare_home()
        data, safety = images(base, words.images), base / "safety.yaml"
        safety.write_text("estimate: false\npredictions: false\n")
        seconds, peak = min(trace() for _ in range(3))
        table = Table("what", "measured", "wanted")
        table.add_row("trace of yolov8s", f"{seconds:.1f} s, {peak:.2f} GB", f"{TRACE_SECONDS:.0f} s, {TRACE_GIB} GB")
        good = seconds < TRACE_SECONDS and peak < TRACE_GIB
        for model, batch, imgsz in PLANS[: words.plans]:
            name = f"{model} {batch}x{imgsz}"
            config = base / f"{name}.yaml"
            args = {"model": f"{model}.yaml", "batch": batch, "imgsz": imgsz, "device": "cpu", "workers": 0, "seed": 42}
            args |= {"data": str(data), "epochs": EPOCHS, "plots": False, "project": str(base)}
            config.write_text(yaml.safe_dump(args))
            before, took = calibrated(config, safety, name)
            real = real_epoch(config, safety, name)
            after, again = calibrated(config, safety, name)
            told = [float(one.told["seconds_per_epoch"]) for one in (before, after)]
            forecast, took = statistics.mean(told), min(took, again)
            off = forecast / real - 1
            wanted = f"{CALIBRATION_SECONDS:.0f} s" if (model, imgsz) == ("yolov8n", 320) else ""
            table.add_row(f"calibration, {name}", f"{took:.0f} s", wanted)
            both = f"{told[0]:.1f} and {told[1]:.1f} s told, {real:.1f} s real: {off:+.0%}"
            table.add_row(f"an epoch, {name}", both, f"{FORECAST:.0%}")
            if (model, batch, imgsz) == PLANS[-1] and before.known.pace and after.known.pace:
                paces = (before.known.pace, after.known.pace)
                seconds = statistics.mean(pace.epoch(before.record.plan, *RELEASE) for pace in paces)
                hours = seconds * SEED_EPOCHS / 3600
                there = f"{hours:.0f} h told, {hours * real / forecast:.0f} h at the pace of the real epochs"
                table.add_row(f"{SEED_EPOCHS} epochs of the release", there, "")
            good &= abs(off) <= FORECAST and (not wanted or took < CALIBRATION_SECONDS)
        Console(width=110).print(table)
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
