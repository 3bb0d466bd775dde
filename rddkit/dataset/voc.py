"""Read one RDD2022 annotation (Pascal VOC XML, both dialects of the release), however odd, without trusting it."""

from __future__ import annotations

import functools
import math
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple
from xml.etree.ElementTree import ParseError
from xml.etree.ElementTree import fromstring as plain_fromstring

from defusedxml import DefusedXmlException  # type: ignore[import-untyped]
from defusedxml.ElementTree import fromstring as careful_fromstring  # type: ignore[import-untyped]

from rddkit.dataset.files import open_plain, why_not
from rddkit.dataset.problems import Finding

if TYPE_CHECKING:
    from xml.etree.ElementTree import Element

LARGEST = 8 << 20  # bytes; the release's largest annotation is a few kB, so more than this is not one
LONGEST = 40  # characters of a label; the release's longest has eleven
CORNERS = ("xmin", "ymin", "xmax", "ymax")

# Digits as everybody reads them: Python's float would also take 1_024, nan, inf and the digits of other scripts.
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d{1,3})?", re.ASCII)


class BadAnnotation(ValueError):
    """The file says nothing that can be believed; the message says why. Its image must not become a negative."""


class Box(NamedTuple):
    """A labelled rectangle: corners in pixels, x to the right, y down."""

    label: str
    x1: float
    y1: float
    x2: float
    y2: float


class Annotation(NamedTuple):
    """What an XML says: its (width, height) or None, its boxes as given, and what could not be taken over.

    `filename` is the image that it says it belongs to; empty where it says nothing.
    """

    size: tuple[int, int] | None
    boxes: list[Box]
    findings: list[Finding]
    filename: str = ""


def read_voc(path: Path) -> Annotation:
    """The annotation in `path`; an XML without objects is a negative and has no boxes.

    Corners stay as given (swapped, fractional or outside the image: see `geometry.fit`). Raises BadAnnotation if the
    file is missing, empty, too large, broken, not an annotation, or declares a DTD or entities.
    """
    try:
        with open_plain(path) as file:
            size = os.fstat(file.fileno()).st_size
            if size > LARGEST:
                raise BadAnnotation(f"XML of {size >> 20} MiB is no annotation")
            content = file.read(LARGEST)
    except OSError as error:
        raise BadAnnotation(f"XML {why_not(path, error)}") from error
    return parse_voc(content)


def parse_voc(content: bytes) -> Annotation:
    """As `read_voc`, from the file's bytes."""
    if not content.strip():
        raise BadAnnotation("XML is empty")
    parse = plain_fromstring if _is_plain(content) else functools.partial(careful_fromstring, forbid_dtd=True)
    try:
        top: Element = parse(content)
    except DefusedXmlException as error:
        raise BadAnnotation(f"XML declares a DTD or entities ({type(error).__name__})") from error
    except (ParseError, ValueError, LookupError) as error:  # LookupError: an encoding nobody knows
        raise BadAnnotation(f"XML is broken: {error}") from error
    if top.tag != "annotation":
        raise BadAnnotation(f"XML is not an annotation: its root is <{top.tag}>")
    objects = top.findall("object")
    astray = sum(element.tag.lower() == "object" for element in top.iter()) - len(objects)
    if astray:
        raise BadAnnotation(f"{astray} objects of the XML lie where an annotation has none")
    boxes: list[Box] = []
    findings: list[Finding] = []
    for number, element in enumerate(objects, start=1):
        box = _box(element, number, findings)
        if box is not None:
            boxes.append(box)
    return Annotation(_size(top), boxes, findings, (top.findtext("filename") or "").strip())


def _is_plain(content: bytes) -> bool:
    """Whether these bytes cannot declare anything: then the parser in C, which takes a third of the time, is safe.

    A declaration begins with `<!`. Only in another encoding could it hide, and that shows: by nulls, or by a name.
    """
    return b"<!" not in content and b"\0" not in content and not content.startswith(b"<?xml")


def number_of(text: str) -> float:
    """The finite number that `text` is in plain digits, or ValueError."""
    value = float(text) if _NUMBER.fullmatch(text) else math.nan
    if not math.isfinite(value):
        raise ValueError(text)
    return value


def _size(top: Element) -> tuple[int, int] | None:
    try:
        width, height = (int(number_of(top.findtext(f"size/{side}", "").strip())) for side in ("width", "height"))
    except (ValueError, OverflowError):
        return None
    return (width, height) if width > 0 and height > 0 else None


def _box(element: Element, number: int, findings: list[Finding]) -> Box | None:
    label = _label(element.findtext("name") or "")
    if not label:
        findings.append(Finding(f"object {number} has no name", "box dropped"))
        return None
    corners = [child for box in element if box.tag == "bndbox" for child in box if child.tag in CORNERS]
    given = {child.tag: (child.text or "").strip() for child in corners}
    if len(corners) > len(given):
        findings.append(Finding(f"{label} box {number} gives a corner twice", "box dropped"))
        return None
    try:
        values = [number_of(given.get(side, "")) for side in CORNERS]
    except ValueError:
        told = ", ".join(f"{side} {_label(given.get(side, '')) or 'missing'}" for side in CORNERS)
        findings.append(Finding(f"{label} box {number} has no usable corners ({told})", "box dropped"))
        return None
    return Box(label, *values)


def _label(text: str) -> str:
    """The text as given, but never longer than a line can show, nor able to break one."""
    text = text.strip()
    if not text.isprintable():
        text = text.encode("unicode_escape").decode()
    return text if len(text) <= LONGEST else text[:LONGEST] + "..."
