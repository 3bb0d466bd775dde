"""What a notebook shows, made without one: a table that is also plain text, labelled images in one small picture."""

from __future__ import annotations

import contextlib
import html
import io
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw, ImageFont, ImageOps

from rddkit import dataset, style
from rddkit.paths import RunPaths

COLORS = (style.BLUE, style.ORANGE, style.RED, style.PURPLE, style.GREEN, style.SKY)
THUMB, ACROSS = (320, 220), 3  # pixels an image; images side by side
PICTURE = (1000, 1000)  # the most pixels of a whole picture


def draw_boxes(
    labelled: Sequence[tuple[Path, Sequence[Any]]], classes: Sequence[str], across: int = ACROSS
) -> Image.Image:
    """A sheet of small images with coloured boxes; below 300 kB as a JPEG, whatever the images' size."""
    width, height = THUMB
    rows = -(-len(labelled) // across)
    sheet = Image.new("RGB", (across * width, max(1, rows) * height), "white")
    font = ImageFont.load_default(size=12)
    for place, (path, boxes) in enumerate(labelled):
        with Image.open(path) as picture:
            upright = ImageOps.exif_transpose(picture)  # the boxes' pixels are those of the upright image
            small = ImageOps.contain(upright.convert("RGB"), (width - 6, height - 6))
            scale = small.width / upright.width
        draw = ImageDraw.Draw(small)
        for label, *corners in boxes:
            color = COLORS[classes.index(label) % len(COLORS)] if label in classes else style.GREY
            left, top, right, bottom = (corner * scale for corner in corners)
            draw.rectangle((left, top, right, bottom), outline=color, width=2)
            text = dataset.described(label)
            length = draw.textlength(text, font=font)
            above = top - 16 if top >= 16 else min(bottom, small.height - 16)
            at = (max(0, min(left, small.width - length - 5)), above)
            draw.rectangle((*at, at[0] + length + 5, at[1] + 15), fill=color)
            draw.text((at[0] + 3, at[1] + 1), text, fill="white", font=font)
        corner = place % across * width, place // across * height
        sheet.paste(small, (corner[0] + (width - small.width) // 2, corner[1] + (height - small.height) // 2))
    return sheet


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
    return [("labels, and beside them what best.pt predicts", paths.predictions)]


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
