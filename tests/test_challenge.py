"""The challenge's F1: by hand, against an independent program on random boxes, and its threshold by trying them all."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from faster_coco_eval import COCO, COCOeval_faster
from hypothesis import example, given
from hypothesis import strategies as st

from rddkit import challenge
from rddkit.challenge import NONE, Counts

Row = tuple[int, int, float, float, float, float, float]

# Two images. In the first: a crack found twice (the second is wrong), a pothole found as a crack. In the second: a
# crack whose box overlaps half (IoU 1/3), a pothole found exactly, and a negative's worth of imagination.
TRUTH: list[Row] = [
    (0, 0, 0, 0, 10, 10, 1.0),
    (0, 3, 50, 50, 60, 60, 1.0),
    (1, 0, 0, 0, 10, 10, 1.0),
    (1, 3, 20, 20, 30, 30, 1.0),
]
FOUND: list[Row] = [
    (0, 0, 0, 0, 10, 10, 0.9),
    (0, 0, 1, 0, 10, 10, 0.8),
    (0, 0, 50, 50, 60, 60, 0.7),
    (1, 0, 5, 0, 15, 10, 0.6),
    (1, 3, 20, 20, 30, 30, 0.5),
    (2, 1, 0, 0, 5, 5, 0.4),
]


def test_by_hand() -> None:
    truth, found = challenge.boxes(TRUTH), challenge.boxes(FOUND)
    assert challenge.match(truth, found).tolist() == [0, NONE, NONE, NONE, 3, NONE]
    counts = challenge.count(truth, found)
    assert counts == Counts(hits=2, wrong=4, missed=2)
    assert (counts.precision, counts.recall, counts.f1) == pytest.approx((2 / 6, 2 / 4, 4 / 10))


def test_the_threshold_by_hand() -> None:
    curve = challenge.sweep(challenge.boxes(TRUTH), challenge.boxes(FOUND))
    assert curve.thresholds.tolist() == [0.9, 0.8, 0.7, 0.6, 0.5, 0.4]
    assert curve.f1 == pytest.approx([2 / 5, 2 / 6, 2 / 7, 2 / 8, 4 / 9, 4 / 10])
    assert curve.best == 0.5


def test_confusion_by_hand() -> None:
    matrix = challenge.confusion(challenge.boxes(TRUTH), challenge.boxes(FOUND), classes=4)
    assert matrix[0, 0] == 1 and matrix[3, 0] == 1 and matrix[3, 3] == 1, "the pothole taken for a crack"
    assert matrix[4].tolist() == [2, 1, 0, 0, 0], "over nothing: the second crack, the half one, and imagination"
    assert matrix[:, 4].tolist() == [1, 0, 0, 0, 0], "missed: the crack that was overlapped by a third"
    assert matrix.sum() == 3 + 3 + 1


def test_exactly_half_is_enough_and_a_label_must_match() -> None:
    truth = challenge.boxes([(0, 0, 0, 0, 10, 10, 1.0)])
    assert challenge.count(truth, challenge.boxes([(0, 0, 0, 0, 10, 5, 0.5)])).hits == 1
    assert challenge.count(truth, challenge.boxes([(0, 0, 0, 0, 10, 4.99, 0.5)])).hits == 0
    assert challenge.count(truth, challenge.boxes([(0, 1, 0, 0, 10, 10, 0.5)])).hits == 0


def test_five_boxes_an_image_are_taken_the_strongest() -> None:
    rows: list[Row] = [(image, 0, place, 0, place + 1, 1, place / 10) for image in (0, 1) for place in range(1, 8)]
    kept = challenge.strongest(challenge.boxes(rows))
    assert sorted(kept.score[kept.image == 0].tolist()) == [0.3, 0.4, 0.5, 0.6, 0.7]
    assert len(kept) == 10


def test_a_box_with_two_classes_is_handed_in_with_the_surer_one() -> None:
    rows: list[Row] = [
        (0, 1, 1, 2, 3, 4, 0.3),
        (0, 0, 1, 2, 3, 4, 0.6),
        (0, 0, 1, 2, 3, 5, 0.2),
        (1, 1, 1, 2, 3, 4, 0.1),
    ]
    kept = challenge.single(challenge.boxes(rows))
    assert list(zip(kept.label.tolist(), kept.score.tolist(), strict=True)) == [(0, 0.6), (0, 0.2), (1, 0.1)]
    assert len(challenge.single(challenge.boxes([]))) == 0


def test_nothing_found_and_nothing_there() -> None:
    nothing, truth = challenge.boxes([]), challenge.boxes(TRUTH)
    assert challenge.count(truth, nothing) == (0, 0, 4)
    assert challenge.count(nothing, nothing) == (0, 0, 0)
    assert challenge.count(truth, nothing).f1 == 0
    assert challenge.sweep(truth, nothing).best == 1.0
    assert challenge.sweep(nothing, challenge.boxes(FOUND)).best == 1.0
    assert challenge.elsewhere(truth, nothing, np.array([True, False])) == (0, 0, 4)
    assert challenge.confusion(nothing, nothing, 4).sum() == 0


def test_a_threshold_chosen_on_other_images_does_not_flatter() -> None:
    # The first image's best threshold (0.9) leaves out the second's only box (0.2), and the other way round.
    truth = challenge.boxes([(0, 0, 0, 0, 9, 9, 1), (1, 0, 0, 0, 9, 9, 1)])
    found = challenge.boxes([(0, 0, 0, 0, 9, 9, 0.9), (0, 0, 50, 0, 59, 9, 0.5), (1, 0, 0, 0, 9, 9, 0.2)])
    halves = np.array([True, False])
    assert challenge.elsewhere(truth, found, halves) == Counts(hits=1, wrong=1, missed=1)


corner = st.integers(0, 12)


@st.composite
def some_boxes(draw: Any, confident: bool) -> list[Row]:
    rows: list[Row] = []
    for _ in range(draw(st.integers(0, 9))):
        x, y = draw(corner), draw(corner)
        width, height = draw(st.integers(1, 8)), draw(st.integers(1, 8))
        score = draw(st.integers(1, 8)) / 8 if confident else 1.0
        rows.append((draw(st.integers(0, 2)), draw(st.integers(0, 1)), x, y, x + width, y + height, score))
    return rows


def by_cells(one: Row, other: Row) -> float:
    """The IoU of two boxes with whole corners, by counting unit cells."""

    def cells(row: Row) -> set[tuple[int, int]]:
        return set(itertools.product(range(int(row[2]), int(row[4])), range(int(row[3]), int(row[5]))))

    return len(cells(one) & cells(other)) / len(cells(one) | cells(other))


def independent(truth: list[Row], found: list[Row], threshold: float) -> tuple[int, int, int]:
    """The same rule told in plain loops over cells, no arrays: (hits, wrong, missed)."""
    free = list(truth)
    hits = 0
    kept = [row for row in found if row[6] >= threshold]
    for row in sorted(kept, key=lambda row: -row[6]):
        near = [other for other in free if other[:2] == row[:2] and by_cells(row, other) >= 0.5]
        if near:
            free.remove(max(near, key=lambda other: by_cells(row, other)))
            hits += 1
    return hits, len(kept) - hits, len(truth) - hits


@given(some_boxes(confident=False), some_boxes(confident=True), st.integers(0, 9))
@example([(0, 0, 0, 0, 4, 4, 1.0)] * 2, [(0, 0, 0, 0, 4, 4, 0.5)] * 3, 0)
def test_equals_an_independent_program(truth: list[Row], found: list[Row], eighths: int) -> None:
    threshold = eighths / 8
    strong = [row for row in found if row[6] >= threshold]
    assert challenge.count(challenge.boxes(truth), challenge.boxes(strong)) == independent(truth, found, threshold)


@given(some_boxes(confident=False), some_boxes(confident=True))
def test_the_sweep_is_every_threshold_tried_one_by_one(truth: list[Row], found: list[Row]) -> None:
    curve = challenge.sweep(challenge.boxes(truth), challenge.boxes(found))
    assert curve.thresholds.tolist() == sorted({row[6] for row in found}, reverse=True)
    tried = [Counts(*independent(truth, found, threshold)) for threshold in curve.thresholds]
    assert curve.f1 == pytest.approx([counts.f1 for counts in tried])
    assert curve.recall == pytest.approx([counts.recall for counts in tried])
    assert curve.precision == pytest.approx([counts.precision for counts in tried])
    assert max((counts.f1 for counts in tried), default=0.0) == pytest.approx(
        Counts(*independent(truth, found, curve.best)).f1
    )


@given(some_boxes(confident=False), some_boxes(confident=True))
def test_matches_as_a_coco_evaluator_does(truth: list[Row], found: list[Row]) -> None:
    hits = challenge.match(challenge.boxes(truth), challenge.boxes(found)) != NONE
    assert int(hits.sum()) == coco_hits(truth, found)


def coco_hits(truth: list[Row], found: list[Row]) -> int:
    """How many found boxes faster-coco-eval matches at IoU 0.5."""
    if not truth or not found:
        return 0

    def entry(number: int, row: Row) -> dict[str, Any]:
        width, height = row[4] - row[2], row[5] - row[3]
        box = {"bbox": [row[2], row[3], width, height], "area": width * height, "iscrowd": 0}
        return {"id": number, "image_id": row[0], "category_id": row[1], "score": row[6], **box}

    content = {
        "images": [{"id": image, "width": 100, "height": 100} for image in range(3)],
        "categories": [{"id": label, "name": str(label)} for label in range(2)],
        "annotations": [entry(number, row) for number, row in enumerate(truth, start=1)],
    }
    labelled = COCO(content)
    judge = COCOeval_faster(labelled, labelled.loadRes([entry(0, row) for row in found]), "bbox", extra_calc=True)
    judge.params.iouThrs = np.array([0.5])
    judge.evaluate()
    judge.accumulate()
    return len(judge.eval["matched"])


def test_boxes_can_be_taken_by_mask_and_by_rows() -> None:
    found = challenge.boxes(FOUND)
    assert len(found) == 6
    assert found.take(found.label == 3).score.tolist() == [0.5]
    assert found.take(np.array([5, 0])).score.tolist() == [0.4, 0.9]
