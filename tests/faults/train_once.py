"""Train once in this process, plainly or with our loop, and keep what parity is judged by.

`python tests/faults/train_once.py plain|ours FOLDER key=value ...` leaves FOLDER/ema.pt (the final average, in full
precision) and FOLDER/callbacks.json (their names in the order they fired).
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

from rddkit import config, offline

os.environ.update(offline.environment())
offline.prepare_home()

import fitness  # noqa: E402
import torch  # noqa: E402
from ultralytics.models.yolo.detect import DetectionTrainer  # noqa: E402
from ultralytics.utils.callbacks.base import default_callbacks  # noqa: E402

from rddkit import attempt, session, snapshot, trainer  # noqa: E402
from rddkit.safety import Safety  # noqa: E402


class Silent:
    stop: str | None = None
    snapshot = False

    def beat(self, phase: str, **where: object) -> None: ...

    def event(self, event: str, **fields: object) -> None: ...


def main() -> None:
    kind, folder = sys.argv[1], Path(sys.argv[2])
    overrides = {
        "project": str(folder.parent),
        "name": folder.name,
        "exist_ok": True,
        **config.parse_overrides(sys.argv[3:]),
    }
    attempt.fix_threads(int(os.environ.get("PARITY_THREADS", "1")))
    fitness.stand_in()
    if kind == "plain":
        training = DetectionTrainer(overrides=overrides)
    else:
        nothing = session.Found()
        store = snapshot.Store(folder / "snapshots")
        around = session.Session(store, Silent(), Silent(), nothing, Safety(snapshot_seconds=3.0).model_dump())
        training = trainer.RoadDamageTrainer(overrides, around)
    names: list[str] = []
    for event in default_callbacks:
        training.add_callback(event, lambda _subject, event=event: names.append(event))

    def keep(trained: DetectionTrainer) -> None:
        torch.save({key: value.clone() for key, value in trained.ema.ema.state_dict().items()}, folder / "ema.pt")

    training.add_callback("on_train_end", keep)
    training.train()
    (folder / "callbacks.json").write_text(json.dumps(names))


if __name__ == "__main__":
    main()
