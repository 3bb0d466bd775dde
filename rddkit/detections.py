"""What a model found in images beside what is labelled there, kept as COCO's JSON, which other tools read too."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from rddkit import challenge, durable
from rddkit.challenge import Boxes


class Photo(NamedTuple):
    """An image: where it is, its size in pixels (upright), and the domain (country, camera) it comes from."""

    path: str
    width: int
    height: int
    domain: str

    @property
    def name(self) -> str:
        return Path(self.path).name


@dataclass(frozen=True)
class Seen:
    """Images, class names by id, labelled boxes and found ones. A box's image is its place in `photos`."""

    photos: list[Photo]
    names: list[str]
    truth: Boxes
    found: Boxes


def domains(data_yaml: Path, images: Iterable[str]) -> list[str]:
    """The domain of each image: what `rddkit prepare` noted beside the data set, else the name before its number."""
    noted: dict[str, str] = {}
    manifest = data_yaml.with_name("manifest.csv")
    if manifest.is_file():
        with open(manifest, newline="", encoding="utf-8") as file:
            noted = {row["image"]: row["domain"] for row in csv.DictReader(file) if row.get("domain")}
    names = [Path(image).name for image in images]
    return [noted.get(name) or _before_number(name) for name in names]


def _before_number(name: str) -> str:
    found = re.match(r"(.*?)[_-]?\d+\D*$", name)
    return (found[1] if found else "") or "all"


def write_truth(path: Path, seen: Seen) -> None:
    """The images, classes and labelled boxes as a COCO data set."""
    images = [{"id": number, "file_name": photo.name, **photo._asdict()} for number, photo in enumerate(seen.photos)]
    classes = [{"id": number, "name": name} for number, name in enumerate(seen.names)]
    durable.write(
        path, json.dumps({"images": images, "categories": classes, "annotations": as_annotations(seen.truth)})
    )


def write_found(path: Path, found: Boxes) -> None:
    """The found boxes as a list of COCO detections, one a line; one at a time, as there may be half a million."""
    with durable.replacing(path) as file:
        file.write(b"[")
        for number, box in enumerate(as_detections(found)):
            file.write(b",\n" if number else b"\n")
            file.write(json.dumps(box).encode())
        file.write(b"\n]\n")


def as_annotations(truth: Boxes) -> list[dict[str, Any]]:
    """Labelled boxes as COCO writes them: [x, y, width, height], numbered from 1."""
    return [
        {"id": number, **box, "area": box["bbox"][2] * box["bbox"][3], "iscrowd": 0}
        for number, box in enumerate(_as_coco(truth), start=1)
    ]


def as_detections(found: Boxes) -> Iterator[dict[str, Any]]:
    """Found boxes as COCO writes them, with their score."""
    return ({**box, "score": score} for box, score in zip(_as_coco(found), found.score.tolist(), strict=True))


def _as_coco(some: Boxes) -> Iterator[dict[str, Any]]:
    for image, label, corners in zip(some.image, some.label, some.corners, strict=True):
        x1, y1, x2, y2 = corners.tolist()
        yield {"image_id": int(image), "category_id": int(label), "bbox": [x1, y1, x2 - x1, y2 - y1]}


def read(truth: Path, found: Path) -> Seen:
    """What `write_truth` and `write_found` wrote."""
    content = json.loads(truth.read_text(encoding="utf-8"))
    photos = [Photo(*(entry[key] for key in Photo._fields)) for entry in content["images"]]
    names = [entry["name"] for entry in content["categories"]]
    return Seen(photos, names, _from_coco(content["annotations"]), read_found(found))


def read_found(path: Path) -> Boxes:
    """What `write_found` wrote."""
    return _from_coco(json.loads(path.read_text(encoding="utf-8")))


def _from_coco(entries: list[dict[str, Any]]) -> Boxes:
    return challenge.boxes(
        (entry["image_id"], entry["category_id"], x, y, x + width, y + height, entry.get("score", 1.0))
        for entry in entries
        for x, y, width, height in [entry["bbox"]]
    )
