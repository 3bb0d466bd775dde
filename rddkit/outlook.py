"""What lies ahead of a training: memory by component against the budget, the largest batches, hours and nights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.table import Table

from rddkit import clock, config, ddp, estimate, forecast, start
from rddkit.config import Config
from rddkit.estimate import Known
from rddkit.memory import human
from rddkit.recording import budget_now, cpu_threads, look_at_devices, plan_of, with_largest_batch
from rddkit.runfile import RunFile
from rddkit.safety import load_safety


@dataclass(frozen=True)
class Outlook:
    """An estimate with all that it was made of. `told` is what `rddkit estimate --json` prints."""

    record: RunFile
    known: Known
    told: dict[str, Any]
    batches: dict[int, int]

    @property
    def verdict(self) -> str:
        """`needs up to 3.1 GB, 5.1 GB to spare`."""
        return estimate.verdict(self.told)

    @property
    def accumulation(self) -> str:
        """`batch 2 x 32 accumulated = 64; BatchNorm sees 2`."""
        batch = int(self.record.plan["batch"])
        times = max(1, round(self.known.nbs / batch))
        return f"batch {batch} x {times} accumulated = {batch * times}; BatchNorm sees {batch}"

    @property
    def time(self) -> str:
        """Hours and nights in words, or how to find out."""
        seconds = self.told["seconds_per_epoch"]
        if not seconds:
            return "time is told after a calibration: rddkit estimate --calibrate"
        now = clock.utc_now()
        return forecast.words(seconds, self.known.epochs, now, clock.next_time(forecast.MORNING, now))

    @property
    def sureness(self) -> str:
        """What the estimate stands on."""
        if self.known.sureness == "unknown":
            return f"not measured on such a machine or model by us: {self.told['reasons']['calibrated']}"
        return str(self.told["reasons"]["calibrated"])

    def sentences(self) -> list[str]:
        """The verdict and what follows from it, one sentence a line."""
        plan = self.record.plan
        name = f"{self.known.traits.model}, batch {plan['batch']}, imgsz {plan['imgsz']}, {self.record.device}"
        largest = ", ".join(f"{batch or 'none'} at {size}" for size, batch in self.batches.items())
        lines = [f"{name}: {self.verdict}", f"largest batch that fits: {largest}", self.accumulation, self.time]
        return [*lines, f"estimate: {self.sureness}"]


def look(
    config_file: str | Path | None = None,
    *,
    safety: str | Path | None = None,
    calibrate: bool = False,
    **overrides: Any,
) -> Outlook:
    """The outlook of a training with these settings; neither its weights nor its data set need to be here.

    Args:
        calibrate: try a few steps in throw-away workers where this model was not tried on this machine yet; this does
            need the data set.

    Raises ConfigError for settings that cannot be used.
    """
    record = recorded(config.load_config(config_file, overrides), load_safety(safety).model_dump())
    if calibrate:
        record.config["model"] = config.find_model(str(record.config["model"]))
        config.find_data(str(record.config["data"]))
    known = estimate.know(record, estimate.measure(record) if calibrate else None)
    sizes = sorted({*estimate.SIZES, int(record.plan["imgsz"])}, reverse=True)
    batches = {size: estimate.largest_batch(known, record.plan, size) for size in sizes}
    return Outlook(record, known, estimate.judged(known, record.plan), batches)


def estimate_memory(
    config_file: str | Path | None = None,
    *,
    safety: str | Path | None = None,
    calibrate: bool = False,
    **overrides: Any,
) -> dict[str, Any]:
    """What a training with these settings needs: bytes by component, the budget, whether it fits, and seconds.

    Returns `estimate`, `safe_bound` and `least` (with and less its margin), `budget`, `budget_source`, `fits` (even the
    safe bound does), `may_fit` (the least does: tried where it is all there is), `components`, `phase`, `calibrated`,
    `seconds_per_epoch`, `hours` (None without a calibration) and `reasons`. See `look` for the arguments.
    """
    return look(config_file, safety=safety, calibrate=calibrate, **overrides).told


def recorded(asked: Config, limits: dict[str, Any]) -> RunFile:
    """A run's record of these settings, for an estimate alone: nothing is looked for or created."""
    args = dict(asked.args)
    automatic = args.get("batch") == config.AUTO
    light = args.get("device") == "cpu"  # a look at devices takes seconds
    seen: Mapping[str, Any] = {"cuda": [], "mps": False} if light else look_at_devices()
    device, _ = start.choose_device(args.get("device"), dict(seen))
    if automatic:
        args["batch"] = len(ddp.devices(device))
    plan = plan_of(args, device)
    record = RunFile(asked.folder.name, clock.stamp(), args, asked.source, plan, limits, device, cpu_threads()[0])
    record.budget = budget_now(limits, dict(seen))
    return with_largest_batch(record) if automatic else record


def table(told: Mapping[str, Any]) -> Table:
    """Components for a terminal, largest first, the budget last."""
    shown = Table("part", "bytes", "share", title=f"at its peak, in {told['phase']}", title_justify="left")
    for row in estimate.shares(told):
        shown.add_row(*row)
    shown.add_section()
    shown.add_row("estimate", human(told["estimate"]), "100%")
    shown.add_row("needs up to", human(told["safe_bound"]), f"{told['safe_bound'] / told['estimate']:.0%}")
    shown.add_row("budget", human(told["budget"]), told["budget_source"])
    return shown
