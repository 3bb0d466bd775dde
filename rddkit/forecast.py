"""How long a training will take, in epochs, hours and nights. Pure arithmetic."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

NIGHT_HOURS = 9.0
MORNING = "07:00"


@dataclass(frozen=True)
class Pace:
    """What a machine was seen to take, in seconds.

    `step`: of a batch besides its images. `pixel`, `val_pixel`: of an image, for each of its pixels. `save`: of what
    follows in an epoch.
    """

    step: float
    pixel: float
    val_pixel: float
    save: float

    def epoch(self, plan: Mapping[str, Any], train_images: int, val_images: int) -> float:
        """Seconds of an epoch with its validation. Several devices share images; what they exchange is not counted."""
        batch, pixels = int(plan["batch"]), float(int(plan["imgsz"]) ** 2)
        val_pixels = float(int(plan.get("val_imgsz") or plan["imgsz"]) ** 2)
        steps = -(-train_images // batch)
        images = train_images * pixels * self.pixel + val_images * val_pixels * self.val_pixel
        return steps * self.step + images / int(plan.get("devices") or 1) + self.save


def pace(seen: Mapping[int, float], pixels: float, val_seconds: float, save_seconds: float = 0.0) -> Pace:
    """The pace from seconds a step at one or two batches.

    Args:
        seen: {batch: seconds of a step}.
        pixels: of an image.
        val_seconds: of a validated image.
        save_seconds: of an epoch's end.
    """
    small, large = min(seen), max(seen)
    image = (seen[large] - seen[small]) / (large - small) if large > small else seen[large] / large
    image = min(max(image, 0.0), seen[large] / large)  # a step cannot take less than nothing
    return Pace(max(0.0, seen[large] - image * large), image / pixels, val_seconds / pixels, save_seconds)


def nights(hours: float, night: float = NIGHT_HOURS) -> int:
    """Whole nights until it is done."""
    return max(1, -(-round(hours * 60) // round(night * 60)))


def words(seconds_per_epoch: float, epochs: int, now: datetime, morning: datetime) -> str:
    """`30 min an epoch, 100 h in all: about 12 nights of 9 h; started now, epoch 18 is done by 07:00`."""
    hours = seconds_per_epoch * epochs / 3600
    count = nights(hours)
    by_then = min(epochs, int((morning - now).total_seconds() // seconds_per_epoch)) if seconds_per_epoch else epochs
    each = f"{seconds_per_epoch:.0f} s" if seconds_per_epoch < 90 else f"{seconds_per_epoch / 60:.0f} min"
    many = f"about {count} nights of {NIGHT_HOURS:.0f} h" if count > 1 else "one night is enough"
    reached = f"epoch {by_then} is done" if by_then else "not one epoch is done"
    return f"{each} an epoch, {hours:.1f} h in all: {many}; started now, {reached} by {MORNING}"
