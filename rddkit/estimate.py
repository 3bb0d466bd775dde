"""What a run's plans need in memory and time: the model's traits, this machine's trials and the budget put together.

Never imports torch: a model that is not in the table is traced in a child, and trials are throw-away workers.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import importlib.metadata
import json
import os
import platform
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rddkit import (
    allocators,
    calibration,
    caps,
    config,
    dataset,
    ddp,
    durable,
    fallbacks,
    forecast,
    need,
    offline,
    paths,
    status,
)
from rddkit.calibration import Trial
from rddkit.config import ConfigError
from rddkit.dataset.images import BadImage, look
from rddkit.dataset.labels import label_file
from rddkit.forecast import Pace
from rddkit.memory import human
from rddkit.need import Correction, Facts
from rddkit.runfile import RunFile
from rddkit.traits import Traits, table

SAME_HEAD = 64  # classes up to which a detection head is as wide as with RDD2022's four
LOOKED_AT = 300  # images whose boxes are counted
MEASURED = 60  # of them, whose sides are read
UNIT = "charged"  # what a trial's peak counts: trials kept from before, of resident bytes, are not mixed with these
MUON_FROM = 10_000  # iterations from which `auto` takes MuSGD (ultralytics/engine/trainer.py, build_optimizer)
NIGHT_BATCHES = (1, 2, 4, 8, 16, 32, 64)
SIZES = fallbacks.IMAGE_SIZES
PACKAGES = ("torch", "ultralytics-opencv-headless")


@dataclass(frozen=True)
class Known:
    """All that an estimate of any plan of one run is made of."""

    traits: Traits
    traits_source: str
    facts: Facts
    budget: int
    budget_source: str
    epochs: int = 100
    nbs: int = 64
    images: tuple[int, int] = (0, 0)
    trials: tuple[Trial, ...] = ()
    correction: Correction | None = None
    pace: Pace | None = None
    reasons: dict[str, str] = field(default_factory=dict)

    @property
    def sureness(self) -> str:
        """How sure an estimate is: calibrated here, traced on a machine like the measured ones, or neither."""
        if self.correction is not None:
            return "calibrated"
        measured = sys.platform.startswith("linux") and self.facts.device == "cpu"
        return "traced" if measured and self.traits.model in table() else "unknown"


def judged(known: Known, plan: Mapping[str, Any]) -> dict[str, Any]:
    """The estimate of a plan as `rddkit estimate --json` prints it: bytes and seconds."""
    found = need.need(known.traits, plan, known.facts, known.correction)
    bound = need.safe_bound(found.estimate, known.sureness)
    least = need.least(found.estimate, known.sureness)
    reasons = dict(known.reasons)
    dead = [trial for trial in known.trials if trial.too_big and lighter(trial, plan)]
    if dead:
        reasons["fits"] = f"a trial with batch {dead[0].batch} at {dead[0].imgsz} pixels died: {dead[0].died}"
    seconds = known.pace.epoch(plan, *known.images) if known.pace and known.images[0] else None
    return {
        "estimate": found.estimate,
        "safe_bound": bound,
        "least": least,
        "budget": known.budget,
        "budget_source": known.budget_source,
        "fits": bound <= known.budget and not dead,
        "may_fit": least <= known.budget and not dead,
        "components": found.components,
        "phase": found.phase,
        "calibrated": known.correction is not None,
        "seconds_per_epoch": None if seconds is None else round(seconds, 2),
        "hours": None if seconds is None else round(seconds * known.epochs / 3600, 2),
        "reasons": reasons,
    }


def lighter(trial: Trial, plan: Mapping[str, Any]) -> bool:
    """Whether what a trial did is contained in what a plan will do."""
    smaller = trial.batch <= int(need.share(plan)["batch"]) and trial.imgsz <= int(plan["imgsz"])
    return smaller and need.left(trial.plan) <= need.left(plan)


def largest_batch(known: Known, plan: Mapping[str, Any], imgsz: int) -> int:
    """The largest batch that fits; 0 if none does.

    A power of two for each device and up to nbs in all, so that the effective batch stays nbs.
    """
    able = [batch for each in NIGHT_BATCHES if (batch := each * int(plan.get("devices") or 1)) <= known.nbs]
    fit = [batch for batch in able if judged(known, {**plan, "batch": batch, "imgsz": imgsz})["fits"]]
    return max(fit, default=0)


def verdict(told: Mapping[str, Any]) -> str:
    """`needs up to 3.1 GB, 5.1 GB to spare`, or what is missing."""
    spare = told["budget"] - told["safe_bound"]
    if told["fits"]:
        return f"needs up to {human(told['safe_bound'])}, {human(spare)} to spare"
    if spare >= 0:
        return f"does not fit: {told['reasons']['fits']}"
    return f"needs up to {human(told['safe_bound'])}, {human(-spare)} more than the budget of {human(told['budget'])}"


def shares(told: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """(part, bytes, share) of an estimate's components, the largest first, in words."""
    parts = sorted(told["components"].items(), key=lambda item: -item[1])
    return [(name, human(size), f"{size / told['estimate']:.0%}") for name, size in parts]


# -- what an estimate is made of ---------------------------------------------------------------------------------------


def know(record: RunFile, trials: Callable[[str], list[Trial]] | None = None) -> Known:
    """Gather what is known of a run's model, data and machine.

    Args:
        trials: makes the trials where none are kept, given the optimizer's name; None does without.
    """
    args, data = record.config, _data(record)
    epochs, nbs = (int(_value(args, key)) for key in ("epochs", "nbs"))
    optimizer, why = optimizer_of(args, data["train"], int(record.plan["batch"]), epochs, nbs)
    found, source = traits(str(args["model"]), data["classes"])
    facts = Facts(
        optimizer,
        record.device,
        data["objects"],
        float(_value(args, "mosaic")),
        data["train"],
        data["val"],
        data["aspect"],
        data["squarest"],
        bool(_value(args, "rect")),
    )
    budget, budget_source = budget_of(record)
    known = Known(found, source, facts, budget, budget_source, epochs, nbs, (data["train"], data["val"]))
    known.reasons.update(model=source, optimizer=why, objects=data["why"])
    file = paths.calibration_file(found.model, about(record))
    kept = _kept_trials(file)
    if not kept and trials is not None:
        kept = trials(optimizer)
        if not any(trial.died for trial in kept):  # what was too big today may fit tomorrow
            _keep(file, json.dumps([trial.as_dict() for trial in kept]))
    return calibrated(known, kept)


def calibrated(known: Known, trials: list[Trial]) -> Known:
    """What is known, corrected by trials; as it was where none of them lived."""
    lived = [trial for trial in trials if trial.died is None]
    reasons = dict(known.reasons)
    if not lived:
        more = "not tried out on this machine yet; rddkit estimate --calibrate does"
        if trials:
            small = "" if trials[0].too_big else "no sign that its plan is too big; "
            more = f"its trial died ({small}{status.first_line(trials[0].died)})"
        return dataclasses.replace(known, trials=tuple(trials), reasons={**reasons, "calibrated": more})
    seen = []
    cuda = known.facts.device.startswith("cuda")
    for trial in lived:
        facts = dataclasses.replace(
            known.facts,
            optimizer=trial.optimizer,
            train_images=calibration.STEPS * trial.batch,
            val_images=calibration.VAL_IMAGES,
        )
        sizes = need.phases(known.traits, trial.plan, facts)
        peak = (trial.device_peak or 0) if cuda else trial.peak
        seen.append((max(sizes.values(), key=lambda found: sum(found.values())), float(peak)))
    correction = need.calibrate(seen)
    steps = {trial.batch: trial.step_seconds for trial in lived if trial.step_seconds == trial.step_seconds}
    last = lived[-1]
    pace = forecast.pace(steps, float(last.imgsz**2), last.val_seconds, last.save_seconds) if steps else None
    reasons["calibrated"] = (
        f"tried with batch {' and '.join(str(trial.batch) for trial in lived)} at {lived[0].imgsz} pixels: "
        f"{correction.offset / 2**20:+.0f} MB, x {correction.slope:.2f} for what grows with the batch"
    )
    return dataclasses.replace(known, trials=tuple(trials), correction=correction, pace=pace, reasons=reasons)


def optimizer_of(args: Mapping[str, Any], images: int, batch: int, epochs: int, nbs: int) -> tuple[str, str]:
    """The optimizer that Ultralytics will take, and why."""
    asked = str(_value(args, "optimizer"))
    if asked.lower() != "auto":
        return asked, "set in the config"
    steps = -(-images // max(batch, nbs)) * epochs
    name = "MuSGD" if steps > MUON_FROM else "AdamW"
    return name, f"auto: {steps} optimizer steps, {'more' if steps > MUON_FROM else 'not more'} than {MUON_FROM}"


def budget_of(record: RunFile) -> tuple[int, str]:
    """Bytes the plan must fit into: the run's budget, or of its CUDA devices what is free on the fullest."""
    gpus = record.budget.get("cuda") or []
    numbers = [int(name.partition(":")[2] or 0) for name in ddp.devices(record.device) if name.startswith("cuda")]
    asked = None if record.safety["budget"] == "auto" else int(record.safety["budget"])
    found = []
    for gpu in (gpus[number] for number in numbers if number < len(gpus)):
        share = caps.cuda_fraction(asked, gpu["free"], gpu["total"])
        found.append((int(share * gpu["total"]), f"{share:.0%} of {gpu['name']}"))
    if found:
        return min(found)
    return int(record.budget.get("bytes") or 0), str(record.budget.get("source", ""))


def _value(args: Mapping[str, Any], key: str) -> Any:
    value = args.get(key)
    return config.known_arguments()[key].default if value is None else value


def _data(record: RunFile) -> dict[str, Any]:
    """Counts of the data set, and the shapes of its images; those of a usual one where it is not here."""
    try:
        described = dataset.read_data_yaml(Path(str(record.config["data"])))
        train, val = (dataset.split_images(described, split) for split in ("train", "val"))
    except dataset.DatasetError as error:
        why = f"no data set: 2 boxes an image ({error})"
        usual = {"train": 0, "val": 0, "classes": 4, "objects": 2.0, "aspect": 1.0, "squarest": 1.0}
        return {**usual, "why": why}
    fraction = _value(record.config, "fraction")
    counts = {"train": used(fraction, 0, len(train)), "val": used(fraction, 1, len(val))}
    some = train[:: max(1, len(train) // LOOKED_AT)]
    boxes = sum(_boxes(label_file(image)) for image in some) / len(some)
    why = f"{boxes:.1f} boxes an image in {len(some)} of {len(train)}"
    aspects = [found for image in some[:: max(1, len(some) // MEASURED)] if (found := _aspect(image))] or [1.0]
    shapes = {"aspect": sum(aspects) / len(aspects), "squarest": max(aspects)}
    return {**counts, **shapes, "classes": len(described.names), "objects": boxes, "why": why}


def used(fraction: Any, split: int, images: int) -> int:
    """How many images of a split are used (ultralytics/data/utils.py, get_split_fraction).

    Args:
        fraction: a share or, an int above 1, a number of training images; or a list of those for train, val, test.
        split: the split's place in that list.
        images: how many there are.
    """
    if isinstance(fraction, list):
        part = fraction[split] if split < len(fraction) else 1.0
    else:
        part = 1.0 if split else fraction
    if isinstance(part, int) and part > 1:
        return min(part, images)
    return min(max(1, round(images * float(part))), images)


def _aspect(image: Path) -> float | None:
    """The short side of an image by its long one, from its header; None where that cannot be read."""
    try:
        found = look(image)
    except BadImage:
        return None
    return min(found.width, found.height) / max(found.width, found.height)


def _boxes(file: Path) -> int:
    try:
        return sum(bool(line.strip()) for line in file.read_text(encoding="utf-8").splitlines())
    except (OSError, UnicodeDecodeError):
        return 0


def traits(model: str, classes: int) -> tuple[Traits, str]:
    """A model's traits and where they are from: the shipped table, an earlier trace, or one made now in a child.

    Raises ConfigError for a model that cannot be traced.
    """
    name = Path(model).stem
    if name in table() and classes <= SAME_HEAD:
        return table()[name], "traits of the shipped table (a traced step)"
    file = paths.traits_file(name, _hash(_identity(model), str(classes), _installed()))
    try:
        return Traits.of(json.loads(file.read_text(encoding="utf-8"))), "traits kept from an earlier trace"
    except (OSError, ValueError, KeyError, TypeError):
        pass
    found = trace(model, classes)
    _keep(file, json.dumps(found.as_dict()))
    return found, "a step traced now; not one of the measured models"


def trace(model: str, classes: int) -> Traits:
    """Trace a model's step in a child."""
    command = [sys.executable, "-m", "rddkit.footprint", model, str(classes)]
    answer = subprocess.run(command, capture_output=True, text=True, env=offline.child_environment(), check=False)
    if answer.returncode != 0:
        raise ConfigError(f"the model {model} cannot be traced: {answer.stderr.strip()[-500:]}")
    return Traits.of(json.loads(answer.stdout.strip().splitlines()[-1]))


@functools.cache
def _installed() -> str:
    return " ".join(importlib.metadata.version(package) for package in PACKAGES)


def about(record: RunFile) -> str:
    """What trials depend on besides the model: their unit, device, versions, threads, allocator, machine."""
    allocator = allocators.SETTINGS.get(str(record.plan.get("allocator") or "default"), {})
    machine = f"{platform.machine()} {platform.system()} {os.cpu_count()}"
    settings = str({**allocator, **record.allocator})
    return _hash(UNIT, record.device, str(record.threads), _installed(), machine, settings)


def _hash(*words: str) -> str:
    return hashlib.sha256("\0".join(words).encode()).hexdigest()[:12]


def _identity(model: str) -> str:
    """A model's name, and of a file when it was last changed."""
    path = Path(model)
    return f"{path} {path.stat().st_mtime_ns}" if path.is_file() else model


def _kept_trials(file: Path) -> list[Trial]:
    try:
        return [Trial(**row) for row in json.loads(file.read_text(encoding="utf-8"))]
    except (OSError, ValueError, TypeError):
        return []


def _keep(file: Path, text: str) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    durable.write(file, text)


def measure(record: RunFile, go_on: calibration.Go = lambda: True) -> Callable[[str], list[Trial]]:
    """What `know` calls to have trials made on this machine."""
    return lambda optimizer: calibration.run(record, optimizer, go_on)
