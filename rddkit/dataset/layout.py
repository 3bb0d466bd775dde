"""Find RDD2022's domains below a folder, however the archives were unpacked."""

from __future__ import annotations

import os
import re
import unicodedata
from collections.abc import Iterator
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


class Files(NamedTuple):
    """The names in a folder: those with a wanted ending, any case; the others; and which of the wanted are links."""

    folder: Path
    names: list[str]
    others: list[str]
    links: list[str]


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
        images = _files(folder / "images", SUFFIXES)
        problems += [Problem(relative(images.folder / name, raw), "is no image", "ignored") for name in images.others]
        if folder.name.lower() == "test":
            unlabelled[domain] = unlabelled.get(domain, 0) + len(images.names)
        elif not xmls.is_dir():
            count = len(images.names)
            if folder.name.lower() == "train":
                problems.append(Problem(where, f"{count} images without annotations/xmls", "folder not used"))
            else:
                notes.append(f"{where}: {count} images without annotations/xmls, not used")
        else:
            labels = _files(xmls, (".xml",))
            problems += _pair(domain, images, labels, pairs, raw)
            problems += [*_links_out(images, raw, home), *_links_out(labels, raw, home)]
    ordered = sorted(pairs.values(), key=lambda pair: (pair.domain, pair.name))
    return Layout(ordered, dict(sorted(unlabelled.items())), problems, sorted(notes))


def relative(path: Path, raw: Path) -> str:
    """`path` as the audit shows it: below `raw`, with slashes, on one line and printable whatever its bytes are."""
    return shown(str(path)[len(str(raw)) :].lstrip(os.sep).replace(os.sep, "/"))


def shown(name: str) -> str:
    """A name on disk as text that a file and a terminal can hold."""
    text = os.fsencode(name).decode("utf-8", "backslashreplace")
    return _CONTROL.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


def _pair(domain: str, images: Files, labels: Files, pairs: dict[str, Pair], raw: Path) -> Iterator[Problem]:
    by_stem: dict[str, str] = {}
    for name in labels.names:
        first = by_stem.setdefault(_stem(name), name)
        if first is not name:
            said = f"has the same name as {relative(labels.folder / first, raw)}"
            yield Problem(relative(labels.folder / name, raw), said, "ignored: keep one")
    stems = {_stem(name) for name in images.names}
    for stem, name in by_stem.items():
        if stem not in stems:
            yield Problem(relative(labels.folder / name, raw), "has no image", "ignored")
    for name in images.names:
        image, xml = images.folder / name, by_stem.get(_stem(name))
        if xml is None:
            yield Problem(relative(image, raw), "has no XML", "image left out: without labels it is no negative")
            continue
        stem, _, ending = name.rpartition(".")
        stem = stem if stem.lower().startswith(domain.lower()) else f"{domain}_{stem}"
        key = stem.lower()  # one label file per stem, also on file systems that ignore case
        if why := unusable(stem):
            yield Problem(relative(image, raw), why, "image left out: rename it")
        elif key in pairs:
            said = f"has the same name as {relative(pairs[key].image, raw)}"
            yield Problem(relative(image, raw), said, "image left out: rename it")
        else:
            pairs[key] = Pair(domain, f"{stem}.{ending.lower()}", image, labels.folder / xml)


def _stem(name: str) -> str:
    """What pairs an image with its XML; macOS writes an umlaut as two characters, others as one."""
    stem = name.rpartition(".")[0]
    return stem if stem.isascii() else unicodedata.normalize("NFC", stem)


def unusable(stem: str) -> str:
    """Why no file of a prepared dataset can carry the name `stem`; empty if one can."""
    try:
        length = len(stem.encode())
    except UnicodeEncodeError:
        return "its name is not UTF-8"
    if _CONTROL.search(stem):
        return "its name has a line break or another control character"
    return f"its name is longer than {LONGEST} bytes" if length > LONGEST else ""


def _links_out(files: Files, raw: Path, home: str) -> Iterator[Problem]:
    for name in files.links:
        if not os.path.realpath(files.folder / name).startswith(home + os.sep):
            yield Problem(relative(files.folder / name, raw), "is a link to outside RAW", "followed, only read")


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


def _files(folder: Path, suffixes: tuple[str, ...]) -> Files:
    """What lies in `folder`, sorted; hidden files in none of the lists."""
    wanted: list[str] = []
    others: list[str] = []
    links: list[str] = []
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                name = entry.name
                if name.startswith("."):
                    continue
                if not name.lower().endswith(suffixes):
                    if not entry.is_dir():
                        others.append(name)
                    continue
                wanted.append(name)
                if entry.is_symlink():
                    links.append(name)
    except OSError as error:
        _cannot_list(error)
    return Files(folder, sorted(wanted), sorted(others), sorted(links))


def _cannot_list(error: OSError) -> NoReturn:
    # A country that silently goes missing is worse than a conversion that does not begin.
    where = shown(str(error.filename))
    raise DatasetError(f"cannot list {where}: {error.strerror}; make it readable or move it out of RAW") from error


def _domain(folder: Path) -> str:
    in_split = folder.name.lower() in ("train", "test") and folder.parent.name
    return re.sub(r"\s+", "_", shown((folder.parent if in_split else folder).name))
