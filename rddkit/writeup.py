"""What a thesis or paper takes from a run: tables (csv, LaTeX), figures (PDF, PNG), a methods paragraph, a model card.

`rddkit report` and `rddkit evaluate` write it into the run's `report/`; what is not known is left out, never guessed.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jinja2

from rddkit import clock, dataset, durable, evaluation, records, report, series, status, words
from rddkit.config import ConfigError
from rddkit.memory import human
from rddkit.papers import Table
from rddkit.paths import RunPaths
from rddkit.records import METRICS, Records

Found = dict[str, Any]


def write(paths: RunPaths) -> list[Path]:
    """Write everything into `report/`; the files. Figures are drawn in a child; if it dies, that is said, no more."""
    run = records.read_records(paths)
    found = _evaluation(paths)
    paths.report.mkdir(parents=True, exist_ok=True)
    made = []
    for table in tables(run, found):
        for kind, text in (("csv", table.csv), ("tex", table.tex)):
            made.append(paths.report / f"{table.name}.{kind}")
            durable.write(made[-1], text)
    for name, template in (("methods.md", "methods.md.j2"), ("MODEL_CARD.md", "model_card.md.j2")):
        made.append(paths.report / name)
        durable.write(made[-1], render(template, facts(run, found)))
    command = [sys.executable, "-m", "rddkit.plots", str(paths.folder)]
    drawn = subprocess.run(command, capture_output=True, text=True, check=False)
    if drawn.returncode:
        print(f"no figures: {drawn.stderr.strip()[-300:]}", file=sys.stderr)
    return [*made, *map(Path, drawn.stdout.splitlines())]


def _evaluation(paths: RunPaths) -> Found | None:
    try:
        return evaluation.read(paths)
    except ConfigError:
        return None


def tables(run: Records, found: Found | None) -> Iterator[Table]:
    """Every table that there is something to say in."""
    yield Table("environment", "Environment", ("", ""), list(report.environment_rows(run.run)))
    yield Table("hyperparameters", "Effective hyperparameters", ("argument", "value"), hyperparameters(run))
    audit, _ = records.read_mapping(_data(run).with_name("audit.json"))
    if audit:
        yield Table("dataset", "Data set", ("domain", "train", "val", "negatives", *audit["boxes"]), data_rows(audit))
    yield Table("attempts", "Attempts", ("attempt", "hours", "ended by", "peak memory"), attempts(run))
    yield Table("memory", "Memory", ("", "bytes"), memory(run))
    if found is None:
        return
    first = next(iter(found["weights"].values()))
    columns = ("class", *evaluation.COLUMNS[1:])
    split = 1 + len(first["f1_by_class"])
    rows = evaluation.rows(first)
    yield Table("per_class", f"By class, threshold {first['threshold']:.3f}", columns, rows[:split])
    domains = [(row[0], *row[1:4], row[6]) for row in rows[split:]]
    yield Table("per_domain", "By domain, same threshold", ("domain", "F1", "precision", "recall", "labelled"), domains)
    yield Table("best_last", "Best against last", ("weights", "epoch", *RESULTS, "ms an image"), weights(run, found))


RESULTS = ("F1", "F1, threshold chosen elsewhere", "mAP50", "mAP50-95")


def _data(run: Records) -> Path:
    return Path(str((run.run.get("config") or {}).get("data") or "nowhere/data.yaml"))


def hyperparameters(run: Records) -> list[tuple[str, str]]:
    """What Ultralytics wrote into args.yaml: every argument in effect, its own defaults included."""
    args, _ = records.read_mapping(run.paths.args_yaml)
    return [(str(key), "none" if value is None else str(value)) for key, value in sorted(args.items())]


def data_rows(audit: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """Images and boxes by domain, from the audit that `rddkit prepare` left."""
    whole = {**audit, "train": audit["splits"]["train"]["images"], "val": audit["splits"]["val"]["images"]}
    parts = {**audit["by_domain"], "all": whole}
    return [
        (name, *(str(own[key]) for key in ("train", "val", "negatives")), *map(str, own["boxes"].values()))
        for name, own in parts.items()
    ]


def attempts(run: Records) -> list[tuple[str, ...]]:
    """Each attempt with its hours, how it ended, and the most it held."""
    ends = {series.attempt_of(event): event for event in run.events if event["event"] == "attempt_ended"}
    rows: list[tuple[str, ...]] = []
    for span in series.spans(run.events, run.steps, run.memory):
        end = ends.get(span.attempt, {})
        hours = (span.end - span.start).total_seconds() / 3600
        peak = end.get("peak_bytes")
        cause = words.cause(span.cause) if span.cause else "not known"
        rows.append((str(span.attempt), f"{hours:.2f}", cause, human(peak) if isinstance(peak, (int, float)) else ""))
    return rows


def memory(run: Records) -> list[tuple[str, str]]:
    """Budget, estimate and the most that was held."""
    rows = []
    budget = run.run.get("budget") or {}
    if budget.get("bytes"):
        rows.append((f"budget ({budget.get('source', '')})", str(budget["bytes"])))
    for event in run.events:
        if event["event"] == "estimated" and isinstance(event.get("estimate"), (int, float)):
            rows.append(("estimated", str(int(event["estimate"]))))
            break
    if peak := report.peak_bytes(run):
        rows.append(("most held", str(int(peak))))
    return rows


def weights(run: Records, found: Found) -> list[tuple[str, ...]]:
    """A line for each of the weights evaluated."""
    rows: list[tuple[str, ...]] = []
    top = records.best(run.results, records.MAP50_95)
    last = int(run.results["epoch"].iloc[-1]) if len(run.results) else None
    epochs = {"best": top.epoch if top else None, "last": last}
    for name, result in found["weights"].items():
        values = (result["f1"]["f1"], result["f1_elsewhere"]["f1"], result["mAP50"], result["mAP50-95"])
        told = ("none" if value is None else f"{value:.4f}" for value in values)
        epoch = epochs.get(name)
        rows.append(
            (f"{name}.pt", "" if epoch is None else str(epoch), *told, f"{evaluation.milliseconds(result):.1f}")
        )
    return rows


def facts(run: Records, found: Found | None) -> dict[str, Any]:
    """What the texts say, in words; None for what is not known."""
    settings, plan = run.run.get("config") or {}, run.run.get("plan") or {}
    args, _ = records.read_mapping(run.paths.args_yaml)
    audit, _ = records.read_mapping(_data(run).with_name("audit.json"))
    spans = series.spans(run.events, run.steps, run.memory)
    state = status.read_status(run.paths)
    first = next(iter(found["weights"].items())) if found else (None, None)
    return {
        "name": run.paths.name,
        "sentence": state.sentence,
        "written": clock.stamp(),
        "settings": {**settings, **plan, "optimizer": args.get("optimizer", settings.get("optimizer", "auto"))},
        "model": Path(str(plan.get("model") or settings.get("model") or "?")).name,
        "scratch": str(plan.get("model") or "").endswith((".yaml", ".yml")),
        "epochs_done": int(run.results["epoch"].iloc[-1]) if len(run.results) else 0,
        "epochs": settings.get("epochs"),
        "nbs": args.get("nbs", settings.get("nbs", 64)),
        "hours": series.trained_seconds(spans) / 3600,
        "whole_hours": (spans[-1].end - spans[0].start).total_seconds() / 3600 if spans else 0.0,
        "attempts": len(spans),
        "kills": state.kills,
        "lost": report.lost_words(run),
        "peak": human(report.peak_bytes(run)) if report.peak_bytes(run) else None,
        "versions": run.run.get("versions") or {},
        "device": run.run.get("device"),
        "threads": run.run.get("threads"),
        "commit": (run.run.get("git") or {}).get("commit"),
        "fingerprint": (run.run.get("dataset") or {}).get("fingerprint"),
        "data": str(_data(run)),
        "audit": audit or None,
        "fallbacks": [words.describe(event) for event in run.events if event["event"] == "fallback"],
        "evaluated": first[0],
        "result": first[1],
        "rows": evaluation.rows(first[1]) if first[1] else [],
        "columns": evaluation.COLUMNS,
        "difference": evaluation.difference(first[1]) if first[1] else None,
        "few": bool(first[1] and first[1]["labelled"] < evaluation.FEW),
        "classes": [dataset.described(name) for name in (found or {}).get("names", [])],
        "ms": evaluation.milliseconds(first[1]) if first[1] else None,
        "metrics": [(METRICS[key], top) for key in METRICS if (top := records.best(run.results, key))],
        "exports": _exports(run.paths),
    }


def _exports(paths: RunPaths) -> list[Found]:
    found = []
    for file in sorted(paths.exports.glob("*.json")) if paths.exports.is_dir() else []:
        content, _ = records.read_mapping(file)
        if content.get("format"):
            found.append({**content, "size": human(content.get("bytes", 0))})
    return found


def render(template: str, known: Mapping[str, Any]) -> str:
    """A text in Markdown, which lets HTML through: foreign text cannot begin any."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        finalize=lambda value: value.replace("<", "&lt;") if isinstance(value, str) else value,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["cell"] = lambda value: str(value).replace("|", "/").replace("\n", " ")
    return environment.get_template(template).render(**known)
