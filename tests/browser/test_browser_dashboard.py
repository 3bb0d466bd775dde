"""The dashboard in JupyterLab over a real run: it grows, tells a kill, stops, continues and ends."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml
from lab import START, Notebook, Server, promised
from playwright.sync_api import Browser
from workshop import Workshop, alive, clean_up, events, wait_for

from rddkit.paths import RunPaths
from rddkit.status import read_status

STEPS = "train, per step"
pytestmark = pytest.mark.timeout(600)


@pytest.fixture(scope="module")
def shop(workshop: Callable[..., Workshop]) -> Iterator[Workshop]:
    """A run that is being trained, for longer than these tests take."""
    made = workshop("watched", epochs=2000)
    started = made.train("--detach")
    assert started.returncode == 0, started.stderr
    alive(made.run, START)
    yield made
    clean_up(made.run)


@pytest.fixture(scope="module")
def server(shop: Workshop, serve: Callable[[Path], Server]) -> Server:
    found = serve(shop.root)
    found.put("03_monitoring", {"run": "tiny"}, more="print(6 * 7)")
    return found


@pytest.fixture(scope="module")
def book(browser: Browser, server: Server) -> Iterator[Notebook]:
    """03 after Run All, its dashboard drawn; the tests go on with it one after the other."""
    page = browser.new_page(viewport={"width": 1400, "height": 1900})
    found = Notebook(page, server, "03_monitoring")
    found.run_all()
    wait_for(lambda: found.points(STEPS) > 0, START, each=0.3)
    yield found
    page.close()


def test_the_curves_grow_within_ten_seconds_and_the_kernel_is_free(book: Notebook) -> None:
    book.shows("42", promised(3))
    before = book.points(STEPS)
    wait_for(lambda: book.points(STEPS) > before, promised(10), each=0.2)
    for told in ("epoch", "batch", "memory", "trained for", "What happened", "Validation images"):
        book.shows(told)


def test_figures_fill_their_places(book: Notebook) -> None:
    look = """() => [...document.querySelectorAll('.js-plotly-plot')].map(
        plot => Math.abs(plot._fullLayout.width - plot.clientWidth) < 2)"""
    wait_for(lambda: all(book.page.evaluate(look)), START, each=0.3)


def test_a_snapshot_is_taken_at_a_click(book: Notebook, shop: Workshop) -> None:
    alive(shop.run, START)
    before = len(events(shop.run, "snapshot"))
    book.click("Snapshot now")
    book.shows("A snapshot is taken after this batch", promised(1))
    wait_for(lambda: len(events(shop.run, "snapshot")) > before, START)


def test_a_worker_killed_from_outside_shows_as_killed_then_as_resumed(book: Notebook, shop: Workshop) -> None:
    wait_for(lambda: events(shop.run, "snapshot"))
    os.kill(alive(shop.run, START).worker_pid or 0, signal.SIGKILL)
    book.shows("killed from outside", START)
    book.shows("Continued at epoch", START)
    wait_for(lambda: "▶" in book.signs(), START, each=0.3)


def test_safe_stop_leaves_a_resumable_run_and_continue_continues_it(book: Notebook, shop: Workshop) -> None:
    alive(shop.run, START)
    book.click("Safe stop")
    book.shows("It stops after this batch, with a snapshot", promised(1))
    wait_for(lambda: read_status(shop.run).state == "stopped", START)
    assert read_status(shop.run).exit_code == 75 and list(shop.run.snapshots.iterdir())
    book.shows("Stopped")
    epoch = read_status(shop.run).epoch
    wait_for(lambda: book.button("Continue").is_enabled(), START)
    before = len(events(shop.run, "resumed"))
    book.click("Continue")
    book.shows("It goes on in the background")
    (resumed,) = wait_for(lambda: events(shop.run, "resumed")[before:], START)
    assert alive(shop.run, START).epoch >= epoch
    assert resumed["exact"] is True and resumed["lost_batches"] == 0


def test_ending_asks_first(book: Notebook, shop: Workshop) -> None:
    wait_for(lambda: book.button("End now").is_enabled(), START)
    book.click("End now")
    book.shows("Safe stop loses nothing", promised(1))
    book.click("No, train on")
    book.shows("It trains on", promised(1))
    assert read_status(shop.run).state == "running"
    book.click("End now")
    book.click("Yes, end it now")
    wait_for(lambda: read_status(shop.run).state == "stopped", START)
    assert read_status(shop.run).exit_code == 143
    book.shows("ended at once")


def test_nothing_was_complained_of(book: Notebook) -> None:
    assert book.errors == []


def test_a_slider_of_04_moves_the_bar(browser: Browser, server: Server, book: Notebook) -> None:
    server.put("04_fallback", {"run": "tiny"})
    page = browser.new_page(viewport={"width": 1400, "height": 3000})
    found = Notebook(page, server, "04_fallback")
    found.run_all()
    found.shows("Why did the last attempt end")
    look = """() => [...document.querySelectorAll('.js-plotly-plot')].flatMap(plot => plot.data || [])
        .filter(trace => trace.type === 'bar').reduce((sum, trace) => sum + trace.x[0], 0)"""
    before = wait_for(lambda: page.evaluate(look), START, each=0.2)
    slider = page.locator(".widget-hslider", has_text="batch").locator(".noUi-handle")
    slider.press("ArrowRight")
    wait_for(lambda: page.evaluate(look) > before, promised(1), each=0.02)
    assert found.errors == []
    page.close()


def test_01_and_02_run_all_and_a_closed_tab_loses_nothing(browser: Browser, server: Server, shop: Workshop) -> None:
    given = {"config": "configs/tiny.yaml", "name": "second", "epochs": 4}
    server.put("01_setup", {**given, "calibrate": False})
    page = browser.new_page(viewport={"width": 1400, "height": 3000})
    setup = Notebook(page, server, "01_setup")
    setup.run_all()
    setup.shows("D40 pothole", START)
    setup.shows("largest batch that fits", START)
    assert setup.errors == []
    server.put("02_training", given)
    training = Notebook(page, server, "02_training")
    training.run_all()
    wait_for(lambda: training.points(STEPS) > 0, START, each=0.3)
    assert training.errors == []
    page.close()
    second = RunPaths(shop.root / "results" / "second")
    wait_for(lambda: read_status(second).state == "done", START)
    assert read_status(second).exit_code == 0


def test_05_and_06_run_all_over_a_finished_run(browser: Browser, server: Server, shop: Workshop) -> None:
    """A sweep whose only trial was trained by hand, so that Ray need not start."""
    config = yaml.safe_load((shop.root / "configs" / "tiny.yaml").read_text())
    (shop.root / "configs" / "short.yaml").write_text(yaml.safe_dump({**config, "epochs": 2}))
    (shop.root / "configs" / "few.yaml").write_text("config: configs/short.yaml\ngrid: {seed: [1]}\n")
    words = ("--config", "configs/short.yaml", "--name", "few-seed_1", "seed=1")
    trained = shop.cli("train", *words)
    assert trained.returncode == 0, trained.stdout + trained.stderr
    page = browser.new_page(viewport={"width": 1400, "height": 6000})
    server.put("05_evaluation", {"run": "few-seed_1"})
    evaluation = Notebook(page, server, "05_evaluation")
    evaluation.run_all()
    evaluation.shows("by its other interpolation", START)
    evaluation.shows("nothing there", START)
    assert evaluation.errors == []
    server.put("06_sweep", {"sweep": "configs/few.yaml"})
    sweep = Notebook(page, server, "06_sweep")
    sweep.run_all()
    sweep.shows("1 of 1 done", START)
    sweep.run_all()  # as it says: the figures are of when their cells ran
    look = """() => [...document.querySelectorAll('.js-plotly-plot')].flatMap(
        plot => (plot.data || []).map(trace => trace.name))"""
    wait_for(lambda: "few-seed_1 (done)" in page.evaluate(look), START, each=0.3)
    assert sweep.errors == []
    page.close()
