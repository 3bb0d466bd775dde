"""All that is said of a model's detections on labelled images, from the detections alone. Pure."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from rddkit import challenge, precision
from rddkit.challenge import NONE, Boxes, Counts
from rddkit.detections import Seen

CURVE_POINTS = 200
WORST = 9


class Errors(NamedTuple):
    """What a threshold makes of one image: labelled boxes missed, found boxes wrong, found boxes right."""

    image: int
    missed: Boxes
    wrong: Boxes
    right: Boxes


def assess(seen: Seen) -> dict[str, Any]:
    """F1 at the threshold that these images choose, by class and domain; COCO's AP; curves; confusion. Plain values."""
    found = challenge.strongest(challenge.single(seen.found))
    curve = challenge.sweep(seen.truth, found)
    kept = found.take(found.score >= curve.best)
    domain = np.array([photo.domain for photo in seen.photos], dtype=object)
    by_domain = {name: _of(seen.truth, kept, domain == name) for name in sorted(set(domain.tolist()))}
    points = np.unique(np.linspace(0, max(len(curve.f1) - 1, 0), CURVE_POINTS).astype(int))[: len(curve.f1)]
    return {
        "images": len(seen.photos),
        "labelled": len(seen.truth),
        "threshold": curve.best,
        "f1": told(challenge.count(seen.truth, kept)),
        "f1_elsewhere": told(challenge.elsewhere(seen.truth, found, halves(domain))),
        "f1_by_class": {name: told(_class(seen.truth, kept, n)) for n, name in enumerate(seen.names)},
        "f1_by_domain": {
            name: {
                **told(challenge.count(*pair)),
                "by_class": {label: told(_class(*pair, n)) for n, label in enumerate(seen.names)},
            }
            for name, pair in by_domain.items()
        },
        "f1_mean_of_domains": float(np.mean([challenge.count(*pair).f1 for pair in by_domain.values()] or [0.0])),
        "curve": {key: getattr(curve, key)[points].tolist() for key in ("thresholds", "precision", "recall", "f1")},
        "confusion": challenge.confusion(seen.truth, kept, len(seen.names)).tolist(),
        **_average_precision(seen),
    }


def told(counts: Counts) -> dict[str, float]:
    """Counts as plain values, with what follows from them."""
    rates = {"precision": counts.precision, "recall": counts.recall, "f1": counts.f1}
    return {**rates, **counts._asdict()}


def _of(truth: Boxes, found: Boxes, images: npt.NDArray[np.bool_]) -> tuple[Boxes, Boxes]:
    return truth.take(images[truth.image]), found.take(images[found.image])


def _class(truth: Boxes, found: Boxes, number: int) -> Counts:
    # Labels must match, so that no class's boxes come in the way of another's.
    return challenge.count(truth.take(truth.label == number), found.take(found.label == number))


def halves(domain: npt.NDArray[np.object_]) -> npt.NDArray[np.bool_]:
    """Whether each image is in the first half of its domain, so that neighbours stay together."""
    first = np.zeros(len(domain), dtype=bool)
    for name in set(domain.tolist()):
        own = np.flatnonzero(domain == name)
        first[own[: (len(own) + 1) // 2]] = True
    return first


def _average_precision(seen: Seen) -> dict[str, Any]:
    ap = precision.by_coco(seen.truth, seen.found, len(seen.photos), len(seen.names))
    by_class = {
        name: {"AP50": number(ap.ap[n, 0]), "AP50-95": number(ap.ap[n].mean())} for n, name in enumerate(seen.names)
    }
    curves = {name: ap.curves[n].tolist() for n, name in enumerate(seen.names) if not np.isnan(ap.curves[n]).any()}
    return {"mAP50": number(ap.map50), "mAP50-95": number(ap.map), "ap_by_class": by_class, "pr_curves": curves}


def number(value: float) -> float | None:
    """A number that JSON can say: None for NaN."""
    return None if np.isnan(value) else float(value)


def worst(seen: Seen, threshold: float, most: int = WORST) -> list[Errors]:
    """The images with the most boxes missed or wrong at a threshold, the worst first; ones without an error never."""
    strong = challenge.strongest(challenge.single(seen.found))
    kept = strong.take(strong.score >= threshold)
    hits = challenge.match(seen.truth, kept)
    missed = seen.truth.take(np.setdiff1d(np.arange(len(seen.truth)), hits))
    wrong, right = kept.take(hits == NONE), kept.take(hits != NONE)
    errors = np.zeros(len(seen.photos), dtype=int)
    np.add.at(errors, np.concatenate([missed.image, wrong.image]), 1)
    order = [int(image) for image in np.argsort(-errors, kind="stable")[:most] if errors[image]]
    return [Errors(image, *(some.take(some.image == image) for some in (missed, wrong, right))) for image in order]
