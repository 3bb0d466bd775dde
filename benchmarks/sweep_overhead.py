"""What a sweep costs beside its trainings: Ray's start and end, each trial's way through it, and the memory it holds.

`python benchmarks/sweep_overhead.py [--trials 16]`: trials that train nothing go the whole way of a real one through
Ray Tune; then, with --real, four tiny trainings as a sweep and one after the other by `rddkit train`.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import yaml

from rddkit import clock, dataset, memory
from rddkit.memory import human
from rddkit.safety import Safety

TINY = {"model": "yolov8n.yaml", "epochs": 2, "imgsz": 32, "batch": 4, "workers": 0, "device": "cpu", "plots": False}


def make_root(folder: Path, trials: int) -> Path:
    """A root with painted images, a tiny config and a sweep of so many seeds; the sweep's file."""
    dataset.write_sample(folder / "raw", images=16, seed=1)
    dataset.prepare(folder / "raw", folder / "data", val_fraction=0.25, block=2)
    (folder / "configs").mkdir()
    (folder / "configs" / "tiny.yaml").write_text(
        yaml.safe_dump({**TINY, "data": str(folder / "data" / "rdd2022.yaml")})
    )
    many = folder / "configs" / "many.yaml"
    many.write_text(yaml.safe_dump({"config": "configs/tiny.yaml", "grid": {"seed": list(range(trials))}}))
    return many


class Peak:
    """The most that this process and all that it started held, watched in a thread; and of which process how much."""

    def __init__(self) -> None:
        self.bytes = 0
        self.parts: dict[str, int] = {}
        self.ended = threading.Event()
        self.thread = threading.Thread(target=self._watch, daemon=True)
        self.thread.start()

    def _watch(self) -> None:
        while not self.ended.wait(0.3):
            parts: dict[str, int] = {}
            for process in [psutil.Process(), *psutil.Process().children(recursive=True)]:
                try:
                    name = process.name().removeprefix("ray::")
                    parts[name] = parts.get(name, 0) + memory.process(process.pid).bytes
                except psutil.Error:
                    continue
            if sum(parts.values()) > self.bytes:
                self.bytes, self.parts = sum(parts.values()), parts

    def close(self) -> None:
        self.ended.set()
        self.thread.join()


def timed(work: Callable[[], Any]) -> float:
    began = clock.monotonic()
    work()
    return clock.monotonic() - began


def no_op(many: Path, trials: int) -> None:
    """The way through Ray, with a trainable that starts no run."""
    from rddkit import sweep

    sweep.need_ray()
    began = clock.monotonic()
    from ray import tune

    from rddkit import raynodes, raysweep, standings

    print(f"import of Ray: {clock.monotonic() - began:.1f} s")

    class NoOp(tune.Trainable):  # type: ignore[misc]
        def setup(self, config: dict[str, Any]) -> None:
            self.held = memory.process(os.getpid()).bytes

        def step(self) -> dict[str, Any]:
            return {"node": "here", "epoch": 1, "over": True, "done": True, "held": self.held}

    class Look(raysweep.Watch):
        def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **_: Any) -> None:
            ended.append((clock.monotonic(), trial.last_result["held"]))

    ended: list[tuple[float, int]] = []
    asked = sweep.read(many)
    told = raysweep.take_stock(asked, None)
    words = [{"run": one.name, "resources": {"CPU": 1}, "column": asked.column} for one in asked.trials]
    peak = Peak()
    started = clock.monotonic()
    with raynodes.running_ray(None, Safety()):
        up = clock.monotonic()
        raysweep.tune_trials(asked, words, Look(told, print), NoOp)
        worked = clock.monotonic()
    down = clock.monotonic()
    peak.close()
    assert len(ended) == trials and isinstance(told, standings.Standings)
    spread = (ended[-1][0] - ended[0][0]) / (trials - 1)
    print(f"Ray: {up - started:.1f} s to start, {down - worked:.1f} s to end")
    print(
        f"{trials} no-op trials: {worked - up:.1f} s, {(worked - up) / trials:.2f} s each; "
        f"{spread:.2f} s between two ends"
    )
    print(f"a trial's process on Ray holds {human(max(held for _, held in ended))}; everything {human(peak.bytes)}:")
    for name, held in sorted(peak.parts.items(), key=lambda part: -part[1]):
        print(f"  {name}: {human(held)}")


def real(many: Path, root: Path) -> None:
    """Four tiny trainings, as a sweep and one after the other."""
    content = {"config": "configs/tiny.yaml", "grid": {"seed": [1, 2, 3, 4]}}
    many.write_text(yaml.safe_dump(content))
    command = [sys.executable, "-m", "rddkit.cli"]
    sweep = timed(lambda: subprocess.run([*command, "sweep", str(many)], check=True))

    def one_by_one() -> None:
        for seed in content["grid"]["seed"]:  # type: ignore[index]
            words = ["train", "--config", "configs/tiny.yaml", "--name", f"alone-{seed}", f"seed={seed}"]
            subprocess.run([*command, *words], check=True, stdout=subprocess.DEVNULL)

    alone = timed(one_by_one)
    print(f"four tiny trainings: {sweep:.0f} s as a sweep, {alone:.0f} s one after the other; {root}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, default=16)
    parser.add_argument("--real", action="store_true")
    words = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="sweep-overhead-") as place:
        os.environ["RDDKIT_ROOT"] = place
        many = make_root(Path(place), words.trials)
        print(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}")
        no_op(many, words.trials)
        if words.real:
            real(many, Path(place))


if __name__ == "__main__":
    main()
