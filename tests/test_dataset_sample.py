"""The synthetic sample: RDD2022's layout, both XML dialects, the same bytes each time, nobody's folder overwritten."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
from PIL import Image

from rddkit.dataset import OFFICIAL, DatasetError, write_sample
from rddkit.dataset.voc import read_voc


def hashes(folder: Path) -> dict[str, str]:
    """Every file below `folder` by its relative path."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def test_the_sample_has_the_layout_labels_and_negatives_of_the_release(tmp_path: Path) -> None:
    counts = write_sample(tmp_path / "sample", images=16)
    assert counts["images"] == 16 and len(counts["countries"]) >= 3
    assert {*OFFICIAL, "Repair", "D43"} <= counts["boxes"].keys()
    assert counts["negatives"] >= 3
    xmls = sorted((tmp_path / "sample").glob("*/train/annotations/xmls/*.xml"))
    images = sorted((tmp_path / "sample").glob("*/train/images/*.jpg"))
    assert [path.stem for path in xmls] == [path.stem for path in images]
    assert len(list((tmp_path / "sample").glob("*/test/images/*.jpg"))) == counts["test_images"] > 0


def test_both_xml_dialects_occur_and_every_box_lies_on_its_image(tmp_path: Path) -> None:
    write_sample(tmp_path / "sample", images=8)
    texts = []
    for xml in (tmp_path / "sample").glob("*/train/annotations/xmls/*.xml"):
        texts.append(xml.read_text())
        annotation = read_voc(xml)
        with Image.open(xml.parents[2] / "images" / f"{xml.stem}.jpg") as image:
            assert annotation.size == image.size
        for box in annotation.boxes:
            assert 0 <= box.x1 < box.x2 <= image.width and 0 <= box.y1 < box.y2 <= image.height
    assert any("\t<object>" in text and "<pose>" in text for text in texts)
    assert any("  <object>" in text and text.index("<depth>") < text.index("<width>") for text in texts)


def test_the_same_arguments_give_the_same_bytes_and_an_image_does_not_depend_on_the_others(tmp_path: Path) -> None:
    write_sample(tmp_path / "a", images=4)
    write_sample(tmp_path / "b", images=4)
    assert hashes(tmp_path / "a") == hashes(tmp_path / "b")
    write_sample(tmp_path / "more", images=5)
    first = "Japan/train/images/Japan_000001.jpg"
    assert hashes(tmp_path / "more")[first] == hashes(tmp_path / "a")[first]
    write_sample(tmp_path / "other", images=1, seed=7)
    assert hashes(tmp_path / "other")[first] != hashes(tmp_path / "a")[first]


def test_writing_the_sample_again_touches_no_file(tmp_path: Path) -> None:
    folder = tmp_path / "sample"
    write_sample(folder, images=4)
    times = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    write_sample(folder, images=4)
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == times


def test_a_folder_with_something_else_in_it_is_refused_and_left_alone(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years of work")
    with pytest.raises(DatasetError, match="is not empty and holds no sample of ours; choose another folder"):
        write_sample(tmp_path / "mine")
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["thesis.txt"]


def test_a_sample_with_other_arguments_is_not_overwritten(tmp_path: Path) -> None:
    write_sample(tmp_path / "sample", images=4)
    with pytest.raises(DatasetError, match="other arguments"):
        write_sample(tmp_path / "sample", images=4, seed=1)
    with pytest.raises(DatasetError, match="ask for at least 1"):
        write_sample(tmp_path / "none", images=0)
    assert not (tmp_path / "none").exists()
