"""Ask a trained model something: in a child of its own, capped and threaded as a worker. Never holds torch."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rddkit import allocators, books, config, lock, memory, offline, runfile
from rddkit.cause import signal_name
from rddkit.config import ConfigError
from rddkit.life import environment
from rddkit.paths import RunPaths
from rddkit.runfile import RunFile

if TYPE_CHECKING:
    from rddkit.challenge import Boxes

WEIGHTS = ("best", "last")
LOG_BYTES = 1200


class NoAnswer(RuntimeError):
    """The child that held the model ended without an answer; the text has its last lines and the way on. Exit 1."""


def weights_there(paths: RunPaths, wanted: tuple[str, ...] = WEIGHTS) -> list[str]:
    """Which of a run's weights there are. ConfigError if none is."""
    for name in wanted:
        if name not in WEIGHTS:
            raise ConfigError(f"no weights {name!r}.{config.nearest(name, WEIGHTS)} There are: {', '.join(WEIGHTS)}")
    there = [name for name in wanted if (paths.weights / f"{name}.pt").is_file()]
    if not there:
        files = " or ".join(f"{name}.pt" for name in wanted)
        raise ConfigError(
            f"{paths.name} has no {files} in {paths.weights}: they come with its first whole epoch. "
            f"How it stands: rddkit status {paths.name}"
        )
    return there


def detect(
    paths: RunPaths, weights: str, images: Sequence[str], threshold: float, **how: Any
) -> tuple[dict[str, Any], Boxes]:
    """What a run's weights find in images from a confidence on: the answer of `evaluate.detect`, and the boxes.

    A box's image is its place in `images`. `how`: as `ask` takes it; raises as `ask` does.
    """
    from rddkit import detections  # numpy: every command imports this module for its exception

    with tempfile.TemporaryDirectory() as scratch:
        out = Path(scratch) / "found.json"
        order = {"do": "detect", "weights": weights, "images": list(images), "threshold": threshold, "out": str(out)}
        return ask(paths, order, **how), detections.read_found(out)


def ask(
    paths: RunPaths,
    order: dict[str, Any],
    module: str = "rddkit.evaluate",
    *,
    seconds: float | None = None,
    by_owner: bool = False,
) -> dict[str, Any]:
    """The answer of a child that runs `module` with one order.

    Args:
        seconds: the longest it may take; then subprocess.TimeoutExpired is raised.
        by_owner: the caller is the run's own report, which has seen that training is over while the lock is held.

    Raises lock.Busy for a run that is being trained, whose memory this would take, and NoAnswer where the child dies.
    """
    if not by_owner and lock.is_held(paths.lock):
        raise lock.Busy(
            f"the run {paths.name!r} is being trained, and a second model beside it could take the memory it needs; "
            f"wait for its end, or stop it: rddkit stop {paths.name}"
        )
    record = with_budget_now(runfile.read(paths.run_yaml))
    told = {"folder": str(paths.folder), "budget": record.budget["bytes"], **order}
    offline.prepare_home()
    paths.logs.mkdir(exist_ok=True)
    log = paths.logs / f"{module.rpartition('.')[2]}.log"
    with open(log, "wb") as said:
        child = subprocess.run(
            [sys.executable, "-m", module],
            input=json.dumps(told).encode(),
            stdout=subprocess.PIPE,
            stderr=said,
            env={**os.environ, **offline.environment(), **environment(record)},
            check=False,
            timeout=seconds,
        )
    if child.returncode != 0 or not child.stdout:
        raise NoAnswer(told_end(child.returncode, log, paths))
    answer: dict[str, Any] = json.loads(child.stdout)
    return answer


def with_budget_now(record: RunFile) -> RunFile:
    """The record with what may be held now: at its training other programs may have been running."""
    budget = memory.memory_budget(record.safety["budget"], record.safety["reserve"])
    return dataclasses.replace(record, budget={**record.budget, "bytes": budget.bytes, "source": budget.source})


def told_end(code: int, log: Path, paths: RunPaths) -> str:
    """The text of NoAnswer, from an exit code and the log's end."""
    how = signal_name(-code) if code < 0 else f"exit code {code}"
    tail = books.log_tail(log, LOG_BYTES)
    last = tail.rpartition("\n")[2]
    ran_out = code < 0 or allocators.who_ran_out(last.partition(":")[0].rpartition(".")[2], last)
    way = "close other programs, then ask again" if ran_out else "mend that, then ask again"
    return f"the model of {paths.name!r} gave no answer ({how}). Last lines of {log}:\n{tail}\nNext: {way}."
