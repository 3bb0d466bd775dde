"""Open foreign files without waiting, and say in words why one cannot be opened."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path
from typing import BinaryIO

WAIT_FOR_NOBODY = getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)  # a pipe would wait for its writer


class NotAFile(OSError):
    """What lies at the path is a folder, a pipe or a device; the message says which."""


def open_plain(path: Path) -> BinaryIO:
    """Open the regular file `path` for reading; NotAFile for anything else by that name, OSError if it cannot be."""
    descriptor = os.open(path, os.O_RDONLY | WAIT_FOR_NOBODY)
    mode = os.fstat(descriptor).st_mode
    if not stat.S_ISREG(mode):
        os.close(descriptor)
        raise NotAFile("is a folder" if stat.S_ISDIR(mode) else "is a pipe or a device, not a file")
    return os.fdopen(descriptor, "rb")


def why_not(path: Path, error: OSError) -> str:
    """Why `open_plain` failed, to follow the word image or XML: `is missing`, `is a link to nothing`, ..."""
    if isinstance(error, NotAFile):
        return str(error)
    if error.errno == errno.ELOOP:
        return "is a link that leads in a circle"
    if error.errno in (errno.ENOENT, errno.ENOTDIR):
        return "is a link to nothing" if path.is_symlink() else "is missing"
    if path.is_dir():  # where a system refuses to open folders at all
        return "is a folder"
    return f"cannot be read: {error.strerror or error}"
