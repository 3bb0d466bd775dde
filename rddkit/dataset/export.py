"""Read a YOLO export of RDD2022 that someone else made: its labels checked, its classes told by name, never by number.

Exports number classes as they like: some have five, the fourth being "other", so that taking numbers over would train
on other damage. The split of an export is not taken over either: nearly all are random, frame by frame.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import yaml

from rddkit.dataset.files import open_plain, why_not
from rddkit.dataset.geometry import Picture
from rddkit.dataset.images import SUFFIXES
from rddkit.dataset.labels import label_file
from rddkit.dataset.layout import Layout, Pair, relative, unusable
from rddkit.dataset.problems import DatasetError, Finding, Problem
from rddkit.dataset.split import place
from rddkit.dataset.voc import LARGEST, Annotation, BadAnnotation, Box, number_of

HOME = "export"  # the domain of images whose name tells none


def class_names(raw: Path, asked: Sequence[str], chosen: Sequence[str]) -> dict[int, str]:
    """The label of each class number: as `asked`, in the order of the numbers, or as the export's own YAML says.

    Raises DatasetError where neither says it, where they differ, or where a `chosen` label is not among them.
    """
    found = _named(raw)
    names = dict(enumerate(asked)) if asked else found
    how = "say them in the order of their numbers: --names D00,D10,D20,D40"
    if not names:
        raise DatasetError(f"{raw} has no YAML file that names its classes, and numbers alone say nothing; {how}")
    if asked and found and list(found.values()) != list(asked):
        raise DatasetError(
            f"--names says {', '.join(asked)}, the export's own YAML says {_told(found)}; find out which is right, "
            "and correct the other"
        )
    missing = [label for label in chosen if label not in names.values()]
    if missing:
        raise DatasetError(
            f"the export's classes are {_told(names)}; {', '.join(missing)} is not among them, and no name is ever "
            f"taken for another. If they are called differently there, {how}; or choose others: --classes"
        )
    return names


def find_export(raw: Path) -> Layout:
    """All images below `raw` that have a label file beside `images`, as Ultralytics looks for it; one domain a prefix.

    Sorted by domain and name. An image without a label file is no negative here: exports lose files.
    """
    pairs: dict[str, Pair] = {}
    problems: list[Problem] = []
    for image in _images(raw):
        labels = label_file(image)
        shown = relative(image, raw)
        drive, _ = place(image.name)
        pair = Pair(drive.rstrip("_- ") or HOME, image.stem + image.suffix.lower(), image, labels)
        if not labels.exists():
            done = "image left out: an empty one would say it is a negative"
            problems.append(Problem(shown, "has no label file", done))
        elif why := unusable(image.stem):
            problems.append(Problem(shown, why, "image left out: rename it"))
        elif image.stem.lower() in pairs:
            first = relative(pairs[image.stem.lower()].image, raw)
            problems.append(Problem(shown, f"has the same name as {first}", "image left out: rename it"))
        else:
            pairs[image.stem.lower()] = pair
    ordered = sorted(pairs.values(), key=lambda pair: (pair.domain, pair.name))
    notes = ["the export's own split is not taken over: neighbouring frames would lie on both sides"]
    return Layout(ordered, {}, problems, notes)


def read_export(path: Path, names: Mapping[int, str], picture: Picture) -> Annotation:
    """The label file `path` as boxes in pixels of `picture`; an empty one is a negative.

    Raises BadAnnotation if it cannot be read or is no text.
    """
    try:
        with open_plain(path) as file:
            lines = file.read(LARGEST).decode("utf-8-sig").splitlines()
    except OSError as error:
        raise BadAnnotation(f"label file {why_not(path, error)}") from error
    except UnicodeDecodeError as error:
        raise BadAnnotation("label file is no text") from error
    boxes: list[Box] = []
    findings: list[Finding] = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            boxes.append(_box(line.split(), names, picture))
        except ValueError as error:
            findings.append(Finding(f"line {number} {error}", "box dropped"))
    return Annotation((picture.width, picture.height), boxes, findings)


def _box(words: Sequence[str], names: Mapping[int, str], picture: Picture) -> Box:
    if len(words) != 5:
        raise ValueError(f"has {len(words)} values, a box has 5: class, centre and size")
    try:
        values = [number_of(word) for word in words]
    except ValueError as error:
        raise ValueError("has what is not a number") from error
    number, x, y, w, h = values
    if number not in names:
        raise ValueError(f"has class {number:g}, which has no name")
    if max(abs(x), abs(y), w, h) > 2:
        raise ValueError("is in pixels, not in fractions of the image")
    width, height = picture.width, picture.height
    label = names[int(number)]
    return Box(label, (x - w / 2) * width, (y - h / 2) * height, (x + w / 2) * width, (y + h / 2) * height)


def _named(raw: Path) -> dict[int, str]:
    for path in sorted([*raw.glob("*.yaml"), *raw.glob("*.yml")]):
        try:
            content = yaml.safe_load(path.read_text(encoding="utf-8"))
        except (OSError, ValueError, yaml.YAMLError):
            continue
        names = content.get("names") if isinstance(content, dict) else None
        if isinstance(names, list):
            return {number: str(name).strip() for number, name in enumerate(names)}
        if isinstance(names, dict) and all(isinstance(number, int) for number in names):
            return {number: str(name).strip() for number, name in sorted(names.items())}
    return {}


def _images(raw: Path) -> list[Path]:
    """Every image below a folder called `images`, sorted."""
    found = [
        Path(where) / name
        for where, _, names in os.walk(raw)
        if "images" in Path(where).relative_to(raw).parts
        for name in names
        if name.lower().endswith(SUFFIXES) and not name.startswith(".")
    ]
    return sorted(found)


def _told(names: Mapping[int, str]) -> str:
    return ", ".join(f"{number} {name}" for number, name in names.items())
