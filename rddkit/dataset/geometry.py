"""Bring boxes as an XML gives them onto the image as a trainer sees it; pure functions."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import NamedTuple

from rddkit.dataset.problems import Finding
from rddkit.dataset.voc import Box

ASPECT_TOLERANCE = 0.01  # relative; a resized copy is off by a rounded pixel, a different picture by more
ROUNDING = 0.01  # pixels; what six decimals of a fraction leave of a whole number
SMALLEST = 1.0  # pixels; a side below one covers nothing a detector can see

Point = tuple[float, float]
Turn = Callable[[float, float], Point]


class Picture(NamedTuple):
    """An image as trainers see it (EXIF orientation applied): width and height in pixels, and that orientation, 1-8.

    `findings` say what is odd about the file itself.
    """

    width: int
    height: int
    orientation: int = 1
    findings: tuple[Finding, ...] = ()


def fit(
    boxes: Iterable[Box], xml_size: tuple[int, int] | None, picture: Picture, whole: bool = True
) -> tuple[list[Box], list[Finding]]:
    """The boxes in pixels of `picture`, ordered, inside it and each once, and what had to be done for that.

    `whole` says that corners should be whole pixels, as in XML they are.
    """
    turn, findings = frame(xml_size, picture)
    kept: dict[Box, None] = {}  # ordered, and looked into quickly: one file can hold tens of thousands
    for box in boxes:
        fitted, finding = _fit_one(box, turn, picture, whole)
        if finding is not None:
            findings.append(finding)
        if fitted is None:
            continue
        if fitted in kept:
            findings.append(Finding(f"{_words(box)} is there twice", "second one dropped"))
            continue
        kept[fitted] = None
    return list(kept), findings


def frame(xml_size: tuple[int, int] | None, picture: Picture) -> tuple[Turn, list[Finding]]:
    """How to get from the XML's pixels to the picture's, and what is to be said about it.

    Boxes were drawn on an image of the XML's size. Where the two sizes differ, the same aspect means a resized copy
    (scale), width and height exchanged under an EXIF rotation means boxes drawn on the stored image (turn them with
    it); anything else leaves the corners as pixels of the image, which is how most tools read them.
    """
    width, height, orientation = picture[:3]
    if xml_size == (width, height):
        if orientation == 1 or (orientation > 4 and width != height):
            return _same, []
        doubt = f"EXIF orientation {orientation}: sizes do not tell whether boxes were drawn before turning"
        return _same, [Finding(doubt, "boxes kept as drawn on the turned image; look at this one")]
    if xml_size is None:
        return _same, [Finding("XML gives no image size", f"corners read as pixels of the {width}x{height} image")]
    said = f"XML says {xml_size[0]}x{xml_size[1]}, the image is {width}x{height}"
    if orientation > 4 and xml_size == (height, width):
        return _turned(orientation, *xml_size), [Finding(f"{said} by EXIF orientation {orientation}", "boxes turned")]
    x_scale, y_scale = width / xml_size[0], height / xml_size[1]
    if abs(x_scale / y_scale - 1) <= ASPECT_TOLERANCE:
        return (lambda x, y: (x * x_scale, y * y_scale)), [Finding(said, f"boxes scaled by {x_scale:.4g}")]
    return _same, [Finding(f"{said}, another aspect", "corners read as pixels of the image; look at this one")]


def yolo_line(class_id: int, box: Box, picture: Picture) -> str:
    """Ultralytics' label line: class, centre x, centre y, width, height, as fractions of the image."""
    width, height = picture.width, picture.height
    return (
        f"{class_id} {(box.x1 + box.x2) / 2 / width:.6f} {(box.y1 + box.y2) / 2 / height:.6f} "
        f"{(box.x2 - box.x1) / width:.6f} {(box.y2 - box.y1) / height:.6f}"
    )


def _fit_one(box: Box, turn: Turn, picture: Picture, whole: bool) -> tuple[Box | None, Finding | None]:
    ax, ay = turn(box.x1, box.y1)
    bx, by = turn(box.x2, box.y2)
    x1, x2, y1, y2 = min(ax, bx), max(ax, bx), min(ay, by), max(ay, by)
    inside = Box(box.label, max(x1, 0.0), max(y1, 0.0), min(x2, picture.width), min(y2, picture.height))
    if x2 - x1 < SMALLEST or y2 - y1 < SMALLEST:
        return None, Finding(f"{_words(box)} has no area", "box dropped")
    if inside.x2 - inside.x1 < SMALLEST or inside.y2 - inside.y1 < SMALLEST:
        return None, Finding(f"{_words(box)} lies outside the image", "box dropped")
    out = max(-x1, -y1, x2 - picture.width, y2 - picture.height)
    if out > (0 if whole else ROUNDING):
        return inside, Finding(f"{_words(box)} reaches outside the image", "box clipped")
    if box.x1 > box.x2 or box.y1 > box.y2:
        return inside, Finding(f"{_words(box)} has swapped corners", "corners put in order")
    if whole and any(value % 1 for value in box[1:]):
        return inside, Finding(f"{_words(box)} has fractional corners", "kept as given")
    return inside, None


def _words(box: Box) -> str:
    return f"{box.label} box {box.x1:g},{box.y1:g},{box.x2:g},{box.y2:g}"


def _same(x: float, y: float) -> Point:
    return x, y


def _turned(orientation: int, width: int, height: int) -> Turn:
    """From pixels of the stored `width` x `height` image to those of the image turned by EXIF orientation 5-8."""
    turns: dict[int, Turn] = {
        5: lambda x, y: (y, x),
        6: lambda x, y: (height - y, x),
        7: lambda x, y: (height - y, width - x),
        8: lambda x, y: (y, width - x),
    }
    return turns[orientation]
