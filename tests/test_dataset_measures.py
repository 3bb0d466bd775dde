"""What the audit measures: how small boxes become, which images are hardest, and what will hurt, in sentences."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import plotly.graph_objects as go
import pytest

from rddkit import audit_figures
from rddkit.dataset import warnings
from rddkit.dataset.audit import Frame, make_audit
from rddkit.dataset.geometry import Picture
from rddkit.dataset.layout import Layout, Pair
from rddkit.dataset.measures import measure, worst
from rddkit.dataset.split import Split
from rddkit.dataset.voc import Box

NAMES = ("D00", "D40")


def frame(domain: str, number: int, size: tuple[int, int], *boxes: Box) -> Frame:
    name = f"{domain}_{number}.jpg"
    return Frame(Pair(domain, name, Path(name), Path(name)), Picture(*size), boxes, ())


FRAMES = [
    frame("Norway", 1, (4040, 2035), Box("D00", 0, 0, 404, 40), Box("D00", 0, 0, 40, 500)),
    frame("Norway", 2, (4040, 2035), Box("D40", 0, 0, 101, 101)),
    frame("Norway", 3, (4040, 2035)),
    frame("Norway", 4, (4040, 2035)),
    frame("Norway", 5, (4040, 2035)),
    frame("Japan", 1, (600, 600), Box("D00", 0, 0, 600, 300)),
]


@pytest.fixture
def audit() -> dict[str, Any]:
    parts = Split(frozenset({"Norway_1.jpg"}), {"Norway": (2, 1), "Japan": (1, 0)}, [])
    told = make_audit(FRAMES, NAMES, parts, Layout([], {}, [], []), [], {"symlink": 6, "hardlink": 0, "copied": 0})
    leakage = {"twins": 3, "val": 9, "images": 4, "of": 6, "moved": 0, "threshold": 16, "looked_at": "some"}
    return told | {"sizes": measure(FRAMES, NAMES), "worst": worst(FRAMES), "leakage": leakage}


def test_the_shorter_side_is_measured_in_the_image_and_as_the_detector_sees_it(audit: dict[str, Any]) -> None:
    norway = audit["sizes"]["by_domain"]["Norway"]
    assert (norway["width"], norway["height"], norway["scale"]) == (4040, 2035, 0.1584)
    assert norway["median"] == 40 and norway["median_seen"] == 6.3 and norway["below_cell"] == 0.6667
    assert norway["bars"] == [0, 0, 2, 0, 1, 0, 0, 0, 0], "two of 6.3 pixels, one of 16"
    assert audit["sizes"]["by_domain"]["Japan"]["median_seen"] == 320
    assert audit["sizes"]["by_class"]["D40"]["boxes"] == 1


def test_the_hardest_images_are_named_by_reason() -> None:
    found = worst(FRAMES)
    assert found["thinnest boxes"] == ["Norway_1.jpg", "Norway_2.jpg", "Japan_1.jpg"]
    assert found["most boxes"][0] == "Norway_1.jpg" and found["largest share of the image"][0] == "Japan_1.jpg"


def test_what_will_hurt_is_said_in_sentences(audit: dict[str, Any]) -> None:
    said = warnings(audit)
    assert said[0] == (
        "Norway: 4040x2035 pixels shrink to 16% at imgsz 640: the shorter side of its median box from 40 pixels to 6, "
        "and 67% of its boxes below the 8 pixels of one cell"
    )
    assert "D40 pothole: 1 of 4 boxes, 0 of them in val" in said[1]
    assert "Japan: no image in val, so that no figure tells how well it does there" in said
    assert "Norway: 60% of its images are negatives, which is why none of them is dropped" in said
    assert "3 images in val have a near-twin in train: what they measure is memory" in said
    assert said[-1] == "2 images were not compared with others: rddkit prepare --leakage all does, in minutes"


def test_the_figures_show_every_domain_and_say_when_there_is_nothing(audit: dict[str, Any]) -> None:
    for make in (audit_figures.boxes, audit_figures.sizes):
        figure = make(audit)
        assert isinstance(figure, go.Figure) and len(figure.data) == 2
        assert "rddkit prepare" in make(None).layout.annotations[0].text
    assert list(audit_figures.boxes(audit).data[1].y) == [2, 1, 3], "D00, D40 and negatives of Norway"
    assert sum(audit_figures.sizes(audit).data[1].y) == pytest.approx(1)
