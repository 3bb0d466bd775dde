"""Reading foreign annotations: both dialects, every odd box told, and no hostile file believed."""

from __future__ import annotations

from pathlib import Path

import pytest

from rddkit.dataset.geometry import Picture, fit, yolo_line
from rddkit.dataset.voc import BadAnnotation, Box, parse_voc, read_voc

TABBED = b"""<annotation>
\t<folder>images</folder>
\t<filename>Japan_000035.jpg</filename>
\t<size>
\t\t<width>600</width>
\t\t<height>400</height>
\t\t<depth>3</depth>
\t</size>
\t<segmented>0</segmented>
\t<object>
\t\t<name>D44</name>
\t\t<pose>Unspecified</pose>
\t\t<truncated>0</truncated>
\t\t<difficult>0</difficult>
\t\t<bndbox>
\t\t\t<xmin>181</xmin>
\t\t\t<ymin>277</ymin>
\t\t\t<xmax>302</xmax>
\t\t\t<ymax>389</ymax>
\t\t</bndbox>
\t</object>
</annotation>"""
SPACED = b"""<annotation>
  <size>
    <depth>3</depth>
    <width>600</width>
    <height>400</height>
  </size>
  <object>
    <name>D44</name>
    <bndbox>
      <xmin>181</xmin>
      <ymin>277</ymin>
      <xmax>302</xmax>
      <ymax>389</ymax>
    </bndbox>
  </object>
</annotation>
"""
BOMB = b"""<?xml version="1.0"?>
<!DOCTYPE a [<!ENTITY x "ha"><!ENTITY y "&x;&x;&x;&x;&x;&x;&x;&x;">]>
<annotation><object><name>&y;</name></object></annotation>"""
FILE_READER = b"""<!DOCTYPE a [<!ENTITY x SYSTEM "file:///etc/passwd">]><annotation>&x;</annotation>"""


def one(name: str, *corners: object) -> bytes:
    tags = zip(("xmin", "ymin", "xmax", "ymax"), corners, strict=False)
    inside = "".join(f"<{tag}>{corner}</{tag}>" for tag, corner in tags)
    return f"<annotation><object><name>{name}</name><bndbox>{inside}</bndbox></object></annotation>".encode()


@pytest.mark.parametrize("content", [TABBED, SPACED], ids=["tabs", "spaces"])
def test_both_dialects_say_the_same(content: bytes) -> None:
    assert parse_voc(content)[:3] == ((600, 400), [Box("D44", 181, 277, 302, 389)], [])


def test_an_annotation_without_objects_is_a_negative() -> None:
    assert parse_voc(b"<annotation><size/></annotation>") == (None, [], [], "")


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"", "XML is empty"),
        (b"  \n", "XML is empty"),
        (b"<annotation><object>", "XML is broken"),
        (b"\xff\xfe\x00garbage", "XML is broken"),
        (b"<?xml version='1.0' encoding='nobody-knows'?><annotation/>", "XML is broken"),
        (b"<html/>", "its root is <html>"),
        (BOMB, r"declares a DTD or entities \(DTDForbidden\)"),
        (FILE_READER, "declares a DTD or entities"),
    ],
)
def test_a_file_that_says_nothing_believable_is_refused_with_its_reason(content: bytes, why: str) -> None:
    with pytest.raises(BadAnnotation, match=why):
        parse_voc(content)


def test_a_missing_and_an_enormous_file_are_refused(tmp_path: Path) -> None:
    with pytest.raises(BadAnnotation, match="XML is missing"):
        read_voc(tmp_path / "gone.xml")
    with open(tmp_path / "huge.xml", "wb") as file:
        file.truncate(1 << 30)  # sparse: takes no room
    with pytest.raises(BadAnnotation, match="1024 MiB is no annotation"):
        read_voc(tmp_path / "huge.xml")


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (one("", 1, 2, 3, 4), "object 1 has no name"),
        (one("D00", 1, 2, "x", 4), "xmax x"),
        (one("D00", 1, 2, "nan", 4), "no usable corners"),
        (one("D00", 1, 2, "inf", 4), "no usable corners"),
        (one("D00", 1, 2, 3), "ymax missing"),
    ],
)
def test_a_box_that_cannot_be_read_is_dropped_and_told(content: bytes, problem: str) -> None:
    annotation = parse_voc(content)
    assert annotation.boxes == []
    assert problem in annotation.findings[0].problem and annotation.findings[0].action == "box dropped"


def test_a_misspelt_label_keeps_its_spelling() -> None:
    assert parse_voc(one(" D0w0\n", 1, 2, 30, 40)).boxes == [Box("D0w0", 1, 2, 30, 40)]


@pytest.mark.parametrize(
    ("corners", "expected", "problem", "action"),
    [
        ((10, 20, 30, 40), (10, 20, 30, 40), None, None),
        ((10, 20, 10, 40), None, "has no area", "box dropped"),
        ((30, 40, 10, 20), (10, 20, 30, 40), "swapped corners", "put in order"),
        ((-5, 20, 30, 240), (0, 20, 30, 100), "reaches outside", "box clipped"),
        ((300, 20, 330, 40), None, "lies outside", "box dropped"),
        ((10.5, 20, 30, 40), (10.5, 20, 30, 40), "fractional corners", "kept as given"),
    ],
)
def test_each_odd_box_is_repaired_or_dropped_and_told(
    corners: tuple[float, ...], expected: tuple[float, ...] | None, problem: str | None, action: str | None
) -> None:
    boxes, findings = fit([Box("D20", *corners)], (200, 100), Picture(200, 100))
    assert boxes == ([Box("D20", *expected)] if expected else [])
    assert len(findings) == (problem is not None)
    if findings and problem and action:
        assert problem in findings[0].problem and action in findings[0].action


def test_a_box_that_is_there_twice_counts_once() -> None:
    box = Box("D00", 10, 20, 30, 40)
    boxes, findings = fit([box, box, box._replace(label="D10")], (200, 100), Picture(200, 100))
    assert boxes == [box, box._replace(label="D10")]
    assert [finding.action for finding in findings] == ["second one dropped"]


def test_boxes_of_a_resized_copy_are_scaled() -> None:
    boxes, findings = fit([Box("D00", 10, 20, 30, 40)], (200, 100), Picture(400, 200))
    assert boxes == [Box("D00", 20, 40, 60, 80)]
    assert findings[0] == ("XML says 200x100, the image is 400x200", "boxes scaled by 2")


@pytest.mark.parametrize("size", [None, (300, 300)])
def test_where_the_xml_size_is_missing_or_of_another_aspect_corners_are_the_image_s_pixels(
    size: tuple[int, int] | None,
) -> None:
    boxes, findings = fit([Box("D00", 10, 20, 30, 40)], size, Picture(400, 200))
    assert boxes == [Box("D00", 10, 20, 30, 40)] and "pixels of the" in findings[0].action


@pytest.mark.parametrize(
    ("orientation", "expected"),
    [(5, (20, 10, 40, 30)), (6, (60, 10, 80, 30)), (7, (60, 170, 80, 190)), (8, (20, 170, 40, 190))],
)
def test_boxes_drawn_before_an_exif_rotation_are_turned_with_the_image(
    orientation: int, expected: tuple[float, ...]
) -> None:
    boxes, findings = fit([Box("D00", 10, 20, 30, 40)], (200, 100), Picture(100, 200, orientation))
    assert boxes == [Box("D00", *expected)] and findings[0].action == "boxes turned"


def test_a_label_line_is_class_centre_and_size_in_fractions() -> None:
    assert yolo_line(3, Box("D40", 50, 20, 150, 40), Picture(200, 100)) == "3 0.500000 0.300000 0.500000 0.200000"
