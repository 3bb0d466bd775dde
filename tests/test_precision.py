"""COCO's average precision: by hand, and the same by our own rule over our own matches."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_challenge import Row, some_boxes

from rddkit import challenge, precision

TRUTH = challenge.boxes([(0, 0, 0, 0, 10, 10, 1.0), (1, 0, 0, 0, 10, 10, 1.0)])


def test_by_hand() -> None:
    # Right, wrong, right: precision 1 up to recall 1/2 (51 of the 101 points), then 2/3.
    found = challenge.boxes([(0, 0, 0, 0, 10, 10, 0.9), (0, 0, 50, 0, 60, 10, 0.8), (1, 0, 0, 0, 10, 6, 0.7)])
    ap = precision.by_coco(TRUTH, found, images=2, classes=2)
    assert ap.ap[0, 0] == pytest.approx((51 + 50 * 2 / 3) / 101)
    assert ap.ap[0, 9] == pytest.approx(51 / 101), "0.6 is no overlap of 0.95: the rest is never reached"
    assert np.isnan(ap.ap[1]).all(), "a class without a labelled box has none, and does not count"
    assert ap.map50 == ap.ap[0, 0] and ap.map == pytest.approx(ap.ap[0].mean())


def test_nothing_found_is_zero_and_nothing_labelled_is_unknown() -> None:
    nothing = challenge.boxes([])
    assert precision.by_coco(TRUTH, nothing, 2, 1).map == 0
    assert np.isnan(precision.by_coco(nothing, TRUTH, 2, 1).map50)
    assert np.isnan(precision.by_coco(nothing, nothing, 0, 4).map)


@settings(max_examples=40)
@given(some_boxes(confident=False), st.lists(st.integers(1, 1000), unique=True, min_size=9, max_size=9), st.data())
def test_our_rule_over_our_matches_is_the_evaluators(truth: list[Row], scores: list[int], data: st.DataObject) -> None:
    rows = data.draw(some_boxes(confident=True))
    found = challenge.boxes((*row[:6], score / 1000) for row, score in zip(rows, scores, strict=False))
    labelled = challenge.boxes(truth)
    ap = precision.by_coco(labelled, found, images=3, classes=2)
    hits = [challenge.match(labelled, found, least=float(least)) != challenge.NONE for least in precision.IOUS]
    right = np.array(hits).T.reshape(len(found), len(precision.IOUS))
    ours = precision.at_101_points(right, found.score, found.label.astype(float), labelled.label.astype(float))
    assert np.array(ours) == pytest.approx(np.array([ap.map50, ap.map]), abs=1e-9, nan_ok=True)
