"""Read one RDD2022 annotation (Pascal VOC XML, both dialects of the release), however odd, without trusting it."""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple
from xml.etree.ElementTree import ParseError

from defusedxml import DefusedXmlException  # type: ignore[import-untyped]
from defusedxml.ElementTree import fromstring  # type: ignore[import-untyped]

from rddkit.dataset.problems import Finding

if TYPE_CHECKING:
    from xml.etree.ElementTree import Element

LARGEST = 8 << 20  # bytes; the release's largest annotation is a few kB, so more than this is not one
CORNERS = ("xmin", "ymin", "xmax", "ymax")


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
    """What an XML says: its (width, height) or None, its boxes as given, and what could not be taken over."""

    size: tuple[int, int] | None
    boxes: list[Box]
    findings: list[Finding]


def read_voc(path: Path) -> Annotation:
    """The annotation in `path`; an XML without objects is a negative and has no boxes.

    Corners stay as given (swapped, fractional or outside the image: see `geometry.fit`). Raises BadAnnotation if the
    file is missing, empty, too large, broken, not an annotation, or declares a DTD or entities.
    """
    try:
        with open(path, "rb") as file:
            size = os.fstat(file.fileno()).st_size
            if size > LARGEST:
                raise BadAnnotation(f"XML of {size >> 20} MiB is no annotation")
            content = file.read(LARGEST)
    except OSError as error:
        raise BadAnnotation(f"XML cannot be read: {error.strerror}") from error
    return parse_voc(content)


def parse_voc(content: bytes) -> Annotation:
    """As `read_voc`, from the file's bytes."""
    if not content.strip():
        raise BadAnnotation("XML is empty")
    try:
        top: Element = fromstring(content, forbid_dtd=True)
    except DefusedXmlException as error:
        raise BadAnnotation(f"XML declares a DTD or entities ({type(error).__name__})") from error
    except (ParseError, ValueError, LookupError) as error:  # LookupError: an encoding nobody knows
        raise BadAnnotation(f"XML is broken: {error}") from error
    if top.tag != "annotation":
        raise BadAnnotation(f"XML is not an annotation: its root is <{top.tag}>")
    boxes: list[Box] = []
    findings: list[Finding] = []
    for number, element in enumerate(top.iterfind("object"), start=1):
        box = _box(element, number, findings)
        if box is not None:
            boxes.append(box)
    return Annotation(_size(top), boxes, findings)


def _size(top: Element) -> tuple[int, int] | None:
    try:
        width, height = (int(float(top.findtext(f"size/{side}", ""))) for side in ("width", "height"))
    except (ValueError, OverflowError):
        return None
    return (width, height) if width > 0 and height > 0 else None


def _box(element: Element, number: int, findings: list[Finding]) -> Box | None:
    label = (element.findtext("name") or "").strip()
    if not label:
        findings.append(Finding(f"object {number} has no name", "box dropped"))
        return None
    corners = [(element.findtext(f"bndbox/{side}") or "").strip() for side in CORNERS]
    try:
        values = [float(corner) for corner in corners]
    except ValueError:
        values = [math.nan]
    if not all(math.isfinite(value) for value in values):
        given = ", ".join(f"{side} {corner or 'missing'}" for side, corner in zip(CORNERS, corners, strict=True))
        findings.append(Finding(f"{label} box {number} has no usable corners ({given})", "box dropped"))
        return None
    return Box(label, *values)
