"""The command line: the notebooks' steps, from a terminal."""

from __future__ import annotations

import json
import signal
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

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
WIDE = 140  # of tables in a log or a pipe, where rich would cut them to 80 columns
out = Console(soft_wrap=True, highlight=False, width=None if sys.stdout.isatty() else WIDE)
err = Console(soft_wrap=True, highlight=False, stderr=True)
RunName = Annotated[str | None, typer.Argument(metavar="[RUN]", help="a run's name or folder; left out: the newest")]
Words = Annotated[list[str] | None, typer.Argument(metavar="[key=value ...]", help="any Ultralytics argument")]
ConfigFile = Annotated[str | None, typer.Option("--config", help=f"settings; default {config.DEFAULT_CONFIG}")]
Batch = Annotated[str | None, typer.Option(help="images a step, or auto: the largest that fits")]
ImageSize = Annotated[int | None, typer.Option(help="image size in pixels, a multiple of 32")]
Device = Annotated[str | None, typer.Option(help="cpu, mps, cuda or a number; left out: the best there is")]
SafetyFile = Annotated[str | None, typer.Option(help="default configs/safety.yaml")]


@app.command()
def train(
    words: Words = None,
    config_file: ConfigFile = None,
    batch: Batch = None,
    imgsz: ImageSize = None,
    workers: Annotated[int | None, typer.Option(help="loader processes; 0 loads in the worker itself")] = None,
    epochs: Annotated[int | None, typer.Option()] = None,
    device: Device = None,
    name: Annotated[str | None, typer.Option(help="the run's name and folder")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="fail if there is nothing to resume")] = False,
    fresh: Annotated[bool, typer.Option("--fresh", help="set the old folder aside and start again")] = False,
    detach: Annotated[bool, typer.Option("--detach", help="do not wait for the end")] = False,
    until: Annotated[str | None, typer.Option(help="stop resumably at this time of day, such as 07:00")] = None,
    for_: Annotated[str | None, typer.Option("--for", help="stop resumably after this long, such as 9h")] = None,
    safety: SafetyFile = None,
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
    """Write a run's report.html, one file that needs no network, and report/ for a write-up: tables, figures, texts."""
    from rddkit import writeup
    from rddkit.report import make_report

    found = paths.find_run(run)
    out.print(str(make_report(found.folder)), markup=False)
    files = writeup.write(found)
    out.print(f"{found.report}: {len(files)} files, MODEL_CARD.md and methods.md among them", markup=False)


@app.command()
def evaluate(
    run: RunName = None,
    weights: Annotated[list[str] | None, typer.Option(help="best or last; twice for both; left out: both")] = None,
    test: Annotated[
        str | None, typer.Option(help="a folder of test images: writes the challenges' submission file for them")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="everything known, for programs")] = False,
) -> None:
    """Evaluate a run on its validation images: the challenges' F1, average precision, confusion, worst misses."""
    from rddkit import evaluation, inference, writeup

    found = Run.open(run)
    asked = tuple(dict.fromkeys(weights or inference.WEIGHTS))
    folder = None if test is None else config.find_input(test)
    result = evaluation.evaluate(found.paths, asked, folder, lambda text: err.print(text, markup=False))
    writeup.write(found.paths)
    if as_json:
        print(json.dumps(result, ensure_ascii=False))
        return
    for name, one in result["weights"].items():
        table = Table(*evaluation.COLUMNS, title=f"{found.name}, {name}.pt, threshold {one['threshold']:.3f}")
        for row in evaluation.rows(one):
            table.add_row(*row)
        out.print(table)
    out.print(str(found.paths.evaluation), markup=False)


@app.command()
def export(
    run: RunName = None,
    kind: Annotated[str, typer.Option("--format", help="onnx, torchscript, coreml or openvino")] = "onnx",
    weights: Annotated[str, typer.Option(help="best or last")] = "best",
) -> None:
    """Export a run's model, and compare it with the original on eight validation images; exit 1 if they differ."""
    from rddkit import export as exports

    told = exports.export(Run.open(run).paths, kind, weights)
    for sentence in exports.sentences(told):
        out.print(sentence, markup=False)
    if not told["good"]:
        raise typer.Exit(1)


@app.command()
def predict(
    words: Annotated[list[str], typer.Argument(metavar="[RUN] IMAGES ...", help="photos, or folders of photos")],
    name: Annotated[
        str | None, typer.Option(help="of the folder for what is found; default: the first source's")
    ] = None,
    threshold: Annotated[float | None, typer.Option(min=0, max=1, help="default: the evaluation's choice")] = None,
    weights: Annotated[str, typer.Option(help="best or last")] = "best",
) -> None:
    """Try a run's model on your own photos: a table with positions, a gallery, a map (GeoJSON)."""
    from rddkit import predict as predictions

    run, sources = predictions.told_apart(words)
    folder = predictions.predict(
        Run.open(run).paths,
        sources,
        name=name,
        threshold=threshold,
        weights=weights,
        say=lambda text: out.print(text, markup=False),
    )
    out.print(f"{folder}: {predictions.TABLE}, {predictions.GALLERY}, {predictions.MAP}", markup=False)


@app.command()
def estimate(
    words: Words = None,
    config_file: ConfigFile = None,
    batch: Batch = None,
    imgsz: ImageSize = None,
    device: Device = None,
    calibrate: Annotated[bool, typer.Option("--calibrate", help="try a few steps first, once a model")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="everything known, for programs")] = False,
    safety: SafetyFile = None,
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
    config_file: ConfigFile = None,
) -> None:
    """Try it on this device, model and data, in about two minutes: kill, resume, compare; the cap; the readings."""
    from rddkit.selftest import examine

    found = examine(config_file, lambda text: out.print(text, markup=False))
    out.print(found.text(), markup=False)
    raise typer.Exit(found.exit_code)


@app.command()
def sweep(
    file: Annotated[Path, typer.Argument(metavar="SWEEP.yaml")],
    address: Annotated[
        str | None, typer.Option(help="a Ray cluster's address, or auto; left out: Ray is started here and ended")
    ] = None,
    safety: SafetyFile = None,
) -> None:
    """Train many runs of one config on Ray, as many at once as fit; again: only what is not done."""
    from rddkit import standings
    from rddkit import sweep as sweeps

    sweeps.need_ray()
    asked = sweeps.read(file)
    from rddkit.raysweep import drive

    told = drive(asked, address, safety, lambda text: out.print(text, markup=False))
    out.print(standings.table(told.rows(), f"{told.name}: {told.sentence}"))
    for trial in asked.trials:
        one = told.of(trial.name)
        if one.state == standings.ASHA:
            out.print(f"continue {one.run}: {trial.command}", markup=False)
    raise typer.Exit(told.exit_code)


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
    countries: Annotated[str, typer.Option(help="only these, such as Japan,India")] = "",
    leave_out: Annotated[str | None, typer.Option(help="this country becomes the test set, as a whole")] = None,
    origin: Annotated[str, typer.Option("--from", help="xml (RDD2022), or yolo: an export made elsewhere")] = "xml",
    names: Annotated[str, typer.Option(help="an export's classes in the order of their numbers: D00,D10,D20,D40")] = "",
    leakage: Annotated[str, typer.Option(help="near-twins across the split: auto, all (minutes) or none")] = "auto",
    copy: Annotated[bool, typer.Option("--copy", help="copy images instead of linking them")] = False,
    strict: Annotated[bool, typer.Option("--strict", help="exit 1 if anything was dropped or repaired")] = False,
) -> None:
    """Turn RDD2022's XML into a YOLO data set, audited and split: OUT/rdd2022.yaml and OUT/audit.json."""
    from rddkit import dataset

    audit = dataset.prepare(
        raw,
        out_folder,
        classes=classes,
        copy=copy,
        countries=_listed(countries),
        leave_out=leave_out,
        origin=origin,
        names=_listed(names),
        leakage=leakage,
    )
    out.print(dataset.summary(audit), markup=False)
    if strict and audit["problems"]:
        raise typer.Exit(1)


def _listed(words: str) -> list[str]:
    return [word.strip() for word in words.split(",") if word.strip()]


@app.command()
def download(
    what: Annotated[str, typer.Argument(metavar="DIR | WEIGHTS", help="a folder, or weights such as yolov8s.pt")],
    country: Annotated[str, typer.Option(help="only these, such as Japan,India; left out: the whole release")] = "",
    yes: Annotated[bool, typer.Option("--yes", help="fetch the whole release without asking")] = False,
) -> None:
    """Fetch RDD2022 into DIR, or pretrained weights: the one command that uses the network."""
    from rddkit import fetch

    if what.endswith(".pt"):
        out.print(str(fetch.weights(what)), markup=False)
        return
    with fetch.Bars(out) as bars:
        fetch.release(what, _listed(country), yes, bars)


def main() -> None:
    """Run the command line; errors of settings and data are one text and exit code 2."""
    from rddkit.dataset import DatasetError
    from rddkit.inference import NoAnswer

    try:
        app()
    except NoAnswer as error:
        print(f"rddkit: {error}", file=sys.stderr)
        sys.exit(1)
    except (ConfigError, DatasetError, lock.Busy, FileNotFoundError) as error:
        print(f"rddkit: {error}", file=sys.stderr)
        sys.exit(USAGE_EXIT)
    except OSError as error:  # a full or read-only disk, a drive that is gone
        where = f"{error.filename}: " if error.filename else ""
        print(f"rddkit: {where}{error.strerror or error}; make room or choose project=FOLDER", file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    main()
