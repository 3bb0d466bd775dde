"""Someone else's YOLO export: classes by name or not at all, labels checked, the split made anew."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from hostile import jpeg

from rddkit.dataset import DatasetError, prepare

FIVE = ["D00", "D10", "D20", "other", "D40"]  # as some mirrors have it: the pothole is number 4


@pytest.fixture
def export(tmp_path: Path) -> Path:
    """Twenty frames in the layout of Ultralytics, split at random, a pothole (number 4) in each."""
    folder = tmp_path / "export"
    for number in range(20):
        add(folder, f"Japan_{number:06d}", "4 0.5 0.5 0.2 0.25\n", "val" if number % 5 == 0 else "train")
    (folder / "data.yaml").write_text(yaml.safe_dump({"train": "images/train", "val": "images/val", "names": FIVE}))
    return folder


def add(folder: Path, stem: str, lines: str | None, part: str = "train") -> None:
    for kind in ("images", "labels"):
        (folder / kind / part).mkdir(parents=True, exist_ok=True)
    (folder / "images" / part / f"{stem}.jpg").write_bytes(jpeg())
    if lines is not None:
        (folder / "labels" / part / f"{stem}.txt").write_text(lines)


def convert(export: Path, **more: Any) -> dict[str, Any]:
    return prepare(export, export.parent / "out", origin="yolo", leakage="none", **more)


def test_numbers_are_read_by_the_export_s_own_names(export: Path) -> None:
    add(export, "Japan_000020", "3 0.5 0.5 0.2 0.25\n0 0.5 0.5 0.2 0.25\n")
    audit = convert(export)
    assert audit["boxes"] == {"D00": 1, "D10": 0, "D20": 0, "D40": 20} and audit["left_out"] == {"other": 1}
    labels = [path.read_text() for path in (export.parent / "out").glob("labels/*/Japan_00001?.txt")]
    assert labels == ["3 0.500000 0.500000 0.200000 0.250000\n"] * 10
    assert audit["problems"] == [] and "own split is not taken over" in audit["notes"][0]
    assert audit["by_domain"]["Japan"]["blocks_in_val"] == 1


def test_without_names_nothing_is_guessed(export: Path) -> None:
    (export / "data.yaml").unlink()
    with pytest.raises(DatasetError, match="no YAML file that names its classes, .* say nothing; .*--names"):
        convert(export)
    assert not (export.parent / "out").exists()
    assert convert(export, names=FIVE)["boxes"]["D40"] == 20


def test_names_that_differ_from_the_export_s_are_refused(export: Path) -> None:
    with pytest.raises(DatasetError, match="--names says D00, D10, D20, D40, .*own YAML says 0 D00, .*3 other"):
        convert(export, names=["D00", "D10", "D20", "D40"])


def test_a_class_by_another_name_is_not_taken_for_ours(export: Path) -> None:
    (export / "data.yaml").write_text(yaml.safe_dump({"names": {0: "D00", 1: "D10", 2: "D20", 3: "pothole"}}))
    with pytest.raises(DatasetError, match="classes are .*3 pothole; D40 is not among them"):
        convert(export)


@pytest.mark.parametrize(
    ("lines", "problem"),
    [
        ("9 0.5 0.5 0.2 0.2", "line 1 has class 9, which has no name"),
        ("0.5 0.5 0.5 0.2 0.2", "line 1 has class 0.5, which has no name"),
        ("\n0 0.5 0.5 0.2", "line 2 has 4 values, a box has 5"),
        ("0 0.1 0.1 0.2 0.1 0.2 0.2", "line 1 has 7 values"),
        ("0 0.5 0.5 nan 0.2", "line 1 has what is not a number"),
        ("D00 0.5 0.5 0.2 0.2", "line 1 has what is not a number"),
        ("0 50 40 20 20", "line 1 is in pixels, not in fractions"),
        ("0 0.95 0.5 0.2 0.2", "reaches outside the image"),
        ("0 0.5 0.5 0 0.2", "has no area"),
        ("0 0.5 0.5 0.2 0.2\n0 0.5 0.5 0.2 0.2", "is there twice"),
    ],
)
def test_each_odd_line_is_told_by_file(export: Path, lines: str, problem: str) -> None:
    add(export, "Japan_000020", lines)
    (told,) = convert(export)["problems"]
    assert told["file"] == "labels/train/Japan_000020.txt" and problem in told["problem"]


def test_files_without_partner_or_sense_are_left_out_and_told(export: Path) -> None:
    add(export, "Japan_000020", None)
    add(export, "Japan_000021", "")
    (export / "labels" / "train" / "Japan_000021.txt").write_bytes(b"\xff\xfe\x00\x00")
    add(export, "Japan_000001", "", "val")
    audit = convert(export)
    told = {problem["file"]: problem["problem"] for problem in audit["problems"]}
    assert told == {
        "images/train/Japan_000020.jpg": "has no label file",
        "labels/train/Japan_000021.txt": "label file is no text",
        "images/val/Japan_000001.jpg": "has the same name as images/train/Japan_000001.jpg",
    }
    assert audit["images"] == 20


def test_names_of_roboflow_keep_their_country_and_their_order(export: Path) -> None:
    for number in range(20, 40):
        add(export, f"Czech_{number:06d}_jpg.rf.0{number}abc77", "")
    audit = convert(export)
    assert {domain: own["images"] for domain, own in audit["by_domain"].items()} == {"Czech": 20, "Japan": 20}
    assert audit["by_domain"]["Czech"]["blocks"] < 20


def test_the_command_says_what_it_needs(export: Path, run_cli: Any) -> None:
    (export / "data.yaml").unlink()
    out = export.parent / "out"
    done = run_cli("prepare", str(export), str(out), "--from", "yolo")
    assert done.returncode == 2 and "--names D00,D10,D20,D40" in done.stderr
    done = run_cli("prepare", str(export), str(out), "--from", "yolo", "--names", ",".join(FIVE))
    assert done.returncode == 0 and "20 images" in done.stdout
    done = run_cli("prepare", str(export), str(out), "--from", "coco")
    assert done.returncode == 2 and "--from 'coco' is none of xml, yolo" in done.stderr
