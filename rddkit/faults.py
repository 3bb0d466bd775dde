"""Named places at which a test can have this process killed for real; nothing happens unless RDDKIT_KILL says so."""

from __future__ import annotations

import os
import signal
from collections import Counter

_reached: Counter[str] = Counter()
_attempt = 0


def begin(attempt: int) -> None:
    """Tell which attempt this process is, so that a plan of kills can name it."""
    global _attempt
    _attempt = attempt


def point(name: str) -> None:
    """SIGKILL this process if RDDKIT_KILL names this place: `2:csv_row@3` is attempt 2, the third time there."""
    plan = os.environ.get("RDDKIT_KILL")
    if not plan:
        return
    _reached[name] += 1
    if f"{_attempt}:{name}@{_reached[name]}" in plan.split(","):
        os.kill(os.getpid(), signal.SIGKILL)
