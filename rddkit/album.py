"""The picture of a run's predictions beside the labels, for the report and the dashboard. Torch works in a child."""

from __future__ import annotations

import io
import subprocess
from pathlib import Path

from rddkit import dataset, durable, exhibits, inference, runfile, status
from rddkit.config import ConfigError
from rddkit.evaluation import PLAIN as CONFIDENCE
from rddkit.inference import NoAnswer
from rddkit.paths import RunPaths
from rddkit.runfile import RunFile

IMAGES = 4
SECONDS = 300.0
UNABLE = (ConfigError, dataset.DatasetError, NoAnswer, OSError, KeyError, ValueError, subprocess.SubprocessError)


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
        sheet = draw(paths, record, weights.stem)
    except UNABLE as error:
        return f"no predictions: {str(error).strip()[-300:]}"
    paths.report.mkdir(exist_ok=True)
    durable.write(paths.sample_predictions, sheet)
    return ""


def draw(paths: RunPaths, record: RunFile, weights: str) -> bytes:
    """Some validation images as JPEG, each twice: with its labels, and with what the weights see."""
    data = Path(str(record.config["data"]))
    labelled = dataset.labelled_images(data, "val", limit=IMAGES)
    images = [str(path) for path, _ in labelled]
    told, found = inference.detect(paths, weights, images, CONFIDENCE, seconds=SECONDS, by_owner=True)
    pairs = []
    for number, (path, boxes) in enumerate(labelled):
        own = found.take(found.image == number)
        seen = zip(own.label.tolist(), own.corners.tolist(), strict=True)
        pairs += [(path, boxes), (path, [(told["names"][label], *corners) for label, corners in seen])]
    content = io.BytesIO()
    classes = list(dataset.read_data_yaml(data).names.values())
    exhibits.draw_boxes(pairs, classes, across=2).save(content, "JPEG", quality=80)
    return content.getvalue()
