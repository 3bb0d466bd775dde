"""A result on real images: what some hundred labelled frames and two cores give in half an hour, from scratch.

Prepares the folder given by `--data` (laid out as RDD2022; ../shared/rdd2022-sample where that is there) into
data/real, times two epochs, trains as many as fit into `--minutes` with configs/real.yaml, evaluates, and writes
results/real/report. `--epochs` trains that many instead, which repeats an earlier result to the bit on the same
machine. An earlier results/real is set aside. Prints the curve, F1 and what it does not say.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from rddkit import Run, clock, dataset, evaluation, paths, writeup
from rddkit.status import read_rows

CONFIG = "configs/real.yaml"
SAMPLE = paths.root().parent / "shared" / "rdd2022-sample"
AFTERWARDS = 60.0  # seconds for the evaluation of two models and the write-up
out = Console(soft_wrap=True, highlight=False)


def main() -> int:
    options = parse()
    started = clock.monotonic()
    if not options.data.is_dir():
        sys.exit(
            f"no folder {options.data}; give one laid out as RDD2022 by --data, such as its China_MotorBike's parent"
        )
    data = paths.resolve("data/real")
    audit = dataset.prepare(options.data, data)
    out.print(f"{audit['images']} images, {sum(audit['boxes'].values())} boxes: {audit['boxes']}", markup=False)
    settings: dict[str, Any] = {"data": str(data / "rdd2022.yaml")}
    if options.imgsz:
        settings["imgsz"] = options.imgsz
    epochs = options.epochs or fitting(settings, started + options.minutes * 60 - AFTERWARDS)
    out.print(f"training {epochs} epochs; the same again: benchmarks/real.py --epochs {epochs}", markup=False)
    run = train("real", epochs, settings)
    result = evaluation.evaluate(run.paths, say=lambda text: out.print(text, markup=False))
    writeup.write(run.paths)
    show(run, result, audit)
    out.print(f"{(clock.monotonic() - started) / 60:.1f} minutes in all; {run.paths.report}", markup=False)
    return 0


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--epochs", type=int, help="train this many instead")
    parser.add_argument("--data", type=Path, default=SAMPLE)
    parser.add_argument("--imgsz", type=int, help="instead of the config's 320")
    return parser.parse_args()


def fitting(settings: dict[str, Any], end: float) -> int:
    """As many epochs as are over at `end`, by the second of two that are trained and thrown away."""
    trial = train("real-trial", 2, settings)
    times = [row["time"] for row in read_rows(trial.paths.results_csv)]
    shutil.rmtree(trial.folder)
    epoch = times[1] - times[0]
    out.print(f"an epoch takes {epoch:.0f} s here", markup=False)
    return max(1, int((end - clock.monotonic()) / epoch))


def train(name: str, epochs: int, settings: dict[str, Any]) -> Run:
    """A finished run; an earlier one of that name is set aside."""
    run = Run.create(CONFIG, fresh=True, name=name, epochs=epochs, **settings)
    run.start()
    if code := run.wait():
        sys.exit(f"the training ended with exit code {code}. {run.status().sentence}")
    return run


def show(run: Run, result: dict[str, Any], audit: dict[str, Any]) -> None:
    """The curve over epochs, the scores of best.pt, and the limits of both."""
    rows = read_rows(run.paths.results_csv)
    shown = [rows[place * (len(rows) - 1) // 9] for place in range(10)] if len(rows) > 10 else rows
    curve = Table("epoch", "minutes", "mAP50", "mAP50-95", "precision", "recall", title="the curve, by Ultralytics")
    for row in shown:
        values = (row[f"metrics/{key}(B)"] for key in ("mAP50", "mAP50-95", "precision", "recall"))
        curve.add_row(f"{row['epoch']:.0f}", f"{row['time'] / 60:.1f}", *(f"{value:.4f}" for value in values))
    out.print(curve)
    best = result["weights"]["best"]
    table = Table(*evaluation.COLUMNS, title=f"best.pt, threshold {best['threshold']:.3f}")
    for line in evaluation.rows(best):
        table.add_row(*line)
    out.print(table)
    out.print(
        f"Limits: {audit['splits']['train']['images']} training images from scratch, {best['labelled']} labelled boxes "
        "to judge by, one split, one seed. It shows that the way works, not how good a model can be: the whole release "
        "has a hundred times the images, and published YOLOv8s baselines start from pretrained weights (mAP50 0.58 to "
        "0.65).",
        markup=False,
    )


if __name__ == "__main__":
    sys.exit(main())
