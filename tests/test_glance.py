"""What there is to see of a run at one moment."""

from __future__ import annotations

import math
from datetime import timedelta
from pathlib import Path

import pytest
from fabricate import GIB, START, fabricate_run
from rich.console import Console

from rddkit import clock, glance, panels, records, still, terminal
from rddkit.glance import Gauge
from rddkit.status import Status

NIGHT = Status(
    "night", "/night", "running", "Running, epoch 3 of 10", 3, epoch=3, epochs=10, batch=50, batches=100,
    phase="train", eta_seconds=7200.0, images_per_second=10.0, heartbeat_age=1.0, plan={"batch": 4},
    best={"metrics/mAP50(B)": 0.5, "epoch": 2.0}, latest={"metrics/mAP50(B)": 0.4},
)  # fmt: skip
RUN = {"safety": {"val_period": 1}, "budget": {"bytes": 4 * GIB, "source": "/sys/fs/cgroup/memory.max"}}


def changed(**values: object) -> Status:
    return Status(**{**NIGHT.as_dict(), **values})  # type: ignore[arg-type]


def test_a_running_run_tells_how_far_how_long_and_how_good() -> None:
    progress = {"until": clock.stamp(START + timedelta(hours=9))}
    told = dict(glance.facts(NIGHT, [], progress, RUN, START))
    assert told["to go"] == "2 h 0 min"
    assert told["next validation"] == "in 20 s", "50 batches of 4 images at 10 a second"
    assert told["end of the night"].endswith("in 9 h 0 min")
    assert told["mAP50"] == "0.400, best 0.500 (epoch 2)"
    assert glance.epochs_done(NIGHT) == pytest.approx(0.25)


def test_the_next_validation_waits_for_its_epoch() -> None:
    every = {"safety": {"val_period": 5}}
    assert glance.validation_seconds(NIGHT, every) == pytest.approx(250 * 4 / 10), "epoch 5 is validated"
    assert glance.validation_seconds(changed(epoch=9, epochs=9), every) == pytest.approx(20), "the last always"
    assert glance.validation_seconds(changed(images_per_second=None), RUN) is None


@pytest.mark.parametrize(
    ("values", "badge"),
    [
        ({}, "running"),
        ({"heartbeat_age": 61.0}, "silent"),
        ({"heartbeat_age": None}, "starting"),
        ({"epoch": 0}, "starting"),
        ({"state": "done"}, "finished"),
        ({"state": "new"}, "not started"),
        ({"state": "dead", "heartbeat_age": 9e4}, "dead"),
    ],
)
def test_the_badge_is_the_state_by_its_heartbeat(values: dict[str, object], badge: str) -> None:
    assert glance.badge(changed(**values)) == badge


def test_the_gauge_names_the_limit_and_its_source() -> None:
    reading = {"worker": 3.0 * GIB, "device": math.nan, "budget": math.nan}
    assert str(glance.gauge(reading, RUN)) == "3.0 GB of 4.0 GB allowed, 75% (/sys/fs/cgroup/memory.max)"
    source = "/cg/memory.max now: limit 600 MB, charged 120 MB, reclaimable 80 MB, free 480 MB, less 36 MB kept free"
    inside = glance.gauge(reading, {"budget": {"bytes": 1, "source": source}})
    assert inside is not None and inside.source == "/cg/memory.max now", "the sizes are those of the attempt's start"
    assert glance.gauge({"worker": math.nan, "device": math.nan}, RUN) is None
    assert str(Gauge(GIB, 0.0, "")) == "1.0 GB held; the budget is not known"


def test_trained_time_is_that_of_attempts(tmp_path: Path) -> None:
    told = records.read_records(fabricate_run(tmp_path / "run", epochs=4, attempts=2, memory_rows=50))
    seconds = glance.trained_seconds(told.events, told.progress, None, False)
    assert seconds == pytest.approx(4.5 * 300 + 5, abs=1), "half an epoch was trained twice, and 5 s to start"


def test_foreign_text_cannot_run_in_the_dashboard(tmp_path: Path) -> None:
    hostile = "<script>alert(1)</script>"
    told = records.read_records(fabricate_run(tmp_path / "run", epochs=2, attempts=2, memory_rows=9, evidence=hostile))
    shown = panels.events(still.look(told), [hostile]) + panels.log(hostile, hostile) + panels.pictures([], hostile)
    assert "<script>" not in shown and "&lt;script&gt;" in shown


def test_a_terminal_shows_bars_a_sparkline_and_the_last_events(tmp_path: Path) -> None:
    from rddkit.run import Run

    paths = fabricate_run(tmp_path / "run", epochs=4, attempts=2, memory_rows=200)
    seen, readings = terminal.look(Run.open(paths.folder))
    out = Console(width=140, record=True, force_terminal=True, file=open("/dev/null", "w"))
    out.print(terminal.picture(seen, readings))
    text = out.export_text()
    assert "finished" in text and "4 of 4" in text and "killed from outside" in text
    assert set(terminal.sparkline(readings, 40)) <= set(terminal.BARS) and "▅" in text


def test_a_sparkline_keeps_the_peak() -> None:
    assert terminal.sparkline([0.1] * 99 + [1.0], 10) == "▁" * 9 + "█"
    assert terminal.sparkline([math.nan], 10) == ""
