"""Turn RDD2022 as released into a dataset for Ultralytics: converted, split, audited, again and again the same."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from rddkit import durable, paths
from rddkit.dataset import output
from rddkit.dataset.audit import Frame, make_audit
from rddkit.dataset.classes import chosen_classes
from rddkit.dataset.geometry import fit, yolo_line
from rddkit.dataset.images import BadImage, look
from rddkit.dataset.labels import fingerprint
from rddkit.dataset.layout import Layout, Pair, find, relative
from rddkit.dataset.problems import DatasetError, Finding, Problem
from rddkit.dataset.split import Split, split
from rddkit.dataset.voc import BadAnnotation, read_voc

SCHEMA = 1

Progress = Callable[[str, int, int], None]


def prepare(
    raw: str | os.PathLike[str],
    out: str | os.PathLike[str],
    classes: str | Sequence[str] = "official",
    val_fraction: float = 0.15,
    block: int = 50,
    seed: int = 42,
    copy: bool = False,
    on_progress: Progress | None = None,
) -> dict[str, Any]:
    """Convert the domains below `raw` into `out` (rdd2022.yaml, images, labels, manifest.csv, audit.json); the audit.

    `raw` is only read; relative paths resolve from the repository's root. Everything is read and decided before `out`
    is touched. The same input gives the same bytes, and a stopped conversion is continued by calling it again; files
    no longer wanted are removed if an earlier conversion wrote them. `on_progress(stage, done, total)` is called with
    the stages `read` and `write`. Raises DatasetError where nothing can be prepared or `out` is not ours to fill.
    """
    raw, out = paths.resolve(raw), paths.resolve(out)
    names = chosen_classes(classes)
    if not 0 < val_fraction < 1 or block < 1:
        raise DatasetError(f"val_fraction {val_fraction} must lie between 0 and 1, block {block} be at least 1")
    settings = {
        "schema": SCHEMA,
        "raw": str(raw),
        "classes": list(names),
        "val_fraction": val_fraction,
        "block": block,
        "seed": seed,
    }
    output.check_places(raw, out, settings)
    layout = find(raw)
    frames, problems = _read(layout, raw, names, on_progress or _silent)
    parts = _split(frames, raw, problems, val_fraction, block, seed)
    output.claim(out, settings)
    linked = _write(frames, parts, names, raw, out, copy, on_progress or _silent)
    data_yaml = output.write_data_yaml(out, names)
    audit = make_audit(frames, names, parts, layout, problems, linked)
    audit |= {"settings": settings, "fingerprint": fingerprint(data_yaml)}
    durable.write_json(out / output.AUDIT, audit)  # last: an OUT with an audit is complete
    return audit


def _read(layout: Layout, raw: Path, names: Sequence[str], on_progress: Progress) -> tuple[list[Frame], list[Problem]]:
    frames: list[Frame] = []
    problems = list(layout.problems)
    for done, pair in enumerate(layout.pairs, start=1):
        try:
            frame, findings = read_pair(pair, names)
        except BadAnnotation as error:
            action = "image left out: without labels it is no negative"
            problems.append(Problem(relative(pair.xml, raw), str(error), action))
        except BadImage as error:
            problems.append(Problem(relative(pair.image, raw), str(error), "left out"))
        else:
            frames.append(frame)
            problems += [Problem(relative(pair.xml, raw), *finding) for finding in findings]
        on_progress("read", done, len(layout.pairs))
    return frames, problems


def read_pair(pair: Pair, names: Sequence[str]) -> tuple[Frame, list[Finding]]:
    """One image with its boxes of the classes `names`; raises BadAnnotation or BadImage if either file is useless."""
    annotation = read_voc(pair.xml)
    picture = look(pair.image)
    wanted = [box for box in annotation.boxes if box.label in names]
    left_out = tuple(box.label for box in annotation.boxes if box.label not in names)
    boxes, findings = fit(wanted, annotation.size, picture)
    return Frame(pair, picture, tuple(boxes), left_out), [*annotation.findings, *findings]


def _split(
    frames: Sequence[Frame], raw: Path, problems: Sequence[Problem], val_fraction: float, block: int, seed: int
) -> Split:
    domains: dict[str, list[str]] = {}
    for frame in frames:
        domains.setdefault(frame.pair.domain, []).append(frame.pair.name)
    if len(frames) < 2:
        why = f"; the first of {len(problems)} problems: {'; '.join(problems[0])}" if problems else ""
        raise DatasetError(
            f"{len(frames)} usable labelled images below {raw}, at least 2 are needed: expected "
            f"<Country>/train/images beside <Country>/train/annotations/xmls{why}"
        )
    return split(domains, val_fraction, block, seed)


def _write(
    frames: Sequence[Frame],
    parts: Split,
    names: Sequence[str],
    raw: Path,
    out: Path,
    copy: bool,
    on_progress: Progress,
) -> dict[str, int]:
    """Links or copies and label files; how many images came in which way."""
    places = [(frame, "val" if frame.pair.name in parts.val else "train") for frame in frames]
    rows = [
        (frame.pair.name, part, frame.pair.domain, str(len(frame.boxes)), relative(frame.pair.image, raw))
        for frame, part in places
    ]
    (out / output.AUDIT).unlink(missing_ok=True)  # until this conversion is complete there is none
    output.remove_stale(out, rows)
    output.write_manifest(out, rows)
    linked = {"symlink": 0, "hardlink": 0, "copied": 0}
    for done, (frame, part) in enumerate(places, start=1):
        name = frame.pair.name
        lines = [yolo_line(names.index(box.label), box, frame.picture) + "\n" for box in frame.boxes]
        output.put(output.label_path(out, part, name), "".join(lines))
        linked[output.place(frame.pair.image, out / "images" / part / name, copy)] += 1
        on_progress("write", done, len(places))
    return linked


def _silent(stage: str, done: int, total: int) -> None:
    return None
