"""How good each epoch is said to be, for tests: the measured fitness depends on the instruction set, this does not.

What a tiny training's epochs are worth differs from one processor to the next, and with it which epoch is the best and
when patience runs out. Plain Ultralytics' training and ours see the same list, from FITNESS in the environment.
"""

from __future__ import annotations

import json
import os
from typing import Any

from ultralytics.models.yolo.detect import DetectionValidator


def stand_in() -> None:
    """From now on the validation of epoch n says FITNESS[n]; all else that it measured stays. Without FITNESS, all."""
    told: list[float] = json.loads(os.environ.get("FITNESS") or "[]")
    if not told:
        return
    measure = DetectionValidator.__call__

    def rated(self: DetectionValidator, trainer: Any = None, *rest: Any, **how: Any) -> Any:
        measures = measure(self, trainer, *rest, **how)
        if trainer is not None:  # the final evaluation is of no epoch
            measures["fitness"] = told[trainer.epoch]
        return measures

    DetectionValidator.__call__ = rated
