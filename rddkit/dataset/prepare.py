"""Turn RDD2022 as released into a dataset for Ultralytics: converted, split, audited, again and again the same."""

from __future__ import annotations

import difflib
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from rddkit import durable, paths
from rddkit.dataset import output
from rddkit.dataset.audit import Frame, make_audit
from rddkit.dataset.classes import chosen_classes
from rddkit.dataset.export import class_names, find_export
from rddkit.dataset.geometry import yolo_line
from rddkit.dataset.labels import fingerprint
from rddkit.dataset.layout import Layout, find, relative
from rddkit.dataset.measures import measure, worst
from rddkit.dataset.problems import DatasetError, Problem
from rddkit.dataset.reading import read_all
from rddkit.dataset.split import Split, keep_together, split

SCHEMA = 2
ORIGINS = ("xml", "yolo")
LEAKAGE = ("auto", "all", "none")

Progress = Callable[[str, int, int], None]


def prepare(
    raw: str | os.PathLike[str],
    out: str | os.PathLike[str],
    classes: str | Sequence[str] = "official",
    val_fraction: float = 0.15,
    block: int = 50,
    seed: int = 42,
    copy: bool = False,
    countries: Sequence[str] = (),
    leave_out: str | None = None,
    origin: str = "xml",
    names: Sequence[str] = (),
    leakage: str = "auto",
    on_progress: Progress | None = None,
) -> dict[str, Any]:
    """Convert the domains below `raw` into `out` (rdd2022.yaml, images, labels, manifest.csv, audit.json); the audit.

    `raw` is only read; relative paths resolve from the repository's root. Everything is read and decided before `out`
    is touched. The same input gives the same bytes, and a stopped conversion is continued by calling it again; files
    no longer wanted are removed if an earlier conversion wrote them. `countries` takes only these domains; the domain
    `leave_out` becomes the test set. `origin` `yolo` reads an export instead of XML, whose class numbers `names` tells
    where its own YAML does not. `leakage`: see `leakage.look`. `on_progress(stage, done, total)` is called with the
    stages `read` and `write`. Raises DatasetError where nothing can be prepared or `out` is not ours to fill.
    """
    raw, out = paths.resolve(raw), paths.resolve(out)
    chosen = chosen_classes(classes)
    if not 0 < val_fraction < 1 or block < 1:
        raise DatasetError(f"val_fraction {val_fraction} must lie between 0 and 1, block {block} be at least 1")
    _one_of("from", origin, ORIGINS)
    _one_of("leakage", leakage, LEAKAGE)
    settings = {
        "schema": SCHEMA,
        "raw": str(raw),
        "from": origin,
        "names": list(names),
        "classes": list(chosen),
        "countries": list(countries),
        "leave_out": leave_out,
        "val_fraction": val_fraction,
        "block": block,
        "seed": seed,
        "leakage": leakage,
    }
    output.check_places(raw, out, settings)
    ids = class_names(raw, names, chosen) if origin == "yolo" else None
    layout = _only(find_export(raw) if ids else find(raw), countries, leave_out)
    report = on_progress or _silent
    many = len(layout.pairs)
    frames, problems = read_all(layout.pairs, raw, chosen, ids, lambda done: report("read", done, many))
    problems = [*layout.problems, *problems]
    parts = _split(frames, raw, problems, val_fraction, block, seed, leave_out)
    parts, leaked = _keep_twins_together(frames, parts, leakage)
    output.claim(out, settings, parts.used)
    linked = _write(frames, parts, chosen, raw, out, copy, report)
    data_yaml = output.write_data_yaml(out, chosen, parts.test)
    audit = make_audit(frames, chosen, parts, layout, problems, linked)
    audit |= {"sizes": measure(frames, chosen), "worst": worst(frames)}
    audit |= {"leakage": leaked, "settings": settings, "fingerprint": fingerprint(data_yaml)}
    durable.write_json(out / output.AUDIT, audit)  # last: an OUT with an audit is complete
    return audit


def _one_of(option: str, value: str, known: Sequence[str]) -> None:
    if value not in known:
        raise DatasetError(f"--{option} {value!r} is none of {', '.join(known)}")


def _only(layout: Layout, countries: Sequence[str], leave_out: str | None) -> Layout:
    """The layout of these countries alone; DatasetError for one that is not there."""
    there = sorted({pair.domain for pair in layout.pairs})
    wanted = list(countries) or there
    for asked in [*countries, *([leave_out] if leave_out else [])]:
        if asked not in there:
            near = difflib.get_close_matches(asked, there, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise DatasetError(f"no labelled images of {asked!r} here{hint} (there are: {', '.join(there) or 'none'})")
    if leave_out and leave_out not in wanted:
        raise DatasetError(f"--leave-out {leave_out} is not among --countries {','.join(countries)}; name it there too")
    if leave_out and len(wanted) < 2:
        raise DatasetError(f"--leave-out {leave_out} leaves nothing to train on; name more countries")
    return layout._replace(
        pairs=[pair for pair in layout.pairs if pair.domain in wanted],
        unlabelled={domain: count for domain, count in layout.unlabelled.items() if not countries or domain in wanted},
    )


def _split(
    frames: Sequence[Frame],
    raw: Path,
    problems: Sequence[Problem],
    val_fraction: float,
    block: int,
    seed: int,
    leave_out: str | None,
) -> Split:
    domains: dict[str, list[str]] = {}
    for frame in frames:
        domains.setdefault(frame.pair.domain, []).append(frame.pair.name)
    if len(frames) - len(domains.get(leave_out or "", ())) < 2:
        why = f"; the first of {len(problems)} problems: {'; '.join(problems[0])}" if problems else ""
        raise DatasetError(
            f"{len(frames)} usable labelled images below {raw}, at least 2 are needed: expected "
            f"<Country>/train/images beside <Country>/train/annotations/xmls{why}"
        )
    labels = {frame.pair.name: [box.label for box in frame.boxes] for frame in frames}
    return split(domains, val_fraction, block, seed, labels, leave_out)


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
    places = [(frame, parts.part(frame.pair.name)) for frame in frames]
    rows = [
        (frame.pair.name, part, frame.pair.domain, str(len(frame.boxes)), relative(frame.pair.image, raw))
        for frame, part in places
    ]
    (out / output.AUDIT).unlink(missing_ok=True)  # until this conversion is complete there is none
    output.remove_stale(out, rows)
    output.write_manifest(out, rows)
    numbers = {name: number for number, name in enumerate(names)}
    linked = {"symlink": 0, "hardlink": 0, "copied": 0}
    # One thread: two that make many short calls wait for each other.
    for done, (frame, part) in enumerate(places, start=1):
        lines = [yolo_line(numbers[box.label], box, frame.picture) + "\n" for box in frame.boxes]
        output.put(output.label_path(out, part, frame.pair.name), "".join(lines))
        linked[output.place(frame.pair.image, out / "images" / part / frame.pair.name, copy)] += 1
        on_progress("write", done, len(places))
    return linked


def _keep_twins_together(frames: Sequence[Frame], parts: Split, how: str) -> tuple[Split, dict[str, Any]]:
    """The split with near-twins on one side, and what the audit says about it."""
    from rddkit.dataset import leakage  # numpy: not for the supervisor to hold

    looked = leakage.look(frames, parts, how)
    parts, moved = keep_together(parts, leakage.twins(looked))
    return parts, leakage.report(looked, parts, moved, len(frames))


def _silent(stage: str, done: int, total: int) -> None:
    return None
