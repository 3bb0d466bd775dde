"""Write a prepared dataset into OUT: only there, only over what an earlier conversion put there, again and again."""

from __future__ import annotations

import contextlib
import csv
import io
import json
import os
import shutil
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from rddkit import durable
from rddkit.dataset.classes import CLASS_NAMES
from rddkit.dataset.layout import shown
from rddkit.dataset.problems import DatasetError

MARKER = "prepare.json"
MANIFEST = "manifest.csv"
DATA_YAML = "rdd2022.yaml"
AUDIT = "audit.json"
PARTS = ("train", "val", "test")
COLUMNS = ("image", "split", "domain", "boxes", "source")


def check_places(raw: Path, out: Path, settings: Mapping[str, Any]) -> None:
    """Refuse by DatasetError, before anything is written, a RAW that is no folder and an OUT not ours to fill."""
    if not raw.is_dir():
        raise DatasetError(f"no folder {raw}; name the one that holds the countries (try one with: rddkit sample DIR)")
    for name, folder in (("RAW", raw), ("OUT", out)):
        if not _is_text(str(folder)):
            raise DatasetError(f"the name of {name} ({shown(str(folder))}) is not UTF-8; rename it")
    if any(character in str(out) for character in "[]*?"):  # Ultralytics looks for images by glob
        raise DatasetError(f"{out} has one of []*? in its name, where Ultralytics would find no image; choose another")
    inside = out.resolve()
    if inside == raw.resolve() or raw.resolve() in inside.parents:
        raise DatasetError(f"{out} lies inside RAW ({raw}), which is only read; choose a folder outside it")
    if out.exists() and not out.is_dir():
        raise DatasetError(f"{out} is a file; choose a folder for the prepared dataset")
    if not out.is_dir() or not any(out.iterdir()):
        return
    if not (out / MARKER).is_file():
        raise DatasetError(f"{out} is not empty and was not made by rddkit prepare; choose another folder, or empty it")
    try:
        before = json.loads((out / MARKER).read_text(encoding="utf-8"))
    except ValueError:
        before = {}
    before = before if isinstance(before, dict) else {}
    if before.get("schema") != settings["schema"]:
        raise DatasetError(f"{out} was prepared by another version of rddkit; choose another folder or delete that one")
    changed = [key for key in settings if before.get(key) != settings[key]]
    if changed:
        told = ", ".join(f"{key} {before.get(key)!r}, now {settings[key]!r}" for key in changed)
        raise DatasetError(f"{out} was prepared with other settings ({told}); choose another folder or delete that one")


def claim(out: Path, settings: Mapping[str, Any], parts: Collection[str] = PARTS) -> None:
    """Make OUT and the folders of `parts` ours; DatasetError if one of them is a link to elsewhere."""
    out.mkdir(parents=True, exist_ok=True)
    put(out / MARKER, json.dumps(dict(settings), indent=2, ensure_ascii=False) + "\n")
    for part in PARTS:
        for kind in ("images", "labels"):
            for folder in (out / kind, out / kind / part):
                if folder.is_symlink():
                    raise DatasetError(f"{folder} is a link to {os.readlink(folder)}; remove it and prepare again")
            if part in parts:
                (out / kind / part).mkdir(parents=True, exist_ok=True)


def remove_stale(out: Path, rows: Sequence[Sequence[str]]) -> None:
    """Remove what an earlier conversion's manifest lists and `rows` (of the new manifest) no longer have."""
    keep = {(row[0], row[1]) for row in rows}
    for image, part in sorted(_listed(out / MANIFEST) - keep):
        if part in PARTS and Path(image).name == image:
            (out / "images" / part / image).unlink(missing_ok=True)
            label_path(out, part, image).unlink(missing_ok=True)
    for part in PARTS:
        durable.remove_leftovers(out / "images" / part)
        durable.remove_leftovers(out / "labels" / part)


def write_manifest(out: Path, rows: Sequence[Sequence[str]]) -> None:
    """List every image of the dataset in `manifest.csv`, before it is there, so that a stopped conversion can go on."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([COLUMNS, *rows])
    put(out / MANIFEST, text.getvalue())


def write_data_yaml(out: Path, names: Sequence[str], test: Collection[str] = ()) -> Path:
    """Ultralytics' dataset file, classes with their meaning beside, the `test` set if there is one; its path."""
    where = yaml.safe_dump({"path": str(out)}, allow_unicode=True, width=1 << 16).rstrip("\n")
    lines = ["# RDD2022 as YOLO labels, written by: rddkit prepare", where, "train: images/train", "val: images/val"]
    lines += ["test: images/test"] if test else []
    lines += ["names:"]
    for number, name in enumerate(names):
        quoted = yaml.safe_dump({number: name}).rstrip("\n")
        lines.append(f"  {quoted}  # {CLASS_NAMES[name]}")
    put(out / DATA_YAML, "\n".join(lines) + "\n")
    return out / DATA_YAML


def label_path(out: Path, part: str, image: str) -> Path:
    """Where Ultralytics looks for the labels of OUT/images/<part>/<image>."""
    return out / "labels" / part / (image.rsplit(".", 1)[0] + ".txt")


def put(path: Path, text: str) -> None:
    """Make `path` hold `text`, whole or not at all; where it does already, its time, which caches look at, stays.

    One that is not there yet is simply written: a conversion that is stopped leaves no audit, and compares again.
    """
    with contextlib.suppress(FileExistsError):
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
        with os.fdopen(descriptor, "wb", buffering=0) as file:
            file.write(text.encode())
        return
    with contextlib.suppress(OSError):
        if not path.is_symlink() and path.read_bytes() == text.encode():
            return
    durable.write_quickly(path, text)


def place(source: Path, target: Path, copy: bool) -> str:
    """Make `target` show `source`: a symbolic link, a hard link where those fail, else a copy; which of them it is.

    Symbolic links come first: they cross file systems and say where the image is from. Ultralytics finds labels by the
    link's own path, and replaces a link rather than write through it when it repairs an image.
    """
    if not copy:
        with contextlib.suppress(OSError, NotImplementedError):
            os.symlink(source, target)
            return "symlink"
    now = _kind(source, target)
    if now == "copied" or (now and not copy):
        return now
    beside = target.with_name(f"{target.name}.{os.getpid()}{durable.TEMPORARY}")
    beside.unlink(missing_ok=True)
    how = "copied" if copy else _link(source, beside)
    if how == "copied":
        try:
            shutil.copy2(source, beside)
        except OSError as error:
            beside.unlink(missing_ok=True)
            raise DatasetError(f"cannot copy {source} to {target.parent}: {error.strerror}") from error
    os.replace(beside, target)
    return how


def _link(source: Path, target: Path) -> str:
    """Link `target` to `source` by the first way that works, and which; `copied` says a copy has to be made."""
    for how, link in (("symlink", os.symlink), ("hardlink", os.link)):
        with contextlib.suppress(OSError, NotImplementedError):
            link(source, target)
            return how
    return "copied"


def _kind(source: Path, target: Path) -> str:
    """How `target` already shows `source`, or nothing."""
    try:
        if target.is_symlink():
            return "symlink" if os.readlink(target) == str(source) else ""
        there, wanted = target.stat(), source.stat()
    except OSError:
        return ""
    if os.path.samestat(there, wanted):
        return "hardlink"
    return "copied" if (there.st_size, there.st_mtime_ns) == (wanted.st_size, wanted.st_mtime_ns) else ""


def _is_text(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def _listed(manifest: Path) -> set[tuple[str, str]]:
    if not manifest.is_file():
        return set()
    with open(manifest, encoding="utf-8", newline="") as file:
        return {(row["image"], row["split"]) for row in csv.DictReader(file) if row.get("image") and row.get("split")}
