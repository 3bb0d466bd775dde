from __future__ import annotations

import csv
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from fabricate import fabricate_run

from rddkit import figures, records, report, status
from rddkit.paths import RunPaths


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunPaths:
    hostile = "</script><script>document.title='owned'</script> killed"
    folder = tmp_path_factory.mktemp("my runs") / "nuit é"
    return fabricate_run(folder, epochs=8, attempts=2, memory_rows=300, fallback=True, evidence=hostile)


@pytest.fixture(scope="module")
def page(run: RunPaths) -> str:
    assert report.write_report(run.folder) == run.report_html
    return run.report_html.read_text(encoding="utf-8")


def own_part(page: str) -> str:
    """The page without plotly.js."""
    return page[: page.index("<script>")] + page[page.index("</head>") :]


def test_the_page_starts_with_the_sentence(run: RunPaths, page: str) -> None:
    sentence = status.read_status(run).sentence.replace("->", "-&gt;")
    assert f'<p class="sentence">{sentence}</p>' in page


def test_the_page_is_whole_in_itself_and_below_6_mb(run: RunPaths, page: str) -> None:
    assert run.report_html.stat().st_size < 6_000_000
    assert page.count("plotly.js v") == 1
    assert not re.findall(r"""(?:src|href)=["']""", own_part(page))
    assert "default-src 'none'" in page
    assert '"showSendToCloud": false' in page


def test_every_figure_and_every_event_is_there(run: RunPaths, page: str) -> None:
    for name in figures.CAPTIONS:
        assert f'id="figure-{name}"' in page
    assert "Lighter plan at epoch 4: batch 4 -&gt; 2, because the kernel killed attempt 1." in page
    assert page.count('class="told"') > len(run.journal.read_text().splitlines())
    assert "Continued once, exactly; 60 batches (2 min) had to be done again." in page


def test_plan_choices_environment_and_metrics_are_there(page: str) -> None:
    for text in ("no CUDA and no MPS device", "versions.ultralytics", "8.4.190", "dataset.fingerprint", "mAP50-95"):
        assert text in own_part(page)


def test_what_was_estimated_stands_beside_what_was_held(run: RunPaths, page: str) -> None:
    assert "the most that attempt 1 was seen to hold" in page and "3.9 GB" in page
    told = {"estimate": 1 << 30, "safe_bound": 1181116006, "budget": 4 << 30, "fits": True}
    events = [{"t": "", "event": "estimated", "attempt": 1, **told}]
    events += [{"t": "", "event": "estimated", "attempt": 1, "measured_bytes": 3 << 29, "reason": "+50%"}]
    rows = list(report.needs(replace(records.read_records(run), events=events)))
    assert [row[:2] for row in rows] == [("estimated", "1.0 GB"), ("held in the first epoch", "1.5 GB")]


def test_foreign_text_cannot_run(page: str) -> None:
    assert "<script>document" not in page
    assert "&lt;/script&gt;&lt;script&gt;document.title" in page


def test_tables_lie_beside_the_page(run: RunPaths, page: str) -> None:
    with open(run.report / "events.csv", newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [row["event"] for row in rows][-1] == "run_done"
    assert all(row["text"].endswith(".") for row in rows)
    with open(run.report / "results.csv", newline="", encoding="utf-8") as file:
        assert [float(row["epoch"]) for row in csv.DictReader(file)] == [1, 2, 3, 4, 5, 6, 7, 8]


@pytest.mark.parametrize("gone", ["run_yaml", "results_csv", "steps_csv", "memory_csv", "journal", "progress"])
def test_a_folder_that_is_half_there_shows_what_there_is(tmp_path: Path, gone: str) -> None:
    paths = fabricate_run(tmp_path / "run", epochs=2, attempts=2, memory_rows=20)
    missing: Path = getattr(paths, gone)
    missing.unlink()
    page = report.write_report(paths.folder).read_text(encoding="utf-8")
    assert f"<li>{missing.name} is not there" in page


def test_an_empty_folder_gives_a_report(tmp_path: Path) -> None:
    page = report.write_report(tmp_path).read_text(encoding="utf-8")
    assert "Not started yet" in page and "No epoch has been validated yet." in page


def test_a_run_without_a_kill_says_that_nothing_was_lost(tmp_path: Path) -> None:
    paths = fabricate_run(tmp_path / "run", epochs=2, attempts=1, memory_rows=20)
    assert "nothing was lost" in report.write_report(paths.folder).read_text(encoding="utf-8")


def test_the_module_is_a_command(tmp_path: Path) -> None:
    paths = fabricate_run(tmp_path / "run", epochs=1, attempts=1, memory_rows=5)
    command = [sys.executable, "-m", "rddkit.report"]
    good = subprocess.run([*command, str(paths.folder)], capture_output=True, text=True, timeout=60)
    assert (good.returncode, good.stdout.strip()) == (0, str(paths.report_html))
    bad = subprocess.run([*command, str(tmp_path / "absent")], capture_output=True, text=True, timeout=60)
    assert bad.returncode == 2 and "no run folder" in bad.stderr


def test_the_report_does_not_load_torch() -> None:
    code = "import sys, rddkit.report; sys.exit('torch' in sys.modules or 'ultralytics' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], timeout=60).returncode == 0
