"""Near-twins across the split, told by perceptual hash; numpy and decoding, so loaded late.

Blocks of ids are not enough: China's ids are shuffled, so that photos of one place lie a thousand ids apart. Of 397
China frames looked at by eye, all thirteen pairs within `NEAR` show the same place, and eleven of them are far apart in
their ids. Either direction of the hash alone also takes one stretch of plain asphalt for another.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import imagehash
import numpy as np
from PIL import Image

from rddkit.dataset.audit import Frame
from rddkit.dataset.split import GAP, Split, place

BITS = 128
NEAR = 16  # bits of 128 that may differ between twins
BUDGET = 350 << 20  # bytes of images that `auto` decodes whole domains of: both of China's; seconds on two cores
EDGE = 2  # frames on either side of a block's end
WORST = 20  # pairs named in the audit
THREADS = min(4, os.cpu_count() or 1)  # Pillow decodes outside the interpreter's lock

Codes = np.ndarray[Any, np.dtype[np.uint8]]
_ONES = np.array([bin(byte).count("1") for byte in range(256)], dtype=np.uint8)


class Looked(NamedTuple):
    """The frames looked at, their hashes (a row of bytes each), and in words which frames these are."""

    frames: list[Frame]
    codes: Codes
    which: str


def look(frames: Sequence[Frame], parts: Split, how: str = "auto") -> Looked:
    """Hash `all` frames, `none`, or with `auto` as many as take seconds.

    That is: whole domains, smallest first, while their files stay within `BUDGET`, and of the others the frames where
    blocks of val and train meet along a drive.
    """
    whole = _whole(frames, how)
    chosen = [frame for frame in frames if frame.pair.domain in whole]
    which = f"all of {', '.join(sorted(whole))}" if whole else ""
    others = [frame for frame in frames if frame.pair.domain not in whole]
    if others and how != "none":
        chosen += _edges(others, parts)
        rest = ", ".join(sorted({frame.pair.domain for frame in others}))
        which += f"{'; ' if which else ''}of {rest} the {EDGE} frames on both sides of each end of a block in val"
    return Looked(chosen, hashed(frame.pair.image for frame in chosen), which or "nothing")


def twins(looked: Looked) -> list[list[str]]:
    """The names of the frames that are near-twins, directly or by way of others, of one domain each."""
    leader = list(range(len(looked.frames)))

    def find(number: int) -> int:
        while leader[number] != number:
            leader[number] = number = leader[leader[number]]
        return number

    for one, two, _ in _pairs(looked):
        leader[find(two)] = find(one)
    groups: dict[int, list[str]] = {}
    for number, frame in enumerate(looked.frames):
        groups.setdefault(find(number), []).append(frame.pair.name)
    return [names for names in groups.values() if len(names) > 1]


def report(looked: Looked, parts: Split, moved: int, total: int) -> dict[str, Any]:
    """What `audit.json` says: method, threshold, what was looked at, images of val with a twin in train, the pairs.

    `moved`: how many images had gone to the side of their twins before; `total`: images in the dataset.
    """
    sides = [parts.part(frame.pair.name) for frame in looked.frames]
    found: list[tuple[int, str, str]] = []
    for one, two, bits in _pairs(looked):
        if {sides[one], sides[two]} == {"train", "val"}:
            val, train = (one, two) if sides[one] == "val" else (two, one)
            found.append((bits, looked.frames[val].pair.name, looked.frames[train].pair.name))
    return {
        "method": f"difference hash across and down, {BITS} bits (imagehash)",
        "threshold": NEAR,
        "looked_at": looked.which,
        "images": len(looked.frames),
        "of": total,
        "val": sides.count("val"),
        "moved": moved,
        "twins": len({val for _, val, _ in found}),
        "nearest": [{"bits": bits, "val": val, "train": train} for bits, val, train in sorted(found)[:WORST]],
    }


def hashed(paths: Iterable[Path]) -> Codes:
    """The hash of each image, a row of `BITS` / 8 bytes; of a JPEG, an eighth of the size is decoded where that does.

    An image whose rows cannot be decoded gets a hash of its name, far from all others.
    """
    with ThreadPoolExecutor(THREADS) as pool:
        rows = list(pool.map(_hash, paths))
    return np.array(rows, dtype=np.uint8).reshape(-1, BITS // 8)


def _hash(path: Path) -> Codes:
    try:
        with Image.open(path) as image:
            image.draft("L", (64, 64))
            small = image.convert("L")
        bits = np.concatenate([imagehash.dhash(small, 8).hash, imagehash.dhash_vertical(small, 8).hash])
    except Exception:  # as for headers, Pillow raises nearly anything
        bits = np.random.default_rng(list(os.fsencode(path.name))).integers(0, 2, BITS)
    return np.packbits(bits)


def _pairs(looked: Looked) -> Iterator[tuple[int, int, int]]:
    """(number, number, bits that differ) of all frames of one domain that are near-twins."""
    domains: dict[str, list[int]] = {}
    for number, frame in enumerate(looked.frames):
        domains.setdefault(frame.pair.domain, []).append(number)
    for own in domains.values():
        codes = looked.codes[own]
        for place_, number in enumerate(own[:-1]):
            apart = _ONES[codes[place_ + 1 :] ^ codes[place_]].sum(axis=1, dtype=np.int64)
            for near in np.flatnonzero(apart <= NEAR):
                yield number, own[place_ + 1 + int(near)], int(apart[near])


def _whole(frames: Sequence[Frame], how: str) -> set[str]:
    sizes: dict[str, int] = {}
    for frame in frames:
        known = sizes.get(frame.pair.domain, 0)
        sizes[frame.pair.domain] = known + (os.stat(frame.pair.image).st_size if how == "auto" else 0)
    chosen: set[str] = set()
    spent = 0
    for size, domain in sorted((size, domain) for domain, size in sizes.items()):
        spent += size
        if how == "all" or (how == "auto" and spent <= BUDGET):
            chosen.add(domain)
    return chosen


def _edges(frames: Sequence[Frame], parts: Split) -> Iterator[Frame]:
    """The frames next to where val and train meet along a drive."""
    order = sorted(frames, key=lambda frame: (frame.pair.domain, *place(frame.pair.name), frame.pair.name))
    wanted: set[int] = set()
    for number, (one, two) in enumerate(zip(order, order[1:], strict=False), start=1):
        (drive, left), (other, right) = place(one.pair.name), place(two.pair.name)
        meet = {parts.part(one.pair.name), parts.part(two.pair.name)} == {"train", "val"}
        if meet and drive == other and right - left <= GAP:
            wanted.update(range(max(0, number - EDGE), min(len(order), number + EDGE)))
    return (order[number] for number in sorted(wanted))
