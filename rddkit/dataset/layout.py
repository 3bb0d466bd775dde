"""Find RDD2022's domains below a folder, however the archives were unpacked."""

from __future__ import annotations

import os
import re
import unicodedata
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple, NoReturn

from rddkit.dataset.images import SUFFIXES
from rddkit.dataset.problems import DatasetError, Problem

LONGEST = 200  # bytes of a name; file systems end at 255, and a file in the making has a longer name than the file

_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029]")


class Pair(NamedTuple):
    """A labelled image: its domain, its name in the prepared dataset, and its two files."""

    domain: str
    name: str
    image: Path
    labels: Path  # the XML, or an export's label file


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
    home = os.path.realpath(raw)
    unlabelled: dict[str, int] = {}
    problems: list[Problem] = []
    notes: list[str] = []
    for folder in _folders_with_images(raw):
        where, domain = relative(folder, raw), _domain(folder)
        annotations = folder / "annotations"
        xmls = annotations / "xmls" if (annotations / "xmls").is_dir() else annotations
        images, odd = _files(folder / "images", SUFFIXES)
        problems += [Problem(relative(path, raw), "is no image", "ignored") for path in odd]
        if folder.name.lower() == "test":
            unlabelled[domain] = unlabelled.get(domain, 0) + len(images)
        elif not xmls.is_dir():
            if folder.name.lower() == "train":
                problems.append(Problem(where, f"{len(images)} images without annotations/xmls", "folder not used"))
            else:
                notes.append(f"{where}: {len(images)} images without annotations/xmls, not used")
        else:
            labels, _ = _files(xmls, (".xml",))
            problems += _pair(domain, images, labels, pairs, raw)
            problems += _links_out([*images, *labels], raw, home)
    ordered = sorted(pairs.values(), key=lambda pair: (pair.domain, pair.name))
    return Layout(ordered, dict(sorted(unlabelled.items())), problems, sorted(notes))


def relative(path: Path, raw: Path) -> str:
    """`path` as the audit shows it: below `raw`, with slashes, on one line and printable whatever its bytes are."""
    return shown(path.relative_to(raw).as_posix())


def shown(name: str) -> str:
    """A name on disk as text that a file and a terminal can hold."""
    text = os.fsencode(name).decode("utf-8", "backslashreplace")
    return _CONTROL.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


def _pair(domain: str, images: list[Path], labels: list[Path], pairs: dict[str, Pair], raw: Path) -> Iterator[Problem]:
    by_stem: dict[str, Path] = {}
    for path in labels:
        first = by_stem.setdefault(_stem(path), path)
        if first is not path:
            yield Problem(relative(path, raw), f"has the same name as {relative(first, raw)}", "ignored: keep one")
    stems = {_stem(path) for path in images}
    for path in labels:
        if _stem(path) not in stems:
            yield Problem(relative(path, raw), "has no image", "ignored")
    for path in images:
        there = relative(path, raw)
        xml = by_stem.get(_stem(path))
        if xml is None:
            yield Problem(there, "has no XML", "image left out: without labels it is no negative")
            continue
        stem = path.stem if path.stem.lower().startswith(domain.lower()) else f"{domain}_{path.stem}"
        key = stem.lower()  # one label file per stem, also on file systems that ignore case
        if why := unusable(stem):
            yield Problem(there, why, "image left out: rename it")
        elif key in pairs:
            earlier = relative(pairs[key].image, raw)
            yield Problem(there, f"has the same name as {earlier}", "image left out: rename it")
        else:
            pairs[key] = Pair(domain, stem + path.suffix.lower(), path, xml)


def _stem(path: Path) -> str:
    """What pairs an image with its XML; macOS writes an umlaut as two characters, others as one."""
    return path.stem if path.stem.isascii() else unicodedata.normalize("NFC", path.stem)


def unusable(stem: str) -> str:
    """Why no file of a prepared dataset can carry the name `stem`; empty if one can."""
    try:
        length = len(stem.encode())
    except UnicodeEncodeError:
        return "its name is not UTF-8"
    if _CONTROL.search(stem):
        return "its name has a line break or another control character"
    return f"its name is longer than {LONGEST} bytes" if length > LONGEST else ""


def _links_out(files: Iterable[Path], raw: Path, home: str) -> Iterator[Problem]:
    for path in files:
        if path.is_symlink() and not os.path.realpath(path).startswith(home + os.sep):
            yield Problem(relative(path, raw), "is a link to outside RAW", "followed, only read")


def _folders_with_images(raw: Path) -> list[Path]:
    found = []
    seen: set[tuple[int, int]] = set()
    for where, folders, _ in os.walk(raw, followlinks=True, onerror=_cannot_list):
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
        _cannot_list(error)
    for name in names:
        if not name.startswith("."):
            (wanted if name.lower().endswith(suffixes) else others).append(folder / name)
    return sorted(wanted), sorted(path for path in others if not path.is_dir())


def _cannot_list(error: OSError) -> NoReturn:
    # A country that silently goes missing is worse than a conversion that does not begin.
    where = shown(str(error.filename))
    raise DatasetError(f"cannot list {where}: {error.strerror}; make it readable or move it out of RAW") from error


def _domain(folder: Path) -> str:
    in_split = folder.name.lower() in ("train", "test") and folder.parent.name
    return re.sub(r"\s+", "_", shown((folder.parent if in_split else folder).name))
