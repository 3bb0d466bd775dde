"""Near-twins: found by hash wherever their ids lie, kept on one side of the split, and counted in the audit."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageEnhance

from rddkit.dataset import leakage, prepare, summary
from rddkit.dataset.split import Split, keep_together

REAL = Path(__file__).resolve().parent.parent.parent / "shared" / "rdd2022-sample"


def add(raw: Path, domain: str, number: int, picture: Image.Image, quality: int = 90) -> None:
    train = raw / domain / "train"
    for folder in ("images", "annotations/xmls"):
        (train / folder).mkdir(parents=True, exist_ok=True)
    content = io.BytesIO()
    picture.save(content, "JPEG", quality=quality)
    (train / "images" / f"{domain}_{number:06d}.jpg").write_bytes(content.getvalue())
    size = f"<size><width>{picture.width}</width><height>{picture.height}</height></size>"
    (train / "annotations" / "xmls" / f"{domain}_{number:06d}.xml").write_text(f"<annotation>{size}</annotation>")


def scene(seed: int) -> Image.Image:
    """A picture of sixteen grey fields, unlike that of any other seed."""
    fields = np.random.default_rng(seed).integers(0, 255, (9, 9), dtype=np.uint8)
    return Image.fromarray(fields).resize((160, 160), Image.Resampling.BICUBIC).convert("RGB")


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    """A hundred scenes in ten drives of ten; the last drive shows those of the first again, a little brighter."""
    folder = tmp_path / "raw"
    for number in range(100):
        again = number >= 90
        picture = scene(number - 90 if again else number)
        if again:
            picture = ImageEnhance.Brightness(picture).enhance(1.1)
        add(folder, "China", 20 * (number // 10) + number % 10, picture, 75 if again else 90)
    return folder


def test_twins_far_apart_in_their_ids_end_on_one_side(raw: Path, tmp_path: Path) -> None:
    moved = set()
    for seed in range(4):
        audit = prepare(raw, tmp_path / str(seed), seed=seed, val_fraction=0.3)
        assert audit["leakage"]["twins"] == 0 and audit["leakage"]["nearest"] == []
        assert audit["leakage"]["images"] == audit["leakage"]["of"] == 100
        moved.add(audit["leakage"]["moved"])
        for number in range(10):
            there = {path.parent.name for n in (number, 180 + number) for path in (tmp_path / str(seed)).glob(
                f"images/*/China_{n:06d}.jpg")}  # fmt: skip
            assert len(there) == 1
    assert moved - {0}, "the blocks alone would have parted some"


def test_with_none_nothing_is_looked_at_and_that_is_said(raw: Path, tmp_path: Path) -> None:
    audit = prepare(raw, tmp_path / "out", leakage="none")
    assert audit["leakage"]["looked_at"] == "nothing" and audit["leakage"]["images"] == 0
    assert "leakage: not looked for" in summary(audit)


def test_beyond_the_budget_the_ends_of_blocks_are_looked_at(
    raw: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(30):  # one long drive that stands still: every block's end has a twin beside it
        add(raw, "Japan", number, scene(1000))
    monkeypatch.setattr(leakage, "BUDGET", 1)
    audit = prepare(raw, tmp_path / "out", block=10, seed=3)
    found = audit["leakage"]
    assert found["looked_at"] == "of China, Japan the 2 frames on both sides of each end of a block in val"
    assert 0 < found["images"] < 20 and found["twins"] == 0
    everything = prepare(raw, tmp_path / "all", block=10, seed=3, leakage="all")["leakage"]
    assert everything["images"] == 130 and everything["looked_at"] == "all of China, Japan"
    assert f"looked at {found['images']} of 130 images" in summary(audit)


def test_a_group_goes_where_it_has_more_and_never_empties_val() -> None:
    parts = Split(frozenset({"a", "b", "c"}), {}, [])
    assert keep_together(parts, [["a", "x", "y"]]) == (Split(frozenset({"b", "c"}), {}, []), 1)
    assert keep_together(parts, [["a", "b", "x"]]) == (Split(frozenset({"a", "b", "c", "x"}), {}, []), 1)
    assert keep_together(parts, [["a", "x"]])[0].val == {"b", "c"}, "as many on both: train"
    assert keep_together(parts, [["a", "b", "c", "x", "y", "z"]]) == (parts, 0)
    tested = parts._replace(test=frozenset({"t"}))
    assert keep_together(tested, [["a", "t", "x", "y"]]) == (tested, 0)


def test_an_image_whose_rows_are_broken_is_nobody_s_twin(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(b"\xff\xd8")
    (tmp_path / "b.jpg").write_bytes(b"\xff\xd8")
    one, two = leakage.hashed([tmp_path / "a.jpg", tmp_path / "b.jpg"])
    assert np.unpackbits(one ^ two).sum() > leakage.NEAR


@pytest.mark.skipif(not REAL.is_dir(), reason=f"no real images in {REAL}")
def test_no_near_twin_lies_across_the_split_of_the_real_sample(tmp_path: Path) -> None:
    found: dict[str, Any] = prepare(REAL, tmp_path / "out")["leakage"]
    assert found["threshold"] == 16 and found["images"] == found["of"] == 407
    assert found["twins"] == 0 and found["val"] > 40
