"""What 05_evaluation calls: a run evaluated in a child, and what came of it shown. Light, as all a kernel holds."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rddkit import curves, evaluation, figures, frontend, inference
from rddkit.config import ConfigError
from rddkit.run import Run


def evaluate(run: Run, weights: str = "best", test: str | None = None, again: bool = False) -> dict[str, Any]:
    """The evaluation of a run's weights: the one that is there, if it is newer than the weights, else a new one.

    Args:
        weights: `best`, `last` or `both`.
        test: a folder of test images to write the challenges' submission file for.
        again: evaluate anew in any case.
    """
    wanted = inference.WEIGHTS if weights == "both" else (weights,)
    there = inference.weights_there(run.paths, wanted)
    if not again and test is None and (found := _kept(run, there)):
        print(f"evaluated before, and the weights have not changed since; again=True does it anew: {found['t']}")
        return found
    return run.evaluate(tuple(there), test)


def _kept(run: Run, weights: list[str]) -> dict[str, Any] | None:
    try:
        found = evaluation.read(run.paths)
    except ConfigError:
        return None
    made = run.paths.evaluation_json.stat().st_mtime
    fresh = all((run.paths.weights / f"{name}.pt").stat().st_mtime < made for name in weights)
    return found if fresh and set(weights) <= set(found["weights"]) else None


def show_scores(found: Mapping[str, Any]) -> None:
    """F1 and average precision of each of the weights, by class and domain, with what they mean."""
    for name, result in found["weights"].items():
        print("\n".join(evaluation.sentences(name, result)))
        frontend.show_table(evaluation.rows(result), evaluation.COLUMNS)


def first(found: Mapping[str, Any]) -> tuple[str, Mapping[str, Any]]:
    """The weights that the figures show, and their result."""
    name = next(iter(found["weights"]))
    return name, found["weights"][name]


def show_curves(found: Mapping[str, Any]) -> None:
    """F1 by threshold, and precision by recall."""
    _, result = first(found)
    figures.show(curves.f1_by_threshold(result))
    figures.show(curves.precision_by_recall(result))


def show_confusion(found: Mapping[str, Any]) -> None:
    """What was taken for what, at the chosen threshold."""
    figures.show(curves.confusion(first(found)[1], list(found["names"])))


def show_misses(run: Run, found: Mapping[str, Any]) -> None:
    """The images with most errors."""
    picture: Path = run.paths.misses(first(found)[0])
    if not picture.is_file():
        print("No validation image has an error at this threshold.")
        return
    frontend.show_jpeg(picture.read_bytes(), "images with most boxes missed or wrong")


def show_files(run: Run, found: Mapping[str, Any]) -> None:
    """Where everything lies, and what is wrong with a submission."""
    print(f"detections as COCO writes them, and all figures: {run.paths.evaluation}")
    if told := found.get("submission"):
        print(f"submission for {told['images']} test images: {told['file']}")
        print("\n".join(told["problems"]) or "its format was checked: nothing wrong")
