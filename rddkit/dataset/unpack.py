"""Unpack a country's archive into `<Country>/train` and `<Country>/test`, or refuse it and leave nothing behind."""

from __future__ import annotations

import shutil
import stat
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from typing import IO

from rddkit.dataset.problems import DatasetError

PARTS = ("train", "test")
RUBBISH = ("__MACOSX", ".DS_Store", "Thumbs.db")
LARGEST_RATIO = 60  # unpacked to packed; the release's photos hardly shrink, and XML shrinks by ten to twenty
MOST_FILES = 200_000  # the release has 85,805
WRAP = 1 << 32  # what an archive beyond 4 GiB counts places by if its maker did not know zip64
BEGINNING = ".unpacking"  # of a folder that is not complete yet

Progress = Callable[[int, int], None]


def unpack(archive: Path, country: str, folder: Path, on_progress: Progress | None = None) -> Path:
    """Unpack `archive` as `folder`/`country`; that folder, there whole or not at all.

    Folders around `train` and `test` (`Norway/Norway/train`) are left out, archives within the archive unpacked too.
    Raises DatasetError, nothing written, for names that lead elsewhere, links, encryption, and sizes that only a bomb
    has; and, nothing left, for broken contents and a full disk.
    """
    target = folder / country
    beside = folder / f"{country}{BEGINNING}"
    shutil.rmtree(beside, ignore_errors=True)
    try:
        with _open(archive, str(archive)) as zipped:
            _unpack(zipped, archive.name, beside, on_progress or _silent, nested=True)
        if not any((beside / part).is_dir() for part in PARTS):
            raise DatasetError(f"{archive} holds no folder train or test: it is not a country of RDD2022")
        beside.rename(target)
    except OSError as error:
        raise DatasetError(f"{archive} cannot be unpacked into {folder}: {error.strerror or error}") from error
    finally:
        shutil.rmtree(beside, ignore_errors=True)
    return target


def check(zipped: zipfile.ZipFile, shown: str) -> list[zipfile.ZipInfo]:
    """The files of an archive if all of them may be unpacked, else DatasetError with the name and the reason."""
    members = [member for member in zipped.infolist() if not member.is_dir()]
    if len(members) > MOST_FILES:
        raise DatasetError(f"{shown} holds {len(members)} files, more than the whole of RDD2022; not unpacked")
    for member in members:
        if why := _unfit(member):
            raise DatasetError(f"{shown}: {ascii(member.filename)[:120]} {why}; nothing of it was unpacked")
    unpacked = sum(member.file_size for member in members)
    packed = sum(member.compress_size for member in members)
    if unpacked > LARGEST_RATIO * max(packed, 1 << 16):
        raise DatasetError(f"{shown} unpacks to {unpacked / max(packed, 1):.0f} times its size: a bomb; not unpacked")
    return members


def _unfit(member: zipfile.ZipInfo) -> str:
    name = member.orig_filename
    if "\\" in name or "\0" in name or ":" in name or name.startswith("/") or ".." in name.split("/"):
        return "leads out of its folder"
    if stat.S_ISLNK(member.external_attr >> 16):
        return "is a link"
    if member.flag_bits & 1:
        return "is encrypted"
    if member.file_size > LARGEST_RATIO * max(member.compress_size, 1 << 16):
        return f"unpacks to {member.file_size / max(member.compress_size, 1):.0f} times its size: a bomb"
    return ""


def _open(file: Path | IO[bytes], shown: str) -> zipfile.ZipFile:
    try:
        zipped = zipfile.ZipFile(file)
    except (zipfile.BadZipFile, NotImplementedError, ValueError) as error:
        raise DatasetError(f"{shown} is no whole zip archive ({error}); delete it and fetch it again") from error
    _unwrap(zipped)
    return zipped


def _unwrap(zipped: zipfile.ZipFile) -> None:
    """Put right the places of files beyond 4 GiB in an archive without zip64, which count from 0 again there."""
    members = zipped.infolist()
    if not members or all(_starts(zipped, member.header_offset) for member in (members[0], members[-1])):
        return
    turns, before, base = 0, -1, members[0].header_offset
    for member in members:
        offset = (member.header_offset - base) % WRAP
        turns += offset < before
        before = offset
        member.header_offset = offset + turns * WRAP


def _starts(zipped: zipfile.ZipFile, offset: int) -> bool:
    file = zipped.fp
    if file is None or offset < 0:
        return False
    file.seek(offset)
    return file.read(4) == b"PK\x03\x04"


def _unpack(zipped: zipfile.ZipFile, shown: str, beside: Path, on_progress: Progress, nested: bool) -> None:
    members = check(zipped, shown)
    whole = sum(member.file_size for member in members)
    free = shutil.disk_usage(beside.parent).free
    if whole > free:
        room = f"needs {whole >> 20} MiB, {beside.parent} has {free >> 20} MiB free"
        raise DatasetError(f"{shown} {room}; nothing was unpacked")
    done = 0
    for member in members:
        place = _place(member.filename)
        if place is None:
            continue
        target = beside / place
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            with zipped.open(member) as source, open(target, "xb") as file:
                shutil.copyfileobj(source, file, 1 << 20)
        except FileExistsError:
            raise DatasetError(f"{shown} holds {member.filename!r} twice; not unpacked") from None
        except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError) as error:
            raise DatasetError(
                f"{shown} is broken at {member.filename!r} ({error}); delete it and fetch it again"
            ) from error
        if target.suffix.lower() == ".zip":
            if not nested:
                raise DatasetError(f"{shown} holds an archive in an archive in an archive; not unpacked")
            with _open(target, f"{shown}/{member.filename}") as inner:
                _unpack(inner, f"{shown}/{member.filename}", beside, on_progress, nested=False)
            target.unlink()
        done += member.file_size
        on_progress(done, whole)


def _place(name: str) -> PurePosixPath | None:
    """Where a file goes below its country: from `train` or `test` on; None for what systems leave in archives."""
    parts = [part for part in PurePosixPath(name).parts if part not in (".", "")]
    if not parts or any(part in RUBBISH or part.startswith("._") for part in parts):
        return None
    start = next((number for number, part in enumerate(parts[:-1]) if part in PARTS), len(parts) - 1)
    return PurePosixPath(*parts[start:])


def _silent(done: int, whole: int) -> None:
    return None
