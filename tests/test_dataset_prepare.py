"""Preparing: real counts, the same bytes again, odd input told by file and reason, nothing outside OUT touched."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml
from hostile import Shuffled
from PIL import Image
from test_dataset_sample import hashes

from rddkit import dataset
from rddkit.dataset import DatasetError, fingerprint, labelled_images, output, prepare, read_data_yaml, summary

REAL = Path(__file__).resolve().parent.parent.parent / "shared" / "rdd2022-sample"


def add(raw: Path, stem: str, boxes: str = "", size: str = "<width>100</width><height>80</height>") -> Path:
    """A 100x80 image with its XML in the domain the stem begins with; the XML's path."""
    train = raw / stem.rpartition("_")[0] / "train"
    (train / "images").mkdir(parents=True, exist_ok=True)
    (train / "annotations" / "xmls").mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (100, 80), (90, 90, 95)).save(train / "images" / f"{stem}.jpg")
    xml = train / "annotations" / "xmls" / f"{stem}.xml"
    xml.write_text(f"<annotation><size>{size}</size>{boxes}</annotation>")
    return xml


def box(label: str, x1: float = 10, y1: float = 20, x2: float = 50, y2: float = 60) -> str:
    corners = f"<xmin>{x1}</xmin><ymin>{y1}</ymin><xmax>{x2}</xmax><ymax>{y2}</ymax>"
    return f"<object><name>{label}</name><bndbox>{corners}</bndbox></object>"


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    """Twelve images of two domains, each with a D00, in a folder with a space and an umlaut in its name."""
    folder = tmp_path / "Straßen schäden" / "raw"
    for domain in ("Japan", "India"):
        for number in range(6):
            add(folder, f"{domain}_{number:06d}", box("D00"))
    return folder


@pytest.fixture
def out(raw: Path) -> Path:
    return raw.parent / "out put"


def told(audit: dict[str, Any]) -> list[tuple[str, str, str]]:
    return [(Path(p["file"]).name, p["problem"], p["action"]) for p in audit["problems"]]


@pytest.mark.skipif(not REAL.is_dir(), reason=f"no real images in {REAL}")
def test_the_real_sample_gives_the_known_counts_and_the_same_bytes_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "rdd-sample"
    audit = prepare(REAL, out)
    assert audit["images"] == 407
    assert audit["boxes"] == {"D00": 419, "D10": 244, "D20": 146, "D40": 107}
    assert audit["left_out"] == {"Block crack": 3, "D43": 1, "D44": 5, "D50": 5, "Repair": 107}
    assert audit["by_domain"]["China_MotorBike"]["unlabelled_test_images"] == 12
    assert {part: audit["splits"][part]["images"] for part in ("train", "val")} == {"train": 350, "val": 57}
    assert audit["problems"] == [] and audit["linked"]["symlink"] == 407
    first = hashes(out)
    shutil.rmtree(out)
    assert prepare(REAL, out) == audit and hashes(out) == first
    assert prepare(REAL, out) == audit and hashes(out) == first
    shutil.rmtree(out)
    monkeypatch.setattr(os, "scandir", lambda folder: Shuffled(folder, 9))
    assert prepare(REAL, out) == audit and hashes(out) == first
    assert "916 boxes" in summary(audit) and "121 boxes of other labels left out" in summary(audit)


def test_a_prepared_dataset_is_what_ultralytics_reads(raw: Path, out: Path) -> None:
    audit = prepare(raw, out)
    assert json.loads((out / "audit.json").read_text(encoding="utf-8")) == audit
    text = (out / "rdd2022.yaml").read_text(encoding="utf-8")
    assert "0: D00  # longitudinal crack" in text
    content = yaml.safe_load(text)
    assert content["path"] == str(out) and content["names"] == {0: "D00", 1: "D10", 2: "D20", 3: "D40"}
    for part in ("train", "val"):
        images = sorted((out / content[part]).iterdir())
        assert len(images) == audit["splits"][part]["images"]
        for image in images:
            assert image.is_symlink() and str(raw) in os.readlink(image)
            label = Path(str(image).replace("/images/", "/labels/")).with_suffix(".txt")
            assert label.read_text() == "0 0.300000 0.500000 0.400000 0.500000\n"


def test_the_order_of_the_folder_does_not_matter(raw: Path, out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    prepare(raw, out)
    first = hashes(out)
    shutil.rmtree(out)
    monkeypatch.setattr(os, "scandir", lambda folder: Shuffled(folder, 3))
    prepare(raw, out)
    assert hashes(out) == first


def test_negatives_are_kept_with_an_empty_label_file(raw: Path, out: Path) -> None:
    add(raw, "Japan_000006")
    add(raw, "Japan_000007", box("Repair"))
    audit = prepare(raw, out)
    assert audit["negatives"] == 2 and audit["left_out"] == {"Repair": 1}
    assert [path.read_text() for path in out.glob("labels/*/Japan_00000[67].txt")] == ["", ""]


def test_class_sets_and_lists_choose_what_is_in_and_nothing_is_ever_mapped(raw: Path, out: Path) -> None:
    add(raw, "Japan_000006", box("D01") + box("D0w0", 1) + box("D40", 2))
    assert prepare(raw, out)["left_out"] == {"D01": 1, "D0w0": 1}
    six = prepare(raw, out.with_name("six"), classes="six")
    assert six["boxes"]["D01"] == 1 and six["left_out"] == {"D0w0": 1}
    assert prepare(raw, out.with_name("list"), classes="D40,D01")["boxes"] == {"D40": 1, "D01": 1}
    assert list(prepare(raw, out.with_name("all"), classes="all")["boxes"]) == list(dataset.CLASS_NAMES)
    with pytest.raises(DatasetError, match="unknown class 'Repiar'; did you mean 'Repair'"):
        prepare(raw, out.with_name("typo"), classes="D00,Repiar")
    assert not out.with_name("typo").exists()


HOSTILE: dict[str, tuple[str, str, str]] = {
    "empty": ("", "XML is empty", "image left out"),
    "broken": ("<annotation>", "XML is broken", "image left out"),
    "bomb": ('<!DOCTYPE a [<!ENTITY x "y">]><annotation>&x;</annotation>', "DTD or entities", "image left out"),
    "flat": (f"<annotation>{box('D20', 10, 20, 10)}</annotation>", "has no area", "box dropped"),
    "swapped": (f"<annotation>{box('D20', 50, 60, 10, 20)}</annotation>", "swapped corners", "put in order"),
    "outside": (f"<annotation>{box('D20', 60, 20, 500)}</annotation>", "reaches outside", "clipped"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_an_odd_annotation_is_listed_by_file_and_reason_and_harms_no_other(raw: Path, out: Path, name: str) -> None:
    content, problem, action = HOSTILE[name]
    size = "<size><width>100</width><height>80</height></size>"
    xml = add(raw, "Japan_000006")
    xml.write_text(content.replace("<annotation><object>", f"<annotation>{size}<object>"))
    audit = prepare(raw, out)
    ((file, why, done),) = told(audit)
    assert file == xml.name and problem in why and action in done
    assert audit["images"] == 12 + ("image left out" not in action) and audit["boxes"]["D00"] == 12


def test_an_image_that_cannot_be_trained_on_is_left_out_and_listed(raw: Path, out: Path) -> None:
    images = raw / "Japan" / "train" / "images"
    for number in range(6, 10):
        add(raw, f"Japan_{number:06d}", box("D00"))
    whole = (images / "Japan_000006.jpg").read_bytes()
    (images / "Japan_000006.jpg").write_bytes(b"")
    (images / "Japan_000007.jpg").write_bytes(b"no image at all")
    (images / "Japan_000008.jpg").write_bytes(whole[: len(whole) - 30])
    (images / "Japan_000009.jpg").unlink()
    (images / "Japan_000010.jpg").write_bytes(whole)
    audit = prepare(raw, out)
    problems = {file: why for file, why, _ in told(audit)}
    assert problems["Japan_000006.jpg"] == "image is empty (0 bytes)"
    assert problems["Japan_000007.jpg"] == "file is not a JPEG or PNG image"
    assert "truncated" in problems["Japan_000008.jpg"]
    assert problems["Japan_000009.xml"] == "has no image"
    assert problems["Japan_000010.jpg"] == "has no XML"
    assert audit["images"] == 12 and len(problems) == 5


def test_doubled_folders_upper_case_endings_and_loops_are_handled(raw: Path, out: Path) -> None:
    (raw / "Norway").mkdir()
    (raw / "Japan").rename(raw / "Norway" / "Japan")
    (raw / "Norway" / "Japan").rename(raw / "Norway" / "Norway")
    (raw / "Norway" / "Norway" / "back").symlink_to(raw)
    for image in (raw / "India" / "train" / "images").iterdir():
        image.rename(image.with_suffix(".JPG"))
    audit = prepare(raw, out)
    assert {domain: own["images"] for domain, own in audit["by_domain"].items()} == {"India": 6, "Norway": 6}
    assert len(list(out.glob("images/*/Norway_Japan_*.jpg"))) == 6 and audit["problems"] == []


def test_images_are_copied_when_asked_and_where_links_fail(
    raw: Path, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert prepare(raw, out, copy=True)["linked"] == {"symlink": 0, "hardlink": 0, "copied": 12}
    assert not any(path.is_symlink() for path in out.glob("images/*/*"))

    def refuse(*_: object) -> None:
        raise OSError("links are not supported here")

    monkeypatch.setattr(os, "symlink", refuse)
    hard = prepare(raw, out.with_name("hard"))
    assert hard["linked"]["hardlink"] == 12
    monkeypatch.setattr(os, "link", refuse)
    copied = prepare(raw, out.with_name("copied"))
    assert copied["linked"]["copied"] == 12 and "12 images are copies" in summary(copied)


def test_a_stopped_conversion_is_continued(raw: Path, out: Path, tmp_path: Path) -> None:
    def stop(stage: str, done: int, total: int) -> None:
        if stage == "write" and done == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        prepare(raw, out, on_progress=stop)
    assert not (out / "audit.json").exists()
    prepare(raw, out)
    first = hashes(out)
    shutil.rmtree(out)
    prepare(raw, out)
    assert hashes(out) == first


def test_preparing_again_after_a_country_came_and_went_leaves_nothing_stale(raw: Path, out: Path) -> None:
    prepare(raw, out)
    first = hashes(out)
    (out / "images" / "train" / "mine.txt").write_text("a note of the user's")
    for number in range(20):
        add(raw, f"Czech_{number:06d}", box("D40"))
    assert prepare(raw, out)["images"] == 32
    shutil.rmtree(raw / "Czech")
    prepare(raw, out)
    (out / "images" / "train" / "mine.txt").unlink()
    assert hashes(out) == first


def test_a_folder_that_is_not_ours_is_refused_by_name_and_left_alone(raw: Path, out: Path) -> None:
    out.mkdir()
    (out / "thesis.txt").write_text("years of work")
    with pytest.raises(DatasetError, match="is not empty and was not made by rddkit prepare") as error:
        prepare(raw, out)
    assert str(out) in str(error.value) and [path.name for path in out.iterdir()] == ["thesis.txt"]


def test_other_settings_do_not_overwrite_a_prepared_dataset(raw: Path, out: Path) -> None:
    prepare(raw, out)
    before = hashes(out)
    with pytest.raises(DatasetError, match="other settings .*seed 42, now 7.*; choose another folder or delete"):
        prepare(raw, out, seed=7)
    assert hashes(out) == before


def test_out_inside_raw_and_raw_without_images_are_refused(raw: Path, out: Path) -> None:
    with pytest.raises(DatasetError, match="lies inside RAW"):
        prepare(raw, raw / "yolo")
    (raw.parent / "nothing").mkdir()
    with pytest.raises(DatasetError, match="0 usable labelled images below .*expected <Country>/train/images"):
        prepare(raw.parent / "nothing", out)
    with pytest.raises(DatasetError, match="no folder .*rddkit sample DIR"):
        prepare(raw.parent / "gone", out)
    assert not (raw / "yolo").exists() and not out.exists()


def test_a_linked_folder_inside_out_is_not_followed(raw: Path, out: Path, tmp_path: Path) -> None:
    prepare(raw, out)
    shutil.rmtree(out / "labels")
    (tmp_path / "elsewhere").mkdir()
    (out / "labels").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(DatasetError, match="is a link to"):
        prepare(raw, out)
    assert not list((tmp_path / "elsewhere").iterdir())


def test_a_manifest_cannot_name_files_outside_out(raw: Path, out: Path, tmp_path: Path) -> None:
    prepare(raw, out)
    precious = tmp_path / "precious.jpg"
    precious.write_text("keep")
    with open(out / output.MANIFEST, "a", encoding="utf-8") as file:
        file.write(f"../../../{precious.name},train,X,0,x\n{precious},train,X,0,x\nprecious.jpg,../..,X,0,x\n")
    prepare(raw, out)
    assert precious.read_text() == "keep"


def test_the_fingerprint_moves_with_the_dataset_and_changes_with_a_label(raw: Path, out: Path) -> None:
    audit = prepare(raw, out)
    mark = fingerprint(out / "rdd2022.yaml")
    assert audit["fingerprint"] == mark
    moved = out.rename(out.with_name("moved"))
    assert fingerprint(moved / "rdd2022.yaml") == mark
    label = sorted(moved.glob("labels/train/*.txt"))[0]
    label.write_text("1 0.3 0.5 0.4 0.5\n")
    changed = fingerprint(moved / "rdd2022.yaml")
    assert changed != mark
    label.write_text("")
    emptied = fingerprint(moved / "rdd2022.yaml")
    label.unlink()
    assert len({mark, changed, emptied, fingerprint(moved / "rdd2022.yaml")}) == 4


def test_pictures_for_the_audit_show_every_class_and_a_negative_with_boxes_in_pixels(raw: Path, out: Path) -> None:
    for number, label in enumerate(["D10", "D20", "D40"], start=20):
        add(raw, f"Japan_{number:06d}", box(label))
    add(raw, "Japan_000040")
    audit = prepare(raw, out, val_fraction=0.05, block=1)
    shown = labelled_images(out / "rdd2022.yaml", limit=5)
    labels = [[name for name, *_ in boxes] for _, boxes in shown]
    in_train = {name for name, number in audit["splits"]["train"]["boxes"].items() if number}
    assert {name for names in labels for name in names} == in_train and len(in_train) >= 3
    assert [] in labels and len(shown) <= 5
    corners = next(boxes[0][1:] for _, boxes in shown if boxes)
    assert corners == pytest.approx((10, 20, 50, 60))
    assert labelled_images(out / "rdd2022.yaml", limit=5) == shown


def test_a_dataset_file_that_says_too_little_is_one_clear_error(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="no dataset file .*rddkit prepare RAW OUT"):
        read_data_yaml(tmp_path / "gone.yaml")
    (tmp_path / "half.yaml").write_text("train: images/train\n")
    with pytest.raises(DatasetError, match="half.yaml lacks val, names"):
        read_data_yaml(tmp_path / "half.yaml")
    (tmp_path / "empty.yaml").write_text("train: a\nval: b\nnames: [D00]\n")
    with pytest.raises(DatasetError, match="no images for train"):
        fingerprint(tmp_path / "empty.yaml")


def test_only_the_countries_asked_for_are_taken(raw: Path, out: Path) -> None:
    assert list(prepare(raw, out, countries=["India"])["by_domain"]) == ["India"]
    assert {path.name[:5] for path in out.glob("images/*/*")} == {"India"}
    with pytest.raises(DatasetError, match="no labelled images of 'Jpan' here; did you mean 'Japan'.*India, Japan"):
        prepare(raw, out.with_name("typo"), countries=["Jpan"])
    with pytest.raises(DatasetError, match="other settings .*countries"):
        prepare(raw, out)


def test_a_country_left_out_is_the_test_set_and_in_no_other(raw: Path, out: Path) -> None:
    audit = prepare(raw, out, leave_out="Japan")
    assert audit["splits"]["test"]["images"] == 6 == len(list(out.glob("images/test/Japan*")))
    assert {path.name[:5] for part in ("train", "val") for path in (out / "images" / part).iterdir()} == {"India"}
    assert audit["by_domain"]["Japan"]["test"] == 6 and audit["by_domain"]["Japan"]["train"] == 0
    assert "Japan: left out of train and val, all 6 images are the test set" in audit["notes"]
    assert len(dataset.split_images(read_data_yaml(out / "rdd2022.yaml"), "test")) == 6
    assert "   test" in summary(audit)
    with pytest.raises(DatasetError, match="leaves nothing to train on"):
        prepare(raw, out.with_name("one"), leave_out="Japan", countries=["Japan"])
    with pytest.raises(DatasetError, match="--leave-out Japan is not among --countries India"):
        prepare(raw, out.with_name("one"), leave_out="Japan", countries=["India"])


def test_without_a_test_set_there_is_no_folder_for_one(raw: Path, out: Path) -> None:
    prepare(raw, out)
    assert not (out / "images" / "test").exists() and "test:" not in (out / "rdd2022.yaml").read_text()


def test_the_command_chooses_countries_and_leaves_one_out(raw: Path, out: Path, run_cli: Any) -> None:
    for number in range(6):
        add(raw, f"Czech_{number:06d}", box("D40"))
    words = ["--countries", "Japan, India", "--leave-out", "India", "--classes", "six", "--leakage", "all"]
    done = run_cli("prepare", str(raw), str(out), *words)
    assert done.returncode == 0, done.stderr
    audit = json.loads((out / "audit.json").read_text(encoding="utf-8"))
    assert sorted(audit["by_domain"]) == ["India", "Japan"] and audit["splits"]["test"]["images"] == 6
    assert list(audit["boxes"]) == ["D00", "D01", "D10", "D11", "D20", "D40"]
    again = run_cli("prepare", str(raw), str(out))
    assert again.returncode == 2 and "other settings (classes" in again.stderr
    wrong = run_cli("prepare", str(raw), str(out.with_name("other")), "--leakage", "some")
    assert wrong.returncode == 2 and "--leakage 'some' is none of auto, all, none" in wrong.stderr


def test_a_set_of_an_older_version_is_left_alone(raw: Path, out: Path) -> None:
    prepare(raw, out)
    (out / "prepare.json").write_text('{"schema": 1}')
    before = hashes(out)
    with pytest.raises(DatasetError, match="prepared by another version of rddkit; choose another folder or delete"):
        prepare(raw, out)
    assert hashes(out) == before
