"""The picture of predictions beside labels: drawn by a child, never in the way of a training or a report."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from fabricate import fabricate_run
from PIL import Image
from workshop import Workshop

from rddkit import album, lock, runfile
from rddkit.paths import RunPaths


@pytest.fixture
def run(tmp_path: Path, tiny_data: Path) -> RunPaths:
    paths = fabricate_run(tmp_path / "run", epochs=2, attempts=1, memory_rows=9)
    record = runfile.read(paths.run_yaml)
    record.config["data"] = str(tiny_data)
    record.write(paths.run_yaml)
    return paths


def test_weights_that_cannot_be_loaded_are_said_and_harm_nothing(run: RunPaths) -> None:
    assert album.renew(run).startswith("no predictions: ")
    assert not run.sample_predictions.exists()


def test_a_run_without_weights_or_with_its_data_gone_says_so(run: RunPaths, tmp_path: Path) -> None:
    record = runfile.read(run.run_yaml)
    record.config["data"] = str(tmp_path / "gone.yaml")
    record.write(run.run_yaml)
    assert "gone.yaml" in album.renew(run)
    run.best.unlink()
    run.last.unlink()
    assert album.renew(run) == "no predictions: there are no weights yet"


def test_a_run_that_is_being_trained_keeps_its_memory(tmp_path: Path) -> None:
    paths = fabricate_run(tmp_path / "run", epochs=2, attempts=1, memory_rows=9, end=None)
    descriptor = lock.take(paths.lock)
    try:
        assert album.renew(paths) == "no predictions while the run is being trained: they would take memory from it"
    finally:
        os.close(descriptor)


@pytest.mark.slow
def test_a_trained_run_is_pictured_in_its_report(workshop: Callable[..., Workshop]) -> None:
    shop = workshop("pictured", epochs=1)
    (shop.root / "configs" / "safety.yaml").write_text("estimate: false\n", encoding="utf-8")
    assert shop.train().returncode == 0
    with Image.open(shop.run.sample_predictions) as picture:
        assert picture.size == (640, 880), "four images, labels and predictions side by side"
    page = shop.run.report_html.read_text(encoding="utf-8")
    assert page.count("data:image/jpeg;base64,") == 1 and "what best.pt predicts" in page
    made = shop.run.sample_predictions.stat().st_mtime_ns
    assert shop.cli("report", "tiny").returncode == 0
    assert shop.run.sample_predictions.stat().st_mtime_ns == made, "the same weights are not asked twice"
