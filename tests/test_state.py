"""Where a run stands, counted in batches, when the batch is another one."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rddkit.state import same_place


@pytest.mark.parametrize(
    ("number", "images", "old_batch", "batch", "expected"),
    [
        (-1, 12, 32, 8, -1),
        (0, 12, 32, 8, 1),
        (1, 12, 32, 8, 3),
        (5, 64, 8, 4, 11),
        (2, 10, 4, 2, 4),
        (5, 10, 4, 2, 9),
        (3, 100, 2, 2, 3),
    ],
)
def test_the_last_step_is_where_the_same_images_end(
    number: int, images: int, old_batch: int, batch: int, expected: int
) -> None:
    """12 images are one batch of 32 and two of 8: a ratio of 4 would put the last step four epochs ahead."""
    assert same_place(number, images, old_batch, batch) == expected


@given(st.integers(0, 5000), st.integers(1, 200), st.integers(1, 64), st.integers(1, 64))
def test_a_step_keeps_its_epoch_whatever_the_batch(number: int, images: int, old_batch: int, batch: int) -> None:
    new = same_place(number, images, old_batch, batch)
    assert new // -(-images // batch) == number // -(-images // old_batch)
