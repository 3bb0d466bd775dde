"""What a notebook shows, made without one: a table that is also plain text, labelled images in one small picture."""

from __future__ import annotations

import contextlib
import html
import io
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from PIL import Image, ImageDraw, ImageFont, ImageOps

from rddkit import dataset, style
from rddkit.paths import RunPaths

COLORS = (style.BLUE, style.ORANGE, style.RED, style.PURPLE, style.GREEN, style.SKY)
THUMB, ACROSS = (320, 220), 3  # pixels an image; images side by side
PICTURE = (1000, 1000)  # the most pixels of a whole picture


class Mark(NamedTuple):
    """A box to draw: what to write on it, its colour, its corners in the image's pixels."""

    text: str
    color: str
    x1: float
    y1: float
    x2: float
    y2: float


def draw_boxes(
    labelled: Sequence[tuple[Path, Sequence[Any]]], classes: Sequence[str], across: int = ACROSS
) -> Image.Image:
    """A sheet of small images with labelled boxes, a colour a class; below 300 kB as a JPEG, whatever their size."""

    def look(label: str) -> tuple[str, str]:
        color = COLORS[classes.index(label) % len(COLORS)] if label in classes else style.GREY
        return dataset.described(label), color

    marked = [(path, [Mark(*look(label), *corners) for label, *corners in boxes]) for path, boxes in labelled]
    return sheet(marked, across)


def sheet(marked: Sequence[tuple[Path, Sequence[Mark]]], across: int = ACROSS) -> Image.Image:
    """Small images side by side, each with its boxes."""
    width, height = THUMB
    rows = -(-len(marked) // across)
    whole = Image.new("RGB", (across * width, max(1, rows) * height), "white")
    for place, (path, marks) in enumerate(marked):
        small = thumbnail(path, marks, (width - 6, height - 6))
        corner = place % across * width, place // across * height
        whole.paste(small, (corner[0] + (width - small.width) // 2, corner[1] + (height - small.height) // 2))
    return whole


def thumbnail(path: Path, marks: Sequence[Mark], size: tuple[int, int]) -> Image.Image:
    """An image made small enough for `size`, upright, its boxes drawn and named."""
    font = ImageFont.load_default(size=12)
    with Image.open(path) as picture:
        upright = ImageOps.exif_transpose(picture)  # the boxes' pixels are those of the upright image
        small = ImageOps.contain(upright.convert("RGB"), size)
        scale = small.width / upright.width
    draw = ImageDraw.Draw(small)
    for mark in marks:
        left, top, right, bottom = (corner * scale for corner in mark[2:])
        draw.rectangle((left, top, right, bottom), outline=mark.color, width=2)
        length = draw.textlength(mark.text, font=font)
        above = top - 16 if top >= 16 else min(bottom, small.height - 16)
        at = (max(0, min(left, small.width - length - 5)), above)
        draw.rectangle((*at, at[0] + length + 5, at[1] + 15), fill=mark.color)
        draw.text((at[0] + 3, at[1] + 1), mark.text, fill="white", font=font)
    return small


def validation_pictures(paths: RunPaths) -> list[tuple[str, bytes]]:
    """The newest validation images of a run as (caption, JPEG), each small enough for a notebook; [] if there are none.

    Boxes beside labels: Ultralytics' own pictures (it draws them at a run's end, with plots on), else ours.
    """
    shown = []
    for caption, path in _picture_files(paths):
        with contextlib.suppress(OSError), Image.open(path) as picture:
            small = ImageOps.contain(picture.convert("RGB"), PICTURE)
            content = io.BytesIO()
            small.save(content, "JPEG", quality=80)
            shown.append((caption, content.getvalue()))
    return shown


def pictures_stamp(paths: RunPaths) -> tuple[int, ...]:
    """What changes when there are other pictures: () where there are none."""
    return tuple(path.stat().st_mtime_ns for _, path in _picture_files(paths) if path.is_file())


def _picture_files(paths: RunPaths) -> list[tuple[str, Path]]:
    folder = paths.folder
    found = [("labels", folder / "val_batch0_labels.jpg"), ("predicted", folder / "val_batch0_pred.jpg")]
    if all(path.is_file() for _, path in found):
        return found
    return [("labels, and beside them what best.pt predicts", paths.sample_predictions)]


def table(rows: Iterable[Sequence[Any]], columns: Sequence[str]) -> dict[str, str]:
    """A table by MIME type: HTML, and plain text for where that cannot be shown."""
    cells = [[str(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(columns, *cells, strict=True)]
    plain = [" | ".join(map(str.ljust, row, widths)) for row in [columns, *cells]]

    def line(row: Sequence[str], tag: str) -> str:
        look = "text-align: left; vertical-align: top; white-space: pre-wrap"
        return "<tr>" + "".join(f'<{tag} style="{look}">{html.escape(cell)}</{tag}>' for cell in row) + "</tr>"

    page = "<table>" + line(columns, "th") + "".join(line(row, "td") for row in cells) + "</table>"
    return {"text/plain": "\n".join(plain), "text/html": page}
