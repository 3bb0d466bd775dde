"""Train YOLO road-damage detectors on small machines and lose nothing to an out-of-memory kill.

Importing this loads neither torch nor plotly; the names below are fetched when they are first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rddkit.dashboard import Dashboard as Dashboard
    from rddkit.memory import clear_cache as clear_cache
    from rddkit.memory import memory_budget as memory_budget
    from rddkit.outlook import estimate_memory as estimate_memory
    from rddkit.run import Run as Run

__version__ = "0.1.0"
_HOMES = {
    "Dashboard": "dashboard",
    "Run": "run",
    "clear_cache": "memory",
    "estimate_memory": "outlook",
    "memory_budget": "memory",
}
__all__ = ["Dashboard", "Run", "clear_cache", "estimate_memory", "memory_budget"]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(f"rddkit.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'rddkit' has no attribute {name!r}; it has {', '.join(sorted(_HOMES))}")
