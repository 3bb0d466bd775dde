"""The picture of a run's predictions beside the labels, for the report and the dashboard. Torch works in a child."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from pathlib import Path

from rddkit import dataset, durable, exhibits, memory, offline, runfile, status
from rddkit.config import ConfigError
from rddkit.paths import RunPaths
from rddkit.runfile import RunFile

IMAGES = 4
SECONDS = 300.0


def renew(paths: RunPaths) -> str:
    """Draw `report/predictions.jpg` if the weights are newer; why there is none, or an empty text.

    Not while the run is being trained: the child takes the memory of a small training. Raises nothing: a report must
    not fail for a picture.
    """
    weights = paths.best if paths.best.is_file() else paths.last
    if not weights.is_file():
        return "no predictions: there are no weights yet"
    if paths.sample_predictions.is_file() and paths.sample_predictions.stat().st_mtime >= weights.stat().st_mtime:
        return ""
    if status.read_status(paths).state == "running":
        return "no predictions while the run is being trained: they would take memory from it"
    try:
        record = runfile.read(paths.run_yaml)
        if not record.safety.get("predictions", True):
            return ""
        sheet = draw(record, weights)
    except (ConfigError, dataset.DatasetError, OSError, KeyError, ValueError, subprocess.SubprocessError) as error:
        return f"no predictions: {str(error).strip()[-300:]}"
    paths.report.mkdir(exist_ok=True)
    durable.write(paths.sample_predictions, sheet)
    return ""


def draw(record: RunFile, weights: Path) -> bytes:
    """Some validation images as JPEG, each twice: with its labels, and with what the weights see."""
    data = Path(str(record.config["data"]))
    labelled = dataset.labelled_images(data, "val", limit=IMAGES)
    imgsz = record.plan.get("val_imgsz") or record.plan["imgsz"]
    budget = memory.memory_budget(record.safety.get("budget", "auto")).bytes
    words = [str(weights), str(imgsz), record.device, str(budget), *(str(path) for path, _ in labelled)]
    command = [sys.executable, "-m", "rddkit.predictions", *words]
    answer = subprocess.run(
        command, capture_output=True, text=True, check=False, timeout=SECONDS, env=offline.child_environment()
    )
    if answer.returncode != 0:
        raise ValueError(answer.stderr)
    seen = json.loads(answer.stdout.strip().splitlines()[-1])
    pairs = []
    for (path, boxes), found in zip(labelled, seen, strict=True):
        pairs += [(path, boxes), (path, [box[:5] for box in found])]
    content = io.BytesIO()
    classes = list(dataset.read_data_yaml(data).names.values())
    exhibits.draw_boxes(pairs, classes, across=2).save(content, "JPEG", quality=80)
    return content.getvalue()
