"""What a write-up takes from a run: made-up runs with hostile text, and a real one that was evaluated."""

from __future__ import annotations

import csv
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml
from fabricate import fabricate_run
from workshop import Workshop

from rddkit import writeup
from rddkit.paths import RunPaths

HOSTILE = "<script>alert(1)</script> | \\write18{rm} killed"
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def night(tmp_path_factory: pytest.TempPathFactory) -> RunPaths:
    """A made-up run with a kill and a lighter plan, not evaluated, written up twice."""
    folder = tmp_path_factory.mktemp("runs") / "nuit é"
    run = fabricate_run(folder, epochs=6, attempts=2, memory_rows=200, fallback=True, evidence=HOSTILE)
    (folder / "args.yaml").write_text(yaml.safe_dump({"lr0": 0.01, "optimizer": "SGD", "nbs": 64, "time": None}))
    writeup.write(run)
    return run


def read(file: Path) -> list[list[str]]:
    with open(file, newline="", encoding="utf-8") as rows:
        return list(csv.reader(rows))


def test_a_run_that_was_not_evaluated_has_what_there_is(night: RunPaths) -> None:
    names = {path.name for path in night.report.iterdir()}
    for name in ("environment", "hyperparameters", "attempts", "memory"):
        assert {f"{name}.csv", f"{name}.tex"} <= names
    for name in ("losses", "accuracy", "memory"):
        assert {f"{name}.pdf", f"{name}.png"} <= names
    assert not {"per_class.csv", "confusion.pdf"} & names
    assert read(night.report / "hyperparameters.csv")[1:] == [
        ["lr0", "0.01"],
        ["nbs", "64"],
        ["optimizer", "SGD"],
        ["time", "none"],
    ]


def test_attempts_have_their_hours_and_causes(night: RunPaths) -> None:
    header, first, second = read(night.report / "attempts.csv")
    assert header == ["attempt", "hours", "ended by", "peak memory"]
    assert first[0] == "1" and float(first[1]) > 0 and second[2] == "all epochs are done"


def test_the_methods_tell_the_true_hours_and_what_is_missing(night: RunPaths) -> None:
    text = " ".join((night.report / "methods.md").read_text(encoding="utf-8").split())
    hours = re.search(r"took ([\d.]+) hours of work in 2 attempts, within ([\d.]+) hours", text)
    assert hours and 0 < float(hours[1]) <= float(hours[2])
    assert "Continued once, exactly; 60 batches" in text and "batch 4 -> 2" in text
    assert "Not evaluated yet: `rddkit evaluate nuit é`" in text


def test_hostile_text_stays_text(night: RunPaths) -> None:
    for file in night.report.iterdir():
        if file.suffix in (".md", ".tex"):
            text = file.read_text(encoding="utf-8")
            assert "<script" not in text and "\\write18" not in text


def test_figures_are_what_they_are_called_and_the_same_again(night: RunPaths, tmp_path: Path) -> None:
    first = {name: (night.report / name).read_bytes() for name in ("losses.pdf", "losses.png")}
    assert first["losses.pdf"].startswith(b"%PDF") and first["losses.png"].startswith(b"\x89PNG")
    writeup.write(night)
    assert {name: (night.report / name).read_bytes() for name in first} == first


def test_an_empty_folder_is_written_up_without_a_word_too_many(tmp_path: Path) -> None:
    files = writeup.write(RunPaths(tmp_path))
    assert (tmp_path / "report" / "MODEL_CARD.md") in files
    assert not list((tmp_path / "report").glob("*.pdf"))


def test_an_evaluated_run_has_its_results_everywhere(blocks: Workshop) -> None:
    shutil.rmtree(blocks.run.report, ignore_errors=True)
    assert blocks.cli("evaluate", "blocks").returncode == 0
    done = blocks.cli("report", "blocks")
    assert done.returncode == 0 and "MODEL_CARD.md and methods.md among them" in done.stdout, done.stderr
    report = blocks.run.report
    classes = read(report / "per_class.csv")
    assert [row[0] for row in classes] == ["class", "all", *(f"{name}" for name in DESCRIBED)]
    assert [row[0] for row in read(report / "per_domain.csv")] == ["domain", "Czech", "Japan"]
    assert [row[0] for row in read(report / "best_last.csv")] == ["weights", "best.pt", "last.pt"]
    for name in ("f1_by_domain", "confusion", "precision_recall", "f1_threshold"):
        assert (report / f"{name}.pdf").is_file() and (report / f"{name}.png").is_file()
    card, f1 = (report / "MODEL_CARD.md").read_text(), classes[1][1]
    assert f"| all | {f1} |" in card and "these figures are rough guesses" in card
    assert f"F1 {f1} at IoU 0.5" in (report / "methods.md").read_text()


DESCRIBED = ("D00 longitudinal crack", "D10 transverse crack", "D20 alligator crack", "D40 pothole")


def test_tex_compiles_where_there_is_a_tex(night: RunPaths, tmp_path: Path) -> None:
    if shutil.which("pdflatex") is None:
        pytest.skip("no pdflatex here")
    inputs = "\n".join(f"\\input{{{file}}}" for file in night.report.glob("*.tex"))
    page = tmp_path / "all.tex"
    page.write_text(
        f"\\documentclass{{article}}\\usepackage[T1]{{fontenc}}\\begin{{document}}{inputs}\\end{{document}}"
    )
    subprocess.run(["pdflatex", "-interaction=batchmode", page.name], cwd=tmp_path, check=True, timeout=120)
