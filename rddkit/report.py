"""The report: one HTML file that tells a whole run, drawn without a network, and its tables beside it.

`python -m rddkit.report FOLDER` writes it; the supervisor does so in a child, to keep plotly out of its own memory.
"""

from __future__ import annotations

import base64
import json
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
import pandas as pd
import plotly.graph_objects as go
import plotly.io
import plotly.offline

from rddkit import album, clock, durable, exhibits, figures, glance, records, series, status, style, words
from rddkit.journal import Event
from rddkit.memory import human
from rddkit.paths import RunPaths
from rddkit.records import METRICS, Records
from rddkit.status import Status

ALARMING = ("attempt_ended", "guard_stop", "run_failed", "snapshot_failed", "memory_warning", "fallback")


@dataclass(frozen=True)
class Card:
    """A key number: its name, the number, and what stands small below it."""

    title: str
    value: str
    note: str = ""


def write_report(folder: Path) -> Path:
    """Write `report.html` and `report/*.csv` for the run in `folder`; the page's path.

    The page is whole in itself (plotly.js inside, about 5 MB, nothing fetched). A folder that is half there gives a
    report of what there is and says what is not. FileNotFoundError if there is no such folder.
    """
    paths = RunPaths(Path(folder).absolute())
    if not paths.folder.is_dir():
        raise FileNotFoundError(f"no run folder {paths.folder}; rddkit status lists the runs there are")
    run = records.read_records(paths)
    paths.report.mkdir(exist_ok=True)
    durable.write(paths.report / "events.csv", events_table(run.events).to_csv(index=False))
    durable.write(paths.report / "results.csv", run.results.to_csv(index=False))
    durable.write(paths.report_html, render(run, status.read_status(paths)))
    return paths.report_html


def make_report(folder: Path) -> Path:
    """The report with newly drawn predictions, where the run's weights have changed; see `write_report`."""
    if Path(folder).is_dir() and (why := album.renew(RunPaths(Path(folder).absolute()))):
        print(why, file=sys.stderr)
    return write_report(folder)


def render(run: Records, state: Status) -> str:
    """The page as text."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    told = [told_event(event) for event in run.events]
    pictures = exhibits.validation_pictures(run.paths)
    return environment.get_template("report.html").render(
        name=run.paths.name,
        folder=str(run.paths.folder),
        state=state.state,
        badge=glance.badge(state),
        sentence=state.sentence,
        notes=run.notes,
        cards=cards(run, state),
        figures={name: as_html(figure, name) for name, figure in figures.all_figures(run).items()},
        captions=figures.CAPTIONS,
        metrics=list(metrics_table(run.results)),
        lost=records.lost_work(run.events),
        lost_words=lost_words(run),
        plan=list(flat(state.plan or _mapping(run.run.get("plan")))),
        choices=list(choices(run.run)),
        settings=list(flat(_mapping(run.run.get("config")))),
        safety=list(flat(_mapping(run.run.get("safety")))),
        needs=list(needs(run)),
        pictures=[(caption, base64.b64encode(jpeg).decode()) for caption, jpeg in pictures],
        environment=list(environment_rows(run.run)),
        highlights=[event for event in told if not event["routine"]],
        events=told,
        zone=series.zone_name(),
        written=_wall(clock.stamp()),
        plotly_js=plotly.offline.get_plotlyjs(),
    )


def cards(run: Records, state: Status) -> list[Card]:
    """The numbers a person looks for first."""
    latest = run.results.iloc[-1] if len(run.results) else None
    epoch = int(latest["epoch"]) if latest is not None else 0
    found = [Card("Epochs done", f"{epoch} of {state.epochs}" if state.epochs else str(epoch), _left(state))]
    for column, note in ((records.MAP50, ""), (records.MAP50_95, ", best.pt")):
        if top := records.best(run.results, column):
            found.append(Card(f"Best {METRICS[column]}", f"{top.value:.3f}", f"epoch {top.epoch}{note}"))
    lost = records.lost_work(run.events)
    kills = f"in {_many(state.kills, 'kill', 'kills')}" if state.kills else "no kill"
    found.append(Card("Lost work", clock.words(lost.seconds) if lost.seconds else "nothing", kills))
    if peak := peak_bytes(run):
        budget = run.memory["budget"].dropna()
        found.append(Card("Peak memory", human(peak), f"of {human(budget.iloc[-1])} allowed" if len(budget) else ""))
    spans = series.spans(run.events, run.steps, run.memory)
    if spans:
        trained = clock.words(series.trained_seconds(spans))
        found.append(Card("Time trained", trained, _many(len(spans), "attempt", "attempts")))
    return found


def _many(number: int, one: str, more: str) -> str:
    return f"{number} {one if number == 1 else more}"


def _left(state: Status) -> str:
    return f"{clock.words(state.eta_seconds)} to go" if state.state == "running" and state.eta_seconds else ""


def peak_bytes(run: Records) -> float:
    """The most memory the run was seen to hold: by the worker's own account or by the readings; 0 if unknown."""
    told = [float(event["peak_bytes"]) for event in run.events if isinstance(event.get("peak_bytes"), (int, float))]
    read = [float(run.memory[column].max()) for column in ("worker", "device") if run.memory[column].notna().any()]
    return max([*told, *read], default=0.0)


def lost_words(run: Records) -> str:
    """What kills cost, in one sentence."""
    lost = records.lost_work(run.events)
    if not lost.resumes:
        return "No attempt had to be continued: nothing was lost."
    times = "once" if lost.resumes == 1 else f"{lost.resumes} times"
    exact = sum(event["event"] == "resumed" and event.get("exact") is True for event in run.events)
    how = "exactly" if exact == lost.resumes else f"{exact} of them exactly"
    amount = f"{_many(lost.batches, 'batch', 'batches')} ({clock.words(lost.seconds)})"
    work = amount if lost.batches or lost.seconds else "nothing"
    return f"Continued {times}, {how}; {work} had to be done again."


def needs(run: Records) -> Iterator[tuple[str, str, str]]:
    """(what, bytes in words, about it): what was estimated against what attempts held at most."""
    for event in run.events:
        if event["event"] == "estimated" and event.get("safe_bound"):
            yield "estimated", _size(event.get("estimate")), words.describe(event)
        elif event["event"] == "estimated":
            yield "held in the first epoch", _size(event.get("measured_bytes")), words.describe(event)
        elif event["event"] == "attempt_ended" and event.get("peak_bytes"):
            shown = event.get("peak_resident_bytes")
            beside = f"; resident, as top shows it, {_size(shown)}" if shown else ""
            told = f"the most that attempt {event.get('attempt')} was seen to hold{beside}"
            yield f"attempt {event.get('attempt')}", _size(event["peak_bytes"]), told


def _size(value: Any) -> str:
    return human(value) if isinstance(value, (int, float)) else "unknown"


def metrics_table(results: pd.DataFrame) -> Iterator[tuple[str, str, str, str]]:
    """(metric, latest, best, its epoch) for each metric that results.csv has."""
    for column, name in METRICS.items():
        if top := records.best(results, column):
            yield name, f"{results[column].dropna().iloc[-1]:.3f}", f"{top.value:.3f}", str(top.epoch)


def choices(run: Mapping[str, Any]) -> Iterator[tuple[str, str, str]]:
    """(setting, value, reason) for everything that was chosen automatically."""
    for key, choice in _mapping(run.get("choices")).items():
        if isinstance(choice, Mapping):
            yield str(key), words.amount(str(key), choice.get("value")), str(choice.get("reason", ""))
        else:
            yield str(key), words.amount(str(key), choice), ""


def environment_rows(run: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """What the numbers depend on besides the settings: versions, threads, device, data, commit."""
    keys = ("created", "device", "threads", "versions", "dataset", "git")
    yield from flat({key: run[key] for key in keys if key in run})


def flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """A nested mapping as (dotted key, value in words)."""
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", "none" if value is None else words.amount(str(key), value)


def told_event(event: Event) -> dict[str, Any]:
    """An event as the page shows it."""
    alarming = event["event"] in ALARMING and event.get("cause") not in ("done", "stopped")
    return {
        "when": _wall(str(event.get("t", ""))),
        "attempt": event.get("attempt") or "",
        "name": event["event"],
        "text": words.describe(event),
        "routine": words.is_routine(event),
        "tone": "bad" if alarming else "good" if event["event"] in ("resumed", "run_done") else "plain",
    }


def events_table(events: list[Event]) -> pd.DataFrame:
    """The journal as a table: time (UTC), attempt, event, its sentence, its own fields as JSON."""
    rows = []
    for event in events:
        fields = {key: value for key, value in event.items() if key not in words.ENVELOPE}
        row = (event.get("t"), event.get("attempt"), event["event"], words.describe(event))
        rows.append((*row, json.dumps(fields, ensure_ascii=False)))
    return pd.DataFrame(rows, columns=["time", "attempt", "event", "text", "fields"])


def as_html(figure: go.Figure, name: str) -> str:
    """A figure as a piece of a page that has plotly.js already; plotly escapes what could end its script."""
    shape = {"include_plotlyjs": False, "full_html": False, "config": style.CONFIG}
    return str(plotly.io.to_html(figure, div_id=f"figure-{name}", **shape))


def _wall(stamp: str) -> str:
    when = series.moment({"t": stamp})
    return series.local_moment(when).strftime("%Y-%m-%d %H:%M:%S") if when else stamp


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def main(arguments: list[str]) -> int:
    """`python -m rddkit.report FOLDER`: 0 and the page's path, or 2 and what is wrong."""
    if len(arguments) != 1:
        print("usage: python -m rddkit.report FOLDER", file=sys.stderr)
        return 2
    try:
        print(make_report(Path(arguments[0])))
    except FileNotFoundError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
