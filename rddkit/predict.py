"""A run's model tried on one's own photos: a table with positions, a gallery, a map. Never written beside them."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rddkit import challenge, clock, dataset, durable, gallery, geotag, inference, tables
from rddkit.challenge import Boxes
from rddkit.config import ConfigError, find_input
from rddkit.evaluation import Say, threshold_of
from rddkit.geotag import Tag
from rddkit.paths import RunPaths, find_run

ENDINGS = (".jpg", ".jpeg", ".png")
ABOUT, TABLE, MAP, GALLERY = "about.json", "detections.csv", "map.geojson", "gallery.html"
WHERE = ("photo", "latitude", "longitude", "taken", "width", "height")
COLUMNS = (*WHERE, "class", "meaning", "confidence", "x1", "y1", "x2", "y2", "problem")


@dataclass(frozen=True)
class Photo:
    """A photo: its file, its name as shown, what is known of it and found in it; `problem`: why it was not read."""

    path: Path
    name: str
    tag: Tag
    size: tuple[int, int]
    boxes: Boxes
    problem: str = ""

    @property
    def surest(self) -> float:
        return float(self.boxes.score.max()) if len(self.boxes) else 0.0


def predict(
    paths: RunPaths,
    sources: Sequence[Path],
    *,
    name: str | None = None,
    threshold: float | None = None,
    weights: str = "best",
    say: Say = print,
) -> Path:
    """Detect damage in photos and folders of photos; the folder `predictions/<name>/` of the run with what came of it.

    A photo that cannot be read is listed and does not stop the others. Raises ConfigError if there is no photo at all,
    or `name` holds what came of other photos; inference.NoAnswer if the child dies.

    Args:
        name: of the folder; left out, that of the first source.
        threshold: the least confidence; left out, the one that the run's evaluation chose.
    """
    inference.weights_there(paths, (weights,))
    files = list(photos_in(sources))
    if not files:
        raise ConfigError(f"no photo ({', '.join(ENDINGS)}) in {', '.join(map(shown, sources))}")
    folder = paths.predictions(_folder_name(name, sources[0]))
    asked = [shown(source.absolute()) for source in sources]
    _check(folder, asked)
    least, why = (threshold, "asked for") if threshold is not None else threshold_of(paths, weights)
    say(f"{weights}.pt looks at {len(files)} photos, threshold {least:.3f} ({why}) ...")
    told, found = inference.detect(paths, weights, [str(file) for file, _ in files], least)
    photos = list(_photos(files, told, found))
    folder.mkdir(parents=True, exist_ok=True)
    about = {
        "run": paths.name,
        "weights": weights,
        "t": clock.stamp(),
        "sources": asked,
        "threshold": least,
        "why": why,
    }
    durable.write_json(folder / ABOUT, {**about, "photos": len(photos), "ms": told["ms"]})
    durable.write(folder / TABLE, table(photos, told["names"]))
    durable.write_json(folder / MAP, as_map(photos, told["names"]))
    durable.write(folder / GALLERY, gallery.render(folder.name, summary(photos), photos, told["names"]))
    say(summary(photos))
    for photo in [photo for photo in photos if photo.problem]:
        say(f"not read: {photo.name}: {photo.problem}")
    return folder


def told_apart(words: Sequence[str]) -> tuple[str | None, list[Path]]:
    """The run (None: the newest) and the sources in `[RUN] IMAGES ...`: a first word that names a run is one."""
    if len(words) > 1:
        try:
            find_run(words[0])
            return words[0], [find_input(word) for word in words[1:]]
        except FileNotFoundError:
            if not find_input(words[0]).exists():
                raise
    return None, [find_input(word) for word in words]


def photos_in(sources: Sequence[Path]) -> Iterator[tuple[Path, str]]:
    """(file, name to show) of the photos named and of those below the folders, each once. ConfigError for nothing."""
    seen = set()
    for source in sources:
        if not source.exists():
            raise ConfigError(f"nothing at {shown(source)}; name photos, or a folder that holds some")
        below = sorted(_below(source)) if source.is_dir() else [source]
        for file in below:
            if file.absolute() not in seen:
                seen.add(file.absolute())
                yield file.absolute(), shown(file.relative_to(source) if source.is_dir() else Path(file.name))


def _below(folder: Path) -> Iterator[Path]:
    for where, _, names in os.walk(folder):  # links to folders are not followed: they may lead round and round
        yield from (Path(where) / name for name in names if name.lower().endswith(ENDINGS))


def shown(path: Path) -> str:
    """A path as text that any file can hold; one that a table's program would take for a formula begins with ./"""
    text = os.fsencode(path).decode("utf-8", "backslashreplace")
    text = "".join(letter if letter.isprintable() else f"\\x{ord(letter):02x}" for letter in text)
    return f"./{text}" if text[:1] in "=+-@" else text


def _folder_name(name: str | None, source: Path) -> str:
    if name is not None and (Path(name).name != name or name.startswith(".") or not name.strip()):
        raise ConfigError(f"name={name!r} must be one folder's name, without / and not starting with a dot")
    plain = source.absolute().name if source.is_dir() else "photos"
    return name or re.sub(r"[^\w.-]+", "_", plain).strip("._") or "photos"


def _check(folder: Path, asked: list[str]) -> None:
    if not folder.exists() or not any(folder.iterdir()):
        return
    try:
        before = json.loads((folder / ABOUT).read_text(encoding="utf-8"))["sources"]
    except (OSError, ValueError, KeyError, TypeError):
        before = None
    if before != asked:
        raise ConfigError(f"{folder} holds what was found in {before or 'something else'}; choose another: --name NAME")


def _photos(files: Sequence[tuple[Path, str]], told: dict[str, Any], found: Boxes) -> Iterator[Photo]:
    for number, ((file, name), size) in enumerate(zip(files, told["photos"], strict=True)):
        own = found.take(found.image == number)
        if isinstance(size, str):
            yield Photo(file, name, geotag.NOWHERE, (0, 0), own, shown(Path(size)))
        else:
            yield Photo(file, name, geotag.read(file), (size[0], size[1]), challenge.strongest(own, len(own)))


def table(photos: Sequence[Photo], names: Sequence[str]) -> str:
    """A line a box; a photo without one, or that could not be read, has a line too."""
    lines = [tables.csv_line(list(COLUMNS))]
    for photo in photos:
        size = photo.size if not photo.problem else (None, None)
        start = [photo.name, photo.tag.latitude, photo.tag.longitude, photo.tag.taken, *size]
        for label, corners, score in zip(
            photo.boxes.label.tolist(), photo.boxes.corners.tolist(), photo.boxes.score.tolist(), strict=True
        ):
            what = [names[label], dataset.CLASS_NAMES.get(names[label], ""), round(score, 4)]
            lines.append(tables.csv_line([*start, *what, *(round(corner, 1) for corner in corners), ""]))
        if not len(photo.boxes):
            lines.append(tables.csv_line([*start, *[""] * (len(COLUMNS) - len(start) - 1), photo.problem]))
    return "".join(lines)


def as_map(photos: Sequence[Photo], names: Sequence[str]) -> dict[str, Any]:
    """A GeoJSON (RFC 7946) point for each photo that says where it was taken, with what was found in it."""
    points = []
    for photo in photos:
        if photo.tag.latitude is None:
            continue
        told = {"photo": photo.name, "taken": photo.tag.taken, "damages": len(photo.boxes)}
        told |= {"found": gallery.told(photo.boxes, names), "confidence": round(photo.surest, 4)}
        where = {"type": "Point", "coordinates": [photo.tag.longitude, photo.tag.latitude]}
        points.append({"type": "Feature", "geometry": where, "properties": told})
    return {"type": "FeatureCollection", "features": points}


def summary(photos: Sequence[Photo]) -> str:
    """One sentence on all photos."""
    read = [photo for photo in photos if not photo.problem]
    damaged = [photo for photo in read if len(photo.boxes)]
    boxes = sum(len(photo.boxes) for photo in damaged)
    placed = sum(photo.tag.latitude is not None for photo in read)
    unread = f"; {len(photos) - len(read)} could not be read" if len(read) < len(photos) else ""
    return f"{boxes} damages in {len(damaged)} of {len(read)} photos; {placed} photos say where they were taken{unread}"
