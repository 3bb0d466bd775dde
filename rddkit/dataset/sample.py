"""Write a small synthetic set in RDD2022's own layout, so that everything can be tried without a download."""

from __future__ import annotations

import io
import json
import os
import zlib
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from rddkit import durable, paths
from rddkit.dataset.paint import damage
from rddkit.dataset.problems import DatasetError
from rddkit.dataset.road import Road
from rddkit.dataset.voc import Box

MARKER = "sample.json"
SCHEMA = 1
QUALITY = 88  # JPEG


class Country(NamedTuple):
    """A synthetic domain: image size in pixels, camera, XML dialect of the release, unlabelled test images."""

    name: str
    width: int
    height: int
    from_above: bool
    tabs: bool
    tests: int


COUNTRIES = (
    Country("Japan", 320, 320, from_above=False, tabs=True, tests=4),
    Country("India", 320, 320, from_above=False, tabs=False, tests=0),
    Country("Norway", 480, 256, from_above=False, tabs=False, tests=0),
    Country("China_Drone", 320, 320, from_above=True, tabs=True, tests=0),
)

# What lies on the road, image after image; empty ones are negatives. Countries begin at different places, so that
# four images already show all four official classes.
SCENES: tuple[tuple[str, ...], ...] = (
    ("D00", "D40"),
    (),
    ("D20",),
    ("D10", "Repair"),
    ("D40", "D40"),
    ("D00",),
    (),
    ("D10", "D00"),
    ("D43",),
    ("D20", "D40"),
    ("D10",),
    (),
)


def write_sample(folder: str | os.PathLike[str], images: int = 48, seed: int = 42) -> dict[str, Any]:
    """Paint `images` labelled images (and a few unlabelled test images) below `folder`; what was written.

    Returns `images, test_images, negatives, boxes{label: n}, countries{name: n}`. The same arguments give the same
    bytes, each image depending only on seed, country and number. A relative `folder` resolves from the repository's
    root. Raises DatasetError if it holds anything but a sample written with the same arguments.
    """
    folder = paths.resolve(folder)
    if images < 1:
        raise DatasetError(f"{images} images make no sample; ask for at least 1, better 24 or more")
    arguments = {"schema": SCHEMA, "images": images, "seed": seed}
    _check(folder, arguments)
    folder.mkdir(parents=True, exist_ok=True)
    _put(folder / MARKER, (json.dumps(arguments, indent=2) + "\n").encode())
    boxes: Counter[str] = Counter()
    negatives = 0
    countries: dict[str, int] = {}
    for place, country in enumerate(COUNTRIES):
        count = images // len(COUNTRIES) + (place < images % len(COUNTRIES))
        countries[country.name] = count
        for number in range(1, count + 1):
            labels = [box.label for box in _write_pair(folder, country, place, number, seed)]
            boxes.update(labels)
            negatives += not labels
        for number in range(count + 1, count + 1 + country.tests):
            road = _paint(country, place, number, seed)
            _put(folder / country.name / "test" / "images" / f"{_stem(country, number)}.jpg", _jpeg(road))
    tests = sum(country.tests for country in COUNTRIES)
    return {
        "images": images,
        "test_images": tests,
        "negatives": negatives,
        "boxes": dict(sorted(boxes.items())),
        "countries": countries,
    }


def _check(folder: Path, arguments: dict[str, int]) -> None:
    if folder.exists() and not folder.is_dir():
        raise DatasetError(f"{folder} is a file; choose a folder for the sample")
    if not folder.is_dir() or not any(folder.iterdir()):
        return
    try:
        before = json.loads((folder / MARKER).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        raise DatasetError(
            f"{folder} is not empty and holds no sample of ours; choose another folder: rddkit sample DIR"
        ) from None
    if before != arguments:
        raise DatasetError(
            f"{folder} holds a sample with other arguments ({before}, now {arguments}); choose another folder, "
            "or delete this one"
        )


def _write_pair(folder: Path, country: Country, place: int, number: int, seed: int) -> list[Box]:
    train = folder / country.name / "train"
    stem = _stem(country, number)
    road = _paint(country, place, number, seed)
    _put(train / "images" / f"{stem}.jpg", _jpeg(road))
    write = _tabbed_xml if country.tabs else _spaced_xml
    xml = write(f"{stem}.jpg", country.width, country.height, road.boxes)
    _put(train / "annotations" / "xmls" / f"{stem}.xml", xml.encode())
    return road.boxes


def _paint(country: Country, place: int, number: int, seed: int) -> Road:
    rng = np.random.default_rng([seed, zlib.crc32(country.name.encode()), number])
    road = Road(rng, country.width, country.height, country.from_above)
    for label in SCENES[(number - 1 + 3 * place + (number - 1) // len(SCENES)) % len(SCENES)]:
        damage(road, label)
    return road


def _jpeg(road: Road) -> bytes:
    content = io.BytesIO()
    road.image().save(content, "JPEG", quality=QUALITY)
    return content.getvalue()


def _stem(country: Country, number: int) -> str:
    return f"{country.name}_{number:06d}"


def _tabbed_xml(filename: str, width: int, height: int, boxes: list[Box]) -> str:
    """The dialect of most countries, object for object as LabelImg wrote it; no newline at the end."""
    objects = "".join(
        f"\t<object>\n\t\t<name>{label}</name>\n\t\t<pose>Unspecified</pose>\n\t\t<truncated>0</truncated>\n"
        f"\t\t<difficult>0</difficult>\n\t\t<bndbox>\n\t\t\t<xmin>{x1:g}</xmin>\n\t\t\t<ymin>{y1:g}</ymin>\n"
        f"\t\t\t<xmax>{x2:g}</xmax>\n\t\t\t<ymax>{y2:g}</ymax>\n\t\t</bndbox>\n\t</object>\n"
        for label, x1, y1, x2, y2 in boxes
    )
    return (
        f"<annotation>\n\t<folder>images</folder>\n\t<filename>{filename}</filename>\n\t<size>\n"
        f"\t\t<width>{width}</width>\n\t\t<height>{height}</height>\n\t\t<depth>3</depth>\n\t</size>\n"
        f"\t<segmented>0</segmented>\n{objects}</annotation>"
    )


def _spaced_xml(filename: str, width: int, height: int, boxes: list[Box]) -> str:
    """The release's other dialect: two spaces, depth first, no pose, truncated or difficult."""
    objects = "".join(
        f"  <object>\n    <name>{label}</name>\n    <bndbox>\n      <xmin>{x1:g}</xmin>\n      <ymin>{y1:g}</ymin>\n"
        f"      <xmax>{x2:g}</xmax>\n      <ymax>{y2:g}</ymax>\n    </bndbox>\n  </object>\n"
        for label, x1, y1, x2, y2 in boxes
    )
    return (
        f"<annotation>\n  <folder>images</folder>\n  <filename>{filename}</filename>\n  <size>\n"
        f"    <depth>3</depth>\n    <width>{width}</width>\n    <height>{height}</height>\n  </size>\n"
        f"{objects}</annotation>\n"
    )


def _put(path: Path, content: bytes) -> None:
    """Write `path` whole or not at all; one that already holds `content` keeps its time."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.is_file() and path.read_bytes() == content:
        return
    beside = path.with_name(path.name + durable.TEMPORARY)
    beside.write_bytes(content)
    os.replace(beside, path)
