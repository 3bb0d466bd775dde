"""`rddkit status --watch`: a run in a terminal, kept up to date by rich."""

from __future__ import annotations

import math
from collections.abc import Sequence

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from rddkit import clock, glance, records
from rddkit.glance import Glance
from rddkit.run import Run

SECONDS = 2.0
BARS = "▁▂▃▄▅▆▇█"
COLORS = {"running": "blue", "finished": "green", "failed": "red", "dead": "red", "silent": "red"}
WIDE = 40  # characters of a bar or sparkline


def watch(run: Run, out: Console) -> None:
    """Show a run until it is not running any more."""
    with Live(console=out, auto_refresh=False) as shown:
        while True:
            seen, readings = look(run)
            shown.update(picture(seen, readings), refresh=True)
            if seen.status.state != "running":
                return
            clock.sleep(SECONDS)


def look(run: Run) -> tuple[Glance, list[float]]:
    """A glance at a run, and the newest shares of the budget that were held, oldest first."""
    rows = glance.recent_memory(run.paths.memory_csv)
    settings, _ = records.read_mapping(run.paths.run_yaml)
    progress, _ = records.read_mapping(run.paths.progress)
    seen = glance.look(run.status(), run.events(), progress, settings, rows[-1] if rows else {}, most=6)
    gauges = [glance.gauge(row, settings) for row in rows]
    return seen, [gauge.share for gauge in gauges if gauge]


def picture(seen: Glance, readings: Sequence[float]) -> RenderableType:
    """The glance as lines: sentence, bars, memory, facts, events."""
    head = Text.assemble(
        (f" {seen.badge} ", f"bold white on {COLORS.get(seen.badge, 'grey37')}"),
        (f" {seen.status.name}  ", "bold"),
        seen.status.sentence,
    )
    bars = Table.grid(padding=(0, 2))
    bars.add_row("epochs", ProgressBar(1.0, seen.epochs, width=WIDE), f"{seen.status.epoch} of {seen.status.epochs}")
    if seen.batches is not None:
        told = f"{seen.status.batch} of {seen.status.batches}"
        bars.add_row("batches", ProgressBar(1.0, seen.batches, width=WIDE), told)
    if seen.memory is not None:
        bars.add_row("memory", sparkline(readings, WIDE), Text(str(seen.memory)))
    for name, value in seen.facts:
        bars.add_row(name, "", value)
    history = Table.grid(padding=(0, 2))
    for when, text in seen.events:
        history.add_row(Text(when, "dim"), Text(text))
    return Group(head, Text(), bars, Text(), history)


def sparkline(values: Sequence[float], width: int) -> str:
    """Shares (0 to 1) as a line of little bars, the highest of each group; an empty text for none."""
    known = [value for value in values if math.isfinite(value)]
    if not known:
        return ""
    each = max(1, math.ceil(len(known) / width))
    tops = [max(known[start : start + each]) for start in range(0, len(known), each)]
    return "".join(BARS[min(len(BARS) - 1, max(0, int(top * len(BARS))))] for top in tops)
