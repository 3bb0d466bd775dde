"""The dashboard without a browser: what it shows of whole and half-there runs, and that it lets go of what it made."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import ipywidgets as widgets
import pytest
import yaml
from fabricate import fabricate_run
from ipywidgets.widgets.widget import _instances

from rddkit import comparison, dashboard, frontend, lock
from rddkit.canvas import Canvas
from rddkit.controls import Controls
from rddkit.dashboard import Dashboard
from rddkit.figures import MAKERS
from rddkit.paths import RunPaths
from rddkit.records import read_records
from rddkit.run import Run


@pytest.fixture
def night(root: Path) -> RunPaths:
    return fabricate_run(root / "results" / "night", epochs=6, attempts=2, memory_rows=60, end="run_stopped", total=9)


def looked(shown: Dashboard, tab: str = "events") -> Dashboard:
    """A dashboard after one look, its task apart."""
    if not hasattr(shown, "box"):
        shown._build()
    shown.loop = asyncio.new_event_loop()
    shown.show(shown.read(shown.live, shown.drawn, tab, tuple(shown.others.value)))
    return shown


def test_it_tells_the_sentence_the_figures_and_what_happened(night: RunPaths) -> None:
    shown = looked(Dashboard("night"))
    assert "Stopped" in shown.head.value and ">stopped<" in shown.head.value
    assert "epoch 6 of 9" in shown.numbers.value and "of 4.0 GB allowed" in shown.numbers.value
    assert "killed from outside" in shown.texts["events"].value
    assert set(shown.canvases) == {"losses", "metrics", "memory"}
    able = [name for name, button in shown.controls.buttons.items() if not button.disabled]
    assert able == ["go"]


@pytest.mark.parametrize("tab", list(dashboard.TABS))
def test_every_tab_shows_something(night: RunPaths, tab: str) -> None:
    (night.log(2).parent).mkdir()
    night.log(2).write_text("the worker's words", encoding="utf-8")
    shown = looked(Dashboard("night"), tab)
    if tab in shown.texts:
        told = {"events": "killed from outside", "log": "worker&#x27;s words", "pictures": "rddkit report"}[tab]
        assert told in shown.texts[tab].value
    else:
        assert shown.canvases[tab].widget.layout.title.text


def test_only_what_grew_is_drawn_again(night: RunPaths) -> None:
    shown = looked(Dashboard("night"))
    with open(night.memory_csv, "a", encoding="utf-8") as file:
        file.write("2026-11-23T09:00:00.000Z,2,3000000000,,4000000000,4294967296,0\n")
    seen = shown.read(shown.live, shown.drawn, "events", ())
    assert list(seen.figures) == ["memory"]
    before = shown.canvases["memory"].widget
    shown.show(seen)
    assert shown.canvases["memory"].widget is before
    (worker,) = (trace for trace in before.data if trace.name == "worker")
    assert worker.y[-1] == pytest.approx(3e9 / 2**30)
    assert shown.read(shown.live, shown.drawn, "events", ()).figures == {}


def damage(run: RunPaths, how: str) -> str:
    """Harm a run's folder; the note that tells of it."""
    if how == "torn journal":
        with open(run.journal, "a", encoding="utf-8") as file:
            file.write('{"t": "2026')
        return "events.jsonl: 1 line could not be read"
    if how == "newer schema":
        content = {**yaml.safe_load(run.run_yaml.read_text()), "schema": 99, "plan": None, "safety": 3, "budget": []}
        run.run_yaml.write_text(yaml.safe_dump(content), encoding="utf-8")
        return "written by a newer rddkit (schema 99"
    gone: Path = getattr(run, how)
    gone.unlink()
    return f"{gone.name} is not there"


@pytest.mark.parametrize(
    "how", ["results_csv", "steps_csv", "memory_csv", "progress", "journal", "last", "torn journal", "newer schema"]
)
def test_a_folder_that_is_half_there_shows_what_there_is(
    night: RunPaths, how: str, capsys: pytest.CaptureFixture[str]
) -> None:
    note = damage(night, how)
    shown = looked(Dashboard("night"))
    assert note in shown.texts["events"].value
    Dashboard("night")._ipython_display_()
    assert note in capsys.readouterr().out


def test_headless_it_makes_no_widget(
    night: RunPaths, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(widgets.Widget, "open", lambda _self: pytest.fail("a widget was made"))
    fabricate_run(night.folder.parent / "other", epochs=2, attempts=1, memory_rows=5)
    Dashboard("night", ["other"])._ipython_display_()
    told = capsys.readouterr().out
    assert "night: Stopped" in told and "Training and validation should fall together" in told


def test_shown_anew_the_old_task_and_its_widgets_are_gone(night: RunPaths, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(frontend, "is_headless", lambda: False)
    monkeypatch.setattr(frontend, "show", lambda _box: None)

    async def twice() -> list[int]:
        counts = []
        for _ in range(3):
            Dashboard("night")._ipython_display_()
            (current,) = dashboard._shown.values()
            while not current.canvases:
                await asyncio.sleep(0.05)
            counts.append(len(_instances))
        await asyncio.sleep(0.1)
        assert len([task for task in asyncio.all_tasks() if "_follow" in repr(task)]) == 1
        current.close()
        return counts

    first, *later = asyncio.run(twice())
    assert later == [first, first], "what one dashboard made stayed behind"


def test_another_run_can_be_chosen_and_runs_compared(night: RunPaths) -> None:
    other = fabricate_run(night.folder.parent / "other", epochs=3, attempts=1, memory_rows=5)
    shown = looked(Dashboard("night", ["other"]), "compare")
    assert {trace.legendgroup for trace in shown.canvases["compare"].widget.data} == {"night", "other"}
    shown.chooser.value = str(other.folder)
    assert shown.run.name == "other"
    assert "Finished" in looked(shown).head.value


def test_runs_are_compared_by_map_and_losses(night: RunPaths) -> None:
    fabricate_run(night.folder.parent / "other", epochs=3, attempts=1, memory_rows=5)
    figure = comparison.compare(comparison.read(["night", "other"]))
    assert [note.text for note in figure.layout.annotations] == ["mAP50", "box loss", "cls loss", "dfl loss"]
    assert [trace.name for trace in figure.data if trace.showlegend] == ["night", "other"]
    assert "Choose a second run" in comparison.compare(comparison.read(["night"])).layout.annotations[0].text


def test_a_canvas_sends_only_what_is_different(night: RunPaths) -> None:
    told = read_records(night)
    canvas = Canvas(MAKERS["losses"](told))
    sent: list[Any] = []
    canvas.widget.observe(sent.append, ["_py2js_update", "_py2js_restyle", "_py2js_relayout", "_py2js_addTraces"])
    canvas.show(MAKERS["losses"](told))
    assert sent == []
    canvas.show(MAKERS["memory"](told))
    assert [trace.name for trace in canvas.widget.data] == [trace.name for trace in MAKERS["memory"](told).data]


def test_a_click_is_told_at_once_and_a_failure_in_words(night: RunPaths) -> None:
    begun: list[Any] = []
    controls = Controls(Run.open("night"), begun.append, lambda: None)
    controls.renew("running")
    controls.buttons["stop"].click()
    assert "Asking it to stop after this batch." in controls.message.value
    assert all(button.disabled for button in controls.buttons.values())
    asyncio.run(begun.pop())
    assert "It is not running." in controls.message.value
    controls.renew("stopped")
    assert not controls.buttons["go"].disabled
    held = lock.take(night.lock)
    controls.buttons["go"].click()
    asyncio.run(begun.pop())
    assert "That did not work" in controls.message.value and "still held by a worker" in controls.message.value
    assert held


def test_ending_asks_first(night: RunPaths) -> None:
    begun: list[Any] = []
    controls = Controls(Run.open("night"), begun.append, lambda: None)
    controls.renew("running")
    controls.buttons["end"].click()
    assert controls.question.layout.display == "flex" and not begun
    controls.back.click()
    assert controls.question.layout.display == "none" and not begun
    controls.buttons["end"].click()
    controls.sure.click()
    (work,) = begun
    work.close()


def test_a_runs_name_that_is_not_there_is_told(night: RunPaths) -> None:
    with pytest.raises(FileNotFoundError, match="no run 'nigth'.*runs there: night"):
        Dashboard("nigth")


def test_status_as_json_is_plain_lines_when_watched(night: RunPaths, run_cli: Any) -> None:
    done = run_cli("status", "night", "--watch")
    assert done.returncode == 0 and done.stdout.startswith("night: Stopped") and "\x1b" not in done.stdout
    done = run_cli("status", "night", "--watch", "--json")
    assert json.loads(done.stdout)["state"] == "stopped"
