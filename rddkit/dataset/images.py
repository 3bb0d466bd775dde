"""What an image file is, from its header: its size as trainers see it, and whether it is whole."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import BinaryIO

from PIL import Image

from rddkit.dataset.geometry import Picture

SUFFIXES = (".jpg", ".jpeg", ".png")
SMALLEST = 10  # pixels; Ultralytics refuses images with a shorter side (data/utils.py, check_image)
STARTS = (b"\xff\xd8", b"\x89PNG\r\n\x1a\n")  # of JPEG and PNG files
JPEG_END = b"\xff\xd9"
EXIF_ORIENTATION = 274


class BadImage(ValueError):
    """The file cannot be trained on; the message says why."""


def look(path: Path) -> Picture:
    """Size and orientation of the image in `path`, read from its header; only a file without its end is decoded.

    Raises BadImage if it is missing, empty, no image, too small, or cut off.
    """
    try:
        with open(path, "rb") as file, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of damaged EXIF blocks and large images; errors still come
            _see_the_start(file)
            with Image.open(file, formats=("JPEG", "PNG")) as image:
                width, height = image.size
                orientation = _orientation(image)
                if image.format == "JPEG" and not _ends(path):
                    image.load()  # an end marker missing or followed by padding is harmless; missing rows raise here
    except Exception as error:  # on damaged headers Pillow raises nearly anything: struct.error, IndexError, ...
        raise BadImage(_why(path, error)) from error
    if min(width, height) < SMALLEST:
        raise BadImage(f"image is {width}x{height} pixels, too small to train on")
    return Picture(height, width, orientation) if orientation > 4 else Picture(width, height, orientation)


def _see_the_start(file: BinaryIO) -> None:
    # Not left to Pillow: in a process with Ultralytics, its patch of Image.open asks for a HEIF reader instead.
    if not file.read(8).startswith(STARTS):
        raise BadImage("file is not a JPEG or PNG image")
    file.seek(0)


def _orientation(image: Image.Image) -> int:
    if not image.info.get("exif"):
        return 1
    value = image.getexif().get(EXIF_ORIENTATION, 1)
    return value if isinstance(value, int) and 1 <= value <= 8 else 1


def _ends(path: Path) -> bool:
    with open(path, "rb") as file:
        file.seek(-2, 2)
        return file.read() == JPEG_END


def _why(path: Path, error: Exception) -> str:
    if not path.is_file():
        return "image is missing"
    if path.stat().st_size == 0:
        return "image is empty (0 bytes)"
    if isinstance(error, BadImage):
        return str(error)
    return f"image cannot be read: {error}"
