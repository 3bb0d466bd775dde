"""A run's record, as run.yaml keeps it: what its settings, this machine and its data make of it."""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

from rddkit import clock, config, dataset, ddp, estimate, memory, paths, runfile, start
from rddkit.config import Config, ConfigError
from rddkit.runfile import RunFile


def look_at_devices() -> dict[str, Any]:
    """What torch sees, asked in a child process so that this one stays light. ConfigError if torch cannot be loaded."""
    command = [sys.executable, "-m", "rddkit.device"]
    answer = subprocess.run(command, capture_output=True, text=True, check=False)
    if answer.returncode != 0:
        raise ConfigError(f"torch cannot be loaded: {answer.stderr.strip()[-800:]}\nReinstall with: make install")
    found: dict[str, Any] = json.loads(answer.stdout)
    return found


def cpu_threads() -> tuple[int, str]:
    """Threads as plain Ultralytics takes them, so that results are comparable bit for bit."""
    cores = os.cpu_count() or 1
    return min(8, max(1, cores - 1)), f"{cores} cores less one, at most 8, as Ultralytics does"


def recognise_data(found: RunFile, asked: Config, keep: bool = False) -> None:
    """See that the data set is the one the run began with, wherever it lies now.

    `keep`: no other place was given, so that the run's own counts where it is there.

    Raises ConfigError if it is not there any more, or its images, labels or class names are others.
    """
    old, new = str(found.config["data"]), str(asked.args["data"])
    here = new if Path(new).is_file() and not (keep and Path(old).is_file()) else old
    if not Path(here).is_file():
        raise ConfigError(
            f"the data set of {found.name!r} is not at {old} any more. Where it is now: "
            f"rddkit train --name {found.name} --resume data=NEW_PLACE/{Path(old).name}"
        )
    known, seen = found.dataset.get("fingerprint"), dataset.fingerprint(Path(here))
    if known not in (None, seen):
        raise ConfigError(
            f"{here} is not the data set that {found.name!r} began with: its image names, labels or classes differ "
            f"(fingerprint {str(known)[:12]} then, {seen[:12]} now). Put the old one back, or start anew: --name NEW"
        )
    found.config["data"] = asked.args["data"] = here
    found.dataset["path"] = here


def recognise_weights(found: RunFile, asked: Config) -> None:
    """Take weights of the same name for those that a run began with and that are gone, as in a moved repository."""
    old = Path(str(found.config["model"]))
    if old.suffix != ".pt" or old.exists():
        return
    try:
        here = config.find_model(str(asked.args["model"]))
    except ConfigError:
        return  # a snapshot or last.pt may do without
    if Path(here).name == old.name:
        for settings in (found.config, found.plan, *found.failed):
            settings["model"] = here


def new_record(asked: Config, limits: dict[str, Any], has_weights: bool = False) -> RunFile:
    """The record of a run that begins: every automatic choice with its reason.

    Args:
        limits: the safety settings.
        has_weights: the run brings its own, so that the model's need not be here.

    Raises ConfigError for weights, data or a device that are not here, and a batch that devices cannot share evenly.
    """
    args = dict(asked.args)
    if not has_weights:
        args["model"] = config.find_model(str(args["model"]))
    config.find_data(str(args["data"]))
    seen = look_at_devices()
    device, why = start.choose_device(args.get("device"), seen)
    threads, because = cpu_threads()
    automatic = args.get("batch") == config.AUTO
    if automatic:
        args["batch"] = len(ddp.devices(device))
    record = RunFile(
        name=asked.folder.name,
        created=clock.stamp(),
        config=args,
        config_file=asked.source,
        plan=plan_of(args, device),
        safety=limits,
        device=device,
        threads=threads,
        choices={"device": {"value": device, "reason": why}, "threads": {"value": threads, "reason": because}},
        budget=budget_now(limits, seen),
        versions={**versions(), "torch": seen["torch"], "cpu": seen["cpu"]},
        dataset=_dataset(str(args["data"])),
        git=runfile.git_commit(paths.root()),
    )
    return with_largest_batch(record) if automatic else record


def with_largest_batch(record: RunFile) -> RunFile:
    """The record with the largest batch that its estimate says will fit, and why; as it is where none does."""
    known = estimate.know(record)
    batch = max(record.plan["batch"], estimate.largest_batch(known, record.plan, record.plan["imgsz"]))
    told = estimate.judged(known, {**record.plan, "batch": batch})
    record.config["batch"] = record.plan["batch"] = batch
    record.choices["batch"] = {"value": batch, "reason": f"the largest that fits: {estimate.verdict(told)}"}
    return record


def plan_of(args: dict[str, Any], device: str) -> dict[str, Any]:
    """What decides memory. Validation keeps its own batch and image size when training's change."""
    known = config.known_arguments()
    plan = {key: args.get(key, known[key].default) for key in config.PLAN_KEYS if key != "device"}
    return shared_out({**plan, "val_batch": None, "val_imgsz": plan["imgsz"]}, device)


def shared_out(plan: dict[str, Any], device: str) -> dict[str, Any]:
    """The plan with the number of its devices, where there are several.

    Raises ConfigError for a batch that they cannot share evenly.
    """
    count = len(ddp.devices(device))
    batch = plan["batch"]
    if count == 1:
        return {key: value for key, value in plan.items() if key != "devices"}
    if batch % count:
        less, more = batch // count * count, -(-batch // count) * count
        near = f"{less} or {more}" if less else str(more)
        raise ConfigError(f"batch={batch} cannot be shared evenly by {count} devices ({device}); take --batch {near}")
    return {**plan, "devices": count}


def continued(found: RunFile, decision: start.Start, limits: dict[str, Any]) -> RunFile:
    """A run's record with what its next start changes in it."""
    found.config |= decision.changes
    found.plan |= {key: value for key, value in decision.changes.items() if key in found.plan}
    found.safety = limits
    if "device" in decision.changes:
        seen = look_at_devices()
        found.device, why = start.choose_device(decision.changes["device"], seen)
        found.choices["device"] = {"value": found.device, "reason": why}
        found.budget = budget_now(limits, seen)
    found.plan = shared_out(found.plan, found.device)
    return found


def budget_now(limits: dict[str, Any], seen: dict[str, Any]) -> dict[str, Any]:
    """What the run may hold; every attempt renews it. `device_bytes` is what MPS's cap is a share of."""
    budget = memory.memory_budget(limits["budget"], limits["reserve"])
    devices = {"device_bytes": seen.get("mps_recommended_max"), "cuda": seen.get("cuda") or []}
    return {"bytes": budget.bytes, "source": budget.source, **devices}


def _dataset(data: str) -> dict[str, Any]:
    return {"path": data, "fingerprint": dataset.fingerprint(Path(data))}


def versions() -> dict[str, str]:
    """What a result depends on, by name."""
    found = {"python": platform.python_version(), "system": platform.platform()}
    for name, package in {"rddkit": "rddkit", "ultralytics": "ultralytics-opencv-headless", "numpy": "numpy"}.items():
        try:
            found[name] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            found[name] = "not installed"
    return found
