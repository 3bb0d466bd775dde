from __future__ import annotations

import pytest

from rddkit import agreement, challenge

OURS = challenge.boxes([(0, 1, 10, 10, 50, 50, 0.9), (1, 0, 0, 0, 20, 20, 0.31)])


def test_the_same_boxes_agree_and_the_distance_is_told() -> None:
    theirs = challenge.boxes([(1, 0, 0, 0, 20.4, 20, 0.29), (0, 1, 10, 10, 50, 50.9, 0.91)])
    found = agreement.compare(OURS, theirs, threshold=0.3)
    assert found.good and (found.boxes, found.alone) == (3, 0), "0.29 is a partner, and asks for none"
    assert (found.pixels, found.score) == pytest.approx((0.9, 0.02))


@pytest.mark.parametrize(
    "theirs",
    [
        [(0, 1, 10, 10, 50, 51.1, 0.9), (1, 0, 0, 0, 20, 20, 0.31)],  # more than a pixel
        [(0, 2, 10, 10, 50, 50, 0.9), (1, 0, 0, 0, 20, 20, 0.31)],  # another class
        [(1, 1, 10, 10, 50, 50, 0.9), (1, 0, 0, 0, 20, 20, 0.31)],  # another image
        [(0, 1, 10, 10, 50, 50, 0.9)],  # one lost
        [*[(0, 1, 10, 10, 50, 50, 0.9), (1, 0, 0, 0, 20, 20, 0.31)], (2, 0, 0, 0, 9, 9, 0.8)],  # one too many
    ],
)
def test_what_differs_is_seen(theirs: list[tuple[int, int, float, float, float, float, float]]) -> None:
    assert not agreement.compare(OURS, challenge.boxes(theirs), threshold=0.3).good


def test_nothing_found_proves_nothing() -> None:
    nothing = challenge.boxes([])
    assert not agreement.compare(nothing, nothing, threshold=0.3).good
    assert agreement.usable(nothing, 0.3, 8) == 0.3


def test_the_threshold_is_lowered_until_there_are_boxes_to_compare() -> None:
    assert agreement.usable(OURS, 0.95, 1) == 0.9
    assert agreement.usable(OURS, 0.95, 8) == 0.31
    assert agreement.usable(OURS, 0.2, 2) == 0.2
