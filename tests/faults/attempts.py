"""One attempt of a run without a supervisor, with a record of every batch that was trained on.

`python tests/faults/attempts.py FOLDER NUMBER STOP_AFTER OUT`: OUT gets one JSON object a line, at once.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

from rddkit import offline, runfile
from rddkit.paths import RunPaths

os.environ.update(offline.environment())
offline.prepare_home()

import fitness  # noqa: E402

from rddkit import attempt  # noqa: E402
from rddkit.cause import STOPPED_EXIT  # noqa: E402
from rddkit.trainer import RoadDamageTrainer  # noqa: E402


class Recorder:
    """The orders and the ear of an attempt."""

    def __init__(self, out: Path, stop_after: int) -> None:
        self.out = out
        self.left = stop_after
        self.stop: str | None = None
        self.snapshot = False

    def write(self, kind: str, what: Any) -> None:
        with open(self.out, "a") as file:
            file.write(json.dumps({"kind": kind, "is": what}, default=str) + "\n")

    def beat(self, phase: str, **where: Any) -> None: ...

    def event(self, event: str, **fields: Any) -> None:
        self.write("event", {"event": event, **fields})

    def batch(self, trainer: Any, images: list[str]) -> None:
        what = {
            "epoch": trainer.epoch + 1,
            "images": [Path(image).name for image in images],
            "lr": [group["lr"] for group in trainer.optimizer.param_groups],
            "accumulate": trainer.accumulate,
            "shape": list(trainer.seen_shape),
            "stepped": trainer.last_opt_step,
        }
        self.write("batch", what)
        self.left -= 1
        if self.left == 0:
            self.stop = "asked by the test"


def main() -> int:
    folder, number, stop_after, out = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), Path(sys.argv[4])
    recorder = Recorder(out, stop_after)
    recorder.write("start", number)

    class Recorded(RoadDamageTrainer):
        seen: list[str]
        seen_shape: tuple[int, ...]

        def preprocess_batch(self, batch: Any) -> Any:
            self.seen = batch["im_file"]
            ready = super().preprocess_batch(batch)
            self.seen_shape = tuple(ready["img"].shape)
            return ready

        def get_validator(self) -> Any:
            validator = super().get_validator()
            preprocess = validator.preprocess

            def noted(batch: Any) -> Any:
                recorder.write("val", list(batch["img"].shape))
                return preprocess(batch)

            validator.preprocess = noted
            return validator

        def run_callbacks(self, event: str) -> None:
            if event == "on_train_batch_end":
                recorder.batch(self, self.seen)
            super().run_callbacks(event)

    attempt.RoadDamageTrainer = Recorded  # type: ignore[misc]
    fitness.stand_in()
    paths = RunPaths(folder)
    paths.weights.mkdir(exist_ok=True)
    done = attempt.train(paths, runfile.read(paths.run_yaml), number, recorder, recorder)
    return 0 if done else STOPPED_EXIT


if __name__ == "__main__":
    sys.exit(main())
