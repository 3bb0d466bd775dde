"""Export a run's model and prove that it still finds the same: in a child, by eight validation images."""

from __future__ import annotations

import importlib.util
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rddkit import agreement, config, dataset, detections, durable, inference, runfile
from rddkit.config import ConfigError
from rddkit.evaluation import threshold_of
from rddkit.memory import human
from rddkit.paths import RunPaths

IMAGES = 8
LEAST = 0.01  # confidence from which boxes are kept for comparing
ENOUGH = 8  # boxes to compare at least, where the model finds as many
INSTALL = ".venv/bin/python -m pip install -c constraints.txt -e '.[export]'"


@dataclass(frozen=True)
class Format:
    """A format: the packages it takes, how to get them, and whether it was ever run here."""

    packages: tuple[str, ...] = ()
    install: str = ""
    tried: bool = False


FORMATS = {
    "onnx": Format(("onnx", "onnxruntime"), INSTALL, tried=True),
    "torchscript": Format(tried=True),
    "coreml": Format(("coremltools",), ".venv/bin/python -m pip install coremltools"),
    "openvino": Format(("openvino",), ".venv/bin/python -m pip install openvino"),
}


def export(paths: RunPaths, kind: str = "onnx", weights: str = "best") -> dict[str, Any]:
    """Export a run's weights into its `exports/`, and compare: `file`, sizes, ms, the agreement; also in a JSON beside.

    Raises ConfigError for a format that is not known or whose packages are missing, inference.NoAnswer if the child
    dies. Whether the export agrees is in `good`: a caller says so and does not hide it.
    """
    if kind not in FORMATS:
        raise ConfigError(f"no format {kind!r}.{config.nearest(kind, FORMATS)} There are: {', '.join(FORMATS)}")
    missing = [name for name in FORMATS[kind].packages if importlib.util.find_spec(name) is None]
    if missing:
        raise ConfigError(
            f"{kind} takes {' and '.join(missing)}, and nothing is installed unasked; run:\n  {FORMATS[kind].install}"
        )
    (name,) = inference.weights_there(paths, (weights,))
    record = runfile.read(paths.run_yaml)
    wanted = threshold_of(paths, name)[0]
    with tempfile.TemporaryDirectory() as scratch:
        order = {"do": "export", "weights": name, "format": kind, "out": scratch, "least": LEAST}
        told = inference.ask(
            paths, {**order, "images": some_images(Path(str(record.config["data"])))}, "rddkit.exporter"
        )
        ours, theirs = (detections.read_found(Path(scratch) / f"{side}.json") for side in ("ours", "theirs"))
    threshold = agreement.usable(ours, wanted, ENOUGH)
    found = agreement.compare(ours, theirs, threshold)
    told |= {
        "format": kind,
        "weights": name,
        "images": IMAGES,
        "threshold": threshold,
        **found._asdict(),
        "good": found.good,
    }
    durable.write_json(paths.exports / f"{Path(told['file']).name}.json", told)
    return told


def some_images(data: Path, most: int = IMAGES) -> list[str]:
    """Validation images, evenly spread over the set."""
    images = dataset.split_images(dataset.read_data_yaml(data), "val")
    places = sorted({place * len(images) // most for place in range(most)})
    return [str(images[place]) for place in places]


def sentences(told: dict[str, Any]) -> list[str]:
    """What came of an export, in words."""
    sizes = f"{human(told['bytes'])}, {told['weights']}.pt has {human(told['own_bytes'])}"
    times = f"{told['ms']['theirs']:.0f} ms an image on the CPU, {told['weights']}.pt takes {told['ms']['ours']:.0f}"
    lines = [f"{told['file']}: {sizes}; {times}"]
    if told["good"]:
        lines.append(
            f"agrees with {told['weights']}.pt on {told['images']} validation images: {told['boxes']} boxes from "
            f"confidence {told['threshold']:.3f} on, same classes, corners at most {told['pixels']:.3f} pixels away"
        )
    elif told["boxes"]:
        lines.append(
            f"DOES NOT AGREE with {told['weights']}.pt: {told['alone']} of {told['boxes']} boxes have no partner"
        )
    else:
        lines.append(f"not compared: {told['weights']}.pt finds nothing in the validation images")
    if not FORMATS[told["format"]].tried:
        lines.append(f"{told['format']} was never run on the machine this was written on")
    return lines
