"""What the notebooks call: a run started where somebody watches or nobody does, and what to show of it.

Light like everything a kernel holds: torch is asked in child processes only.
"""

from __future__ import annotations

import asyncio
import html
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rddkit import books, config, dataset, exhibits, paths, start, status, words
from rddkit.config import ConfigError
from rddkit.dashboard import Dashboard
from rddkit.frontend import is_headless, show, show_jpeg
from rddkit.frontend import show_events as show_events
from rddkit.frontend import show_metrics as show_metrics
from rddkit.frontend import show_notes as show_notes
from rddkit.frontend import show_table as show_table
from rddkit.parameters import check_parameters as check_parameters  # for the notebooks
from rddkit.parameters import parse_overrides
from rddkit.recording import look_at_devices
from rddkit.run import Run

REFRESH_SECONDS = 2.0
NOT_ARGUMENTS = ("config", "overrides", "raw", "calibrate")  # parameters that Ultralytics does not know
LOG_BYTES = 800
TOLD = ("epoch", "resumed", "attempt_ended", "fallback", "guard_stop", "run_stopped", "run_failed", "run_done")
AGAIN = "run this notebook again with the same parameters, or rddkit train with the same settings"
_watchers: dict[Path, asyncio.Task[None]] = {}


class NotDone(RuntimeError):
    """A headless training that did not finish; the text has its exit code and the way on."""


def create_run(config: str, overrides: Any = None, **settings: Any) -> Run:
    """The run that the same words on the command line would make; see `Run.create`.

    `overrides` holds any other Ultralytics arguments, as a dict or as typed: `"lr0=0.01 plots=False"`.
    """
    return Run.create(config, **_as_typed(settings), **parse_overrides(overrides))


def _as_typed(settings: dict[str, Any]) -> dict[str, Any]:
    # papermill makes a number of `-p device 0`; the command line keeps it as text
    return {key: str(value) if key == "device" and value is not None else value for key, value in settings.items()}


def find_dataset(config_file: str, overrides: Any = None, raw: str | None = None) -> Path | None:
    """The YAML file of the settings' data set, prepared from the folder `raw` first if that is given.

    None if it is not there; what to run is printed.
    """
    path = Path(config.load_config(config_file, parse_overrides(overrides)).args["data"])
    if raw is not None:
        if path.name != "rdd2022.yaml":
            raise ConfigError(f"prepare writes rdd2022.yaml, the settings name {path}; give data=FOLDER/rdd2022.yaml")
        dataset.prepare(raw, path.parent)
    try:
        return Path(config.find_data(str(path)))
    except ConfigError as error:
        print(error)
        return None


def read_audit(data: Path | None) -> dict[str, Any] | None:
    """The audit.json that `rddkit prepare` wrote beside the data set; None, and why is printed, where there is none."""
    if data is None:
        print("No data set yet: the text above says how to make one; then run this notebook again.")
        return None
    if not (audit := data.with_name("audit.json")).is_file():
        print(f"no audit.json beside {data}: the set was not made by rddkit prepare, or that was interrupted")
        return None
    content: dict[str, Any] = json.loads(audit.read_text(encoding="utf-8"))
    if "sizes" not in content:
        print(f"{audit} was written by an older rddkit: prepare the data set again, into another folder")
        return None
    return content


def show_audit(audit: Mapping[str, Any] | None) -> None:
    """What the data set holds, what was wrong with it, and what of it will hurt."""
    if audit is not None:
        print(dataset.summary(audit))
        print("\nWhat will hurt:", *(dataset.warnings(audit) or ["nothing that the numbers show"]), sep="\n  ")


def show_boxes(data: Path | None, split: str = "train", images: int = 9) -> None:
    """Some labelled images in one picture, each box with its class by name; the classes take turns."""
    if data is None:
        print("No data set, no pictures.")
        return
    _show_sheet(data, dataset.labelled_images(data, split, limit=images), f"labelled images of {split}")


def show_worst(data: Path | None, audit: Mapping[str, Any] | None) -> None:
    """The hardest images, with their boxes: rows of three for each reason that the audit has for its choice."""
    if data is None or audit is None:
        return
    for reason, names in audit["worst"].items():
        print(f"{reason}: {', '.join(names[: exhibits.ACROSS])}")
        _show_sheet(data, dataset.named_images(data, names[: exhibits.ACROSS]), reason)


def _show_sheet(data: Path, labelled: Sequence[Any], what: str) -> None:
    sheet = exhibits.draw_boxes(labelled, list(dataset.read_data_yaml(data).names.values()))
    content = io.BytesIO()
    sheet.save(content, "JPEG", quality=80)
    show_jpeg(content.getvalue(), f"{what}, {data.parent.name}")


def show_plan(settings: Mapping[str, Any]) -> None:
    """What a training with these parameters will do, in words, and what is still missing for it."""
    named = {key: value for key, value in settings.items() if key not in NOT_ARGUMENTS}
    more = parse_overrides(settings.get("overrides"))
    args = config.load_config(settings.get("config"), {**_as_typed(named), **more}).args
    value = {key: args.get(key, kind.default) for key, kind in config.known_arguments().items()}
    seen = {"cuda": [], "mps": False} if args.get("device") == "cpu" else look_at_devices()  # a look takes seconds
    device, why = start.choose_device(args.get("device"), seen)
    automatic = value["batch"] == config.AUTO
    batch = 1 if automatic else value["batch"]
    together = max(1, round(value["nbs"] / batch))
    sizes = "auto: the largest that fits" if automatic else f"{batch} x {together} = {batch * together}"
    folder = Path(args["project"]) / str(args["name"])
    rows = [
        ("model", args["model"], _missing(config.find_model, args["model"]) or "ready"),
        ("data", args["data"], _missing(config.find_data, args["data"]) or _images(Path(args["data"]), batch)),
        ("batch", sizes, "images at once x batches added up for a step"),
        ("image size", f"{value['imgsz']} pixels", "the longer side, in training and validation"),
        ("workers", value["workers"], "loader processes; 0, in the training process, takes the least memory"),
        ("epochs", value["epochs"], f"ends sooner after {value['patience']} epochs without a better result"),
        ("device", device, why),
        ("run folder", folder, _standing(folder)),
    ]
    show_table(rows, ("", "plan", "which means"))


def show_need(settings: Mapping[str, Any]) -> None:
    """What a training with these parameters needs: a bar by component against the budget, and the verdict in words.

    Tries a few real steps in throw-away workers first, once a model, where weights and data are here.
    """
    from rddkit import figures, outlook

    named = {key: value for key, value in settings.items() if key not in NOT_ARGUMENTS}
    asked = {**_as_typed(named), **parse_overrides(settings.get("overrides"))}
    args = config.load_config(settings.get("config"), asked).args
    here = not _missing(config.find_model, args["model"]) and not _missing(config.find_data, args["data"])
    found = outlook.look(settings.get("config"), calibrate=bool(settings.get("calibrate", True)) and here, **asked)
    figures.show(figures.need(found.told))
    print("\n".join(found.sentences()))


def _missing(find: Any, asked: str) -> str:
    try:
        find(asked)
    except ConfigError as error:
        return f"MISSING: {error}"
    return ""


def _images(data: Path, batch: int) -> str:
    described = dataset.read_data_yaml(data)
    train, val = (len(dataset.split_images(described, split)) for split in ("train", "val"))
    return f"{train} images to train on, {-(-train // batch)} batches an epoch; {val} to validate on"


def _standing(folder: Path) -> str:
    there = paths.RunPaths(folder)
    return status.read_status(there).sentence if there.run_yaml.is_file() else "new; nothing is overwritten"


def train(run: Run, again: str = AGAIN) -> None:
    """Start or continue a run; `again` is what continues it should it not get done.

    Watched, in the background: the kernel stays free, and the dashboard below the cell keeps up. Headless, attached: a
    line an epoch, and NotDone at the end of a run that is not done, so that the notebook fails.
    """
    print(run.decision.message)
    for key, choice in (run.record.choices if run.record else {}).items():
        print(f"{key}: {choice['value']} ({choice['reason']})")
    if is_headless():
        _attend(run, again)
    else:
        if run.status().state != "running":
            run.start(detach=True)
        show(Dashboard(run))


def _attend(run: Run, again: str) -> None:
    run.start()
    for news in run.follow():
        if isinstance(news, dict) and news["event"] in TOLD:
            print(f"{words.when(news)}  {words.describe(news)}", flush=True)
    code = run.wait()
    if code:
        raise NotDone(not_done(run, code, again))


def not_done(run: Run, code: int, again: str = AGAIN) -> str:
    """The text of NotDone: how the run stands, its last log lines if it failed, its exit code, and the next command."""
    now = run.status()
    told = f"the run {run.name!r} ended with exit code {code}. {now.sentence}"
    if now.state == "failed":
        log = run.paths.log(now.attempt)
        told += f"\nLast lines of {log}:\n{books.log_tail(log, LOG_BYTES)}"
    way = "mend that, then" if now.state == "failed" else "to continue,"
    told += f"\nNext: {way} {again}."
    return f"{told}\npapermill only says 0 or 1; this run's own exit code: rddkit status {run.name} --exit-code"


def watch(run: Run, place: Any = None) -> asyncio.Task[None]:
    """Show how a run stands, below this cell, until it ends; from a background task: other cells run meanwhile.

    `place`: where `show_progress` has shown it, for what has no cell of its own, such as a click. Returns the task.
    """
    place = place or show_progress(run)
    before = _watchers.pop(run.folder, None)
    if before is not None:
        before.cancel()
    _watchers[run.folder] = asyncio.get_running_loop().create_task(_refresh(run, place))
    return _watchers[run.folder]


def show_progress(run: Run) -> Any:
    """Show how a run stands now, where `watch` can keep it up to date."""
    return show(_progress(run), raw=True, display_id=True)


async def _refresh(run: Run, place: Any) -> None:
    while run.is_alive():
        place.update(_progress(run), raw=True)
        await asyncio.sleep(REFRESH_SECONDS)
    place.update(_progress(run), raw=True)


def _progress(run: Run) -> dict[str, str]:
    now = run.status()
    told = [event for event in run.events() if event["event"] in TOLD]
    lines = [now.sentence, *(f"{words.when(event)}  {words.describe(event)}" for event in told[-3:])]
    epochs_done = now.epoch - 1 + (now.batch / now.batches if now.batches else 0)
    share = 1.0 if now.state == "done" else max(0.0, epochs_done / now.epochs) if now.epochs else 0.0
    bar = f'<progress value="{share:.4f}" max="1" style="width: 30em"></progress> {share:.0%}'
    return {"text/plain": "\n".join(lines), "text/html": "<br>".join([bar, *map(html.escape, lines)])}
