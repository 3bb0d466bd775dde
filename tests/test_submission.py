"""The challenges' submission file: written as they want it, and what they would refuse is found."""

from __future__ import annotations

import pytest

from rddkit import challenge, submission

PHOTOS = [("India_000713.jpg", 100, 100), ("Japan_000001.jpg", 100, 100), ("Norway_000001.jpg", 100, 100)]
NAMES = ["D00", "D10", "D20", "D40", "Repair"]


def test_lines_are_as_the_challenge_wants_them() -> None:
    found = challenge.boxes(
        [
            (0, 3, 10.4, 20.6, 30, 40, 0.9),
            (0, 0, -2, 0, 50, 130, 0.8),  # leaves the image: cut at its edges
            (0, 4, 1, 1, 9, 9, 0.7),  # not one of the four classes
            (2, 1, 1, 1, 9, 9, 0.2),  # below the threshold
        ]
    )
    text = submission.write(PHOTOS, NAMES, found, threshold=0.5)
    assert text == "India_000713.jpg,4 10 21 30 40 1 0 0 50 100\nJapan_000001.jpg,\nNorway_000001.jpg,\n"
    assert submission.problems(text, PHOTOS) == []


def test_only_the_five_strongest_are_written() -> None:
    found = challenge.boxes([(1, 0, place, 0, place + 5, 5, place / 10) for place in range(1, 9)])
    text = submission.write(PHOTOS, NAMES, found, threshold=0.1)
    assert "Japan_000001.jpg,1 8 0 13 5 1 7 0 12 5 1 6 0 11 5 1 5 0 10 5 1 4 0 9 5\n" in text


def test_a_name_with_a_comma_stays_one_column() -> None:
    photos = [('a, "b".jpg', 10, 10)]
    assert submission.problems(submission.write(photos, NAMES, challenge.boxes([]), 0.5), photos) == []


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("India_000713.jpg", "line 1: 1 columns; it takes two: image name, boxes"),
        ("India_000713.jpg,1 2 3", "line 1: 3 numbers; each box takes five: class x1 y1 x2 y2"),
        ("India_000713.jpg,1 2.5 3 4 5", "line 1: '1 2.5 3 4 5' is not made of whole numbers"),
        ("India_000713.jpg,0 1 1 5 5", "line 1: class 0; there are 1 to 4"),
        ("India_000713.jpg,1 5 5 5 9", "line 1: box 5 5 5 9 is empty"),
        ("India_000713.jpg,1 5 5 50 101", "line 1: box 5 5 50 101 leaves the image of 100x100 pixels"),
        ("India_000713.jpg," + " ".join(["1 1 1 9 9"] * 6), "line 1: 6 boxes; at most 5 are taken"),
        ("Nowhere.jpg,", "line 1: Nowhere.jpg is not a test image"),
        ("India_000713.jpg,\nIndia_000713.jpg,", "line 2: India_000713.jpg comes twice"),
        ("India_000713.jpg,", "2 test images are missing, such as Japan_000001.jpg"),
    ],
)
def test_what_is_wrong_is_named(line: str, told: str) -> None:
    assert told in submission.problems(line + "\n", PHOTOS)


def test_many_problems_are_counted_not_listed() -> None:
    told = submission.problems("x.jpg,\n" * 40, PHOTOS)
    assert len(told) == submission.SHOWN + 1 and told[-1] == "... and 33 more"
