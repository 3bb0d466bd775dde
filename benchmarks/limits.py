"""The smallest memory limit under which a training finishes, ours beside plain Ultralytics, in real memory cgroups.

`python benchmarks/limits.py --model yolov8n --batch 8 --imgsz 416` finds by bisection the smallest limit under which
two epochs finish: asked of rddkit with that batch (its fallbacks are named), and of plain Ultralytics with batch 2
and 1. `--spread 20 --from MIB` trains ours at that many limits from MIB to twice that, with cap and guard on and again
off: how many were refused, how often the kernel killed, and how each kill was named. `--keep FILE` notes each training
as it ends, and does not repeat it. Real images where ../shared/rdd2022-sample is there. Needs root. A training takes 20
to 90 s.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import kernel_kills
import yaml
from kernel_kills import kernel
from rich.console import Console

from rddkit import clock, journal, memory, offline
from rddkit.memory import MIB
from rddkit.paths import RunPaths

ARGS = {"epochs": 2, "workers": 0, "seed": 7, "device": "cpu", "plots": False, "project": "results", "name": "one"}
SAFE = "predictions: false\nbackoff_seconds: 0.0\n"
KINDS = {"ours": SAFE, "bare": SAFE + "cap: false\nguard: false\nestimate: false\n"}
SECONDS = 600.0  # a training that takes longer drops its libraries' pages and reads them again: it does not finish
STEP = 10  # MiB between the smallest limit that was enough and the largest that was not
PLAIN = """
import sys, yaml, torch
from ultralytics.models.yolo.detect import DetectionTrainer
import ultralytics.utils.torch_utils as torch_utils
torch_utils.NUM_THREADS = 1
torch.set_num_threads(1)
DetectionTrainer(overrides=yaml.safe_load(open(sys.argv[1]))).train()
"""


class Bench:
    """Trainings of one model in groups with a limit; what is known of them."""

    def __init__(self, base: Path, data: Path, keep: Path | None) -> None:
        self.base, self.data, self.keep = base, data, keep
        self.known: dict[str, dict[str, Any]] = {}
        if keep and keep.exists():
            rows = [json.loads(line) for line in keep.read_text().splitlines()]
            self.known = {row["key"]: row for row in rows}

    def train(self, kind: str, model: str, batch: int, imgsz: int, limit: int) -> dict[str, Any]:
        """One training under `limit` MiB: whether it finished, its seconds, and what ours told."""
        key = f"{kind} {model} {batch}x{imgsz} under {limit}"
        if key not in self.known:
            row = {"key": key, "kind": kind, "limit": limit, **self._train(kind, model, batch, imgsz, limit)}
            self.known[key] = row
            if self.keep:
                with open(self.keep, "a") as file:
                    file.write(json.dumps(row) + "\n")
            print(f"{key}: {row}", file=sys.stderr, flush=True)
        return self.known[key]

    def _train(self, kind: str, model: str, batch: int, imgsz: int, limit: int) -> dict[str, Any]:
        root = Path(tempfile.mkdtemp(dir=self.base))
        (root / "configs").mkdir()
        (root / "results").mkdir()
        args = {**ARGS, "model": f"{model}.yaml", "batch": batch, "imgsz": imgsz, "data": str(self.data)}
        env = {**os.environ, "RDDKIT_ROOT": str(root), "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
        if kind == "plain":
            args["project"] = str(root / "results")
            command = [sys.executable, "-c", PLAIN, str(root / "configs" / "one.yaml")]
            env |= {**offline.environment(), "YOLO_CONFIG_DIR": os.environ.get("YOLO_CONFIG_DIR", str(offline.home()))}
        else:
            (root / "configs" / "safety.yaml").write_text(KINDS[kind])
            command = [sys.executable, "-m", "rddkit.cli", "train", "--config", "configs/one.yaml"]
        (root / "configs" / "one.yaml").write_text(yaml.safe_dump(args))
        began, peak, code = clock.monotonic(), 0, None
        with kernel.group(limit * MIB) as group, open(root / "said", "w") as said:
            caller = group.start(command, env, said.fileno())
            while (code := caller.poll()) is None and clock.monotonic() - began < SECONDS:
                peak = max(peak, group.anonymous)
                clock.sleep(0.1)
            kills = group.kills
        caller.wait()
        seconds = round(clock.monotonic() - began)
        told = {"finished": code == 0, "exit": code, "seconds": seconds, "kills": kills, "anonymous": peak // MIB}
        if kind != "plain":
            events = journal.read_events(RunPaths(root / "results" / "one").journal)
            named = [event["cause"] for event in events if event["event"] == "attempt_ended"]
            changes = [event["to"] for event in events if event["event"] == "fallback"]
            told |= {"causes": named, "fallbacks": [str(change) for change in changes]}
        if code not in (0, 69):
            told["said"] = (root / "said").read_text(errors="replace").strip()[-300:]
        shutil.rmtree(root, ignore_errors=True)
        return told


def smallest(finishes: Callable[[int], bool], low: int, high: int) -> int:
    """The smallest limit that is enough, in MiB, to STEP; `low` is not enough, `high` is raised until it is."""
    while not finishes(high):
        low, high = high, round(high * 1.3)
    while high - low > STEP:
        middle = (low + high) // 2
        low, high = (low, middle) if finishes(middle) else (middle, high)
    return high


def bisect(bench: Bench, words: argparse.Namespace, out: Console) -> bool:
    """The smallest limits; whether ours is as small as it has to be."""
    batches = {"ours": words.batch, "plain 2": 2, "plain 1": 1}
    found = {}
    for name, batch in batches.items():
        kind = name.split()[0]
        low, high = words.low, words.high
        found[name] = smallest(
            lambda limit, kind=kind, batch=batch: bench.train(kind, words.model, batch, words.imgsz, limit)["finished"],
            low,
            high,
        )
    last = bench.train("ours", words.model, words.batch, words.imgsz, found["ours"])
    out.print(f"{words.model}, {words.imgsz} px, two epochs: smallest limits in MiB {found}")
    out.print(f"ours took: {'; '.join(last['fallbacks'])}")
    ratio = found["ours"] / min(found["plain 1"], found["plain 2"])
    out.print(f"ours / plain's smallest: {ratio:.2f} (allowed 0.80)")
    return ratio <= 0.80


def spread(bench: Bench, words: argparse.Namespace, out: Console) -> bool:
    """Many limits from one to twice that; whether none is refused, killed or named wrongly."""
    start, count = words.spread_from, words.spread
    limits = [round(start * (1 + number / (count - 1))) for number in range(count)]
    rows = {
        kind: [bench.train(kind, words.model, words.batch, words.imgsz, limit) for limit in limits] for kind in KINDS
    }
    safe, bare = rows["ours"], rows["bare"]
    refused = [row["limit"] for row in safe if row["exit"] == 69]
    killed = [row["limit"] for row in safe if row["kills"]]
    unfinished = [row["limit"] for kind in KINDS for row in rows[kind] if not row["finished"]]
    misnamed = [row["limit"] for row in bare if set(row["causes"][:-1]) - {"oom"} or row["causes"][-1] != "done"]
    out.print(
        f"{count} limits from {limits[0]} to {limits[-1]} MiB, {words.model}, batch {words.batch}, {words.imgsz} px"
    )
    out.print(f"cap and guard on: {len(refused)} refused {refused}, {len(killed)} with kills by the kernel {killed}")
    out.print(
        f"both off: {sum(row['kills'] for row in bare)} kills by the kernel, named otherwise than oom: {misnamed}"
    )
    out.print(f"not finished: {unfinished}")
    return not (refused or killed or unfinished or misnamed)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="yolov8n")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--imgsz", type=int, default=416)
    parser.add_argument("--low", type=int, default=250, help="MiB that are not enough")
    parser.add_argument("--high", type=int, default=800, help="MiB that may be")
    parser.add_argument("--spread", type=int, default=0, help="how many limits")
    parser.add_argument("--from", type=int, dest="spread_from", help="MiB of the first of them")
    parser.add_argument("--keep", type=Path)
    parser.add_argument("--images", type=int, default=24)
    words = parser.parse_args()
    offline.prepare_home()
    with tempfile.TemporaryDirectory(prefix="limits-") as base:
        data = kernel_kills.images(Path(base), words.images)
        bench, out = Bench(Path(base), data, words.keep), Console(width=120)
        out.print(f"one machine of {memory.human(memory.total().bytes)}")
        return 0 if (spread if words.spread else bisect)(bench, words, out) else 1


if __name__ == "__main__":
    try:
        sys.exit(main())
    except kernel.Impossible as reason:
        print(f"limits: {reason}", file=sys.stderr)
        sys.exit(1)
