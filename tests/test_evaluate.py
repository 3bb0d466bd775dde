"""A real model evaluated: its detections, F1 and average precision agree with Ultralytics' own and with each other."""

from __future__ import annotations

import dataclasses
import json
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from workshop import Workshop

from rddkit import assessment, challenge, detections, evaluation, inference, lock, precision, runfile, submission
from rddkit.config import ConfigError
from rddkit.paths import RunPaths
from rddkit.status import read_rows

pytestmark = pytest.mark.slow


# Ultralytics' own validation, called as anybody would, with what it matches: boxes in pixels of what the model sees.
PLAIN = """
import json, sys
from ultralytics import YOLO
from ultralytics.models.yolo.detect import DetectionValidator

seen = {}

class Keeping(DetectionValidator):
    def update_metrics(self, preds, batch):
        super().update_metrics(preds, batch)
        for place, pred in enumerate(preds):
            ready = self._prepare_batch(place, batch)
            seen[ready["im_file"]] = {
                "truth": [ready["cls"].tolist(), ready["bboxes"].tolist()],
                "found": [pred["cls"].tolist(), pred["bboxes"].tolist(), pred["conf"].tolist()],
                "pad": ready["ratio_pad"][1],
            }

how = {"imgsz": 64, "batch": 1, "plots": False, "verbose": False}
box = YOLO(sys.argv[1]).val(validator=Keeping, data=sys.argv[2], project=sys.argv[3], **how).box
print(json.dumps({"mAP50": box.map50, "mAP50-95": box.map, "seen": dict(sorted(seen.items()))}))
"""


@pytest.fixture(scope="module")
def evaluated(blocks: Workshop) -> dict[str, Any]:
    """evaluation.json after `rddkit evaluate`."""
    done = blocks.cli("evaluate", "blocks")
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(blocks.run.evaluation_json.read_text())
    return found | {"stdout": done.stdout, "stderr": done.stderr}


@pytest.fixture(scope="module")
def plainly(blocks: Workshop) -> dict[str, Any]:
    """What PLAIN says of best.pt."""
    words = [str(blocks.run.best), runfile.read(blocks.run.run_yaml).config["data"], str(blocks.root / "plain")]
    said: dict[str, Any] = json.loads(run_python(PLAIN, *words, env={"RDDKIT_ROOT": str(blocks.root)}).splitlines()[-1])
    return said


def matched(plainly: dict[str, Any], kind: str) -> challenge.Boxes:
    """The labelled or found boxes of a plain validation, images in the order of their paths."""
    return challenge.boxes(
        (number, int(label), *corners, *(more or [1.0]))
        for number, image in enumerate(plainly["seen"].values())
        for label, corners, *more in zip(*image[kind], strict=True)
    )


def test_the_model_finds_something_and_the_table_says_so(evaluated: dict[str, Any]) -> None:
    best = evaluated["weights"]["best"]
    assert best["images"] == 12 and best["f1"]["hits"] > 0
    assert f"threshold {best['threshold']:.3f}" in evaluated["stdout"]
    for text in ("D40 pothole", "Czech", "Japan", "AP50-95"):
        assert text in evaluated["stdout"]
    assert "with thresholds chosen on the other half of the images" in evaluated["stderr"]
    assert "labelled boxes: these figures are rough guesses" in evaluated["stderr"]


@pytest.mark.parametrize("key", ["mAP50", "mAP50-95"])
def test_average_precision_is_ultralytics_but_for_its_interpolation_and_the_images_edge(
    evaluated: dict[str, Any], key: str
) -> None:
    for result in evaluated["weights"].values():
        assert result["ultralytics_at_101_points"][key] == pytest.approx(result["uncut"][key], abs=1e-5)
    assert "by its other interpolation" in evaluated["stderr"] and "at the image's edge" in evaluated["stderr"]


def test_ultralytics_own_interpolation_over_the_boxes_it_matches_gives_its_own_number(plainly: dict[str, Any]) -> None:
    """Over the kept boxes it does not: those are cut at the image's edge, which is a share of its own."""
    truth, found = matched(plainly, "truth"), matched(plainly, "found")
    ap = [trapezoid(truth.take(truth.label == n), found.take(found.label == n)) for n in np.unique(truth.label)]
    assert float(np.mean(ap)) == pytest.approx(plainly["mAP50-95"], abs=1e-5)


def trapezoid(truth: challenge.Boxes, found: challenge.Boxes) -> float:
    """One class's AP50-95 by straight lines through 101 points, from our own matches."""
    if not len(found):
        return 0.0
    found = challenge.strongest(found, most=300)
    values = []
    for least in precision.IOUS:
        right = (challenge.match(truth, found, least=float(least)) != challenge.NONE).cumsum()
        recall, exact = right / len(truth), right / np.arange(1, len(found) + 1)
        ends = np.concatenate([[0.0], recall, [recall[-1], 1.0]])
        envelope = np.maximum.accumulate(np.concatenate([[1.0], exact, [0.0, 0.0]])[::-1])[::-1]
        values.append(np.trapezoid(np.interp(precision.RECALLS, ends, envelope), precision.RECALLS))
    return float(np.mean(values))


def test_the_boxes_kept_are_those_that_ultralytics_matches_cut_at_the_images_edge(
    blocks: Workshop, evaluated: dict[str, Any], plainly: dict[str, Any]
) -> None:
    kept, found = detections.read_found(blocks.run.found_json("best")), matched(plainly, "found")
    pads = np.array([image["pad"] * 2 for image in plainly["seen"].values()])[found.image]
    assert np.array_equal(kept.image, found.image) and np.array_equal(kept.label, found.label)
    assert kept.corners == pytest.approx(np.clip(found.corners - pads, 0, 64), abs=0.01)
    assert kept.score == pytest.approx(found.score, abs=1e-5)


def test_ultralytics_val_called_plainly_says_the_same(
    blocks: Workshop, evaluated: dict[str, Any], plainly: dict[str, Any]
) -> None:
    theirs = evaluated["weights"]["best"]["ultralytics"]
    assert {key: plainly[key] for key in theirs} == pytest.approx(theirs, abs=1e-6)
    # best.pt is rounded to half precision, and training validates batches: one box may cross one of the ten IoUs.
    truth = detections.read(blocks.run.truth_json, blocks.run.found_json("best")).truth.label
    one_box = 1 / len(precision.IOUS) / np.unique(truth, return_counts=True)[1].min() / len(np.unique(truth))
    best = max(row["metrics/mAP50-95(B)"] for row in read_rows(blocks.run.results_csv))
    assert theirs["mAP50-95"] == pytest.approx(best, abs=one_box + 1e-5)


def run_python(code: str, *words: str, env: dict[str, str]) -> str:
    import subprocess

    from rddkit import offline

    command = [sys.executable, "-c", code, *words]
    environment = {**os.environ, **offline.environment(), **env}
    return subprocess.run(command, capture_output=True, text=True, check=True, env=environment, timeout=120).stdout


def test_everything_follows_from_the_kept_detections(blocks: Workshop, evaluated: dict[str, Any]) -> None:
    seen = detections.read(blocks.run.truth_json, blocks.run.found_json("last"))
    again = json.loads(json.dumps(assessment.assess(seen)))
    assert {key: evaluated["weights"]["last"][key] for key in again} == again


def test_f1_by_class_and_by_domain_add_up_to_all(evaluated: dict[str, Any]) -> None:
    best = evaluated["weights"]["best"]
    for key in ("hits", "wrong", "missed"):
        assert sum(counts[key] for counts in best["f1_by_class"].values()) == best["f1"][key]
        assert sum(counts[key] for counts in best["f1_by_domain"].values()) == best["f1"][key]
    assert set(best["f1_by_domain"]) == {"Czech", "Japan"}
    matrix = np.array(best["confusion"])
    assert matrix[:-1].sum() == best["labelled"]


def test_the_labels_are_those_of_the_data_set(blocks: Workshop, evaluated: dict[str, Any]) -> None:
    seen = detections.read(blocks.run.truth_json, blocks.run.found_json("best"))
    told = 0
    for number, photo in enumerate(seen.photos):
        lines = Path(photo.path.replace("/images/", "/labels/")).with_suffix(".txt").read_text().split("\n")
        own = seen.truth.take(seen.truth.image == number)
        assert (photo.width, photo.height) == (64, 64)
        assert sorted(own.label.tolist()) == sorted(int(line.split()[0]) for line in lines if line)
        told += len(own)
    assert told == len(seen.truth) > 8


def test_the_worst_are_drawn_where_there_is_an_error(
    blocks: Workshop, evaluated: dict[str, Any], tmp_path: Path
) -> None:
    for name, result in evaluated["weights"].items():
        errors = result["f1"]["wrong"] + result["f1"]["missed"]
        assert blocks.run.misses(name).exists() == (errors > 0), "a model of these easy images may well make none"
    seen, picture = detections.read(blocks.run.truth_json, blocks.run.found_json("best")), tmp_path / "worst.jpg"
    evaluation.draw_worst(seen, 1.01, picture)  # a threshold that nothing reaches: every labelled box is missed
    assert picture.read_bytes().startswith(b"\xff\xd8")
    evaluation.draw_worst(dataclasses.replace(seen, found=seen.truth), 1.0, picture)
    assert not picture.exists(), "all is right: the picture of another time goes"


def test_the_submission_is_written_and_checked(blocks: Workshop, evaluated: dict[str, Any], tmp_path: Path) -> None:
    folder = tmp_path / "test images" / "Japan" / "test" / "images"
    folder.mkdir(parents=True)
    data = Path(runfile.read(blocks.run.run_yaml).config["data"]).parent
    for image in sorted((data / "images" / "val").iterdir())[:4]:
        (folder / image.name).write_bytes(image.read_bytes())
    done = blocks.cli("evaluate", "blocks", "--weights", "best", "--test", str(tmp_path / "test images"), "--json")
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["submission"]["images"] == 4 and told["submission"]["problems"] == []
    text = blocks.run.submission.read_text()
    assert submission.problems(text, [(image.name, 64, 64) for image in folder.iterdir()]) == []
    assert set(told["weights"]) == {"best"}


def test_a_model_that_does_not_fit_the_budget_says_so(blocks: Workshop) -> None:
    content = blocks.run.run_yaml.read_text()
    record = yaml.safe_load(content)
    record["safety"]["budget"] = 1 << 20
    try:
        blocks.run.run_yaml.write_text(yaml.safe_dump(record))
        done = blocks.cli("evaluate", "blocks")
    finally:
        blocks.run.run_yaml.write_text(content)
    assert done.returncode == 1
    assert "the model of 'blocks' gave no answer (exit code 1)" in done.stderr
    assert "Next: close other programs, then ask again." in done.stderr


@pytest.mark.parametrize(
    ("code", "last", "way"),
    [
        (1, "MemoryError", "close other programs"),  # Python's own, while it imports
        (
            1,
            "RuntimeError: [enforce fail at alloc_cpu.cpp:127] DefaultCPUAllocator: can't allocate memory",
            "close other",
        ),
        (1, "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2 GiB.", "close other programs"),
        (-9, "", "close other programs"),
        (1, "KeyError: 'memory'", "mend that"),
    ],
)
def test_the_way_on_depends_on_what_it_died_of(tmp_path: Path, code: int, last: str, way: str) -> None:
    log = tmp_path / "evaluate.log"
    log.write_text(f"Traceback (most recent call last):\n{last}\n")
    assert f"Next: {way}" in inference.told_end(code, log, RunPaths(tmp_path))


def test_a_run_in_training_is_left_alone(blocks: Workshop) -> None:
    fd = lock.take(blocks.run.lock)
    try:
        with pytest.raises(lock.Busy, match="is being trained.*rddkit stop blocks"):
            inference.ask(blocks.run, {"do": "validate", "weights": "best"})
    finally:
        os.close(fd)


def test_weights_that_are_not_there_are_said(blocks: Workshop, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no weights 'bets'. Did you mean 'best'\? There are: best, last"):
        inference.weights_there(blocks.run, ("bets",))
    with pytest.raises(ConfigError, match="has no best.pt or last.pt .* first whole epoch.*rddkit status empty"):
        inference.weights_there(RunPaths(tmp_path / "empty"))
    with pytest.raises(ConfigError, match="has not been evaluated yet; run: rddkit evaluate empty"):
        evaluation.read(RunPaths(tmp_path / "empty"))


def test_test_images_that_are_not_there_are_said(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no folder .* with test images"):
        evaluation.test_images(tmp_path / "absent")
    with pytest.raises(ConfigError, match="no image below"):
        evaluation.test_images(tmp_path)
    for place in ("a", "b"):
        (tmp_path / place).mkdir()
        (tmp_path / place / "same.jpg").touch()
    with pytest.raises(ConfigError, match="two test images named same.jpg"):
        evaluation.test_images(tmp_path)


def test_the_notebook_shows_it_all_and_its_kernel_stays_light(
    blocks: Workshop, evaluated: dict[str, Any], tmp_path: Path
) -> None:
    from test_notebooks import PLOTLY, execute

    done = execute("05_evaluation", tmp_path / "new", blocks.root, run="blocks", weights="both", again=True)
    assert "blocks: Finished" in done.text and "best.pt: F1" in done.text and "last.pt: F1" in done.text
    assert "D40 pothole" in done.text and "by its other interpolation" in done.text
    assert done.count(PLOTLY) == 3 and done.count("image/jpeg") == blocks.run.misses("best").exists()
    before = execute("05_evaluation", tmp_path / "kept", blocks.root)
    assert "evaluated before, and the weights have not changed since" in before.text


def test_errors_come_back_from_the_child_as_they_were(blocks: Workshop, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="^no folder .* with test images"):
        evaluation.in_child(blocks.run, ("best",), tmp_path / "absent")
