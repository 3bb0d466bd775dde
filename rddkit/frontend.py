"""Where output goes: whether somebody watches this kernel, and what of a run is shown as tables and pictures."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from IPython import display as ipython
from IPython.core.getipython import get_ipython

from rddkit import exhibits, words
from rddkit.records import METRICS, Records, best

show: Any = ipython.display  # IPython's functions have no types
_image: Any = ipython.Image


def is_headless() -> bool:
    """Whether nobody watches this kernel: papermill, nbconvert, a script.

    Every execute request says whether its frontend can ask a person (`allow_stdin`, Jupyter's messaging protocol).
    JupyterLab, VS Code and Colab can; nbclient, on which papermill and nbconvert stand, says that it cannot. No
    environment variable tells as much: a kernel started from a terminal within JupyterLab inherits Lab's.
    """
    kernel = getattr(get_ipython(), "kernel", None)
    if kernel is None:
        return True
    return not kernel.get_parent("shell").get("content", {}).get("allow_stdin", False)


def show_jpeg(content: bytes, alt: str) -> None:
    """A picture, with the words that stand for it."""
    show(_image(data=content, format="jpeg", alt=alt))


def show_metrics(told: Records) -> None:
    """The newest and the best value of each metric on the validation images."""
    if not len(told.results):
        print("No epoch is done yet: the first numbers come after its validation.")
        return
    newest = told.results.iloc[-1]
    rows = []
    for column, name in METRICS.items():
        if (top := best(told.results, column)) is not None:
            rows.append((name, f"{newest[column]:.3f}", f"{top.value:.3f}", top.epoch))
    show_table(rows, ("on the validation images", f"epoch {newest['epoch']:.0f}", "best", "of epoch"))


def show_events(told: Records, most: int = 30) -> None:
    """The journal in plain words, the newest `most` events; where there are more, the routine ones are left out."""
    events = told.events
    if len(events) > most:
        events = [event for event in events if not words.is_routine(event)]
    if len(events) < len(told.events) or len(events) > most:
        print(f"{min(most, len(events))} of {len(told.events)} events; all of them: {told.paths.report_html}")
    rows = [(words.when(event), event.get("attempt", ""), words.describe(event)) for event in events[-most:]]
    show_table(rows, ("local time", "attempt", "what happened"))


def show_notes(told: Records) -> None:
    """What of the run's files could not be read, in plain words."""
    print("\n".join(told.notes) or "Every file of the run could be read.")


def show_table(rows: Iterable[Sequence[Any]], columns: Sequence[str]) -> None:
    """A table in a notebook, readable as plain text too."""
    show(exhibits.table(rows, columns), raw=True)
