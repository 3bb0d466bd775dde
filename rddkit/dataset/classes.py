"""RDD2022's labels by name, and the class sets a dataset can be prepared for."""

from __future__ import annotations

import difflib
import functools
from collections.abc import Sequence

from rddkit.dataset.problems import DatasetError, Finding

# Names of the release: Arya et al., RDD2022, Geoscience Data Journal 11(4), 2024, tables 1 and 2; those without a
# number come from the China and Norway contributors.
CLASS_NAMES: dict[str, str] = {
    "D00": "longitudinal crack",
    "D10": "transverse crack",
    "D20": "alligator crack",
    "D40": "pothole",
    "D01": "longitudinal construction joint",
    "D11": "transverse construction joint",
    "D43": "blurred crosswalk",
    "D44": "blurred white line",
    "D50": "manhole cover",
    "Repair": "repaired patch",
    "Block crack": "block crack",
}

OFFICIAL: tuple[str, ...] = ("D00", "D10", "D20", "D40")

SETS: dict[str, tuple[str, ...]] = {
    "official": OFFICIAL,
    "six": ("D00", "D01", "D10", "D11", "D20", "D40"),
    "all": tuple(CLASS_NAMES),
}


def chosen_classes(classes: str | Sequence[str] = "official") -> tuple[str, ...]:
    """The labels to train on, in the order of their class ids: a set's name, a comma list, or a sequence of labels.

    Labels are taken literally; none is ever mapped onto another. Raises DatasetError for an unknown or repeated one.
    """
    if isinstance(classes, str):
        if classes in SETS:
            return SETS[classes]
        classes = classes.split(",")
    labels = tuple(label.strip() for label in classes if label.strip())
    known = f"known labels: {', '.join(CLASS_NAMES)}; sets: {', '.join(SETS)}"
    if not labels:
        raise DatasetError(f"no class chosen; {known}")
    for label in labels:
        if label not in CLASS_NAMES:
            near = difflib.get_close_matches(label, [*CLASS_NAMES, *SETS], n=1, cutoff=0.5)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise DatasetError(f"unknown class {label!r}{hint} ({known})")
    if len(set(labels)) != len(labels):
        raise DatasetError(f"a class is named twice in {', '.join(labels)}; name each once")
    return labels


def described(label: str) -> str:
    """`D00 longitudinal crack`: a label with its meaning; one not of the release stays as it is."""
    meaning = CLASS_NAMES.get(label)
    return label if meaning is None or label.lower() == meaning else f"{label} {meaning}"


@functools.lru_cache(maxsize=1024)
def stranger(label: str) -> Finding | None:
    """What is to be said of a label that the release does not have: a misspelling is told, and never corrected."""
    if label in CLASS_NAMES:
        return None
    near = difflib.get_close_matches(label, CLASS_NAMES, n=1, cutoff=0.5)
    hint = f"; the nearest is {near[0]}" if near else ""
    return Finding(
        f"no class of the release is called {ascii(label)}{hint}", "boxes left out: correct the XML if they are one"
    )
