"""Whether two models find the same boxes in the same images: what an export is judged by. Pure."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from rddkit.challenge import Boxes

PIXELS = 1.0  # how far a corner may be away
SLACK = 0.5  # of the threshold: a box just above it in one may be just below it in the other


class Agreement(NamedTuple):
    """`boxes` compared, how many have no partner, and the largest distance of a corner and of a confidence."""

    boxes: int
    alone: int
    pixels: float
    score: float

    @property
    def good(self) -> bool:
        return self.boxes > 0 and self.alone == 0


def compare(ours: Boxes, theirs: Boxes, threshold: float) -> Agreement:
    """Look for each strong box's partner, both ways: same image and class, corners within a pixel."""
    boxes = alone = 0
    pixels = score = 0.0
    for some, others in ((ours, theirs), (theirs, ours)):
        near = others.take(others.score >= threshold * SLACK)
        for row in np.flatnonzero(some.score >= threshold):
            boxes += 1
            same = near.take((near.image == some.image[row]) & (near.label == some.label[row]))
            away = np.abs(same.corners - some.corners[row]).max(axis=1) if len(same) else np.array([np.inf])
            best = int(away.argmin())
            if away[best] > PIXELS:
                alone += 1
            else:
                pixels = max(pixels, float(away[best]))
                score = max(score, abs(float(same.score[best] - some.score[row])))
    return Agreement(boxes, alone, pixels, score)


def usable(found: Boxes, wanted: float, least: int) -> float:
    """A threshold that leaves `least` boxes to compare: the wanted one, or a lower one where too few reach it."""
    scores = np.sort(found.score)[::-1]
    return min(wanted, float(scores[min(least, len(scores)) - 1])) if len(scores) else wanted
