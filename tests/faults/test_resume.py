"""Runs that are killed, stopped and continued end as one that nobody touched; what differs is said."""

from __future__ import annotations

import os
import re
import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import yaml
from compare import (
    RECIPE,
    Attempts,
    Recorded,
    images_of,
    plain_run,
    rows,
    run_yaml,
    same_weights,
    steps,
    train_once,
)
from workshop import TINY, Workshop, alive, events, one_row_per_epoch, wait_for

from rddkit import clock, dataset, runfile
from rddkit.config import ConfigError
from rddkit.run import Run
from rddkit.snapshot import Store
from rddkit.status import read_progress, read_status

pytestmark = pytest.mark.faults
OFTEN = "snapshot_seconds: 1.0\nretries: 100\nbackoff_seconds: 0.0\nestimate: false\npredictions: false\n"
SELDOM = "snapshot_seconds: 600.0\nestimate: false\npredictions: false\n"
STOPPED = 75
EPOCHS = RECIPE["epochs"]


@pytest.fixture(scope="module")
def plain(tiny_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return plain_run(tiny_data, tmp_path_factory.getbasetemp())


def with_safety(shop: Workshop, text: str) -> Workshop:
    (shop.root / "configs" / "safety.yaml").write_text(text)
    return shop


# -- killed ------------------------------------------------------------------------------------------------------------

KILLS = (
    "batch@9",
    "snapshot_write@9",
    "snapshot_renamed@1",
    "validated@1",
    "before_csv_row@1",
    "csv_row@1",
    "checkpoint@1",
    "stripped_last@1",
)


def test_a_run_killed_at_every_named_place_ends_with_the_weights_and_rows_of_one_never_touched(
    workshop: Callable[..., Workshop], plain: Path
) -> None:
    shop = with_safety(workshop("killed", **RECIPE), OFTEN)
    plan = ",".join(f"{attempt}:{place}" for attempt, place in enumerate(KILLS, 1))
    answer = shop.train(RDDKIT_KILL=plan)
    assert answer.returncode == 0, answer.stdout + answer.stderr
    ends = [event["cause"] for event in events(shop.run, "attempt_ended")]
    assert ends == ["killed"] * len(KILLS) + ["done"]
    assert all(event["exact"] for event in events(shop.run, "resumed")), events(shop.run, "resumed")
    same_weights(shop.run.folder, plain)
    assert rows(shop.run.folder) == rows(plain)
    one_row_per_epoch(shop.run, EPOCHS)
    places = steps(shop.run)
    assert places == sorted(set(places)), "a row for a batch is there once, in order"
    assert not shop.run.snapshots.exists()
    assert not list(shop.run.folder.rglob("*.partial"))


def test_rows_of_epochs_to_come_and_torn_ones_are_forgotten(tmp_path: Path) -> None:
    from rddkit.attempt import forget_rows_after

    results = tmp_path / "results.csv"
    results.write_bytes(b"epoch,time,loss\n1,10.5,\xff\n2,20.5,2\n3,31.0,2\n1")
    assert forget_rows_after(results, epochs_done=2) == 20.5
    assert results.read_bytes() == b"epoch,time,loss\n1,10.5,\xff\n2,20.5,2\n"
    results.write_bytes(b"epo")  # a full disk: its header is only written into a new file
    assert forget_rows_after(results, epochs_done=0) == 0.0
    assert not results.exists()


# -- stopped -----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def long_validation(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data set that is validated for longer than it is trained on, so that a stop can come in between."""
    folder = tmp_path_factory.mktemp("val")
    dataset.write_sample(folder / "raw", images=160, seed=3)
    dataset.prepare(folder / "raw", folder / "out", val_fraction=0.9, block=2)
    return folder / "out" / "rdd2022.yaml"


def stopped_within(run: Run, stop: Callable[[], object], seconds: float = 10.0) -> None:
    began = clock.monotonic()
    stop()
    assert run.wait(timeout=seconds + 5) == STOPPED
    assert clock.monotonic() - began < seconds
    assert Store(run.paths.snapshots).names(), "a stop leaves a snapshot"


@pytest.mark.campaign
def test_nights_add_up_however_each_one_ends(workshop: Callable[..., Workshop], long_validation: Path) -> None:
    settings = {**RECIPE, "epochs": 14, "data": str(long_validation)}
    shop = with_safety(workshop("nights", **settings), SELDOM)

    night = shop.train("--for", "5s")  # its window closes while torch is still starting, or a little later
    (stopped,) = events(shop.run, "run_stopped")
    assert night.returncode == stopped["exit"] == STOPPED
    assert "the session window is over" in stopped["reason"]
    assert Store(shop.run.snapshots).names()

    run = Run.create(shop.root / "configs" / "tiny.yaml", project=str(shop.root / "results")).start()
    alive(run.paths)
    wait_for(lambda: (read_progress(run.paths.progress).get("epoch") or 0) >= 2)
    before = len(events(run.paths, "snapshot"))
    assert run.snapshot()
    wait_for(lambda: len(events(run.paths, "snapshot")) > before, 5)
    stopped_within(run, run.stop)
    assert "SIGTERM" in events(run.paths, "run_stopped")[-1]["reason"]

    run.start()
    alive(run.paths)
    wait_for(lambda: read_progress(run.paths.progress).get("phase") == "validate", each=0.01)
    stopped_within(run, lambda: run.stop(number=signal.SIGINT))
    assert "SIGINT" in events(run.paths, "run_stopped")[-1]["reason"]
    assert events(run.paths, "snapshot")[-1]["stage"] == "trained", "the stop came while it validated"

    run.start()
    alive(run.paths)
    stopped_within(run, lambda: shop.cli("stop"))

    last = shop.train()
    assert last.returncode == 0, last.stdout + last.stderr
    resumed = events(shop.run, "resumed")
    assert len(resumed) == 4 and all(event["exact"] and event["lost_batches"] == 0 for event in resumed), resumed
    one_row_per_epoch(shop.run, 14)
    places = steps(shop.run)
    assert places == sorted(set(places))
    whole = train_once("plain", shop.root / "plain" / "run", {**TINY, **settings})
    same_weights(shop.run.folder, whole)
    assert rows(shop.run.folder) == rows(whole)


def test_other_threads_and_a_moved_data_set(workshop: Callable[..., Workshop], tiny_data: Path) -> None:
    shop = with_safety(workshop("changed", **{**RECIPE, "epochs": 2}), SELDOM)
    place = shutil.copytree(tiny_data.parent, shop.root / "data set")
    for yaml_file in place.glob("*.yaml"):
        yaml_file.write_text(yaml_file.read_text().replace(str(tiny_data.parent), str(place)))
    old = place / tiny_data.name
    assert shop.train(f"data={old}", "--for", "1s").returncode == STOPPED

    new = place.rename(shop.root / "elsewhere") / old.name
    lost = shop.train(f"data={old}")
    assert lost.returncode == 2
    assert f"the data set of 'tiny' is not at {old} any more. Where it is now: " in lost.stderr
    command = f"rddkit train --name tiny --resume data=NEW_PLACE/{old.name}"
    assert command in lost.stderr
    new.write_text(new.read_text().replace(str(place), str(new.parent)))

    before = runfile.read(shop.run.run_yaml).threads
    run_yaml(shop.run, threads=before + 1)
    there = shop.train("--resume", f"data={new}")
    assert there.returncode == 0, there.stdout + there.stderr
    (resumed,) = events(shop.run, "resumed")
    assert resumed["exact"] is False
    assert resumed["reason"] == f"same state, other surroundings: threads {before} -> {before + 1}"
    one_row_per_epoch(shop.run, 2)


# -- with other settings -----------------------------------------------------------------------------------------------


def check_positions(parts: list[Recorded], images: int, lr0: float = 0.01) -> None:
    """The learning rate of the warm-up is that of the image, whatever the batch size; steps come every 16 images."""
    done = 0
    since_step, last_step = 0, -1
    for part in parts:
        first = True
        for batch in part.batches:
            if done < images:  # one epoch of warm-up; weights' rates rise from 0, Ultralytics' cosine begins at 1
                assert batch["lr"][0] == pytest.approx(np.interp(done, [0, images], [0, lr0]), rel=0.02)
            done += len(batch["images"])
            since_step += len(batch["images"])
            # A part's first batch shows the same step counted in the new batch size.
            if batch["stepped"] != last_step and not first:
                if done > 2 * images:
                    assert 16 <= since_step <= 16 + 2, "the effective batch stays nbs"
                since_step = 0
            last_step, first = batch["stepped"], False


def test_a_smaller_batch_in_the_middle_of_an_epoch_sees_every_image_once(attempts: Callable[..., Attempts]) -> None:
    one = attempts()
    first = one.attempt(stop_after=3)  # in the warm-up
    assert first.code == STOPPED
    one.change(batch=1)
    second = one.attempt(stop_after=16)  # in the middle of epoch 2
    one.change(batch=2)
    third = one.attempt()
    assert (second.code, third.code) == (STOPPED, 0)
    images = len(set(images_of([first, second, third], 1)))
    assert images == 12
    for epoch in range(1, EPOCHS + 1):
        seen = images_of([first, second, third], epoch)
        assert len(seen) == len(set(seen)) == images
    (resumed,) = second.told("resumed")
    assert (resumed["epoch"], resumed["batch"], resumed["exact"]) == (1, 3, False)
    assert resumed["reason"].endswith("batch 2 -> 1")
    assert {batch["accumulate"] for batch in second.batches if batch["epoch"] == 2} == {16}
    assert {batch["accumulate"] for batch in third.batches} == {8}
    check_positions([first, second, third], images)
    one_row_per_epoch(one.paths, EPOCHS)
    assert [event["epoch"] for part in (first, second, third) for event in part.told("epoch")] == [1, 2, 3, 4]


def test_another_image_size_is_validated_at_the_first_one(attempts: Callable[..., Attempts]) -> None:
    one = attempts(epochs=2)
    first = one.attempt(stop_after=3)
    one.change(imgsz=96)
    second = one.attempt()
    assert (first.code, second.code) == (STOPPED, 0)
    assert {max(batch["shape"][2:]) for batch in first.batches} == {64}
    assert {max(batch["shape"][2:]) for batch in second.batches} == {96}
    # Ultralytics adds half a stride to validation images: 64 is validated as 96; 96 would be as 128.
    assert second.validated and {max(shape[2:]) for shape in second.validated} == {96}
    assert second.told("resumed")[0]["reason"] == "same state, other surroundings: imgsz 64 -> 96"
    one_row_per_epoch(one.paths, 2)


# -- refused -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def unfinished(attempts: Callable[..., Attempts], root: Path, tiny_data: Path) -> Iterator[Path]:
    """The root of an unfinished run on a data set of its own; yields the data set's YAML."""
    place = shutil.copytree(tiny_data.parent, root / "own data")
    data = place / tiny_data.name
    content = yaml.safe_load(data.read_text())
    content["path"] = str(place)
    data.write_text(yaml.safe_dump(content))
    attempts(data=str(data))
    yield data


def refused(root: Path, run_cli: Callable[..., object], *words: str) -> str:
    answer = run_cli("train", "--config", str(root / "configs" / "tiny.yaml"), *words)
    assert answer.returncode == 2, answer.stdout + answer.stderr  # type: ignore[attr-defined]
    assert not re.search("Traceback", answer.stderr)  # type: ignore[attr-defined]
    return str(answer.stderr)  # type: ignore[attr-defined]


def test_another_data_set_is_refused_by_its_name(unfinished: Path, root: Path, run_cli: Callable[..., object]) -> None:
    label = next(file for file in sorted((unfinished.parent / "labels").rglob("*.txt")) if file.read_text().strip())
    kept = label.read_text()
    label.write_text("3" + kept[1:] if kept[0] != "3" else "2" + kept[1:])
    for words in ((), ("--resume",)):
        text = refused(root, run_cli, *words)
        assert f"{unfinished} is not the data set that 'tiny' began with" in text
        assert "labels or classes differ" in text and "--name NEW" in text
    label.write_text(kept)
    content = yaml.safe_load(unfinished.read_text())
    names = content["names"]
    names[0] = "something else"
    unfinished.write_text(yaml.safe_dump(content))
    assert "is not the data set that 'tiny' began with" in refused(root, run_cli, "--resume")


def test_a_run_of_another_config_is_continued_on_its_own_data_unless_another_is_given(
    unfinished: Path, root: Path
) -> None:
    """`rddkit train --name NAME --resume` is what rddkit prints; it reads the default config."""
    other = shutil.copytree(unfinished.parent, root / "other data") / unfinished.name
    other.write_text(other.read_text().replace(str(unfinished.parent), str(other.parent)))
    label = next(file for file in sorted((other.parent / "labels").rglob("*.txt")) if file.read_text().strip())
    label.write_text("3 0.5 0.5 0.1 0.1\n")
    settings = yaml.safe_load((root / "configs" / "tiny.yaml").read_text())
    default = root / "configs" / "default.yaml"
    default.write_text(yaml.safe_dump({**settings, "data": str(other), "epochs": 200, "name": "default"}))
    run = Run.create(default, resume=True, name="tiny")
    assert run.record is not None
    assert (run.record.config["data"], run.record.config["epochs"]) == (str(unfinished), EPOCHS)
    with pytest.raises(ConfigError, match="is not the data set that 'tiny' began with"):
        Run.create(default, resume=True, name="tiny", data=str(other))


def test_weights_of_a_moved_repository_are_found_by_their_name(unfinished: Path, root: Path) -> None:
    paths = Run.open(root / "results" / "tiny").paths
    (root / "yolov8n.pt").touch()
    plan = runfile.read(paths.run_yaml).plan
    settings = {**runfile.read(paths.run_yaml).config, "model": "/old/place/yolov8n.pt"}
    run_yaml(paths, config=settings, plan={**plan, "model": "/old/place/yolov8n.pt"})
    file = root / "configs" / "tiny.yaml"
    file.write_text(
        yaml.safe_dump({**yaml.safe_load(file.read_text()), "model": "yolov8n.pt", "data": str(unfinished)})
    )
    run = Run.create(file)
    assert run.decision.action == "continue" and run.record is not None
    for told in (run.record.config, run.record.plan, run._read_again(run.record).plan):
        assert told["model"] == str(root / "yolov8n.pt")


def test_a_lighter_plan_that_was_taken_meanwhile_stays(unfinished: Path, root: Path) -> None:
    run = Run.create(root / "configs" / "tiny.yaml", resume=True, imgsz=96)
    lighter = {**runfile.read(run.paths.run_yaml).plan, "batch": 1}
    run_yaml(run.paths, plan=lighter, failed=[{"batch": 2}])
    assert run.record is not None
    now = run._read_again(run.record)
    assert (now.plan["batch"], now.plan["imgsz"], now.failed) == (1, 96, [{"batch": 2}])


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("model=yolo11n.yaml", "model: 'yolov8n.yaml' there, 'yolo11n.yaml' asked"),
        ("cos_lr=False", "cos_lr: True there, False asked"),
        ("epochs=9", "epochs: 4 there, 9 asked"),
        ("seed=8", "seed: 7 there, 8 asked"),
        ("single_cls=True", "single_cls: False there, True asked"),
    ],
)
def test_another_model_schedule_seed_or_class_list_is_refused_naming_the_difference(
    unfinished: Path, root: Path, monkeypatch: pytest.MonkeyPatch, word: str, said: str
) -> None:
    from rddkit import config

    for resume in (False, True):
        with pytest.raises(ConfigError) as error:
            Run.create(root / "configs" / "tiny.yaml", resume=resume, **config.parse_overrides([word]))
        assert said in str(error.value)
        assert "--name NEW" in str(error.value) and "--fresh" in str(error.value)


def test_the_refusal_is_exit_code_2(unfinished: Path, root: Path, run_cli: Callable[..., object]) -> None:
    assert "seed: 7 there, 8 asked" in refused(root, run_cli, "--resume", "seed=8")
    assert read_status(Run.open(root / "results" / "tiny").paths).state == "new"
    assert os.listdir(root / "results") == ["tiny"]
