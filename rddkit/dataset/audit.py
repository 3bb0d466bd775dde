"""What a prepared dataset holds and what was wrong on the way: the audit, and its summary for a terminal."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from rddkit.dataset.classes import described
from rddkit.dataset.geometry import Picture
from rddkit.dataset.layout import Layout, Pair
from rddkit.dataset.problems import Problem
from rddkit.dataset.split import Split
from rddkit.dataset.voc import Box

SHOWN = 8  # problems named in the summary; the others stand in audit.json


class Frame(NamedTuple):
    """An image that goes into the dataset: where it is from, its size, its boxes in pixels, and labels left out."""

    pair: Pair
    picture: Picture
    boxes: tuple[Box, ...]
    left_out: tuple[str, ...]


def count(frames: Iterable[Frame], names: Sequence[str]) -> dict[str, Any]:
    """Images, boxes by class (all of `names`, in order), labels left out, and negatives (no box of `names`)."""
    frames = list(frames)
    boxes = Counter(box.label for frame in frames for box in frame.boxes)
    left_out = Counter(label for frame in frames for label in frame.left_out)
    return {
        "images": len(frames),
        "boxes": {name: boxes[name] for name in names},
        "left_out": dict(sorted(left_out.items())),
        "negatives": sum(not frame.boxes for frame in frames),
    }


def make_audit(
    frames: Sequence[Frame],
    names: Sequence[str],
    parts: Split,
    layout: Layout,
    problems: Sequence[Problem],
    linked: Mapping[str, int],
) -> dict[str, Any]:
    """The content of `audit.json` but for its settings and fingerprint; keys in a fixed order."""
    by_part: dict[str, list[Frame]] = {part: [] for part in parts.used}
    for frame in frames:
        by_part[parts.part(frame.pair.name)].append(frame)
    by_domain: dict[str, Any] = {}
    for domain in sorted({frame.pair.domain for frame in frames} | set(layout.unlabelled)):
        own = [frame for frame in frames if frame.pair.domain == domain]
        placed = Counter(parts.part(frame.pair.name) for frame in own)
        blocks, blocks_in_val = parts.blocks.get(domain, (0, 0))
        by_domain[domain] = {
            **count(own, names),
            **{part: placed[part] for part in parts.used},
            "blocks": blocks,
            "blocks_in_val": blocks_in_val,
            "unlabelled_test_images": layout.unlabelled.get(domain, 0),
        }
    sizes = Counter(f"{frame.picture.width}x{frame.picture.height}" for frame in frames)
    return {
        **count(frames, names),
        "splits": {part: count(members, names) for part, members in by_part.items()},
        "problems": [problem._asdict() for problem in sorted(problems)],
        "notes": [*layout.notes, *parts.notes],
        "by_domain": by_domain,
        "classes": {name: described(name) for name in names},
        "image_sizes": dict(sorted(sizes.items(), key=lambda item: (-item[1], item[0]))),
        "linked": dict(linked),
    }


def summary(audit: Mapping[str, Any]) -> str:
    """The audit on one screen: what is in, what was left out, where it went, what was wrong."""
    boxes, left_out, problems = audit["boxes"], audit["left_out"], audit["problems"]
    splits, width = audit["splits"], max(len(described(name)) for name in audit["boxes"])
    lines = [f"{audit['images']} images ({audit['negatives']} negatives), {sum(boxes.values())} boxes", ""]
    lines.append(f"  {'':{width}}  {'boxes':>7} " + " ".join(f"{part:>7}" for part in splits))
    for name, number in boxes.items():
        placed = " ".join(f"{own['boxes'][name]:7}" for own in splits.values())
        lines.append(f"  {described(name):{width}}  {number:7} {placed}")
    for title in ("images", "negatives"):
        lines.append(f"  {title:{width}}  {audit[title]:7} " + " ".join(f"{own[title]:7}" for own in splits.values()))
    widest = max(len(domain) for domain in audit["by_domain"])
    lines.append("")
    for domain, own in audit["by_domain"].items():
        unlabelled = own["unlabelled_test_images"]
        more = f", {unlabelled} unlabelled test images not used" if unlabelled else ""
        lines.append(f"  {domain:{widest}}  " + "  ".join(f"{part} {own[part]:5}" for part in splits) + more)
    lines.append("")
    if left_out:
        told = ", ".join(f"{described(label)} {number}" for label, number in left_out.items())
        lines.append(f"{sum(left_out.values())} boxes of other labels left out: {told}")
    if audit["linked"]["copied"]:
        lines.append(f"{audit['linked']['copied']} images are copies, the others links")
    lines += audit["notes"]
    if "leakage" in audit:
        lines.append(leaked(audit["leakage"]))
    for problem in problems[:SHOWN]:
        lines.append(f"{problem['file']}: {problem['problem']}; {problem['action']}")
    if len(problems) > SHOWN:
        lines.append(f"... and {len(problems) - SHOWN} more problems in audit.json")
    lines.append(f"{len(problems)} problems" if problems else "no problems")
    return "\n".join(lines)


def leaked(leakage: Mapping[str, Any]) -> str:
    """In a sentence or two: how many images in val have a near-twin in train, and how many moved so that none has."""
    if not leakage["images"]:
        return "leakage: not looked for"
    moved = f"; {leakage['moved']} went to the side of their twins" if leakage["moved"] else ""
    return (
        f"leakage: {leakage['twins']} of {leakage['val']} images in val have a near-twin in train{moved} "
        f"(at most {leakage['threshold']} of 128 bits differ; looked at {leakage['images']} of {leakage['of']} images: "
        f"{leakage['looked_at']})"
    )
