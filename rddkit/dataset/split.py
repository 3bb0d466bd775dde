"""Divide a dataset into train and val by blocks of neighbouring frames; pure and seeded.

Neighbouring frames of a drive show the same road: of a random split's images 40.7 % have a near-twin on the other
side. So whole blocks go to one side. A block holds frames whose ids follow each other; a few missing ids do not end it,
because the release took its test frames out of the same drives.
"""

from __future__ import annotations

import math
import random
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

GAP = 10  # ids; with a fifth of all frames in test, ten missing in a row by chance are one in ten million
DRAWS = 200  # ways to choose val that are tried for the one that shares out the classes most evenly
NEGATIVE, IMAGES = "no box", "all images"  # strata beside the classes

_NUMBER = re.compile(r"(\d+)\D*$")
_ROBOFLOW = re.compile(r"_(jpe?g|png)\.rf\.\w+$")  # what that service appends to every name

Strata = Mapping[str, Sequence[str]]  # the labels of each image's boxes, by name


class Split(NamedTuple):
    """The names that go to val and to test, blocks (all, val) by domain, and what a reader should know."""

    val: frozenset[str]
    blocks: dict[str, tuple[int, int]]
    notes: list[str]
    test: frozenset[str] = frozenset()

    @property
    def used(self) -> tuple[str, ...]:
        """The parts that there are."""
        return ("train", "val", "test") if self.test else ("train", "val")

    def part(self, name: str) -> str:
        """Where the image `name` goes: train, val or test."""
        return "val" if name in self.val else "test" if name in self.test else "train"


def split(
    domains: Mapping[str, Sequence[str]],
    val_fraction: float,
    block: int,
    seed: int,
    labels: Strata | None = None,
    leave_out: str | None = None,
) -> Split:
    """Choose val for each domain (names by domain) on its own, so that one more country moves no other's frames.

    A block has at most `block` frames and never more than the domain's share of val, so that small domains can give
    one. Blocks are drawn in seeded order while they bring val nearer to `val_fraction`; of many such draws the one
    counts whose val has most nearly that share of every class's boxes and of the negatives (`labels`). A domain too
    small to give even one frame stays in train, and that is noted; if that is true of all, the largest gives its first
    drawn block. The domain `leave_out` becomes the test set as a whole: nothing is trained or chosen on it.
    """
    val: set[str] = set()
    counts: dict[str, tuple[int, int]] = {}
    notes: list[str] = []
    test = frozenset(domains.get(leave_out, ()) if leave_out else ())
    shared = {domain: names for domain, names in sorted(domains.items()) if domain != leave_out}
    cut: dict[str, list[list[str]]] = {}
    for domain, names in shared.items():
        cut[domain] = blocks(names, max(1, min(block, round(len(names) * val_fraction))))
        chosen = _choose(cut[domain], val_fraction, f"{seed} {domain}", labels or {})
        counts[domain] = (len(cut[domain]), len(chosen))
        val.update(name for members in chosen for name in members)
        if not chosen:
            notes.append(f"{domain}: {len(names)} images are too few for a block in val, all in train")
    if not val and sum(map(len, shared.values())) > 1:
        largest = max(sorted(shared), key=lambda domain: len(shared[domain]))
        val.update(random.Random(f"{seed} {largest}").choice(cut[largest]))
        counts[largest] = (counts[largest][0], 1)
        notes.append(f"{largest}: gave a block to val all the same, or val would be empty")
    if test:
        notes.append(f"{leave_out}: left out of train and val, all {len(test)} images are the test set")
    return Split(frozenset(val), counts, notes, test)


def keep_together(parts: Split, groups: Iterable[Sequence[str]]) -> tuple[Split, int]:
    """The split with every group of near-twins on the side that has more of it (train, if both have as many).

    Also how many images changed sides. A group of which some are in test, or that would leave val empty, stays.
    """
    val = set(parts.val)
    moved = 0
    for names in groups:
        held = val.intersection(names)
        if not held or len(held) == len(names) or parts.test.intersection(names):
            continue
        to_val = 2 * len(held) > len(names)
        if to_val:
            val.update(names)
        elif len(held) < len(val):
            val.difference_update(held)
        else:
            continue
        moved += len(names) - len(held) if to_val else len(held)
    return parts._replace(val=frozenset(val)), moved


def blocks(names: Iterable[str], longest: int) -> list[list[str]]:
    """`names` in runs of neighbours: same prefix, ids at most `GAP` apart, at most `longest` names each."""
    result: list[list[str]] = []
    before: tuple[str, int] | None = None
    for rank, name in enumerate(sorted(names, key=lambda name: (*place(name), name))):
        prefix, number = place(name, rank)
        if before is None or before[0] != prefix or number - before[1] > GAP or len(result[-1]) >= longest:
            result.append([])
        result[-1].append(name)
        before = prefix, number
    return result


def place(name: str, rank: int = 0) -> tuple[str, int]:
    """What comes before a name's last number, and that number; a name without one has its rank."""
    stem = _ROBOFLOW.sub("", name.rsplit(".", 1)[0])
    match = _NUMBER.search(stem)
    return (stem[: match.start()], int(match[1])) if match else ("", rank)


def _choose(cut: Sequence[list[str]], val_fraction: float, seed: str, labels: Strata) -> list[list[str]]:
    """The blocks for val: of `DRAWS` seeded draws the one that comes nearest to the share in every stratum."""
    strata = [_strata(members, labels) for members in cut]
    sizes = [len(members) for members in cut]
    whole = sum(strata, Counter[str]())
    draw = random.Random(seed)
    best: list[int] = []
    least = math.inf
    for _ in range(DRAWS):
        order = list(range(len(cut)))
        draw.shuffle(order)
        chosen = _take(order, sizes, val_fraction)
        held = sum((strata[number] for number in chosen), Counter[str]())
        miss = sum((held[name] / number - val_fraction) ** 2 for name, number in whole.items())
        if miss < least:
            best, least = chosen, miss
    return [cut[number] for number in best]


def _take(order: Sequence[int], sizes: Sequence[int], val_fraction: float) -> list[int]:
    """Numbers of blocks, in that order, while each brings the images in val nearer to their share; never all."""
    wanted = val_fraction * sum(sizes)
    chosen: list[int] = []
    have = 0
    for number in order:
        if abs(have + sizes[number] - wanted) < abs(have - wanted) and len(chosen) + 1 < len(order):
            chosen.append(number)
            have += sizes[number]
    return chosen


def _strata(names: Iterable[str], labels: Strata) -> Counter[str]:
    """Boxes by class of the images `names`, the negatives, and the images."""
    found: Counter[str] = Counter()
    for name in names:
        found.update(labels.get(name) or (NEGATIVE,))
        found[IMAGES] += 1
    return found
