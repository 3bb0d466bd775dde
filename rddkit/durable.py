"""Files that are whole or absent: written beside, flushed to the drive, renamed, their folder flushed."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

TEMPORARY = ".partial"


def flush_to_drive(fd: int) -> None:
    """Push a file's bytes to the drive itself; on macOS `fsync` stops at the drive's cache (fcntl(2), F_FULLFSYNC)."""
    if sys.platform == "darwin":
        import fcntl

        with contextlib.suppress(OSError):  # network file systems refuse it; fsync below is what they offer
            fcntl.fcntl(fd, fcntl.F_FULLFSYNC)
            return
    os.fsync(fd)


def flush_folder(folder: Path) -> None:
    """Make a rename in `folder` survive a power loss."""
    fd = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """A binary file that takes `path`'s place, whole, when the block ends; on an error `path` stays as it was.

    Raises OSError (a full disk, say) with nothing left beside.
    """
    beside = path.with_name(f"{path.name}.{os.getpid()}{TEMPORARY}")
    try:
        with open(beside, "wb") as file:
            yield file
            file.flush()
            flush_to_drive(file.fileno())
        os.replace(beside, path)
    except BaseException:
        with contextlib.suppress(OSError):
            beside.unlink()
        raise
    flush_folder(path.parent)


def read_json(path: Path) -> dict[str, Any]:
    """The keys and values of a JSON file; {} where there is none, it cannot be read, or holds something else."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def write(path: Path, content: str | bytes) -> None:
    """Replace `path` atomically and durably by `content` (text as UTF-8)."""
    with replacing(path) as file:
        file.write(content.encode() if isinstance(content, str) else content)


def copy(source: Path, path: Path) -> None:
    """Replace `path` atomically and durably by a copy of `source`, in pieces."""
    with open(source, "rb") as original, replacing(path) as file:
        shutil.copyfileobj(original, file)


def write_json(path: Path, value: Any) -> None:
    """Replace `path` atomically by `value` as indented JSON."""
    write(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def write_quickly(path: Path, content: str) -> None:
    """Replace `path` atomically but without flushing: for what is rewritten every second and never resumed from."""
    beside = path.with_name(f"{path.name}.{os.getpid()}{TEMPORARY}")
    try:
        beside.write_text(content, encoding="utf-8")
        os.replace(beside, path)
    except BaseException:
        beside.unlink(missing_ok=True)
        raise


def remove_leftovers(folder: Path) -> list[Path]:
    """Delete what an interrupted `replacing` left in `folder`; the paths removed."""
    leftovers = sorted(folder.glob(f"*{TEMPORARY}"))
    for path in leftovers:
        path.unlink(missing_ok=True)
    return leftovers


def sha256(path: Path, chunk: int = 1 << 20) -> str:
    """The SHA-256 of a file, read in pieces."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(chunk):
            digest.update(block)
    return digest.hexdigest()


def edit_lines(path: Path, keep: Callable[[str], bool]) -> int:
    """Rewrite a text file with only the lines for which `keep` is true; how many were dropped. Any bytes are lines."""
    lines = path.read_bytes().splitlines(keepends=True)
    kept = [line for line in lines if keep(line.decode("utf-8", "replace"))]
    if len(kept) != len(lines):
        write(path, b"".join(kept))
    return len(lines) - len(kept)


def replace(beside: Path, path: Path) -> None:
    """Put a file that someone else wrote beside in `path`'s place, durably."""
    fd = os.open(beside, os.O_RDONLY)
    try:
        flush_to_drive(fd)
    finally:
        os.close(fd)
    os.replace(beside, path)
    flush_folder(path.parent)
