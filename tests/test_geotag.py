"""Positions from EXIF: north, south, east, west; and whatever cameras and tools write instead."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from rddkit import geotag


def photo(path: Path, gps: dict[int, Any] | None = None, taken: str = "") -> Path:
    """A photo with that GPS block."""
    exif = Image.Exif()
    if gps is not None:
        exif[0x8825] = gps
    if taken:
        exif[0x0132] = taken
    Image.new("RGB", (40, 30), "grey").save(path, exif=exif)
    return path


def test_a_position_in_each_quarter(tmp_path: Path) -> None:
    prague = {1: "N", 2: (50.0, 5.0, 15.0), 3: "E", 4: (14.0, 25.0, 12.0)}
    assert geotag.read(photo(tmp_path / "a.jpg", prague, "2026:05:01 08:00:00")) == (
        50.0875,
        14.42,
        "2026:05:01 08:00:00",
    )
    south_west = {**prague, 1: "S", 3: "W"}
    assert geotag.read(photo(tmp_path / "b.jpg", south_west))[:2] == (-50.0875, -14.42)


@pytest.mark.parametrize(
    "gps",
    [
        None,
        {},
        {1: "N", 2: (50.0, 5.0, 15.0)},
        {1: "N", 2: (91.0, 0.0, 0.0), 3: "E", 4: (14.0, 0.0, 0.0)},
        {1: "N", 2: (0.0, 0.0, 0.0), 3: "E", 4: (0.0, 0.0, 0.0)},
        {1: "N", 2: (50.0, 5.0), 3: "E", 4: (14.0, 0.0, 0.0)},
    ],
)
def test_what_is_no_position_is_none(tmp_path: Path, gps: dict[int, Any] | None) -> None:
    assert geotag.read(photo(tmp_path / "a.jpg", gps))[:2] == (None, None)


def test_what_is_no_photo_has_no_position(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(b"\xff\xd8\xff\xe1\x00\x10Exif\x00\x00II*\x00\xff\xff")
    assert geotag.read(tmp_path / "a.jpg") == geotag.NOWHERE
    assert geotag.read(tmp_path / "absent.jpg") == geotag.NOWHERE
