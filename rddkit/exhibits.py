"""What a notebook shows, made without one: a table that is also plain text, labelled images in one small picture."""

from __future__ import annotations

import html
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw, ImageFont, ImageOps

from rddkit import dataset, style

COLORS = (style.BLUE, style.ORANGE, style.RED, style.PURPLE, style.GREEN, style.SKY)
THUMB, ACROSS = (320, 220), 3  # pixels an image; images side by side


def draw_boxes(labelled: Sequence[tuple[Path, Sequence[Any]]], classes: Sequence[str]) -> Image.Image:
    """A sheet of small images with coloured boxes; below 300 kB as a JPEG, whatever the images' size."""
    width, height = THUMB
    rows = -(-len(labelled) // ACROSS)
    sheet = Image.new("RGB", (ACROSS * width, max(1, rows) * height), "white")
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
        corner = place % ACROSS * width, place // ACROSS * height
        sheet.paste(small, (corner[0] + (width - small.width) // 2, corner[1] + (height - small.height) // 2))
    return sheet


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
