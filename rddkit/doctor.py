"""What this machine is, in one table: the first thing to look at and to paste into an issue."""

from __future__ import annotations

import shutil
from typing import Any

from rich.table import Table

from rddkit import host, memory, paths
from rddkit.config import ConfigError
from rddkit.memory import human
from rddkit.recording import cpu_threads, look_at_devices, versions
from rddkit.start import choose_device


def look() -> list[tuple[str, str, str]]:
    """Rows of (question, answer, where the answer comes from)."""
    rows: list[tuple[str, str, str]] = []
    try:
        seen = look_at_devices()
        device, why = choose_device(None, seen)
        rows.append(("device", device, why))
        rows += _device_rows(seen)
    except ConfigError as error:
        rows.append(("device", "unknown", str(error)))
    whole, free, budget = memory.total(), memory.available(), memory.memory_budget()
    threads, because = cpu_threads()
    disk = shutil.disk_usage(paths.root())
    rows += [
        ("memory limit", human(whole.bytes), whole.source),
        ("memory free", human(free.bytes), free.source),
        *_container_rows(),
        ("budget", human(budget.bytes), budget.source),
        ("swap used", human(memory.swap_used().bytes), memory.swap_used().source),
        ("threads", str(threads), because),
        ("disk free", human(disk.free), str(paths.root())),
        ("power", *_power()),
    ]
    return rows + [(name, version, "installed") for name, version in versions().items()]


def _device_rows(seen: dict[str, Any]) -> list[tuple[str, str, str]]:
    rows = [("torch", seen["torch"], f"CPU instructions {seen['cpu']}")]
    for index, gpu in enumerate(seen["cuda"]):
        rows.append((f"cuda:{index}", f"{human(gpu['free'])} free of {human(gpu['total'])}", gpu["name"]))
    if seen["mps"]:
        rows.append(("mps", human(seen["mps_recommended_max"]), "recommended_max_memory"))
    return rows


def _container_rows() -> list[tuple[str, str, str]]:
    inside = memory.container()
    if inside is None:
        return []
    return [
        ("container limit", human(inside.limit), inside.source),
        ("container charged", human(inside.charged), "counts against the limit and cannot be reclaimed"),
        ("container reclaimable", human(inside.reclaimable), "file cache that the kernel drops before it kills"),
        ("container free", human(inside.free), "limit less charged"),
    ]


def _power() -> tuple[str, str]:
    power = host.look()
    if power["percent"] is None:
        return "mains", "no battery seen"
    state = "battery: plug it in for the night" if power["plugged"] is False else "mains"
    return state, f"battery at {power['percent']:.0f} %"


def table(rows: list[tuple[str, str, str]]) -> Table:
    """The rows for a terminal."""
    shown = Table("what", "is", "says", title="rddkit doctor", title_justify="left")
    for row in rows:
        shown.add_row(*row)
    return shown
