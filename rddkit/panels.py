"""The dashboard's words as HTML: pure functions of a glance. Foreign text is escaped; colours follow the theme."""

from __future__ import annotations

import base64
import html
from collections.abc import Sequence

from rddkit import style
from rddkit.glance import Gauge, Glance

TONES = {"running": style.BLUE, "finished": style.GREEN, "failed": style.RED, "dead": style.RED, "silent": style.RED}
SOFT = "color: var(--jp-ui-font-color2, #6b7280)"
NUMBERS = "font-variant-numeric: tabular-nums"
FULL = 0.9  # share of the budget from which the gauge is red


def head(glance: Glance) -> str:
    """The name, the state as a badge, and the sentence."""
    color = TONES.get(glance.badge, style.GREY)
    pill = f"background: {color}; color: white; border-radius: 99px; padding: 2px 12px; font-weight: 600"
    return (
        f'<div style="line-height: 1.5"><span style="font-size: 20px; font-weight: 600; margin-right: 12px">'
        f'{html.escape(glance.status.name)}</span><span class="rddkit-badge" style="{pill}">{glance.badge}</span>'
        f'<div class="rddkit-sentence" style="font-size: 16px; margin-top: 4px">'
        f"{html.escape(glance.status.sentence)}</div></div>"
    )


def numbers(glance: Glance) -> str:
    """Epoch and batch bars, the memory gauge, and the facts side by side."""
    now = glance.status
    epoch = f"epoch {now.epoch} of {now.epochs}" if now.epochs else "no epoch yet"
    bars = [bar(epoch, f"{glance.epochs:.0%}", glance.epochs, style.BLUE)]
    if glance.batches is not None:
        phase = {"validate": ", validating", "start": ", getting ready"}.get(now.phase, "")
        batch = f"batch {now.batch} of {now.batches}{phase}"
        bars.append(bar(batch, f"{glance.batches:.0%}", glance.batches, style.SKY))
    if glance.memory is not None:
        bars.append(memory(glance.memory))
    told = "".join(
        f'<div><div style="{SOFT}; font-size: 12px">{html.escape(name)}</div>'
        f'<div style="font-size: 15px; {NUMBERS}">{html.escape(value)}</div></div>'
        for name, value in glance.facts
    )
    grid = "display: grid; grid-template-columns: repeat(auto-fit, minmax(150px, 1fr)); gap: 6px 20px; margin-top: 8px"
    return f'<div style="line-height: 1.4">{"".join(bars)}<div style="{grid}">{told}</div></div>'


def bar(left: str, right: str, share: float, color: str) -> str:
    """A thin bar below its two texts."""
    wide = max(0.0, min(1.0, share))
    return (
        f'<div style="display: flex; justify-content: space-between; gap: 20px; margin-top: 6px; {NUMBERS}">'
        f"<span>{html.escape(left)}</span><span>{html.escape(right)}</span></div>"
        f'<div style="background: var(--jp-layout-color3, #e0e0e0); border-radius: 4px; height: 8px">'
        f'<div style="width: {wide:.1%}; background: {color}; border-radius: 4px; height: 8px"></div></div>'
    )


def memory(gauge: Gauge) -> str:
    """The memory gauge with its limit's source."""
    return bar("memory", str(gauge), gauge.share, style.RED if gauge.share > FULL else style.GREEN)


def events(glance: Glance, notes: Sequence[str]) -> str:
    """What happened, newest first, and what of the run's files could not be read."""
    rows = "".join(
        f'<tr><td style="{SOFT}; white-space: nowrap; vertical-align: top; text-align: left; padding-right: 16px">'
        f'{html.escape(when)}</td><td style="text-align: left; white-space: pre-wrap">{html.escape(text)}</td></tr>'
        for when, text in reversed(glance.events)
    )
    missing = "".join(f"<div>Not shown: {html.escape(note)}.</div>" for note in notes)
    nothing = "" if rows else f'<div style="{SOFT}">The journal holds no event yet.</div>'
    return f'<div style="line-height: 1.4">{missing}{nothing}<table style="width: 100%">{rows}</table></div>'


def log(name: str, text: str) -> str:
    """The end of a log file."""
    look = "max-height: 300px; overflow: auto; font-size: 12px; line-height: 1.3; white-space: pre-wrap"
    shown = html.escape(text) if text else "nothing was said yet"
    return f'<div style="{SOFT}">{html.escape(name)}</div><pre style="{look}">{shown}</pre>'


def pictures(told: Sequence[tuple[str, bytes]], hint: str) -> str:
    """Pictures (JPEG) side by side, each below its caption; or how to get some."""
    if not told:
        return f'<div style="{SOFT}; line-height: 1.4">{html.escape(hint)}</div>'
    shown = "".join(
        f'<figure style="margin: 0"><figcaption style="{SOFT}">{html.escape(caption)}</figcaption>'
        f'<img alt="{html.escape(caption)}" style="width: 100%" '
        f'src="data:image/jpeg;base64,{base64.b64encode(content).decode()}"></figure>'
        for caption, content in told
    )
    grid = f"display: grid; grid-template-columns: repeat({min(2, len(told))}, 1fr); gap: 12px"
    return f'<div style="{grid}">{shown}</div>'


def paragraph(text: str, color: str = "inherit") -> str:
    """Text of its own lines."""
    look = f"line-height: 1.4; max-width: 60em; white-space: pre-wrap; color: {color}"
    return f'<div style="{look}">{html.escape(text)}</div>'
