"""Divide a dataset into train and val by blocks of neighbouring frames; pure and seeded.

Neighbouring frames of a drive show the same road: of a random split's images 40.7 % have a near-twin on the other
side. So whole blocks go to one side. A block holds frames whose ids follow each other; a few missing ids do not end it,
because the release took its test frames out of the same drives.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

GAP = 10  # ids; with a fifth of all frames in test, ten missing in a row by chance are one in ten million

_NUMBER = re.compile(r"(\d+)\D*$")


class Split(NamedTuple):
    """The names that go to val, the number of blocks (all, val) by domain, and what a reader should know."""

    val: frozenset[str]
    blocks: dict[str, tuple[int, int]]
    notes: list[str]


def split(domains: Mapping[str, Sequence[str]], val_fraction: float, block: int, seed: int) -> Split:
    """Choose val for each domain (names by domain) on its own, so that one more country moves no other's frames.

    A block has at most `block` frames and never more than the domain's share of val, so that small domains can give
    one. Blocks are drawn in seeded order while they bring val nearer to `val_fraction`. A domain too small to give
    even one frame stays in train, and that is noted; if that is true of all, the largest gives its first drawn block.
    """
    val: set[str] = set()
    counts: dict[str, tuple[int, int]] = {}
    notes: list[str] = []
    drawn = {domain: _drawn(domain, names, val_fraction, block, seed) for domain, names in sorted(domains.items())}
    for domain, candidates in drawn.items():
        chosen = _choose(candidates, val_fraction)
        counts[domain] = (len(candidates), len(chosen))
        val.update(name for members in chosen for name in members)
        if not chosen:
            notes.append(f"{domain}: {len(domains[domain])} images are too few for a block in val, all in train")
    if not val and sum(len(names) for names in domains.values()) > 1:
        largest = max(sorted(domains), key=lambda domain: len(domains[domain]))
        val.update(drawn[largest][0])
        counts[largest] = (counts[largest][0], 1)
        notes.append(f"{largest}: gave a block to val all the same, or val would be empty")
    return Split(frozenset(val), counts, notes)


def blocks(names: Iterable[str], longest: int) -> list[list[str]]:
    """`names` in runs of neighbours: same prefix, ids at most `GAP` apart, at most `longest` names each."""
    result: list[list[str]] = []
    before: tuple[str, int] | None = None
    for rank, name in enumerate(sorted(names, key=lambda name: (*_place(name, 0), name))):
        prefix, number = _place(name, rank)
        if before is None or before[0] != prefix or number - before[1] > GAP or len(result[-1]) >= longest:
            result.append([])
        result[-1].append(name)
        before = prefix, number
    return result


def _drawn(domain: str, names: Sequence[str], val_fraction: float, block: int, seed: int) -> list[list[str]]:
    longest = max(1, min(block, round(len(names) * val_fraction)))
    result = blocks(names, longest)
    random.Random(f"{seed} {domain}").shuffle(result)
    return result


def _choose(candidates: Sequence[list[str]], val_fraction: float) -> list[list[str]]:
    wanted = val_fraction * sum(len(members) for members in candidates)
    chosen: list[list[str]] = []
    have = 0
    for members in candidates:
        if abs(have + len(members) - wanted) < abs(have - wanted) and len(chosen) + 1 < len(candidates):
            chosen.append(members)
            have += len(members)
    return chosen


def _place(name: str, rank: int) -> tuple[str, int]:
    """What comes before a name's last number, and that number; a name without one has its rank."""
    stem = name.rsplit(".", 1)[0]
    match = _NUMBER.search(stem)
    return (stem[: match.start()], int(match[1])) if match else ("", rank)
