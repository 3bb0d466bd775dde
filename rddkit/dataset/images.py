"""What an image file is, from its header: its size as trainers see it, and whether it is whole."""

from __future__ import annotations

import os
import warnings
from pathlib import Path
from typing import BinaryIO

from PIL import Image
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile

from rddkit.dataset.files import open_plain, why_not
from rddkit.dataset.geometry import Picture
from rddkit.dataset.problems import Finding

SUFFIXES = (".jpg", ".jpeg", ".png")
SMALLEST = 10  # pixels; Ultralytics refuses images with a shorter side (data/utils.py, check_image)
MOST_PIXELS = 178_956_970  # twice Pillow's MAX_IMAGE_PIXELS, above which Image.open refuses: decompression bombs
STARTS = {"JPEG": b"\xff\xd8", "PNG": b"\x89PNG\r\n\x1a\n"}
# Not by Image.open: in a process with Ultralytics, its patch of that asks for a HEIF reader on a broken header.
READERS = {"JPEG": JpegImageFile, "PNG": PngImageFile}
ENDS = {"JPEG": b"\xff\xd9", "PNG": b"IEND\xaeB`\x82"}
EXIF_ORIENTATION = 274


class BadImage(ValueError):
    """The file cannot be trained on; the message says why."""


def look(path: Path) -> Picture:
    """Size, orientation and oddities of the image in `path`, from its header; one without its end is decoded.

    Raises BadImage if it is missing, no plain file, empty, no image, too small, or cut off.
    """
    try:
        file = open_plain(path)
    except OSError as error:
        raise BadImage(f"image {why_not(path, error)}") from error
    try:
        with file, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of damaged EXIF blocks and large images; errors still come
            return _see(file, path.suffix.lower())
    except BadImage:
        raise
    except Exception as error:  # on damaged headers Pillow raises nearly anything: struct.error, IndexError, ...
        raise BadImage(f"image cannot be read: {error}") from error


def _see(file: BinaryIO, suffix: str) -> Picture:
    size = os.fstat(file.fileno()).st_size
    if size == 0:
        raise BadImage("image is empty (0 bytes)")
    start = file.read(8)
    kind = next((kind for kind, bytes_ in STARTS.items() if start.startswith(bytes_)), None)
    if kind is None:
        raise BadImage("file is not a JPEG or PNG image")
    file.seek(0)
    findings: list[Finding] = []
    if (kind == "PNG") != (suffix == ".png"):
        findings.append(Finding(f"image is a {kind} named {suffix}", "kept: readers go by content"))
    try:
        opened = READERS[kind](file)
    except SyntaxError as error:  # what Pillow's readers raise on a header
        raise BadImage("image cannot be read: its header is broken") from error
    with opened as image:
        width, height = image.size
        if width * height > MOST_PIXELS:
            raise BadImage(f"image says it has {width}x{height} pixels, more than the {MOST_PIXELS:,} that are opened")
        if min(width, height) < SMALLEST:
            raise BadImage(f"image is {width}x{height} pixels, too small to train on")
        if image.mode == "CMYK":
            findings.append(Finding("image is CMYK", "kept: readers turn it into RGB"))
        orientation = _orientation(image, findings)
        if not _ends(file, size, ENDS[kind]):
            image.draft("L", (1, 1))  # rows missing from a JPEG show at an eighth of its size, and of its memory, too
            image.load()  # an end missing or followed by padding is harmless; missing rows raise here
    if orientation > 4:
        width, height = height, width
    return Picture(width, height, orientation, tuple(findings))


def _orientation(image: Image.Image, findings: list[Finding]) -> int:
    if not image.info.get("exif"):
        return 1
    try:
        value = image.getexif().get(EXIF_ORIENTATION, 1)
    except Exception:  # as for headers
        findings.append(Finding("its EXIF block cannot be read", "kept, taken as upright"))
        return 1
    return value if isinstance(value, int) and 1 <= value <= 8 else 1


def _ends(file: BinaryIO, size: int, end: bytes) -> bool:
    return os.pread(file.fileno(), len(end), max(0, size - len(end))) == end
