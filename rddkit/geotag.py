"""Where and when a photo was taken, from its EXIF. Pillow reads it; whatever is odd there counts as unknown."""

from __future__ import annotations

import math
import warnings
from pathlib import Path
from typing import Any, NamedTuple

from PIL import Image

GPS_BLOCK, EXIF_BLOCK = 0x8825, 0x8769  # Exif 2.32, 4.6.3
NORTH_OR_SOUTH, LATITUDE, EAST_OR_WEST, LONGITUDE = 1, 2, 3, 4
TAKEN = (0x9003, 0x0132)  # DateTimeOriginal, DateTime


class Tag(NamedTuple):
    """Degrees north and east (negative: south, west), None where not known; the camera's own clock, "" if not known."""

    latitude: float | None
    longitude: float | None
    taken: str


NOWHERE = Tag(None, None, "")


def read(path: Path) -> Tag:
    """The tag of a photo; raises nothing, whatever the file."""
    try:
        with warnings.catch_warnings(), Image.open(path) as image:
            warnings.simplefilter("ignore")
            exif = image.getexif()
            gps, more = exif.get_ifd(GPS_BLOCK), exif.get_ifd(EXIF_BLOCK)
    except Exception:  # on damaged headers Pillow raises nearly anything
        return NOWHERE
    found = {**dict(exif), **more}
    taken = next((str(found[key]).strip("\0 ") for key in TAKEN if found.get(key)), "")
    latitude = _degrees(gps.get(LATITUDE), gps.get(NORTH_OR_SOUTH), 90)
    longitude = _degrees(gps.get(LONGITUDE), gps.get(EAST_OR_WEST), 180)
    if latitude is None or longitude is None or (latitude, longitude) == (0, 0):  # a receiver without a fix says 0, 0
        return Tag(None, None, taken)
    return Tag(latitude, longitude, taken)


def _degrees(parts: Any, side: Any, most: float) -> float | None:
    """Degrees, minutes and seconds as one number; None for what is none or lies outside of the earth."""
    try:
        degrees, minutes, seconds = (float(part) for part in parts)
    except (TypeError, ValueError, ZeroDivisionError):
        return None
    value = degrees + minutes / 60 + seconds / 3600
    if not math.isfinite(value) or not 0 <= value <= most:
        return None
    return round(-value if str(side).strip("\0 ").upper() in ("S", "W") else value, 7)
