"""A few real steps, a validation and a save in throw-away workers at two batch sizes: what this machine really takes.

Never imports torch: the workers are the ones that train. Their folder lies below .cache and is removed.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import select
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from rddkit import cgroup, clock, dataset, ddp, memory, need, paths
from rddkit.cause import signal_name
from rddkit.life import COUNTER_SECONDS, environment
from rddkit.paths import RunPaths
from rddkit.runfile import RunFile

# The first epoch is not timed, as a process's first step and validation are slow.
STEPS, EPOCHS, VAL_IMAGES = 3, 3, 8
TRIAL_SECONDS = 900.0
ASK_SECONDS = 0.05
# A step's peak lasts some 10 ms and nothing keeps it for a later look, as ru_maxrss does the resident set's. One look
# is a read of some 30 us.
LOOK_SECONDS = 0.005
# A trial that memory ended held at least this share of the budget; below it something else than its plan ran out.
CREDIBLE = 0.6
Go = Callable[[], bool]


class Stopped(Exception):
    """Somebody asked to stop while a trial ran."""


@dataclass(frozen=True)
class Trial:
    """What one throw-away worker showed. `died`: why it ended too early, None if it did not; then its peak is a floor.

    `too_big`: it died because its plan does not fit the budget, which is a verdict on all plans that contain it.
    `peak`: charged bytes it held at most; `device_peak`: on its GPU. `step_seconds`, `val_seconds`, `save_seconds`: of
    a step, of a validated image, and of all else in an epoch: its loader's start, and saving.
    """

    plan: dict[str, Any]
    optimizer: str
    peak: int
    device_peak: int | None
    step_seconds: float
    val_seconds: float
    save_seconds: float
    died: str | None
    too_big: bool = False

    @property
    def batch(self) -> int:
        return int(self.plan["batch"])

    @property
    def imgsz(self) -> int:
        return int(self.plan["imgsz"])

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def batches(batch: int) -> tuple[int, int]:
    """The two batches to try for a plan: one image, and its own, but no more than four: enough to see the slope."""
    return 1, min(max(batch, 2), 4)


def run(record: RunFile, optimizer: str, go_on: Go = lambda: True) -> list[Trial]:
    """Try a run's plan at two batches, the small one first; the second is left out where the first died.

    Args:
        record: the run; its budget caps the workers.
        optimizer: the one that will be chosen, as a shorter training may choose another.
        go_on: asked several times a second; False ends the trial, and Stopped is raised.
    """
    trials: list[Trial] = []
    for batch in batches(int(need.share(record.plan)["batch"])):
        if not trials or trials[-1].died is None:
            trials.append(trial(record, batch, optimizer, go_on))
    return trials


def trial(record: RunFile, batch: int, optimizer: str, go_on: Go = lambda: True) -> Trial:
    """One throw-away worker with that batch."""
    cache = paths.cache()
    cache.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix="calibration-", dir=cache))
    try:
        data, _ = dataset.write_subset(Path(str(record.config["data"])), folder / "data", STEPS * batch, VAL_IMAGES)
        short = {"data": str(data), "epochs": EPOCHS, "close_mosaic": 0, "optimizer": optimizer, "save_period": -1}
        plan = {**need.share(record.plan), "batch": batch, "cache": False, "devices": 1}
        safety = {**record.safety, "snapshot_seconds": 1e6, "val_period": 1}
        config = {**record.config, **short, "fraction": 1.0, "batch": batch}
        device = ddp.devices(record.device)[0]  # each of several devices does the same
        throw_away = replace(record, name="trial", config=config, plan=plan, safety=safety, device=device)
        there = RunPaths(folder / "trial")
        there.folder.mkdir()
        throw_away.write(there.run_yaml)
        return _watched(throw_away, there, go_on)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


class _Clock:
    """The times and the most memory in what a worker says."""

    def __init__(self) -> None:
        self.device_peak: int | None = None
        self.marks: dict[str, float] = {}
        self.ended: dict[str, Any] = {}
        self.validation = math.nan

    def hear(self, message: dict[str, Any]) -> None:
        now = clock.monotonic()
        kind = message.get("kind")
        if message.get("device_memory"):
            self.device_peak = max(self.device_peak or 0, message["device_memory"])
        if kind == "event" and message.get("event") == "epoch":
            self.marks[f"epoch {message['epoch']}"] = now
        elif kind == "beat" and message["phase"] == "train" and message["batch"] in (1, message["batches"]):
            self.marks[f"{'first' if message['batch'] == 1 else 'trained'} {message['epoch']}"] = now
            self.validation = message["validation_seconds"] or math.nan  # of the epoch before
        elif kind == "end":
            self.ended = message

    def between(self, start: str, end: str) -> float:
        return self.marks.get(end, math.nan) - self.marks.get(start, math.nan)

    @property
    def step(self) -> float:
        """Seconds of a step, without an epoch's first: a loader starts before that."""
        timed = range(2, EPOCHS + 1)
        return sum(self.between(f"first {n}", f"trained {n}") for n in timed) / len(timed) / (STEPS - 1)

    @property
    def rest(self) -> float:
        """Seconds of what is neither a step nor validation, in the second epoch: only of that the third tells all."""
        whole = self.between("epoch 1", "epoch 2")
        return max(0.0, whole - STEPS * self.step - self.validation)


def _watched(record: RunFile, there: RunPaths, go_on: Go) -> Trial:
    ours, theirs = os.pipe()
    log = there.folder / "log"
    with open(log, "wb") as output:
        child = subprocess.Popen(
            [sys.executable, "-m", "rddkit.worker", str(there.folder), "1", str(theirs)],
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=output,
            pass_fds=(theirs,),
            start_new_session=True,
            env={**os.environ, **environment(record)},
        )
    os.close(theirs)
    heard, peak, asked, deadline = _Clock(), 0, -math.inf, clock.monotonic() + TRIAL_SECONDS
    kills = cgroup.kills()
    try:
        for line in _lines(ours):
            if line:
                with contextlib.suppress(ValueError, KeyError):  # a library may write to the descriptor by mistake
                    heard.hear(json.loads(line))
            peak = max(peak, memory.process(child.pid).bytes)
            now = clock.monotonic()
            if now - asked > ASK_SECONDS:
                asked = now
                if not go_on():
                    raise Stopped("the calibration was ended")
            if now > deadline or heard.ended:
                break
    finally:
        os.close(ours)
        if not heard.ended:
            child.kill()
        if child.stdin:
            child.stdin.close()
        child.wait()
    died = None
    if child.returncode != 0:
        said = log.read_text(errors="replace").strip()[-300:]
        how = signal_name(-child.returncode) if child.returncode < 0 else f"exit {child.returncode}"
        died = heard.ended.get("error") or f"{how}: {said}"
    by_kernel = child.returncode == -signal.SIGKILL and cgroup.more_kills(kills, COUNTER_SECONDS) > 0
    out_of_memory = by_kernel or heard.ended.get("outcome") == "oom"
    too_big = out_of_memory and is_credible(record, peak)
    val = heard.validation / VAL_IMAGES
    optimizer = str(record.config["optimizer"])
    return Trial(record.plan, optimizer, peak, heard.device_peak, heard.step, val, heard.rest, died, too_big)


def is_credible(record: RunFile, peak: int) -> bool:
    """Whether a worker that ran out of memory held enough for its plan to be what was too big.

    A CUDA device's memory is not counted by the process: there its allocator is believed.
    """
    return record.device.startswith("cuda") or peak >= CREDIBLE * int(record.budget.get("bytes") or 0)


def _lines(fd: int) -> Iterator[bytes]:
    """The lines that come through a pipe until its end; an empty one where none has come for a moment."""
    buffer = b""
    while True:
        ready, _, _ = select.select([fd], [], [], LOOK_SECONDS)
        block = os.read(fd, 1 << 16) if ready else None
        if block == b"":
            return
        *lines, buffer = (buffer + (block or b"")).split(b"\n")
        yield from lines or [b""]
