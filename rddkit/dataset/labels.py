"""Read a prepared dataset back: its description, its identity, and some images with their boxes."""

from __future__ import annotations

import hashlib
import os
import random
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import yaml

from rddkit.dataset.images import SUFFIXES, BadImage, look
from rddkit.dataset.problems import DatasetError

LOOKED_AT = 500  # images read when choosing a few to show; enough to meet D40, the rarest class


class DataYaml(NamedTuple):
    """An Ultralytics dataset file: its root folder, image folders or lists by split, and class names by id."""

    root: Path
    splits: dict[str, list[Path]]
    names: dict[int, str]


PixelBox = tuple[str, float, float, float, float]
Row = tuple[int, float, float, float, float]


def read_data_yaml(data_yaml: Path) -> DataYaml:
    """The dataset described by `data_yaml`; where its `path` is gone (the dataset was moved), its own folder counts.

    Raises DatasetError if it is missing, broken, or lacks train, val or names.
    """
    again = "make one with: rddkit prepare RAW OUT"
    try:
        content = yaml.safe_load(Path(data_yaml).read_text(encoding="utf-8"))
    except OSError as error:
        raise DatasetError(f"no dataset file {data_yaml} ({error.strerror}); {again}") from error
    except (yaml.YAMLError, ValueError) as error:
        raise DatasetError(f"{data_yaml} is not YAML: {error}; {again}") from error
    missing = [key for key in ("train", "val", "names") if not isinstance(content, dict) or not content.get(key)]
    if missing:
        raise DatasetError(f"{data_yaml} lacks {', '.join(missing)}; {again}")
    home = Path(data_yaml).absolute().parent
    root = home / str(content.get("path") or "")
    root = root if root.is_dir() else home
    names = content["names"]
    numbered = dict(names) if isinstance(names, dict) else dict(enumerate(names))
    splits = {
        part: [root / str(entry) for entry in (value if isinstance(value, list) else [value])]
        for part in ("train", "val", "test")
        if (value := content.get(part))
    }
    return DataYaml(root, splits, {int(number): str(name) for number, name in numbered.items()})


def split_images(data: DataYaml, split: str) -> list[Path]:
    """The image paths of a split, sorted, from folders and list files as Ultralytics reads them; or DatasetError."""
    return [Path(image) for image in _image_paths(data, split)]


def _image_paths(data: DataYaml, split: str) -> list[str]:
    found: list[str] = []
    for entry in data.splits.get(split, []):
        if entry.is_dir():
            found += _images_below(entry)
        elif entry.is_file():
            lines = entry.read_text(encoding="utf-8-sig").splitlines()
            found += [str(entry.parent / line.strip()) for line in lines if line.strip()]
    if not found:
        wheres = ", ".join(str(entry) for entry in data.splits.get(split, [])) or f"no {split!r} in the dataset file"
        raise DatasetError(f"no images for {split} ({wheres}); prepare the dataset again: rddkit prepare RAW OUT")
    return sorted(found, key=lambda image: image.split(os.sep))


def fingerprint(data_yaml: Path) -> str:
    """SHA-256 over class names, relative image paths and label contents of train and val: what a model learns from.

    Moving the dataset keeps it; a changed, added or missing label, image or class name changes it. Image contents are
    not read (13 GB for the whole release).
    """
    data = read_data_yaml(data_yaml)
    digest = hashlib.sha256()
    digest.update(repr(sorted(data.names.items())).encode())
    root = f"{data.root}{os.sep}"
    for split in ("train", "val"):
        for image in _image_paths(data, split):
            below = image.removeprefix(root) if ".." not in image else os.path.relpath(image, data.root)
            digest.update(os.fsencode(f"\0{split}\0{below}\0"))
            digest.update(_label_bytes(image))
    return digest.hexdigest()


def labelled_images(
    data_yaml: Path, split: str = "train", limit: int = 9, seed: int = 0
) -> list[tuple[Path, list[PixelBox]]]:
    """At most `limit` images that show the dataset, with boxes as (class name, x1, y1, x2, y2) in pixels.

    Classes take turns, one image is a negative if there is one. Pixels are those after EXIF orientation
    (`PIL.ImageOps.exif_transpose`). The same dataset and seed give the same images.
    """
    data = read_data_yaml(data_yaml)
    images = split_images(data, split)
    random.Random(f"{seed} {split}").shuffle(images)
    chosen = _varied({image: _rows(image) for image in images[:LOOKED_AT]}, limit)
    return _in_pixels(data, chosen)


def named_images(data_yaml: Path, names: Iterable[str]) -> list[tuple[Path, list[PixelBox]]]:
    """The images of these names, of whatever split, with boxes as `labelled_images`; without those that are gone."""
    data = read_data_yaml(data_yaml)
    folders = [entry for entries in data.splits.values() for entry in entries if entry.is_dir()]
    found = [folder / name for name in names for folder in folders if (folder / name).is_file()]
    return _in_pixels(data, ((image, _rows(image)) for image in found))


def _in_pixels(data: DataYaml, chosen: Iterable[tuple[Path, list[Row]]]) -> list[tuple[Path, list[PixelBox]]]:
    shown: list[tuple[Path, list[PixelBox]]] = []
    for image, rows in chosen:
        try:
            width, height = look(image)[:2]
        except BadImage:
            continue
        boxes = [
            (
                data.names.get(number, str(number)),
                (x - w / 2) * width,
                (y - h / 2) * height,
                (x + w / 2) * width,
                (y + h / 2) * height,
            )
            for number, x, y, w, h in rows
        ]
        shown.append((image, boxes))
    return shown


def _varied(rows: dict[Path, list[Row]], limit: int) -> Iterable[tuple[Path, list[Row]]]:
    """At most `limit` of the images: first one negative, then always one with the class shown least so far."""
    left = dict(rows)
    shown: dict[int, int] = {row[0]: 0 for found in rows.values() for row in found}
    chosen: list[Path] = []
    negative = next((image for image, found in left.items() if not found), None)
    while left and len(chosen) < limit - (negative is not None):
        for number in sorted(shown, key=lambda number: (shown[number], number)):
            image = next((image for image, found in left.items() if any(row[0] == number for row in found)), None)
            if image is not None:
                break
        else:
            break
        for number in {row[0] for row in left.pop(image)}:
            shown[number] += 1
        chosen.append(image)
    if negative is not None and limit > 0:
        chosen.append(negative)
    return [(image, rows[image]) for image in chosen]


def _images_below(folder: Path) -> list[str]:
    return [
        f"{where}{os.sep}{name}"
        for where, _, names in os.walk(folder)
        for name in names
        if name.lower().endswith(SUFFIXES) and not name.startswith(".")
    ]


def label_file(image: Path) -> Path:
    """Where Ultralytics looks for an image's labels: below `labels` instead of `images`, as .txt."""
    return Path(_label_path(str(image)))


def _label_path(image: str) -> str:
    head, _, tail = image.rpartition(f"{os.sep}images{os.sep}")
    return os.path.splitext(os.path.join(head, "labels", tail) if head else image)[0] + ".txt"


def _label_bytes(image: str | Path) -> bytes:
    try:
        with open(_label_path(str(image)), "rb") as file:
            return file.read()
    except OSError:
        return b"none"


def _rows(image: Path) -> list[Row]:
    rows: list[Row] = []
    for line in _label_bytes(image).decode("utf-8", "replace").splitlines():
        try:
            number, x, y, w, h = (float(value) for value in line.split()[:5])
        except ValueError:
            continue
        rows.append((int(number), x, y, w, h))
    return rows
