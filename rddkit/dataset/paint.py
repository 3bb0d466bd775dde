"""Paint damage onto a synthetic road: cracks, alligator nets, potholes, and marks that are none."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import numpy as np
from PIL import ImageDraw

from rddkit.dataset.road import FINE, Floats, Polyline, Rectangle, Rng, Road, drawn, fine, polygons
from rddkit.dataset.voc import Box

RAGGED = 0.34  # how far a pothole's edge strays, in shares of its radius


def damage(road: Road, label: str) -> bool:
    """Put one damage or mark of that label on the road and note its box; whether there was room."""
    size, paint = _KINDS[label]
    area = road.place((size[0] * road.height, size[1] * road.height))
    if area is None:
        return False
    mask = paint(road, area)
    rows, columns = np.nonzero(mask.max(axis=1) > 0.3)[0], np.nonzero(mask.max(axis=0) > 0.3)[0]
    if not len(rows) or not len(columns):
        return False
    road.boxes.append(Box(label, float(columns[0]), float(rows[0]), float(columns[-1] + 1), float(rows[-1] + 1)))
    return True


def _longitudinal(road: Road, area: Rectangle) -> Floats:
    x1, y1, x2, y2 = area
    return _cracks(road, [_wander(road.rng, ((x1 + x2) / 2, y1), ((x1 + x2) / 2, y2), (x2 - x1) / 2)])


def _transverse(road: Road, area: Rectangle) -> Floats:
    x1, y1, x2, y2 = area
    return _cracks(road, [_wander(road.rng, (x1, (y1 + y2) / 2), (x2, (y1 + y2) / 2), (y2 - y1) / 2)])


def _alligator(road: Road, area: Rectangle) -> Floats:
    """A net: a jittered grid whose neighbours are joined, thinned out, within an ellipse."""
    x1, y1, x2, y2 = area
    columns, rows = 6, max(3, round(6 * (y2 - y1) / (x2 - x1)))
    jitter = road.rng.uniform(-0.33, 0.33, (rows, columns, 2))
    cell_x, cell_y = (x2 - x1) / columns, (y2 - y1) / rows
    knots = [
        [(x1 + (c + 0.5 + jitter[r, c, 0]) * cell_x, y1 + (r + 0.5 + jitter[r, c, 1]) * cell_y) for c in range(columns)]
        for r in range(rows)
    ]
    pieces: list[Polyline] = []
    for r in range(rows):
        for c in range(columns):
            for down, right in ((0, 1), (1, 0)):
                corner = r in (0, rows - 1) and c in (0, columns - 1)
                if r + down < rows and c + right < columns and not corner and road.rng.random() > 0.1:
                    pieces.append(_wander(road.rng, knots[r][c], knots[r + down][c + right], 1.5))
    road.darken(_ellipse(road, area, 0.1) ** 2, 0.12)
    return _cracks(road, pieces, width=1.5)


def _pothole(road: Road, area: Rectangle) -> Floats:
    hole = _ellipse(road, area, RAGGED)
    rough = 0.55 + 0.45 * road.rng.random(hole.shape)
    x1, y1, x2, y2 = area
    # Light from above: the near rim is lit, the far wall lies in shadow.
    rim = _ellipse(road, (x1, y1 + 0.1 * (y2 - y1), x2, y2 + 0.1 * (y2 - y1)), RAGGED)
    road.blend((176, 170, 160), 0.45 * np.clip(rim - hole, 0, 1))
    inner = _ellipse(road, (x1, y1, x2, y1 + 0.6 * (y2 - y1)), RAGGED)
    road.darken(hole * rough, 0.58)
    road.darken(inner * rough, 0.4)
    return hole


def _repair(road: Road, area: Rectangle) -> Floats:
    corners = [(area[0], area[1]), (area[2], area[1]), (area[2], area[3]), (area[0], area[3])]
    moved = [(x + road.rng.uniform(-3, 3), y + road.rng.uniform(-2, 2)) for x, y in corners]
    mask = polygons(road, [moved], blur=0.8)
    road.darken(mask, 0.3)
    return mask


def _crosswalk(road: Road, area: Rectangle) -> Floats:
    x1, y1, x2, y2 = area
    bars = [
        [(x, y1), (x + 0.1 * (x2 - x1), y1), (x + 0.1 * (x2 - x1), y2), (x, y2)]
        for x in np.linspace(x1, x2 - 0.1 * (x2 - x1), 6)
    ]
    mask = polygons(road, bars, blur=1.2)
    road.blend((214, 214, 206), mask * road.rng.uniform(0.15, 0.8, mask.shape))
    return mask


# Typical size as width and height in shares of the image's height, and what paints it.
_KINDS: dict[str, tuple[tuple[float, float], Callable[[Road, Rectangle], Floats]]] = {
    "D00": ((0.09, 0.42), _longitudinal),
    "D10": ((0.5, 0.07), _transverse),
    "D20": ((0.36, 0.26), _alligator),
    "D40": ((0.2, 0.11), _pothole),
    "Repair": ((0.3, 0.16), _repair),
    "D43": ((0.5, 0.1), _crosswalk),
}


def _wander(rng: Rng, start: tuple[float, float], end: tuple[float, float], reach: float) -> Polyline:
    """A line from `start` to `end` that strays up to about `reach` to either side, smooth with small kinks."""
    ax, ay, bx, by = *start, *end
    length = max(1.0, float(np.hypot(bx - ax, by - ay)))
    number = max(3, int(length / 5))
    drift = np.cumsum(rng.normal(0, 1, number))
    drift -= np.linspace(drift[0], drift[-1], number)
    drift *= 0.75 * reach / max(1.0, float(np.abs(drift).max()))
    drift += rng.normal(0, min(1.0, 0.12 * reach), number)
    along = np.linspace(0, 1, number)
    xs = ax + along * (bx - ax) - drift * (by - ay) / length
    ys = ay + along * (by - ay) + drift * (bx - ax) / length
    return [(float(x), float(y)) for x, y in zip(xs, ys, strict=True)]


def _cracks(road: Road, lines: list[Polyline], width: float = 2.4) -> Floats:
    def draw_all(draw: ImageDraw.ImageDraw) -> None:
        for line in lines:
            for a, b in itertools.pairwise(line):
                thick = max(1, round(FINE * width * road.rng.uniform(0.6, 1.3)))
                draw.line(fine([a, b]), fill=255, width=thick)

    mask = drawn(road, draw_all, blur=0.35)
    road.darken(mask, 0.72)
    return mask


def _ellipse(road: Road, area: Rectangle, ragged: float) -> Floats:
    x1, y1, x2, y2 = area
    angles = np.linspace(0, 2 * np.pi, 28, endpoint=False)
    # The edge repeats for the same area, so that rim and shadow follow the hole.
    wobble = np.random.default_rng([round(x1), round(x2)]).normal(0, ragged / 2, len(angles))
    radius = np.clip(1 - np.abs(np.convolve(np.tile(wobble, 3), [0.25, 0.5, 0.25], "same")[28:56]), 0.55, 1)
    points = [
        ((x1 + x2) / 2 + r * np.cos(a) * (x2 - x1) / 2, (y1 + y2) / 2 + r * np.sin(a) * (y2 - y1) / 2)
        for r, a in zip(radius, angles, strict=True)
    ]
    return polygons(road, [points], blur=0.9)
