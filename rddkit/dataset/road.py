"""Paint the road of the synthetic sample: asphalt, surroundings, lane markings; all from one generator."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter

from rddkit.dataset.voc import Box

Rng = np.random.Generator
Floats = NDArray[np.float64]
Polyline = list[tuple[float, float]]
Rectangle = tuple[float, float, float, float]

FINE = 2  # masks are drawn this much larger and shrunk, which smooths their edges
HORIZON = 0.3  # of the height, in images from a dashboard


class Road:
    """A road surface being painted: its picture (height, width, 3; 0-255), and the boxes of what was put on it."""

    def __init__(self, rng: Rng, width: int, height: int, from_above: bool) -> None:
        self.rng, self.width, self.height, self.from_above = rng, width, height, from_above
        self.boxes: list[Box] = []
        self.pixels = _asphalt(rng, width, height, from_above)
        if not from_above:
            _surroundings(self)
        _markings(self)

    def blend(self, colour: Sequence[float], mask: Floats) -> None:
        """Paint `colour` where `mask` (height, width; 0-1) says."""
        self.pixels += mask[..., None] * (np.asarray(colour) - self.pixels)

    def darken(self, mask: Floats, strength: float) -> None:
        """Take away `strength` (0-1) of the light where `mask` says."""
        self.pixels *= 1 - strength * mask[..., None]

    def place(self, size: tuple[float, float]) -> Rectangle | None:
        """A free rectangle on the road of about `size`, smaller where it is crowded; None if there is no room."""
        low = 0.04 if self.from_above else HORIZON + 0.12
        for smaller in np.linspace(1, 0.5, 60):
            scale = self.rng.uniform(0.85, 1.15) * smaller
            w, h = size[0] * scale, size[1] * scale
            y1 = self.rng.uniform(low * self.height, max(low * self.height + 1, 0.97 * self.height - h))
            left, right = self.edges(y1 + 0.3 * h)
            left, right = max(left, 0.0), min(right, float(self.width))
            if right - left < w + 8:
                continue
            x1 = self.rng.uniform(left + 4, right - w - 4)
            if y1 + h < self.height - 2 and not any(_overlap((x1, y1, x1 + w, y1 + h), box) for box in self.boxes):
                return x1, y1, x1 + w, y1 + h
        return None

    def edges(self, y: float) -> tuple[float, float]:
        """Where the road begins and ends at height `y`, be it outside the picture."""
        if self.from_above:
            return 0.0, float(self.width)
        depth = (y / self.height - HORIZON) / (1 - HORIZON)
        middle, half = self.width * (0.5 - 0.04 * (1 - depth)), self.width * (0.05 + 0.52 * depth)
        return middle - half, middle + half

    def image(self) -> Image.Image:
        """The finished picture."""
        return Image.fromarray(np.clip(self.pixels, 0, 255).astype(np.uint8))


def polygons(road: Road, shapes: Sequence[Polyline], blur: float) -> Floats:
    """A mask (height, width; 0-1) of filled `shapes`, softened by `blur` pixels."""

    def draw_all(draw: ImageDraw.ImageDraw) -> None:
        for shape in shapes:
            draw.polygon(fine(shape), fill=255)

    return drawn(road, draw_all, blur)


def drawn(road: Road, draw_all: Callable[[ImageDraw.ImageDraw], None], blur: float) -> Floats:
    """A mask (height, width; 0-1) of what `draw_all` draws white on black, `FINE` times as large."""
    canvas = Image.new("L", (FINE * road.width, FINE * road.height))
    draw_all(ImageDraw.Draw(canvas))
    soft = canvas.filter(ImageFilter.GaussianBlur(FINE * blur))
    return np.asarray(soft.resize((road.width, road.height), Image.Resampling.BOX), dtype=np.float64) / 255


def fine(points: Polyline) -> Polyline:
    """Points of the picture on the larger canvas of `drawn`."""
    return [(FINE * x, FINE * y) for x, y in points]


def _asphalt(rng: Rng, width: int, height: int, from_above: bool) -> Floats:
    tone = rng.uniform(105, 145)
    grey = np.full((height, width), tone)
    for cells, strength in ((6, 7.0), (24, 4.0)):
        coarse = Image.fromarray(rng.normal(0, strength, (cells, cells)).astype(np.float32))
        grey += np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC), dtype=np.float64)
    grain = rng.normal(0, 11, (height, width))
    if not from_above:  # farther rows show finer grain
        grain *= np.linspace(0.4, 1.1, height)[:, None]
    coloured: Floats = (grey + grain)[..., None] + np.asarray([-1.0, 0.0, 3.0])
    return coloured


def _surroundings(road: Road) -> None:
    rng, width, height = road.rng, road.width, road.height
    rows, columns = np.arange(height)[:, None], np.arange(width)[None, :]
    horizon = int(HORIZON * height)
    edges = np.asarray([road.edges(y) for y in range(height)])
    beside = (columns < edges[:, :1]) | (columns > edges[:, 1:])
    verge = np.asarray(rng.choice([(96, 112, 66), (128, 116, 92), (112, 118, 108)], axis=0), dtype=np.float64)
    noise = rng.normal(0, 14, (height, width, 1))
    road.pixels = np.where(beside[..., None], verge + noise, road.pixels)
    sky = np.asarray([186, 204, 226]) + (rows / horizon)[..., None] * np.asarray([30, 22, 12])
    road.pixels[:horizon] = np.broadcast_to(sky, (height, width, 3))[:horizon]
    trees = np.interp(np.arange(width), np.arange(0, width + 9, 9), rng.uniform(0.03, 0.14, (width + 17) // 9))
    fade = np.linspace(0.75, 1.1, horizon)[:, None, None]
    for house in rng.uniform(0, 1, int(rng.integers(1, 4))):
        x1, tall, wide = int(house * width), int(rng.uniform(0.1, 0.24) * height), int(rng.uniform(0.08, 0.2) * height)
        road.pixels[horizon - tall : horizon, x1 : x1 + wide] = rng.uniform(130, 190) + rng.normal(0, 3, (1, 1, 3))
        for y in range(horizon - tall + 5, horizon - 6, 10):
            for x in range(x1 + 4, min(x1 + wide - 5, width - 5), 9):
                road.pixels[y : y + 5, x : x + 4] = 84
    standing = (rows >= horizon - trees[None, :] * height) & (rows < horizon)
    leaves = np.asarray([66.0, 88.0, 54.0]) + 0.9 * noise[:horizon] * fade
    road.pixels[:horizon] = np.where(standing[:horizon, :, None], leaves, road.pixels[:horizon])


def _markings(road: Road) -> None:
    rng, white = road.rng, (222, 222, 214)
    wear = 0.55 + 0.4 * rng.random((road.height, road.width))
    phase = rng.uniform(0, 1)
    lines = (0.08, 0.92) if road.from_above else (0.07, 0.5, 0.93)
    shapes: list[Polyline] = []
    steps = np.linspace(0, 1, 41)
    for line in lines:
        dashed = line == 0.5
        for step in range(40):
            # Equal lengths on the ground shrink towards the horizon.
            near, far = (_ground(road, steps[step + side]) for side in (0, 1))
            if dashed and (step / 8 + phase) % 1 > 0.5:
                continue
            shapes.append([*_across(road, near, line), *reversed(_across(road, far, line))])
    mask = polygons(road, shapes, blur=0.6)
    road.blend(white, mask * wear)


def _ground(road: Road, distance: float) -> float:
    if road.from_above:
        return road.height * (1 - distance)
    return road.height * (HORIZON + (1 - HORIZON) / (1 + 9 * distance))


def _across(road: Road, y: float, line: float) -> Polyline:
    left, right = road.edges(y)
    middle, half = left + line * (right - left), max(0.7, 0.013 * (right - left))
    return [(middle - half, y), (middle + half, y)]


def _overlap(area: Rectangle, box: Box) -> bool:
    return area[0] < box.x2 + 6 and box.x1 < area[2] + 6 and area[1] < box.y2 + 6 and box.y1 < area[3] + 6
