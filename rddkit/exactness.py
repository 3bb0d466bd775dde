"""How exact a resume is, said before and after: pure decisions over settings and surroundings.

`python -m rddkit.exactness > docs/exactness.md` writes the table below as a page: exact (bit for bit on the CPU),
inexact and why, or refused.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

# Trained by Ultralytics' own loop, resumed from the last whole epoch.
EPOCH_LEVEL = {
    "compile": "a compiled model is trained by Ultralytics' own loop",
    "quantize": "quantization-aware training keeps its state where only Ultralytics can restore it",
    "distill_model": "distillation is set up by Ultralytics' own loop",
}
WORKERS = "same state and order of images; loader workers draw augmentation from random numbers of their own"
ALBUMENTATIONS = "same state; Albumentations, which is installed, draws from random numbers of its own"
MORE_GPUS = "several GPUs are trained by Ultralytics' DDP"
LAST_PT = "no snapshot: from last.pt, which holds half-precision averages"
TABLE: tuple[tuple[str, str, str], ...] = (
    ("same plan, threads, CPU and versions", "exact", "killed anywhere: in a batch, validation, a write"),
    ("`multi_scale`", "exact", "the sizes come from random numbers that the snapshot holds"),
    ("`cache`: `ram`, `disk`", "exact", "mosaic draws its partners as before"),
    ("`rect`", "exact", "the order is the shapes'"),
    ("`amp: True`", "exact", "on the CPU it trains in full precision, as Ultralytics does; elsewhere see the device"),
    ("`workers` above 0", "inexact", WORKERS),
    *((f"`{key}`", "inexact", f"{why}; resumed by epochs") for key, why in EPOCH_LEVEL.items()),
    ("`device: 0,1`", "inexact", f"{MORE_GPUS}; resumed by epochs"),
    ("`device: cuda`, `mps`", "inexact", "same state; the device itself is not deterministic to the bit"),
    ("Albumentations installed", "inexact", ALBUMENTATIONS),
    ("another batch, image size, number of threads or CPU", "inexact", "same state, other surroundings"),
    ("`cache`, `val`, `val_period`, `close_mosaic` or `patience` changed", "inexact", "same state, other surroundings"),
    ("another torch, numpy or OpenCV", "inexact", "same state, other surroundings"),
    ("no snapshot that verifies", "inexact", LAST_PT),
    ("another Ultralytics", "inexact", "where a mirrored function differs its own loop trains, resumed by epochs"),
    ("`time`", "refused", "it would cut epochs off the run; `--for 9h` and `--until 07:00` stop resumably"),
    ("`batch` below 1", "refused", "Ultralytics' AutoBatch measures CUDA alone; give a whole number of images"),
    ("another data set, model, class list, schedule or seed", "refused", "it would be another run"),
)


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
        return Loop(False, f"{MORE_GPUS}; resumed by epochs")
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
            return Exactness(False, LAST_PT + passed)
        return Exactness(True, f"nothing to continue from: from the beginning{passed}")
    before = state.get("environment", {})
    changes = [f"{key} {before.get(key)} -> {now.get(key)}" for key in now if before.get(key) != now.get(key)]
    if changes:
        return Exactness(False, f"same state, other surroundings: {', '.join(changes)}{passed}")
    if now.get("albumentations"):
        return Exactness(False, ALBUMENTATIONS + passed)
    if now["workers"]:
        return Exactness(False, WORKERS + passed)
    if now["device"] != "cpu":
        return Exactness(False, f"same state; {now['device']} itself is not deterministic to the bit{passed}")
    return Exactness(True, f"same state, same surroundings{passed}")


def page() -> str:
    """The table as docs/exactness.md holds it."""
    rows = "\n".join(f"| {setting} | {verdict} | {why} |" for setting, verdict, why in TABLE)
    return (
        "# How exact a resume is\n\n"
        "A killed and resumed run ends with the very weights of one never interrupted (**exact**, bit for bit),\n"
        "with others like them (**inexact**), or is **refused**, nothing touched. The journal's `resumed` event and\n"
        "the report say which and why, each time. Made by `python -m rddkit.exactness`. Each row is tested on the CPU\n"
        "(`test_exactness.py`, `faults/test_settings.py`, `faults/test_resume.py` in `tests/`); on CUDA and MPS only\n"
        "what is said was tested, as with `compile` (minutes a start on two cores) and `quantize` (its package is not\n"
        "among ours). Several GPUs: two real processes of Ultralytics' DDP on the CPU, over gloo instead of NCCL\n"
        "(`faults/test_several_gpus.py`); nobody has run real ones.\n\n"
        f"| setting | resume is | why |\n| --- | --- | --- |\n{rows}\n"
    )


if __name__ == "__main__":
    print(page(), end="")
