"""Read all pairs of a layout, on as many cores as there are: the half that takes the time of a conversion.

The other cores work in processes of their own (`python -m rddkit.dataset.reading`), which are told pairs on their
standard input and answer on their standard output, so that a caller needs no guard around its main module.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import threading
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rddkit.dataset.audit import Frame
from rddkit.dataset.classes import stranger
from rddkit.dataset.export import read_export
from rddkit.dataset.geometry import Picture, fit
from rddkit.dataset.images import BadImage, look
from rddkit.dataset.layout import Pair, relative
from rddkit.dataset.problems import Finding, Problem
from rddkit.dataset.voc import BadAnnotation, Box, read_voc

ENOUGH = 4_000  # pairs for which a second process, whose start takes half a second, is worth it
MOST = 4  # processes; the disk is busy then

Ids = Mapping[int, str]
Read = tuple["Frame | None", list[Problem]]


def read_all(
    pairs: Sequence[Pair], raw: Path, names: Sequence[str], ids: Ids | None, on_read: Callable[[int], None]
) -> tuple[list[Frame], list[Problem]]:
    """The frames of all usable pairs in their order, and what was wrong; `on_read(done)` is called on the way."""
    shares = min(MOST, os.cpu_count() or 1) if len(pairs) >= ENOUGH else 1
    cuts = [len(pairs) * number // shares for number in range(shares + 1)]
    helpers = [_Helper(pairs[cuts[number] : cuts[number + 1]], raw, names, ids) for number in range(1, shares)]
    found: list[Read] = []
    try:
        for done, pair in enumerate(pairs[: cuts[1]], start=1):
            found.append(read(pair, raw, names, ids))
            on_read(done * shares)
        for helper in helpers:
            found += helper.result()
    finally:
        for helper in helpers:
            helper.end()
    frames = [frame for frame, _ in found if frame is not None]
    return frames, [problem for _, problems in found for problem in problems]


def read(pair: Pair, raw: Path, names: Sequence[str], ids: Ids | None) -> Read:
    """One frame, or None if either file is useless; and what is to be told, by file."""
    try:
        frame, findings = read_pair(pair, names, ids)
    except BadAnnotation as error:
        action = "image left out: without labels it is no negative"
        return None, [Problem(relative(pair.labels, raw), str(error), action)]
    except BadImage as error:
        return None, [Problem(relative(pair.image, raw), str(error), "left out")]
    problems = [Problem(relative(pair.labels, raw), *finding) for finding in findings]
    problems += [Problem(relative(pair.image, raw), *finding) for finding in frame.picture.findings]
    return frame, problems


def read_pair(pair: Pair, names: Sequence[str], ids: Ids | None = None) -> tuple[Frame, list[Finding]]:
    """One image with its boxes of the classes `names`, from XML, or from a label file whose numbers `ids` tells.

    Raises BadAnnotation or BadImage if either file is useless.
    """
    annotation = read_voc(pair.labels) if ids is None else None
    picture = look(pair.image)
    annotation = annotation or read_export(pair.labels, ids or {}, picture)
    wanted = [box for box in annotation.boxes if box.label in names]
    left_out = tuple(box.label for box in annotation.boxes if box.label not in names)
    boxes, findings = fit(wanted, annotation.size, picture, whole=ids is None)
    findings = [*annotation.findings, *findings]
    if ids is None:
        findings += [finding for label in dict.fromkeys(left_out) if (finding := stranger(label))]
    named = annotation.filename
    if named and named != pair.image.name and _stem(named) != _stem(pair.image.name):
        said = f"XML names another image ({ascii(named[:80])})"
        findings.append(Finding(said, "paired by its own name; look at this one"))
    return Frame(pair, picture, tuple(boxes), left_out), findings


def _stem(name: str) -> str:
    """Without folders, ending and case: the XML's own idea of its image is often of another machine."""
    name = re.split(r"[/\\]", name)[-1]
    return unicodedata.normalize("NFC", name.rpartition(".")[0] or name).casefold()


class _Helper:
    """A process that reads its share of the pairs; where it fails, the share is read here."""

    def __init__(self, pairs: Sequence[Pair], raw: Path, names: Sequence[str], ids: Ids | None) -> None:
        self._share = pairs, raw, names, ids
        self._answer = b""
        told: dict[str, Any] = {"raw": str(raw), "names": list(names), "ids": dict(ids) if ids is not None else None}
        told["pairs"] = [[pair.domain, pair.name, str(pair.image), str(pair.labels)] for pair in pairs]
        pipe, command = subprocess.PIPE, [sys.executable, "-m", "rddkit.dataset.reading"]
        self._process = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=subprocess.DEVNULL)
        self._thread = threading.Thread(target=self._talk, args=(json.dumps(told).encode(),), daemon=True)
        self._thread.start()

    def _talk(self, told: bytes) -> None:
        self._answer, _ = self._process.communicate(told)

    def result(self) -> list[Read]:
        pairs, raw, names, ids = self._share
        self._thread.join()
        rows = self._answer.splitlines()
        if self._process.returncode or len(rows) != len(pairs):
            return [read(pair, raw, names, ids) for pair in pairs]
        return [_unpacked(pair, json.loads(row)) for pair, row in zip(pairs, rows, strict=True)]

    def end(self) -> None:
        if self._process.poll() is None:
            self._process.kill()
        self._thread.join()


def _packed(found: Read) -> list[Any]:
    frame, problems = found
    return [[*frame[1:]] if frame else None, problems]


def _unpacked(pair: Pair, row: list[Any]) -> Read:
    told, problems = row
    frame = None
    if told is not None:
        (width, height, orientation, findings), boxes, left_out = told
        picture = Picture(width, height, orientation, tuple(Finding(*finding) for finding in findings))
        frame = Frame(pair, picture, tuple(Box(*box) for box in boxes), tuple(left_out))
    return frame, [Problem(*problem) for problem in problems]


def _serve() -> None:
    told = json.load(sys.stdin)
    raw, names = Path(told["raw"]), told["names"]
    ids = {int(number): name for number, name in told["ids"].items()} if told["ids"] is not None else None
    for domain, name, image, labels in told["pairs"]:
        found = read(Pair(domain, name, Path(image), Path(labels)), raw, names, ids)
        sys.stdout.write(json.dumps(_packed(found)) + "\n")


if __name__ == "__main__":
    _serve()
