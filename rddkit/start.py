"""The one start rule: begin, continue, say it is done, or refuse and name the ways on. Pure decisions."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from rddkit import config
from rddkit.config import Config, ConfigError
from rddkit.paths import RunPaths
from rddkit.runfile import RunFile


@dataclass(frozen=True)
class Start:
    """What starting means here; `changes` are the settings a resumed run takes anew."""

    action: Literal["new", "continue", "done", "set_aside"]
    message: str
    changes: dict[str, Any] = field(default_factory=dict)


def decide(
    asked: Config,
    given: set[str],
    there: RunPaths,
    found: RunFile | None,
    state: str | None,
    resume: bool,
    fresh: bool,
) -> Start:
    """Apply the start rule.

    Args:
        asked: the settings of this start.
        given: the keys among them that were given as overrides rather than by the config file.
        there: the run's folder.
        found: the run.yaml in it, if any.
        state: the state of the run found.
        resume: fail if there is nothing to resume; take allowed changes.
        fresh: set an old folder aside.

    Raises ConfigError where it refuses.
    """
    name = there.name
    if fresh and resume:
        raise ConfigError("--resume continues a run and --fresh sets it aside; give one of them")
    if fresh:
        return Start("set_aside" if there.folder.exists() else "new", f"the old folder of {name} is set aside")
    if found is None:
        if resume:
            raise ConfigError(f"nothing to resume: no run in {there.folder}. Start it without --resume")
        if not there.is_vacant():
            raise ConfigError(
                f"{there.folder} exists and is not a run of rddkit. Set it aside with --fresh, choose another --name, "
                f"or take a plain Ultralytics run in: rddkit train --resume {there.folder}"
            )
        return Start("new", f"new run {name}")
    changed = config.differences(found.config, _comparable(asked, found))
    if resume:  # a lighter plan may have been taken, and the settings be asked for again
        again = {key for key in given & found.plan.keys() & config.ALLOWED_ON_RESUME if key in asked.args}
        planned = {key: (found.plan[key], asked.args[key]) for key in again}
        changed |= {key: pair for key, pair in planned.items() if pair[0] != pair[1]}
    ours = {key: pair for key, pair in changed.items() if key in given} if resume else changed
    if state == "done" and not ours:
        return Start("done", f"the run {name} is finished; another: --name NEW, or again from the start: --fresh")
    refused = {key: pair for key, pair in ours.items() if key not in config.ALLOWED_ON_RESUME or not resume}
    if not refused and state != "done":
        changes = {key: new for key, (_, new) in changed.items() if key in config.ALLOWED_ON_RESUME and key in given}
        return Start("continue", f"continuing {name}", changes if resume else {})
    raise ConfigError(_refusal(name, refused or changed, state, resume))


def _comparable(asked: Config, found: RunFile) -> dict[str, Any]:
    """The asked settings with the model written as the run has it, whichever way it was named."""
    args = {**asked.args, "project": found.config.get("project")}  # it was found there; a repository may be moved
    try:
        args["model"] = config.find_model(str(args["model"]))
    except ConfigError:
        pass  # weights that were removed since; the comparison says what differs
    old, new = Path(str(found.config["model"])), Path(str(args["model"]))
    if old.name == new.name and not old.exists():  # moved: the run's own weights count
        args["model"] = found.config["model"]
    return args


def _refusal(name: str, changed: dict[str, tuple[Any, Any]], state: str | None, resume: bool) -> str:
    lines = "\n".join(f"  {key}: {old!r} there, {new!r} asked" for key, (old, new) in changed.items())
    takes = sorted(key for key in changed if key in config.ALLOWED_ON_RESUME)
    ways = ["--name NEW: another run beside it", "--fresh: set the old folder aside and start again"]
    if takes and len(takes) == len(changed) and not resume and state != "done":
        words = " ".join(f"{key}={changed[key][1]}" for key in takes)
        ways.insert(0, f"--resume {words}: continue it with the new {', '.join(takes)}")
    what = "finished" if state == "done" else "unfinished"
    return f"the {what} run {name!r} has other settings:\n{lines}\nWays on:\n" + "\n".join(f"  {way}" for way in ways)


def choose_device(asked: Any, seen: dict[str, Any]) -> tuple[str, str]:
    """The device and why: the one asked for, or cuda, then mps, then cpu. ConfigError if it is not there.

    Args:
        asked: as in a config (`cpu`, `mps`, `cuda`, `0`, `0,1`), or None.
        seen: what `rddkit.device` saw.
    """
    count = len(seen["cuda"])
    if asked is None or asked == "":
        if count:
            return "cuda:0", f"first choice: {seen['cuda'][0]['name']}"
        return ("mps", "no CUDA; Apple's GPU is there") if seen["mps"] else ("cpu", "neither CUDA nor MPS is there")
    text = ",".join(str(part) for part in asked) if isinstance(asked, (list, tuple)) else str(asked).strip().lower()
    present = ["cpu", *(["mps"] if seen["mps"] else []), *(f"cuda:{index}" for index in range(count))]
    wanted = "cuda:0" if text == "cuda" else f"cuda:{text}" if text.replace(",", "").isdigit() else text
    numbers = wanted.removeprefix("cuda:").split(",") if wanted.startswith("cuda:") else []
    if wanted in present or (numbers and all(f"cuda:{number}" in present for number in numbers)):
        return wanted, "asked for"
    raise ConfigError(
        f"device={asked!r} is not on this machine; there are: {', '.join(present)}. "
        "Leave device out to take the best there is"
    )
