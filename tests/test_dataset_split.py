"""The split: whole runs of neighbouring frames on one side, seeded, whatever the order of the folder."""

from __future__ import annotations

import random

from hypothesis import given, settings
from hypothesis import strategies as st

from rddkit.dataset.split import GAP, blocks, split

DRIVE = [f"Japan_{number:06d}.jpg" for number in range(400)]


def test_a_block_ends_at_its_length_and_at_a_wide_gap_but_not_at_a_few_missing_ids() -> None:
    names = [f"C_{number:03d}.jpg" for number in (1, 2, 4, 5, 9, 10, 10 + GAP + 1, 60)]
    assert [len(members) for members in blocks(names, 4)] == [4, 2, 1, 1]


def test_another_prefix_is_another_drive() -> None:
    assert blocks(["a_1.jpg", "b_2.jpg", "a_2.jpg"], 9) == [["a_1.jpg", "a_2.jpg"], ["b_2.jpg"]]


def test_frames_without_a_number_are_neighbours_by_name() -> None:
    assert blocks(["road-b.jpg", "road-a.jpg"], 9) == [["road-a.jpg", "road-b.jpg"]]


def test_val_gets_its_share_in_whole_blocks() -> None:
    parts = split({"Japan": DRIVE}, val_fraction=0.15, block=20, seed=42)
    assert len(parts.val) == 60
    for members in blocks(DRIVE, 20):
        assert len(parts.val & set(members)) in (0, len(members))


def test_the_split_depends_on_the_seed_and_not_on_the_order_of_the_folder() -> None:
    shuffled = random.Random(1).sample(DRIVE, len(DRIVE))
    assert split({"Japan": DRIVE}, 0.15, 20, 42) == split({"Japan": shuffled}, 0.15, 20, 42)
    assert split({"Japan": DRIVE}, 0.15, 20, 42).val != split({"Japan": DRIVE}, 0.15, 20, 43).val


def test_one_more_country_moves_no_frame_of_another() -> None:
    alone = split({"Japan": DRIVE}, 0.15, 20, 42).val
    india = [f"India_{number}.jpg" for number in range(50)]
    assert {name for name in split({"Japan": DRIVE, "India": india}, 0.15, 20, 42).val if "Japan" in name} == alone


def test_a_domain_too_small_for_a_block_stays_in_train_and_that_is_said() -> None:
    parts = split({"Czech": ["Czech_1.jpg", "Czech_9.jpg"], "Japan": DRIVE}, 0.15, 50, 42)
    assert parts.notes == ["Czech: 2 images are too few for a block in val, all in train"]


def test_val_is_never_empty_where_two_images_exist() -> None:
    parts = split({"Czech": ["Czech_1.jpg", "Czech_2.jpg"]}, 0.15, 50, 42)
    assert len(parts.val) == 1 and "val would be empty" in parts.notes[-1]


@settings(max_examples=60)
@given(
    st.lists(st.integers(0, 3000), min_size=2, max_size=150, unique=True),
    st.floats(0.05, 0.6),
    st.integers(1, 60),
    st.integers(0, 9),
)
def test_both_sides_always_get_something_and_val_is_near_its_share(
    ids: list[int], val_fraction: float, block: int, seed: int
) -> None:
    names = [f"X_{number:06d}.jpg" for number in ids]
    parts = split({"X": names}, val_fraction, block, seed)
    assert 0 < len(parts.val) < len(names)
    assert abs(len(parts.val) - val_fraction * len(names)) <= max(1, min(block, val_fraction * len(names)))


def test_val_has_nearly_its_share_of_rare_classes_and_negatives() -> None:
    draw = random.Random(2)
    labels = {name: draw.choices([(), ("D00",), ("D00", "D40")], [5, 4, 1])[0] for name in DRIVE}
    for start in (40, 200):  # potholes come in clusters
        labels |= {f"Japan_{number:06d}.jpg": ("D40", "D40") for number in range(start, start + 30)}
    for seed in range(5):
        val = split({"Japan": DRIVE}, 0.2, 20, seed, labels).val
        for wanted in ("D00", "D40"):
            whole = sum(labels[name].count(wanted) for name in DRIVE)
            assert abs(sum(labels[name].count(wanted) for name in val) / whole - 0.2) < 0.06
        negatives = sum(not labels[name] for name in DRIVE)
        assert abs(sum(not labels[name] for name in val) / negatives - 0.2) < 0.06


def test_a_domain_left_out_is_the_test_set_and_moves_no_other() -> None:
    india = [f"India_{number}.jpg" for number in range(50)]
    alone = split({"Japan": DRIVE}, 0.15, 20, 42)
    parts = split({"Japan": DRIVE, "India": india}, 0.15, 20, 42, leave_out="India")
    assert parts.test == set(india) and parts.val == alone.val
    assert parts.part("India_3.jpg") == "test" and parts.used == ("train", "val", "test")
