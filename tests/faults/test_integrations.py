"""What Ultralytics reports to goes on working: TensorBoard, the real one, in a run that is killed."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from compare import RECIPE, plain_run, same_weights
from workshop import Workshop, events

from rddkit.trainer import RoadDamageTrainer
from rddkit.whole import WholeTrainer

pytestmark = pytest.mark.faults


def logged(folder: Path) -> dict[str, list[int]]:
    """The steps of each scalar in TensorBoard's files in a folder, in their order."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    log = EventAccumulator(str(folder))
    log.Reload()
    return {tag: [point.step for point in log.Scalars(tag)] for tag in log.Tags()["scalars"]}


def test_tensorboard_gets_every_epoch_of_a_killed_run(
    workshop: Callable[..., Workshop], tiny_data: Path, tmp_path_factory: pytest.TempPathFactory, tmp_path: Path
) -> None:
    (tmp_path / "Ultralytics").mkdir()
    (tmp_path / "Ultralytics" / "settings.json").write_text(json.dumps({"tensorboard": True}))
    shop = workshop("reported", **RECIPE)
    (shop.root / "configs" / "safety.yaml").write_text("snapshot_seconds: 1.0\nestimate: false\npredictions: false\n")
    shop.environment.pop("PYTEST_CURRENT_TEST")  # Ultralytics reports nothing of what a test trains
    answer = shop.train(RDDKIT_KILL="1:checkpoint@2", YOLO_CONFIG_DIR=str(tmp_path))
    assert answer.returncode == 0, answer.stdout + answer.stderr
    assert [event["cause"] for event in events(shop.run, "attempt_ended")] == ["killed", "done"]
    steps = logged(shop.run.folder)
    epochs = set(range(1, RECIPE["epochs"] + 1))
    # Ultralytics tells the final evaluation's as those of one epoch more.
    assert set(steps["metrics/mAP50(B)"]) == epochs | {RECIPE["epochs"] + 1}
    assert set(steps["train/box_loss"]) == epochs
    same_weights(shop.run.folder, plain_run(tiny_data, tmp_path_factory.getbasetemp()))


@pytest.mark.parametrize("kind", [RoadDamageTrainer, WholeTrainer])
def test_ultralytics_gives_its_integrations_to_either_loop(kind: type) -> None:
    from ultralytics.utils.callbacks import add_integration_callbacks, default_callbacks
    from ultralytics.utils.callbacks.platform import callbacks

    trainer = kind.__new__(kind)
    trainer.callbacks = {name: [] for name in default_callbacks}
    add_integration_callbacks(trainer)
    assert callbacks["on_model_save"] in trainer.callbacks["on_model_save"], "what every trainer gets"
