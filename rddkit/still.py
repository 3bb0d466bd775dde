"""A run as plain figures and tables: what the dashboard shows, for where nobody watches. No widget is made."""

from __future__ import annotations

from collections.abc import Sequence

from rddkit import comparison, exhibits, figures, frontend, glance, records, status
from rddkit.glance import Glance
from rddkit.paths import RunPaths
from rddkit.records import Records

NO_PICTURES = (
    "No picture of the validation images yet: one is drawn when the run ends, or now by rddkit report, while it is "
    "not being trained (it takes the memory of a small training)."
)


def look(told: Records) -> Glance:
    """What there is to see of a run's records now."""
    now = status.read_status(told.paths, events=told.events)
    return glance.look(now, told.events, told.progress, told.run, records.newest_memory(told.memory))


def show(paths: RunPaths, compare: Sequence[str] = ()) -> None:
    """Notes, how it stands, each figure with how to read it, pictures and events, in the dashboard's order."""
    told = records.read_records(paths)
    seen = look(told)
    print(f"{paths.name}: {seen.status.sentence}")
    frontend.show_notes(told)
    rows = [("state", seen.badge), *seen.facts, *([("memory", str(seen.memory))] if seen.memory else [])]
    frontend.show_table(rows, ("", "now" if seen.status.state == "running" else "in the end"))
    for name, figure in figures.all_figures(told).items():
        figures.show(figure)
        print(figures.CAPTIONS[name])
        if name == "metrics":
            frontend.show_metrics(told)
    if compare:
        figures.show(comparison.compare(comparison.read([paths.folder, *compare])))
    pictures = exhibits.validation_pictures(paths)
    for caption, content in pictures:
        print(caption)
        frontend.show_jpeg(content, caption)
    if not pictures:
        print(NO_PICTURES)
    frontend.show_events(told)
