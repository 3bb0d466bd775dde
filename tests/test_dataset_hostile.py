"""A data set with every defect there is: each told by file and reason, nothing crashes, nothing outside OUT changes."""

from __future__ import annotations

import errno
import json
import os
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
from hostile import DEFECTS, HARMLESS, Shuffled, build
from test_dataset_sample import hashes

from rddkit.dataset import DatasetError, prepare, read_data_yaml, split_images, summary
from rddkit.dataset.files import why_not

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="pipes, devices and names of any bytes")


class Hostile:
    """RAW with all defects, a folder that its links lead to, and what the audit of OUT says."""

    def __init__(self, home: Path) -> None:
        self.raw, self.outside, self.out = home / "raw", home / "outside", home / "out"
        self.expected = build(self.raw, self.outside)
        self.before = everything(self.raw), everything(self.outside)
        self.audit = prepare(self.raw, self.out)

    def told(self, name: str) -> list[tuple[str, str]]:
        file, _, _ = self.expected[name]
        return [(p["problem"], p["action"]) for p in self.audit["problems"] if p["file"].endswith("/" + file)]


def everything(folder: Path) -> dict[str, tuple[int, int, int]]:
    """Kind, size and time of all that lies below `folder`, links not followed."""
    found = {}
    for where, folders, files in os.walk(folder):
        for name in [*folders, *files]:
            status = os.lstat(os.path.join(where, name))
            found[os.path.join(where, name)] = (status.st_mode, status.st_size, status.st_mtime_ns)
    return found


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Hostile:
    return Hostile(tmp_path_factory.mktemp("hostile"))


def test_there_are_at_least_forty_defects_each_in_a_file_of_its_own(hostile: Hostile) -> None:
    assert len(DEFECTS) >= 40
    assert len(hostile.expected) == len(DEFECTS), "no name twice"
    assert len({file for file, _, _ in hostile.expected.values()}) == len(DEFECTS)


@pytest.mark.parametrize("name", [defect.name for defect in DEFECTS])
def test_each_defect_is_told_by_file_and_reason(hostile: Hostile, name: str) -> None:
    _, reason, kept = hostile.expected[name]
    told = hostile.told(name)
    assert [problem for problem, _ in told if reason in problem], told
    stem = hostile.expected[name][0].rpartition(".")[0]
    if stem.startswith("Japan_"):
        there = [path.stem for path in hostile.out.glob("images/*/*")]
        assert (stem in there) == kept, "left out or repaired, as the audit says"


def test_what_is_only_odd_is_taken_without_a_word(hostile: Hostile) -> None:
    expected = {file for file, _, _ in hostile.expected.values()}
    assert not {Path(p["file"]).name for p in hostile.audit["problems"]} - expected
    assert hostile.audit["images"] == sum(defect.kept for defect in DEFECTS) + len(HARMLESS)
    assert hostile.audit["images"] == len(list(hostile.out.glob("images/*/*")))


def test_nothing_but_out_was_touched(hostile: Hostile) -> None:
    assert (everything(hostile.raw), everything(hostile.outside)) == hostile.before
    assert sorted(path.name for path in hostile.out.parent.iterdir()) == ["out", "outside", "raw"]


def test_again_and_in_any_order_of_the_folder_the_same_bytes(hostile: Hostile, monkeypatch: pytest.MonkeyPatch) -> None:
    first = hashes(hostile.out)
    assert prepare(hostile.raw, hostile.out) == hostile.audit and hashes(hostile.out) == first
    shutil.rmtree(hostile.out)
    monkeypatch.setattr(os, "scandir", lambda folder: Shuffled(folder, 5))
    assert prepare(hostile.raw, hostile.out) == hostile.audit and hashes(hostile.out) == first


def test_the_audit_is_a_text_of_whole_lines(hostile: Hostile) -> None:
    assert json.loads((hostile.out / "audit.json").read_text(encoding="utf-8")) == hostile.audit
    said = [value for problem in hostile.audit["problems"] for value in problem.values()]
    assert all(value.isprintable() and len(value) < 400 for value in said)
    assert summary(hostile.audit).endswith(f"{len(hostile.audit['problems'])} problems")


def test_every_image_that_was_taken_can_be_found_by_ultralytics_rules(hostile: Hostile) -> None:
    data = read_data_yaml(hostile.out / "rdd2022.yaml")
    for part in ("train", "val"):
        assert len(split_images(data, part)) == hostile.audit["splits"][part]["images"]


def test_the_command_exits_0_and_strict_exits_1(hostile: Hostile, run_cli: Any) -> None:
    done = run_cli("prepare", str(hostile.raw), str(hostile.out))
    assert done.returncode == 0, done.stderr
    assert "more problems in audit.json" in done.stdout and "Traceback" not in done.stderr
    strict = run_cli("prepare", str(hostile.raw), str(hostile.out), "--strict")
    assert strict.returncode == 1 and strict.stdout == done.stdout


def test_a_name_that_ultralytics_cannot_look_into_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    (tmp_path / "raw").mkdir()
    with pytest.raises(DatasetError, match=r"has one of \[\]\*\? in its name"):
        prepare(tmp_path / "raw", tmp_path / "out [1]")
    folder = Path(os.fsdecode(os.fsencode(tmp_path) + b"/raw\xe9"))
    folder.mkdir()
    with pytest.raises(DatasetError, match=r"the name of RAW \(.*raw\\xe9\) is not UTF-8"):
        prepare(folder, tmp_path / "out")
    assert sorted(path.name for path in tmp_path.iterdir() if path != folder) == ["raw"]


def test_a_file_that_may_not_be_read_says_so(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").touch()
    denied = PermissionError(errno.EACCES, "Permission denied")  # a root, as tests may run, may read everything
    assert why_not(tmp_path / "a.jpg", denied) == "cannot be read: Permission denied"
