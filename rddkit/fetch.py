"""Fetching pretrained weights, only ever when a person asks for it."""

from __future__ import annotations

import re
from pathlib import Path

import pooch

from rddkit import paths
from rddkit.config import ConfigError

# The release that the pinned Ultralytics itself takes weights from (ultralytics/utils/downloads.py).
WEIGHTS_ADDRESS = "https://github.com/ultralytics/assets/releases/download/v8.4.0/"


def weights(name: str, address: str = WEIGHTS_ADDRESS) -> Path:
    """Fetch pretrained weights into the repository's root, where configs look for them; the file.

    The first fetch records the SHA-256 beside the file, a later one is held to it. Raises ConfigError for a name that
    is not one of weights or cannot be fetched; nothing half-fetched stays.
    """
    if not re.fullmatch(r"[\w.-]+\.pt", name):
        raise ConfigError(f"{name!r} is not the name of weights, such as yolov8s.pt")
    file = paths.root() / name
    noted = file.with_name(f"{name}.sha256")
    known = noted.read_text(encoding="utf-8").split()[0] if noted.is_file() else None
    try:
        pooch.retrieve(address + name, known_hash=known, fname=name, path=file.parent)
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"{name} could not be fetched from {address}: {error}. Put the file at {file}, "
            f"or train from scratch: model={Path(name).stem}.yaml"
        ) from error
    if known is None:
        noted.write_text(f"{pooch.file_hash(str(file))}  {name}\n", encoding="utf-8")
    return file
