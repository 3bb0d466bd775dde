"""Photos with what was found in them on one page that needs no network and runs no script."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jinja2

from rddkit import dataset, exhibits
from rddkit.challenge import Boxes

if TYPE_CHECKING:
    from rddkit.predict import Photo

MOST = 400  # photos on the page: about 20 kB each
SIZE = (480, 360)


def render(name: str, sentence: str, photos: Sequence[Photo], names: Sequence[str]) -> str:
    """The page, photos with the surest damage first."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=jinja2.StrictUndefined
    )
    read = sorted((photo for photo in photos if not photo.problem), key=lambda photo: -photo.surest)
    return environment.get_template("gallery.html").render(
        name=name,
        sentence=sentence,
        photos=[_shown(photo, names) for photo in read[:MOST]],
        left_out=max(0, len(read) - MOST),
        unread=[(photo.name, photo.problem) for photo in photos if photo.problem],
    )


def _shown(photo: Photo, names: Sequence[str]) -> dict[str, Any]:
    marks = [
        exhibits.Mark(f"{names[label]} {score:.2f}", exhibits.COLORS[label % len(exhibits.COLORS)], *corners)
        for label, score, corners in zip(
            photo.boxes.label.tolist(), photo.boxes.score.tolist(), photo.boxes.corners.tolist(), strict=True
        )
    ]
    content = io.BytesIO()
    exhibits.thumbnail(photo.path, marks, SIZE).save(content, "JPEG", quality=75)
    found = told(photo.boxes, names)
    where = f"{photo.tag.latitude:.6f}, {photo.tag.longitude:.6f}" if photo.tag.latitude is not None else ""
    return {
        "name": photo.name,
        "told": found,
        "where": " ".join(part for part in (where, photo.tag.taken) if part),
        "alt": f"{photo.name}: {found}",
        "picture": base64.b64encode(content.getvalue()).decode(),
    }


def told(found: Boxes, names: Sequence[str]) -> str:
    """What was found in a photo, in words."""
    parts = [
        f"{dataset.described(names[label])} {score:.2f}"
        for label, score in zip(found.label.tolist(), found.score.tolist(), strict=True)
    ]
    return "; ".join(parts) or "nothing found"
