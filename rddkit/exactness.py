"""How exact a resume is, said before and after: pure decisions over settings and surroundings.

The table in docs/exactness.md is made from here: exact (bit for bit on the CPU), inexact (and why), or refused.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

REFUSED = {
    "time": "hours are kept by rddkit: --for 9h or --until 07:00 stop resumably; `time` would cut epochs off the run",
    "batch<1": "Ultralytics' AutoBatch measures CUDA alone; give a whole number of images",
}
# Trained by Ultralytics' own loop, resumed from the last whole epoch.
EPOCH_LEVEL = {
    "compile": "a compiled model is trained by Ultralytics' own loop",
    "quantize": "quantization-aware training keeps its state where only Ultralytics can restore it",
    "distill_model": "distillation is set up by Ultralytics' own loop",
}
EXACT = ("multi_scale", "cache", "rect", "amp")


@dataclass(frozen=True)
class Loop:
    """Which loop trains: our own (`exact`: resumes within the epoch) or Ultralytics', and why."""

    exact: bool
    reason: str


@dataclass(frozen=True)
class Exactness:
    """Whether a resumed run ends with the bits of one never interrupted, and why (not)."""

    exact: bool
    reason: str


def loop_for(args: Mapping[str, Any], changed: Sequence[str]) -> Loop:
    """The loop for these settings.

    Args:
        args: the Ultralytics arguments of the attempt.
        changed: mirrored Ultralytics functions whose source is not the one that parity was shown for.
    """
    if changed:
        return Loop(False, f"this Ultralytics differs in {', '.join(changed)}; its own loop trains, resumed by epochs")
    for key, why in EPOCH_LEVEL.items():
        if args.get(key):
            return Loop(False, f"{key}={args[key]!r}: {why}; resumed by epochs")
    if "," in str(args.get("device", "")):
        return Loop(False, "several GPUs are trained by Ultralytics' DDP; resumed by epochs")
    return Loop(True, "one process: our own loop, resumed within the epoch")


def judge(
    state: Mapping[str, Any] | None, epochs_done: int, now: Mapping[str, Any], loop: Loop, passed_over: Sequence[str]
) -> Exactness:
    """How exact continuing is.

    Args:
        state: the snapshot's state, if there is one; its `environment` is compared.
        epochs_done: whole epochs in last.pt where there is no snapshot.
        now: this attempt's environment.
        loop: the loop that trains.
        passed_over: what was said of snapshots that did not verify.
    """
    passed = f" ({'; '.join(passed_over)})" if passed_over else ""
    if state is None:
        if not loop.exact:
            return Exactness(False, loop.reason + passed)
        if epochs_done:
            return Exactness(False, f"no snapshot: from last.pt, which holds half-precision averages{passed}")
        return Exactness(True, f"nothing to continue from: from the beginning{passed}")
    before = state.get("environment", {})
    changes = [f"{key} {before.get(key)} -> {now.get(key)}" for key in now if before.get(key) != now.get(key)]
    if changes:
        return Exactness(False, f"same state, other surroundings: {', '.join(changes)}{passed}")
    if now["device"] != "cpu":
        return Exactness(False, f"same state; {now['device']} itself is not deterministic to the bit{passed}")
    return Exactness(True, f"same state, same surroundings{passed}")
