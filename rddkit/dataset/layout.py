"""Find RDD2022's domains below a folder, however the archives were unpacked."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from rddkit.dataset.images import SUFFIXES
from rddkit.dataset.problems import DatasetError, Problem


class Pair(NamedTuple):
    """A labelled image: its domain, its name in the prepared dataset, and its two files."""

    domain: str
    name: str
    image: Path
    xml: Path


class Layout(NamedTuple):
    """What lies below RAW: pairs by domain and name, unlabelled test images by domain, problems, and remarks."""

    pairs: list[Pair]
    unlabelled: dict[str, int]
    problems: list[Problem]
    notes: list[str]


def find(raw: Path) -> Layout:
    """All image and XML pairs below `raw`, sorted by domain and name, whatever the order on disk.

    A domain is any folder with `images` beside `annotations/xmls`; `<Country>/train` and doubled folders such as
    `Norway/Norway/train` carry the country's name. Links are followed, each folder once.
    """
    pairs: dict[str, Pair] = {}
    unlabelled: dict[str, int] = {}
    problems: list[Problem] = []
    notes: list[str] = []
    for folder in _folders_with_images(raw):
        shown, domain = relative(folder, raw), _domain(folder)
        annotations = folder / "annotations"
        xmls = annotations / "xmls" if (annotations / "xmls").is_dir() else annotations
        images, odd = _files(folder / "images", SUFFIXES)
        problems += [Problem(relative(path, raw), "is no image", "ignored") for path in odd]
        if folder.name.lower() == "test":
            unlabelled[domain] = unlabelled.get(domain, 0) + len(images)
        elif not xmls.is_dir():
            if folder.name.lower() == "train":
                problems.append(Problem(shown, f"{len(images)} images without annotations/xmls", "folder not used"))
            else:
                notes.append(f"{shown}: {len(images)} images without annotations/xmls, not used")
        else:
            labels, _ = _files(xmls, (".xml",))
            problems += _pair(domain, images, labels, pairs, raw)
    ordered = sorted(pairs.values(), key=lambda pair: (pair.domain, pair.name))
    return Layout(ordered, dict(sorted(unlabelled.items())), problems, sorted(notes))


def relative(path: Path, raw: Path) -> str:
    """`path` as the audit shows it: below `raw`, with slashes, printable whatever its bytes are."""
    return os.fsencode(path.relative_to(raw).as_posix()).decode("utf-8", "backslashreplace")


def _pair(domain: str, images: list[Path], labels: list[Path], pairs: dict[str, Pair], raw: Path) -> Iterator[Problem]:
    by_stem = {path.stem: path for path in labels}
    stems = {path.stem for path in images}
    for path in labels:
        if path.stem not in stems:
            yield Problem(relative(path, raw), "has no image", "ignored")
    for path in images:
        shown = relative(path, raw)
        xml = by_stem.get(path.stem)
        if xml is None:
            yield Problem(shown, "has no XML", "image left out: without labels it is no negative")
            continue
        stem = path.stem if path.stem.lower().startswith(domain.lower()) else f"{domain}_{path.stem}"
        key = stem.lower()  # one label file per stem, also on file systems that ignore case
        if not _is_text(stem):
            yield Problem(shown, "its name is not UTF-8", "image left out: rename it")
        elif key in pairs:
            first = relative(pairs[key].image, raw)
            yield Problem(shown, f"has the same name as {first}", "image left out: rename it")
        else:
            pairs[key] = Pair(domain, stem + path.suffix.lower(), path, xml)


def _folders_with_images(raw: Path) -> list[Path]:
    found = []
    seen: set[tuple[int, int]] = set()
    for where, folders, _ in os.walk(raw, followlinks=True):
        status = os.stat(where)
        if (status.st_dev, status.st_ino) in seen:  # a link back upwards, or two ways to one place
            folders.clear()
            continue
        seen.add((status.st_dev, status.st_ino))
        if "images" in folders:
            found.append(Path(where))
        folders[:] = sorted(name for name in folders if name not in ("images", "annotations") and name[0] != ".")
    return sorted(found)


def _files(folder: Path, suffixes: tuple[str, ...]) -> tuple[list[Path], list[Path]]:
    """The files in `folder` with one of the endings, any case, and the others; hidden ones in neither."""
    wanted: list[Path] = []
    others: list[Path] = []
    try:
        names = os.listdir(folder)
    except OSError as error:
        raise DatasetError(f"cannot list {folder}: {error.strerror}; make it readable or move it out of RAW") from error
    for name in names:
        if not name.startswith("."):
            (wanted if name.lower().endswith(suffixes) else others).append(folder / name)
    return sorted(wanted), sorted(path for path in others if not path.is_dir())


def _domain(folder: Path) -> str:
    in_split = folder.name.lower() in ("train", "test") and folder.parent.name
    return re.sub(r"\s+", "_", (folder.parent if in_split else folder).name)


def _is_text(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True
