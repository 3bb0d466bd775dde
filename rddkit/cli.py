"""The command line: the notebooks' steps, from a terminal."""

from __future__ import annotations

import json
import signal
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from rddkit import clock, config, lock, paths
from rddkit.config import ConfigError
from rddkit.run import Run
from rddkit.status import Status

USAGE_EXIT = 2
WATCH_SECONDS = 2.0
app = typer.Typer(
    help="Train a YOLO road-damage detector on a small machine and lose nothing to a kill.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
out = Console(soft_wrap=True, highlight=False)
RunName = Annotated[str | None, typer.Argument(metavar="[RUN]", help="a run's name or folder; left out: the newest")]


@app.command()
def train(
    words: Annotated[
        list[str] | None, typer.Argument(metavar="[key=value ...]", help="any Ultralytics argument")
    ] = None,
    config_file: Annotated[
        str | None, typer.Option("--config", help=f"settings; default {config.DEFAULT_CONFIG}")
    ] = None,
    batch: Annotated[str | None, typer.Option(help="images a step, or auto: the largest that fits")] = None,
    imgsz: Annotated[int | None, typer.Option(help="image size in pixels, a multiple of 32")] = None,
    workers: Annotated[int | None, typer.Option(help="loader processes; 0 loads in the worker itself")] = None,
    epochs: Annotated[int | None, typer.Option()] = None,
    device: Annotated[str | None, typer.Option(help="cpu, mps, cuda or a number; left out: the best there is")] = None,
    name: Annotated[str | None, typer.Option(help="the run's name and folder")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="fail if there is nothing to resume")] = False,
    fresh: Annotated[bool, typer.Option("--fresh", help="set the old folder aside and start again")] = False,
    detach: Annotated[bool, typer.Option("--detach", help="do not wait for the end")] = False,
    until: Annotated[str | None, typer.Option(help="stop resumably at this time of day, such as 07:00")] = None,
    for_: Annotated[str | None, typer.Option("--for", help="stop resumably after this long, such as 9h")] = None,
    safety: Annotated[str | None, typer.Option(help="default configs/safety.yaml")] = None,
) -> None:
    """Start a run, or continue it where it was. `--resume PATH` takes a plain Ultralytics run in."""
    plain = [word for word in words or [] if "=" not in word] if resume else []
    words = [word for word in words or [] if word not in plain]
    images = config.parse_value(batch) if batch else None
    named = {"batch": images, "imgsz": imgsz, "workers": workers, "epochs": epochs, "device": device, "name": name}
    overrides = {
        **config.parse_overrides(words),
        **{key: value for key, value in named.items() if value is not None},
    }
    if plain:
        run = Run.adopt(plain[0], safety=safety, **overrides)
    else:
        run = Run.create(config_file, safety=safety, resume=resume, fresh=fresh, **overrides)
    out.print(run.decision.message, markup=False)
    if run.decision.action == "done":
        out.print(run.status().sentence, markup=False)
        return
    for key, choice in (run.record.choices if run.record else {}).items():
        out.print(f"{key}: {choice['value']} ({choice['reason']})", markup=False)
    for warning in run.warnings():
        out.print(f"warning: {warning}", markup=False)
    run.start(detach=detach, until=until, for_=for_)
    if detach:
        out.print(f"started in the background: {run.folder}\nwatch it: rddkit status {run.name} --watch", markup=False)
        return
    raise typer.Exit(_attend(run))


def _attend(run: Run) -> int:
    """Wait for a run and tell what happens; interrupts are passed on to its supervisor."""

    def pass_on(number: int, _frame: object) -> None:
        out.print("stopping after this batch; once more to end at once", markup=False)
        run.stop(number=number)

    signal.signal(signal.SIGINT, pass_on)
    signal.signal(signal.SIGTERM, pass_on)
    for news in run.follow():
        if isinstance(news, Status):
            out.print(news.sentence, markup=False)
        elif news["event"] in ("epoch", "resumed", "attempt_ended", "fallback", "run_failed"):
            out.print(_line(news), markup=False)
    code = run.wait()
    out.print(run.status().sentence, markup=False)
    return code


def _line(event: dict[str, Any]) -> str:
    from rddkit.words import describe

    return describe(event)


@app.command()
def status(
    run: RunName = None,
    watch: Annotated[bool, typer.Option("--watch", help="again every two seconds until it ends")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="everything known, for programs")] = False,
    exit_code: Annotated[bool, typer.Option("--exit-code", help="exit as the run did; 3 while it runs")] = False,
) -> None:
    """Say in one sentence how a run stands."""
    found = Run.open(run)

    def tell(now: Status) -> None:
        said = json.dumps(now.as_dict(), ensure_ascii=False) if as_json else f"{now.name}: {now.sentence}"
        print(said, flush=True)

    if watch and out.is_terminal and not as_json:
        from rddkit import terminal

        terminal.watch(found, out)
    while (now := found.status()).state == "running" and watch:
        tell(now)
        clock.sleep(WATCH_SECONDS)
    tell(now)
    if exit_code:
        raise typer.Exit(now.exit_code)


@app.command()
def stop(
    run: RunName = None,
    now: Annotated[bool, typer.Option("--now", help="end at once, not after the batch")] = False,
) -> None:
    """Stop a run so that it can be continued."""
    found = Run.open(run)
    if not found.stop(at_once=now):
        out.print(f"{found.name} is not running. {found.status().sentence}", markup=False)
        return
    found.wait(timeout=60)
    out.print(f"{found.name}: {found.status().sentence}", markup=False)


@app.command()
def report(run: RunName = None) -> None:
    """Write a run's report.html, one file that needs no network."""
    from rddkit.report import make_report

    out.print(str(make_report(paths.find_run(run).folder)), markup=False)


@app.command()
def estimate(
    words: Annotated[
        list[str] | None, typer.Argument(metavar="[key=value ...]", help="any Ultralytics argument")
    ] = None,
    config_file: Annotated[
        str | None, typer.Option("--config", help=f"settings; default {config.DEFAULT_CONFIG}")
    ] = None,
    batch: Annotated[str | None, typer.Option(help="images a step, or auto: the largest that fits")] = None,
    imgsz: Annotated[int | None, typer.Option(help="image size in pixels, a multiple of 32")] = None,
    device: Annotated[str | None, typer.Option(help="cpu, mps, cuda or a number; left out: the best there is")] = None,
    calibrate: Annotated[bool, typer.Option("--calibrate", help="try a few steps first, once a model")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="everything known, for programs")] = False,
    safety: Annotated[str | None, typer.Option(help="default configs/safety.yaml")] = None,
) -> None:
    """Say what a training will need: memory by component against the budget, hours and nights."""
    from rddkit import outlook

    named = {"batch": config.parse_value(batch) if batch else None, "imgsz": imgsz, "device": device}
    overrides = {**config.parse_overrides(words or []), **{k: v for k, v in named.items() if v is not None}}
    found = outlook.look(config_file, safety=safety, calibrate=calibrate, **overrides)
    if as_json:
        print(json.dumps(found.told, ensure_ascii=False))
        return
    out.print(outlook.table(found.told))
    for sentence in found.sentences():
        out.print(sentence, markup=False)


@app.command()
def doctor() -> None:
    """Say what this machine is: device, memory and its limit, versions, disk, power."""
    from rddkit import doctor as examine

    out.print(examine.table(examine.look()))


@app.command()
def selftest(
    config_file: Annotated[
        str | None, typer.Option("--config", help=f"settings; default {config.DEFAULT_CONFIG}")
    ] = None,
) -> None:
    """Try it on this device, model and data, in about two minutes: kill, resume, compare; the cap; the readings."""
    from rddkit.selftest import examine

    found = examine(config_file, lambda text: out.print(text, markup=False))
    out.print(found.text(), markup=False)
    raise typer.Exit(found.exit_code)


@app.command()
def sample(
    folder: Annotated[Path, typer.Argument(metavar="DIR")],
    images: Annotated[int, typer.Option(min=8, help="how many")] = 48,
    seed: Annotated[int, typer.Option(min=0)] = 42,
) -> None:
    """Paint a small synthetic road-damage set in RDD2022's own layout, offline."""
    from rddkit import dataset

    counts = dataset.write_sample(folder, images=images, seed=seed)
    out.print(f"{folder}: {counts}\nnext: rddkit prepare {folder} data/sample", markup=False)


@app.command()
def prepare(
    raw: Annotated[Path, typer.Argument(metavar="RAW")],
    out_folder: Annotated[Path, typer.Argument(metavar="OUT")],
    classes: Annotated[str, typer.Option(help="official, six, all, or a list such as D00,D40")] = "official",
    copy: Annotated[bool, typer.Option("--copy", help="copy images instead of linking them")] = False,
    strict: Annotated[bool, typer.Option("--strict", help="exit 1 if anything was dropped or repaired")] = False,
) -> None:
    """Turn RDD2022's XML into a YOLO data set, audited and split: OUT/rdd2022.yaml and OUT/audit.json."""
    from rddkit import dataset

    audit = dataset.prepare(raw, out_folder, classes=classes, copy=copy)
    out.print(dataset.summary(audit), markup=False)
    if strict and audit["problems"]:
        raise typer.Exit(1)


@app.command()
def download(
    what: Annotated[str, typer.Argument(metavar="WEIGHTS", help="pretrained weights, such as yolov8s.pt")],
) -> None:
    """Fetch pretrained weights: the one command that uses the network."""
    from rddkit import fetch

    out.print(str(fetch.weights(what)), markup=False)


def main() -> None:
    """Run the command line; errors of settings and data are one text and exit code 2."""
    from rddkit.dataset import DatasetError

    try:
        app()
    except (ConfigError, DatasetError, lock.Busy, FileNotFoundError) as error:
        print(f"rddkit: {error}", file=sys.stderr)
        sys.exit(USAGE_EXIT)


if __name__ == "__main__":
    main()
