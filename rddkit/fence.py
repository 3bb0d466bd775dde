"""Two machines never write one run: the newest owner's name in the run's folder, which every older one looks for.

A lock reaches over machines on some shared storage and not on other; this needs nothing but a file that both can read.
"""

from __future__ import annotations

import json
import os
import platform
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rddkit import clock, durable

LOOK_SECONDS = 2.0
# An older owner has looked by then, and a worker whose supervisor died has left.
GRACE_SECONDS = 12.0


def node() -> str:
    """This machine's name, for the fence and the journal. `RDDKIT_NODE` gives another, as a sweep's trials have."""
    return os.environ.get("RDDKIT_NODE") or platform.node()


@dataclass
class Fence:
    """What one owner wrote into the file; `raise_fence` makes it."""

    path: Path
    content: str
    looked: float

    def is_lost(self) -> bool:
        """Whether a newer owner has raised the fence; looked up every few seconds. A file out of reach is no answer."""
        now = clock.monotonic()
        if now - self.looked < LOOK_SECONDS:
            return False
        self.looked = now
        try:
            found = self.path.read_text(encoding="utf-8")
        except OSError:
            return False
        return found != self.content


def read(path: Path) -> dict[str, Any]:
    """Who raised the fence last: `number`, `node`, `pid`, `t`; {} where nobody has."""
    return durable.read_json(path)


def raise_fence(path: Path) -> tuple[Fence, bool]:
    """Name this process the owner; and whether the owner before was on another machine.

    Two that raise it at once both write; one file stays, and the other leaves at its next look. Where the file cannot
    be written (a full disk), the run goes on behind the fence that is there.
    """
    before = read(path)
    number = before.get("number")
    mine = {
        "number": (number if isinstance(number, int) else 0) + 1,
        "node": node(),
        "pid": os.getpid(),
        "t": clock.stamp(),
        "id": uuid.uuid4().hex,
    }
    content = json.dumps(mine)
    try:
        durable.write(path, content)
    except OSError:
        content = path.read_text(encoding="utf-8") if path.exists() else ""
    return Fence(path, content, clock.monotonic()), bool(before) and before.get("node") != mine["node"]
