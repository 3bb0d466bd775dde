"""Average precision as COCO defines it, by a kept evaluator, and why Ultralytics' own number is another. Pure.

Both match alike (greedily by confidence, at most 300 boxes an image). COCO reads the precision envelope at 101 recalls
and takes the mean; Ultralytics draws straight lines through its points and integrates (utils/metrics.py, compute_ap),
and matches boxes before they are cut at the image's edge, which makes weak models' look worse.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from rddkit import detections
from rddkit.challenge import Boxes, Floats

MOST = 300  # boxes an image, as Ultralytics validates; COCO's own default is 100
RECALLS = np.linspace(0, 1, 101)
IOUS = np.linspace(0.5, 0.95, 10)


@dataclass(frozen=True)
class Precision:
    """AP by class id, (classes, 10) over `IOUS`, and the precision at `RECALLS` for IoU 0.5, (classes, 101).

    NaN for a class without a labelled box.
    """

    ap: Floats
    curves: Floats

    @property
    def map50(self) -> float:
        return _mean(self.ap[:, 0])

    @property
    def map(self) -> float:
        return _mean(self.ap)


def _mean(values: Floats) -> float:
    known = values[~np.isnan(values)]
    return float(known.mean()) if known.size else float("nan")


def by_coco(truth: Boxes, found: Boxes, images: int, classes: int) -> Precision:
    """What faster-coco-eval says of found boxes. Classes do not matter to each other and take turns: less memory."""
    tables = [_of_class(truth.take(truth.label == n), found.take(found.label == n), images) for n in range(classes)]
    table = np.array(tables).reshape(classes, len(IOUS), len(RECALLS))
    return Precision(table.mean(axis=2), table[:, 0])


def _of_class(truth: Boxes, found: Boxes, images: int) -> Floats:
    """COCO's precision envelope of one class, (IoU, recall); NaN without a labelled box."""
    from faster_coco_eval import COCO, COCOeval_faster  # loads OpenCV: only where it is asked

    if not len(truth):
        return np.full((len(IOUS), len(RECALLS)), np.nan)
    content: dict[str, Any] = {
        "images": [{"id": number} for number in range(images)],
        "categories": [{"id": int(truth.label[0]), "name": "one"}],
        "annotations": detections.as_annotations(truth),
    }
    labelled = COCO(content)
    judge = COCOeval_faster(labelled, labelled.loadRes(list(detections.as_detections(found))), "bbox")
    judge.params.iouThrs, judge.params.recThrs = IOUS, RECALLS
    judge.params.maxDets = [1, 10, MOST]
    judge.params.areaRng, judge.params.areaRngLbl = [[0, 1e10]], ["all"]
    judge.evaluate()
    judge.accumulate()
    return np.array(judge.eval["precision"], dtype=np.float64)[:, :, 0, 0, -1]


def at_101_points(right: npt.NDArray[np.bool_], score: Floats, label: Floats, truth: Floats) -> tuple[float, float]:
    """(mAP50, mAP50-95) by COCO's rule from somebody else's matches: what is left of a difference is not the rule's.

    Args:
        right: (n, 10), whether each found box hit something at each of `IOUS`.
        score: (n,) confidence.
        label: (n,) class of the found boxes.
        truth: (m,) class of the labelled boxes.
    """
    order = np.argsort(-score, kind="stable")
    right, label = right[order], label[order]
    rows = []
    for number in np.unique(truth):
        hits = right[label == number].cumsum(axis=0)
        kept = np.arange(1, len(hits) + 1)[:, None]
        recall, precision = hits / (truth == number).sum(), hits / kept
        envelope = np.maximum.accumulate(precision[::-1], axis=0)[::-1]
        rows.append([_read(recall[:, place], envelope[:, place]) for place in range(right.shape[1])])
    table = np.array(rows, dtype=np.float64).reshape(-1, right.shape[1])
    return _mean(table[:, 0]), _mean(table)


def _read(recall: Floats, envelope: Floats) -> float:
    places = np.searchsorted(recall, RECALLS, side="left")
    return float(np.append(envelope, 0.0)[np.minimum(places, len(envelope))].mean())
