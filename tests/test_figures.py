from __future__ import annotations

import json
from datetime import datetime, timedelta, timezone
from pathlib import Path

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import pytest
from fabricate import START, fabricate_run

from rddkit import clock, figures, records, series, style
from rddkit.records import Records

NAMES = ["losses", "metrics", "learning_rate", "memory", "throughput"]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Records:
    folder = tmp_path_factory.mktemp("figures") / "run"
    return records.read_records(fabricate_run(folder, epochs=12, attempts=3, memory_rows=400, fallback=True))


def names(figure: go.Figure) -> list[str]:
    return [trace.name for trace in figure.data if trace.x is None or list(trace.x) != [None]]


def test_every_figure_is_made_in_reading_order(run: Records) -> None:
    made = figures.all_figures(run)
    assert list(made) == NAMES
    assert all(figure.layout.title.text for figure in made.values())


def test_losses_pair_training_and_validation_in_one_panel_each(run: Records) -> None:
    figure = figures.losses(run.results, run.steps)
    assert [note.text for note in figure.layout.annotations] == ["box loss", "cls loss", "dfl loss"]
    assert names(figure)[:4] == ["train, per step", "train, per step, smoothed", "train, per epoch", "val, per epoch"]
    assert [trace.showlegend for trace in figure.data] == [True] * 4 + [False] * 8


def test_other_losses_than_those_of_yolov8_are_drawn() -> None:
    results = pd.DataFrame({"epoch": [1.0], "train/l1_loss": [1.0], "val/l1_loss": [2.0]})
    figure = figures.losses(results, pd.DataFrame())
    assert names(figure) == ["train, per epoch", "val, per epoch"]
    assert figure.data[0].mode == "lines+markers"


def test_the_best_epochs_are_marked(run: Records) -> None:
    best = records.best(run.results)
    assert best is not None
    assert f"best mAP50 {best.value:.3f}, epoch {best.epoch}" in names(figures.metrics(run.results))


def test_every_part_of_an_estimate_has_a_colour_of_its_own_and_the_margin_none() -> None:
    parts = {f"part {number}": number << 20 for number in range(1, 10)}
    told = {"components": parts, "safe_bound": 60 << 20, "estimate": 45 << 20, "budget": 50 << 20, "fits": False}
    *bars, margin = figures.need({**told, "phase": "training"}).data
    assert len({bar.marker.color for bar in bars}) == len(parts)
    assert [bar.name for bar in bars][:2] == ["part 9", "part 8"], "the largest first"
    assert (margin.name, margin.marker.pattern.shape) == ("margin", "/")


def test_memory_stands_against_the_budget_with_attempts_as_bands(run: Records) -> None:
    figure = figures.MAKERS["memory"](run)
    limits = ["the guard warns above", "the guard stops above"]
    assert names(figure) == ["free on the machine", "worker", "budget", *limits]
    assert [s.type for s in figure.layout.shapes].count("rect") == 2
    assert {note.text for note in figure.layout.annotations} >= {"attempt 1", "attempt 2", "attempt 3"}
    budget = next(trace for trace in figure.data if trace.name == "budget")
    assert np.nanmax(budget.y) == pytest.approx(4.0) and len(budget.y) < 12
    stops = next(trace for trace in figure.data if trace.name == limits[1])
    assert stops.visible and np.nanmedian(stops.y) == pytest.approx(7.2 - 0.05 * 4.0, abs=0.01), "what leaves 5 % free"


def test_a_run_without_a_guard_has_no_lines_of_it() -> None:
    assert figures.guard_shares({"safety": {"guard": False, "guard_warn": 0.1}}) == {}
    assert figures.guard_shares({"safety": 3}) == {} == figures.guard_shares({})


def test_the_memory_of_one_attempt_ends_with_it_beside_what_was_free(run: Records) -> None:
    figure = figures.memory_of_attempt(run, 2)
    assert figure.layout.title.text == "Memory of attempt 2"
    assert {note.text for note in figure.layout.annotations} >= {"attempt 2"}
    drawn = {trace.name: trace for trace in figure.data}
    worker = drawn["worker"]
    assert drawn["free on the machine"].visible is True
    rows = run.memory[run.memory["attempt"] == 2]
    assert (len(worker.x), worker.x[-1]) == (len(rows), series.local(rows["time"])[-1])


def test_an_attempt_without_readings_says_so(run: Records) -> None:
    figure = figures.memory_of_attempt(run, 9)
    assert "No memory reading" in figure.layout.annotations[0].text


@pytest.mark.parametrize("name", NAMES)
def test_kills_fallbacks_and_resumes_are_marked_on_every_axis(run: Records, name: str) -> None:
    figure = figures.all_figures(run)[name]
    signs = [note.text for note in figure.layout.annotations if note.hovertext]
    panels = 3 if name == "losses" else 1
    assert signs.count("▶") == signs.count("◆") == 2 * panels
    assert signs.count("✕") == (2 if name in ("memory", "throughput") else 0)


@pytest.mark.parametrize("rows", [0, 1, 2])
def test_figures_are_readable_with_few_points(tmp_path: Path, rows: int) -> None:
    paths = fabricate_run(tmp_path / "run", epochs=rows, attempts=1, memory_rows=rows, step_rows_per_epoch=1, end=None)
    for name, figure in figures.all_figures(records.read_records(paths)).items():
        drawn = [trace for trace in figure.data if trace.y is not None and list(trace.y) != [None]]
        assert bool(drawn) == (rows > 0), name
        if not rows:
            assert figure.layout.annotations[0].text.endswith(".")


def test_weeks_are_thinned_and_keep_their_peak() -> None:
    count = 300_000
    times = pd.Series(pd.date_range(START, periods=count, freq="2s"))
    worker = np.full(count, 2.0 * 2**30)
    worker[123_456] = 3.9 * 2**30
    frame = pd.DataFrame({"time": times, "attempt": 1, "worker": worker, "budget": 4.0 * 2**30})
    figure = figures.memory(frame, [])
    assert all(len(trace.x) <= series.LIMIT for trace in figure.data)
    assert max(figure.data[0].y) == pytest.approx(3.9)
    assert len(figure.to_json()) < 100_000


def test_thousands_of_events_stay_a_small_figure(run: Records) -> None:
    when = [START + timedelta(minutes=n) for n in range(5000)]
    events = [{"t": clock.stamp(t), "event": "attempt_ended", "attempt": n, "cause": "oom"} for n, t in enumerate(when)]
    figure = figures.memory(run.memory, events)
    assert len([note for note in figure.layout.annotations if note.hovertext]) == style.MOST_MARKS
    assert any("newest" in str(trace.name) for trace in figure.data)


def test_lines_break_at_a_new_attempt_and_at_a_pause(run: Records) -> None:
    figure = figures.throughput(run.steps)
    assert int(np.isnan(np.asarray(figure.data[0].y, dtype=float)).sum()) == 2


def test_work_done_twice_is_drawn_once() -> None:
    steps = pd.DataFrame({"attempt": [1, 1, 1, 2, 2], "epoch": [1, 1, 2, 1, 2], "batch": [5, 10, 4, 10, 2]})
    position = series.positions(steps)
    assert list(position) == [0.5, 1.0, 1.4, 1.0, 1.2]
    assert list(series.last_pass(position)) == [True, False, False, True, True]


def test_the_first_epoch_is_placed_by_the_known_number_of_batches() -> None:
    steps = pd.DataFrame({"attempt": [1, 1], "epoch": [1, 1], "batch": [50, 103]})
    assert series.positions(steps, batches=9545)[-1] == pytest.approx(103 / 9545)
    assert series.positions(steps.assign(batches=206))[-1] == pytest.approx(0.5)


def test_thinning_keeps_ends_and_gaps() -> None:
    values = np.sin(np.arange(10_000) / 50)
    values[5000:5300] = np.nan
    keep = series.thin(values, 200)
    assert keep[0] == 0 and keep[-1] == 9999 and len(keep) <= 200
    assert np.isnan(values[keep]).any()
    assert list(series.thin([1, 2, 3])) == [0, 1, 2]


def test_hostile_text_is_harmless_in_a_hover() -> None:
    assert "<script" not in style.hover("<script>alert(1)</script>")


def test_events_with_fields_of_the_wrong_kind_are_passed_over(run: Records) -> None:
    keys = ("t", "attempt", "epoch", "batch", "cause", "lost_batches", "lost_seconds", "from", "to")
    for name in series.KINDS | {"attempt_started": "", "run_done": ""}:
        for value in (None, "text", [1], {"a": 1}, float("nan"), True):
            events = [
                {"event": name, **dict.fromkeys(keys, value)},
                {"event": name, "t": clock.stamp(START), "attempt": value},
            ]
            figures.memory(run.memory, events)
            figures.metrics(run.results, events)
            records.lost_work(events)


def test_attempts_without_a_journal_come_from_the_readings(run: Records) -> None:
    assert [span.attempt for span in series.spans([], run.memory)] == [1, 2, 3]
    told = series.spans(run.events, run.memory)
    assert [span.cause for span in told] == ["oom", "oom", "done"]
    assert told[0].start == datetime(2026, 11, 22, 20, 5, tzinfo=timezone.utc)


def test_show_saves_a_small_output_that_draws_everywhere(run: Records, monkeypatch: pytest.MonkeyPatch) -> None:
    shown = []
    monkeypatch.setattr("IPython.display.display", lambda bundle, **_: shown.append(bundle))
    for figure in figures.all_figures(run).values():
        figures.show(figure)
    assert len(shown) == 5
    for bundle in shown:
        assert set(bundle) >= {"application/vnd.plotly.v1+json", "text/html"}
        assert bundle["application/vnd.plotly.v1+json"]["config"]["showSendToCloud"] is False
        assert len(json.dumps(bundle)) < 200_000
