"""The road damage challenges' metric: F1 at IoU 0.5, its threshold, and what was missed or mistaken. Pure.

GRDDC 2020, CRDDC 2022 and ORDDC 2024 count a box as right if its IoU with a labelled box is at least 0.5 and the labels
match, and take at most five boxes an image (https://orddc2024.sekilab.global/submissions, rdd2020.sekilab.global/data).
Their own program is not public; here boxes take their turns by confidence, each the best labelled box still free.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

IOU = 0.5
MOST = 5  # boxes an image that the challenges take
NONE = -1
Row = tuple[int, int, float, float, float, float, float]  # image, class, x1, y1, x2, y2, confidence


@dataclass(frozen=True, eq=False)
class Boxes:
    """Boxes of many images, one a row: ids of image and class, corners (n, 4) as x1, y1, x2, y2 in pixels, confidence.

    Labelled boxes have confidence 1.
    """

    image: Ints
    label: Ints
    corners: Floats
    score: Floats

    def __len__(self) -> int:
        return len(self.image)

    def take(self, rows: npt.NDArray[np.bool_] | Ints) -> Boxes:
        """The rows of a mask or of indices."""
        return Boxes(self.image[rows], self.label[rows], self.corners[rows], self.score[rows])


class Counts(NamedTuple):
    """Boxes that were right, those that were wrong, and labelled ones that nothing found."""

    hits: int
    wrong: int
    missed: int

    @property
    def precision(self) -> float:
        return self.hits / (self.hits + self.wrong) if self.hits else 0.0

    @property
    def recall(self) -> float:
        return self.hits / (self.hits + self.missed) if self.hits else 0.0

    @property
    def f1(self) -> float:
        return 2 * self.hits / (2 * self.hits + self.wrong + self.missed) if self.hits else 0.0


class Sweep(NamedTuple):
    """F1 by confidence threshold, thresholds descending: what is kept at one has at least that confidence."""

    thresholds: Floats
    precision: Floats
    recall: Floats
    f1: Floats

    @property
    def best(self) -> float:
        """The threshold of the highest F1, the highest one of equals; 1 where nothing was ever right."""
        return float(self.thresholds[self.f1.argmax()]) if len(self.f1) and self.f1.max() > 0 else 1.0


def boxes(rows: Iterable[Row]) -> Boxes:
    """Boxes from rows of (image, class, x1, y1, x2, y2, confidence)."""
    table = np.fromiter(itertools.chain.from_iterable(rows), dtype=np.float64).reshape(-1, 7)
    return Boxes(table[:, 0].astype(np.int64), table[:, 1].astype(np.int64), table[:, 2:6], table[:, 6])


def overlap(some: Floats, others: Floats) -> Floats:
    """The IoU of every box (n, 4) with every other (m, 4), as (n, m); 0 where both are empty."""
    low = np.maximum(some[:, None, :2], others[None, :, :2])
    high = np.minimum(some[:, None, 2:], others[None, :, 2:])
    common = np.clip(high - low, 0, None).prod(axis=2)
    union = _area(some)[:, None] + _area(others)[None, :] - common
    ious: Floats = np.divide(common, union, out=np.zeros_like(common), where=union > 0)
    return ious


def _area(corners: Floats) -> Floats:
    area: Floats = (corners[:, 2:] - corners[:, :2]).prod(axis=1)
    return area


def strongest(found: Boxes, most: int = MOST) -> Boxes:
    """The `most` boxes of each image with the highest confidence, in falling order of it."""
    order = np.argsort(-found.score, kind="stable")
    seen: dict[int, int] = {}
    kept = []
    for row in order:
        image = int(found.image[row])
        seen[image] = seen.get(image, 0) + 1
        if seen[image] <= most:
            kept.append(row)
    return found.take(np.array(kept, dtype=np.int64))


def single(found: Boxes) -> Boxes:
    """Of the boxes at the very same place in an image, the strongest.

    Ultralytics validates with every class of a box as a box of its own, which average precision wants; it predicts,
    and so hands in, each box with its best class alone.
    """
    order = np.argsort(-found.score, kind="stable")
    places = np.column_stack([found.image, found.corners])[order]
    _, first = np.unique(places, axis=0, return_index=True)
    return found.take(order[np.sort(first)])


def match(truth: Boxes, found: Boxes, same_label: bool = True, least: float = IOU) -> Ints:
    """For each found box the row of the labelled box that it hits, or NONE.

    In falling order of confidence, each takes the labelled box of its image (and class, if `same_label`) that it
    overlaps most, if that is at least `least` and still free. So what happens to a box depends on stronger ones only,
    and is the same at every threshold.
    """
    hits = np.full(len(found), NONE, dtype=np.int64)
    order = np.argsort(-found.score, kind="stable")
    for mine, theirs in _by_image(truth, found, order):
        ious = overlap(found.corners[theirs], truth.corners[mine])
        if same_label:
            ious[found.label[theirs][:, None] != truth.label[mine][None, :]] = 0
        for place in np.flatnonzero((ious >= least).any(axis=1)):
            nearest = int(ious[place].argmax())
            if ious[place, nearest] >= least:
                hits[theirs[place]] = mine[nearest]
                ious[:, nearest] = 0
    return hits


def _by_image(truth: Boxes, found: Boxes, order: Ints) -> Iterator[tuple[Ints, Ints]]:
    """(rows of truth, rows of found in the given order) for each image that has both."""
    mine, theirs = _rows(truth.image, np.arange(len(truth))), _rows(found.image, order)
    for image in mine.keys() & theirs.keys():
        yield mine[image], theirs[image]


def _rows(images: Ints, order: Ints) -> dict[int, Ints]:
    order = order[np.argsort(images[order], kind="stable")]
    numbers, starts = np.unique(images[order], return_index=True)
    parts = np.split(order, starts[1:])
    return {int(number): part for number, part in zip(numbers, parts, strict=False)}


def count(truth: Boxes, found: Boxes) -> Counts:
    """How many are right, wrong and missed, all given boxes taken."""
    hits = int((match(truth, found) != NONE).sum())
    return Counts(hits, len(found) - hits, len(truth) - hits)


def sweep(truth: Boxes, found: Boxes) -> Sweep:
    """F1 at every threshold that changes it, all classes and images together."""
    order = np.argsort(-found.score, kind="stable")
    right = (match(truth, found) != NONE)[order].cumsum()
    score = found.score[order]
    last = np.flatnonzero(np.append(score[1:] != score[:-1], True)[: len(score)])  # equals come and go together
    hits, kept = right[last].astype(np.float64), last + 1.0
    recall = hits / len(truth) if len(truth) else np.zeros(len(last))
    f1 = 2 * hits / (kept + len(truth))
    return Sweep(score[last], hits / kept, recall, f1)


def elsewhere(truth: Boxes, found: Boxes, first: npt.NDArray[np.bool_]) -> Counts:
    """What comes of thresholds chosen on other images: each half of the images with the other half's best.

    The F1 at a threshold chosen on the same images flatters; this says by how much. `first`: by image id, whether it
    belongs to the first half.
    """
    total = np.zeros(3, dtype=np.int64)
    for half in (True, False):
        chosen = sweep(truth.take(first[truth.image] != half), found.take(first[found.image] != half)).best
        own = found.take((first[found.image] == half) & (found.score >= chosen))
        total += count(truth.take(first[truth.image] == half), own)
    return Counts(*(int(number) for number in total))


def confusion(truth: Boxes, found: Boxes, classes: int) -> Ints:
    """(classes + 1, classes + 1): labelled class by found class, whatever the label; the last row and column are none.

    A labelled box that nothing overlaps counts in the last column, a found box over no labelled one in the last row.
    """
    matrix = np.zeros((classes + 1, classes + 1), dtype=np.int64)
    hits = match(truth, found, same_label=False)
    real = hits != NONE
    np.add.at(matrix, (truth.label[hits[real]], found.label[real]), 1)
    np.add.at(matrix, (np.full((~real).sum(), classes), found.label[~real]), 1)
    missed = np.setdiff1d(np.arange(len(truth)), hits)
    np.add.at(matrix, (truth.label[missed], np.full(len(missed), classes)), 1)
    return matrix
