"""Photos of one's own: found damage with positions, in a table, on a page and on a map, however odd the files are."""

from __future__ import annotations

import csv
import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from test_geotag import photo
from workshop import Workshop

from rddkit import predict, runfile
from rddkit.config import ConfigError

HOSTILE = "<img src=x onerror=alert(1)>,\"'=1+1.jpg"
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def photos(blocks: Workshop, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of photos: three that hold something, one with a position, and much that is odd."""
    folder = tmp_path_factory.mktemp("my photos") / "trip é 1"
    folder.mkdir()
    data = Path(runfile.read(blocks.run.run_yaml).config["data"]).parent
    images = sorted((data / "images" / "val").iterdir())
    for number, image in enumerate(images[:3]):
        shutil.copyfile(image, folder / f"{number}.JPG")
    shutil.copyfile(images[3], folder / HOSTILE)
    shutil.copyfile(images[4], folder / "=cmd.jpg")
    shutil.copyfile(images[5], folder / "many*[?].jpg")
    shutil.copyfile(images[5], os.fsencode(folder) + b"/latin-\xe9.jpg")
    photo(folder / "placed.jpg", {1: "S", 2: (33.0, 30.0, 0.0), 3: "E", 4: (151.0, 0.0, 0.0)}, "2026:05:01 08:00:00")
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was held upright: its 40x30 pixels are to be shown turned
    Image.new("RGB", (40, 30), "grey").save(folder / "turned.jpg", exif=exif)
    (folder / "empty.jpg").touch()
    (folder / "torn.jpg").write_bytes(images[0].read_bytes()[:40])
    (folder / "notes.txt").write_text("no photo")
    (folder / "loop").symlink_to(folder)
    return folder


@pytest.fixture(scope="module")
def done(blocks: Workshop, photos: Path) -> Any:
    before = sorted(os.listdir(os.fsencode(photos)))
    done = blocks.cli("predict", "blocks", str(photos), "--threshold", "0.01")
    assert sorted(os.listdir(os.fsencode(photos))) == before, "nothing is written beside the photos"
    return done


@pytest.fixture
def folder(blocks: Workshop, done: Any) -> Path:
    assert done.returncode == 0, done.stdout + done.stderr
    return blocks.run.predictions("trip_é_1")


def rows(folder: Path) -> list[dict[str, str]]:
    with open(folder / predict.TABLE, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_what_was_found_is_in_the_table(folder: Path) -> None:
    boxes = [row for row in rows(folder) if row["class"]]
    assert boxes and {row["class"] for row in boxes} <= {"D00", "D10", "D20", "D40"}
    assert all(float(row["x2"]) > float(row["x1"]) and 0.01 <= float(row["confidence"]) <= 1 for row in boxes)


def test_every_photo_has_a_line_and_broken_ones_their_reason(folder: Path, done: Any) -> None:
    by_name = {row["photo"]: row for row in rows(folder)}
    assert len(by_name) == 11
    assert (by_name["turned.jpg"]["width"], by_name["turned.jpg"]["height"]) == ("30", "40")
    for name in ("empty.jpg", "torn.jpg"):
        assert by_name[name]["problem"] == "OSError: not an image that can be read"
        assert f"not read: {name}: OSError: not an image that can be read" in done.stdout
    assert {"./=cmd.jpg", "latin-\\xe9.jpg", "many*[?].jpg", HOSTILE} <= set(by_name)
    assert "2 could not be read" in done.stdout and "threshold 0.010 (asked for)" in done.stdout


def test_the_map_holds_the_photo_that_says_where_it_was_taken(folder: Path) -> None:
    content = json.loads((folder / predict.MAP).read_text(encoding="utf-8"))
    (point,) = content["features"]
    assert content["type"] == "FeatureCollection" and point["type"] == "Feature"
    assert point["geometry"] == {"type": "Point", "coordinates": [151.0, -33.5]}, "longitude first"
    assert point["properties"]["photo"] == "placed.jpg" and point["properties"]["taken"] == "2026:05:01 08:00:00"


def test_the_gallery_is_one_page_and_foreign_names_cannot_run(folder: Path) -> None:
    page = (folder / predict.GALLERY).read_text(encoding="utf-8")
    assert page.count("data:image/jpeg;base64,") == 9 and "<script" not in page
    assert "<img src=x" not in page and "&lt;img src=x onerror=alert(1)&gt;" in page
    assert "default-src 'none'" in page and "empty.jpg: OSError" in page


def test_the_same_photos_again_are_looked_at_again_and_others_are_not_mixed_in(
    blocks: Workshop, photos: Path, folder: Path
) -> None:
    with pytest.raises(ConfigError, match="holds what was found in .* choose another: --name NAME"):
        predict.predict(blocks.run, [photos / "0.JPG"], name=folder.name)


def test_the_threshold_is_the_evaluations_where_there_is_one(blocks: Workshop, tmp_path: Path) -> None:
    path = tmp_path / "one.png"
    Image.fromarray(np.full((40, 60, 3), 90, np.uint8)).save(path)
    done = blocks.cli("predict", str(path), "--name", "one")
    assert done.returncode == 0, done.stderr
    assert "rddkit evaluate blocks chooses a better one" in done.stdout or "highest F1" in done.stdout
    boxes = sum(bool(row["class"]) for row in rows(blocks.run.predictions("one")))
    assert f"{boxes} damages in {min(boxes, 1)} of 1 photos" in done.stdout, "on grey a model may see anything"


def test_no_photo_at_all_is_exit_2(blocks: Workshop, tmp_path: Path) -> None:
    empty = blocks.cli("predict", "blocks", str(tmp_path))
    assert (empty.returncode, empty.stderr) == (2, f"rddkit: no photo (.jpg, .jpeg, .png) in {tmp_path}\n")
    absent = blocks.cli("predict", "blocks", str(tmp_path / "absent"))
    assert absent.returncode == 2 and "nothing at" in absent.stderr
    wrong = blocks.cli("predict", "blokcs", str(tmp_path))
    assert wrong.returncode == 2 and "no run 'blokcs'" in wrong.stderr


@pytest.mark.parametrize("name", ["a/b", "..", " ", ".hidden"])
def test_a_name_that_is_no_folder_is_refused(blocks: Workshop, photos: Path, name: str) -> None:
    with pytest.raises(ConfigError, match="must be one folder's name"):
        predict.predict(blocks.run, [photos], name=name)
