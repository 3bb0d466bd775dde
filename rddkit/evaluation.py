"""Evaluate a run: its model asked in a child, all that follows from what it found, and the files that keep it.

`in_child` does so in a process of its own, for notebook kernels.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rddkit import (
    assessment,
    clock,
    dataset,
    detections,
    durable,
    exhibits,
    inference,
    runfile,
    style,
    submission,
)
from rddkit.challenge import Boxes
from rddkit.config import ConfigError
from rddkit.detections import Seen
from rddkit.paths import RunPaths

SCHEMA = 1
USAGE, ERROR = 2, "rddkit: "  # how the command line says that something was asked wrongly
PLAIN = 0.25  # Ultralytics' default confidence for predictions
FEW = 100  # labelled boxes; with fewer a figure is a rough guess
Say = Callable[[str], None]
COLORS = {"missed": style.RED, "wrong": style.ORANGE, "right": style.GREEN}


def evaluate(
    paths: RunPaths, weights: Sequence[str] = inference.WEIGHTS, test: Path | None = None, say: Say = print
) -> dict[str, Any]:
    """Evaluate a run's weights on its validation images; what `evaluation.json` then holds.

    Args:
        paths: the run.
        weights: `best`, `last`; those that are not there are left out.
        test: a folder with test images to write the challenges' submission file for, by the first weights' threshold.
        say: told what is done, and what to know of the result.

    Raises ConfigError or DatasetError for what is not there, lock.Busy for a run in training, inference.NoAnswer where
    the child dies.
    """
    record = runfile.read(paths.run_yaml)
    there = inference.weights_there(paths, tuple(weights))
    data = Path(str(record.config["data"]))
    fingerprint = dataset.fingerprint(data)
    same = fingerprint == record.dataset.get("fingerprint")
    images = test_images(test) if test is not None else []
    paths.evaluation.mkdir(exist_ok=True)
    found: dict[str, Any] = {"schema": SCHEMA, "run": paths.name, "t": clock.stamp(), "data": str(data)}
    found |= {"same_data": same, "fingerprint": fingerprint, "device": record.device, "weights": {}}
    for name in there:
        say(f"{name}.pt looks at the validation images, one at a time ...")
        told = inference.ask(paths, {"do": "validate", "weights": name})
        seen = detections.read(paths.truth_json, paths.found_json(name))
        found["names"] = seen.names
        result = {**assessment.assess(seen), **told}
        found["weights"][name] = result
        draw_worst(seen, result["threshold"], paths.misses(name))
        say("\n".join(sentences(name, result)))
    if images:
        found["submission"] = submit(paths, there[0], found["weights"][there[0]]["threshold"], images, say)
    durable.write_json(paths.evaluation_json, found)
    if not same:
        say(f"warning: {data} is not the data set that this run was trained on; its labels or images differ")
    return found


def read(paths: RunPaths) -> dict[str, Any]:
    """The last evaluation of a run. ConfigError if there is none, with the command that makes it."""
    try:
        found: dict[str, Any] = json.loads(paths.evaluation_json.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        raise ConfigError(f"{paths.name} has not been evaluated yet; run: rddkit evaluate {paths.name}") from None
    return found


def threshold_of(paths: RunPaths, weights: str) -> tuple[float, str]:
    """The confidence from which a run's detections count, and why that: chosen by its evaluation where there is one."""
    try:
        found = read(paths)["weights"][weights]
    except (ConfigError, KeyError):
        return PLAIN, f"Ultralytics' own; rddkit evaluate {paths.name} chooses a better one"
    if not found["f1"]["hits"]:
        return PLAIN, "Ultralytics' own; at no threshold did the evaluation find anything right"
    return float(found["threshold"]), "gives the highest F1 on the validation images"


def sentences(name: str, result: Mapping[str, Any]) -> list[str]:
    """What a result means and what it does not, in words."""
    f1, other = result["f1"], result["f1_elsewhere"]
    told = [
        f"{name}.pt: F1 {f1['f1']:.3f} at IoU 0.5 with threshold {result['threshold']:.3f} "
        f"(precision {f1['precision']:.3f}, recall {f1['recall']:.3f}) on {result['images']} validation images",
        f"with thresholds chosen on the other half of the images: F1 {other['f1']:.3f}",
        f"mAP50 {_shown(result['mAP50'])}, mAP50-95 {_shown(result['mAP50-95'])} by COCO's rule; "
        f"{milliseconds(result):.0f} ms an image",
        difference(result),
    ]
    if result["labelled"] < FEW:
        told.append(f"only {result['labelled']} labelled boxes: these figures are rough guesses")
    return told


def milliseconds(result: Mapping[str, Any]) -> float:
    """What an image takes from its pixels to its boxes, reading it not counted."""
    return float(sum(result["ms"][key] for key in ("preprocess", "inference", "postprocess")))


def difference(result: Mapping[str, Any]) -> str:
    """Why Ultralytics' mAP differs from COCO's, from what was measured."""
    ours = result["mAP50-95"]
    if ours is None:
        return "no labelled box: no average precision"
    theirs, rule, uncut = (result[key]["mAP50-95"] for key in ("ultralytics", "ultralytics_at_101_points", "uncut"))
    return (
        f"Ultralytics' own mAP50-95 is {theirs:.4f}, {theirs - ours:+.4f}: {theirs - rule:+.4f} by its other "
        f"interpolation, {uncut - ours:+.4f} by boxes that it does not cut at the image's edge, "
        f"{rule - uncut:+.4f} by all else"
    )


def _shown(value: float | None) -> str:
    return "none" if value is None else f"{value:.3f}"


def rows(result: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """A line for all, each class and each domain: F1, precision, recall, AP50, AP50-95, labelled boxes."""

    def line(name: str, counts: Mapping[str, Any], ap: Mapping[str, Any]) -> tuple[str, ...]:
        rates = (f"{counts[key]:.3f}" for key in ("f1", "precision", "recall"))
        return (name, *rates, *(_shown(ap[key]) if ap else "" for key in ("AP50", "AP50-95")), str(labelled(counts)))

    whole = {"AP50": result["mAP50"], "AP50-95": result["mAP50-95"]}
    return [
        line("all", result["f1"], whole),
        *(
            line(dataset.described(name), counts, result["ap_by_class"][name])
            for name, counts in result["f1_by_class"].items()
        ),
        *(line(name, counts, {}) for name, counts in result["f1_by_domain"].items()),
    ]


COLUMNS = ("", "F1", "precision", "recall", "AP50", "AP50-95", "labelled")


def labelled(counts: Mapping[str, Any]) -> int:
    """How many labelled boxes counts are about."""
    return int(counts["hits"] + counts["missed"])


def draw_worst(seen: Seen, threshold: float, path: Path) -> None:
    """A picture of the images with most errors: boxes missed, wrong, right. Removed where there is no error."""
    path.unlink(missing_ok=True)
    marked = []
    for errors in assessment.worst(seen, threshold):
        kinds = {"right": errors.right, "wrong": errors.wrong, "missed": errors.missed}
        marks = [mark for kind, some in kinds.items() for mark in _marks(kind, some, seen.names)]
        marked.append((Path(seen.photos[errors.image].path), marks))
    if marked:
        with durable.replacing(path) as file:
            exhibits.sheet(marked).save(file, "JPEG", quality=80)


def _marks(kind: str, some: Boxes, names: Sequence[str]) -> list[exhibits.Mark]:
    return [
        exhibits.Mark(f"{kind} {names[label]}", COLORS[kind], *corners)
        for label, corners in zip(some.label.tolist(), some.corners.tolist(), strict=True)
    ]


def test_images(folder: Path) -> list[Path]:
    """The test images below a folder: those in `test/images` where that is there, else all. ConfigError if none."""
    if not folder.is_dir():
        raise ConfigError(f"no folder {folder} with test images; RDD2022 has them in COUNTRY/test/images")
    every = [path for path in sorted(folder.rglob("*")) if path.suffix.lower() in (".jpg", ".jpeg", ".png")]
    images = [path for path in every if path.parts[-3:-1] == ("test", "images")] or every
    if not images:
        raise ConfigError(f"no image below {folder}; RDD2022 has its test images in COUNTRY/test/images")
    twice = {path.name for path in images if sum(other.name == path.name for other in images) > 1}
    if twice:
        raise ConfigError(f"{folder} has two test images named {min(twice)}; a submission names images by file name")
    return images


def submit(paths: RunPaths, weights: str, threshold: float, images: Sequence[Path], say: Say) -> dict[str, Any]:
    """Write the challenges' submission file for test images; where it is, what it holds and what is wrong with it."""
    say(f"{weights}.pt looks at {len(images)} test images ...")
    told, found = inference.detect(paths, weights, [str(image) for image in images], threshold)
    photos = [
        (image.name, *(size if isinstance(size, list) else (0, 0)))
        for image, size in zip(images, told["photos"], strict=True)
    ]
    text = submission.write(photos, told["names"], found, threshold)
    durable.write(paths.submission, text)
    unread = [f"{image}: {why}" for image, why in zip(images, told["photos"], strict=True) if isinstance(why, str)]
    wrong = [*submission.problems(text, photos), *unread]
    say(f"{paths.submission}: {len(images)} lines, {'; '.join(wrong) if wrong else 'format checked'}")
    return {"file": str(paths.submission), "images": len(images), "problems": wrong, "ms": told["ms"]}


def in_child(
    paths: RunPaths, weights: Sequence[str] = inference.WEIGHTS, test: Path | None = None, say: Say = print
) -> dict[str, Any]:
    """As `rddkit evaluate`, in a process of its own: this one holds the result alone. Errors come back as they were."""
    words = [word for name in weights for word in ("--weights", name)] + (["--test", str(test)] if test else [])
    command = [sys.executable, "-m", "rddkit.cli", "evaluate", str(paths.folder), "--json", *words]
    wrong: list[str] = []
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as child:
        assert child.stderr is not None
        for line in child.stderr:
            if wrong or line.startswith(ERROR):
                wrong.append(line)
            else:
                say(line.rstrip("\n"))
    if child.returncode:
        told = "".join(wrong).removeprefix(ERROR).strip() or f"the evaluation ended with exit code {child.returncode}"
        raise ConfigError(told) if child.returncode == USAGE else inference.NoAnswer(told)
    return read(paths)
