"""`make screenshots`: the README's pictures, of a real run in a real browser, into docs/; some minutes.

Trains configs/demo.yaml for longer in a root of its own, kills its worker once, and takes pictures of the dashboard in
JupyterLab, of 04's sliders, of the terminal and of the report. Nothing of the user's is touched.
"""

from __future__ import annotations

import io
import os
import re
import shutil
import signal
import sys
import tempfile
from pathlib import Path

import plotly.graph_objects as go
import plotly.io
import plotly.offline
import yaml
from PIL import Image
from playwright.sync_api import Browser, sync_playwright
from rich.console import Console

from rddkit import clock, dataset, terminal
from rddkit.paths import RunPaths
from rddkit.report import make_report
from rddkit.run import Run

REPOSITORY = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(REPOSITORY / "tests"), str(REPOSITORY / "tests" / "browser")]
from lab import CHROMIUM, FLAGS, Notebook, Server  # noqa: E402
from workshop import alive, clean_up, events, wait_for  # noqa: E402

DOCS = REPOSITORY / "docs"
MOST = 250_000  # bytes a picture may have
EPOCHS, KILLED_IN, SHOWN_IN = 40, 6, 12


def save(png: bytes, name: str) -> None:
    """Write a picture with as few colours as it takes to stay below MOST."""
    picture = Image.open(io.BytesIO(png)).convert("RGB")
    for colors in (256, 128, 64, 32):
        content = io.BytesIO()
        picture.quantize(colors).save(content, "PNG", optimize=True)
        if content.tell() < MOST:
            break
    (DOCS / name).write_bytes(content.getvalue())
    print(f"docs/{name}: {picture.width}x{picture.height}, {content.tell() / 1e3:.0f} kB", flush=True)


def start(root: Path) -> RunPaths:
    """A real run in a root of its own, its worker killed once and resumed."""
    shutil.copytree(REPOSITORY / "configs", root / "configs")
    os.environ["RDDKIT_ROOT"] = str(root)
    dataset.write_sample(root / "raw", images=80)
    dataset.prepare(root / "raw", root / "data" / "sample")
    config = yaml.safe_load((root / "configs" / "demo.yaml").read_text(encoding="utf-8"))
    config |= {"epochs": EPOCHS, "name": "night", "imgsz": 160, "lr0": 0.002, "optimizer": "AdamW"}
    (root / "configs" / "night.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")
    run = Run.create("configs/night.yaml").start(detach=True)
    wait_for(lambda: alive(run.paths).epoch >= KILLED_IN, 600, each=0.5)
    taken = len(events(run.paths, "snapshot"))
    run.snapshot()  # in a run of minutes the first one by itself is due after this picture
    wait_for(lambda: len(events(run.paths, "snapshot")) > taken, 120, each=0.1)
    os.kill(alive(run.paths).worker_pid or 0, signal.SIGKILL)
    wait_for(lambda: events(run.paths, "resumed"), 120, each=0.5)
    return run.paths


def take_dashboard(browser: Browser, server: Server, run: RunPaths) -> None:
    server.put("03_monitoring", {"run": "night"})
    page = browser.new_page(viewport={"width": 1240, "height": 1700})
    book = Notebook(page, server, "03_monitoring")
    page.evaluate("() => window.jupyterapp.commands.execute('application:toggle-left-area')")
    book.run_all()
    wait_for(lambda: book.points("train, per step") > 0, 60, each=0.3)
    wait_for(lambda: alive(run).epoch >= SHOWN_IN, 600, each=0.5)
    book.button("Safe stop").scroll_into_view_if_needed()
    page.wait_for_timeout(8000)
    save(page.locator(".jp-OutputArea-output", has=book.button("Safe stop")).last.screenshot(), "dashboard.png")
    page.close()


def take_sliders(browser: Browser, server: Server) -> None:
    server.put("04_fallback", {"run": "night"})
    page = browser.new_page(viewport={"width": 1240, "height": 1400})
    book = Notebook(page, server, "04_fallback")
    page.evaluate("() => window.jupyterapp.commands.execute('application:toggle-left-area')")
    book.run_all()
    slider = page.locator(".widget-hslider", has_text="batch")
    slider.wait_for(timeout=60_000)
    slider.scroll_into_view_if_needed()
    slider.locator(".noUi-handle").press("ArrowRight")
    page.wait_for_timeout(3000)
    save(page.locator(".jp-OutputArea-output", has=slider).last.screenshot(), "sliders.png")
    page.close()


def take_terminal(browser: Browser, run: RunPaths) -> None:
    out = Console(width=118, record=True, force_terminal=True, file=io.StringIO())
    out.print(terminal.picture(*terminal.look(Run.open(run.folder))))
    page = browser.new_page(viewport={"width": 1240, "height": 900})
    page.set_content(out.export_svg(title=f"rddkit status {run.name} --watch"))
    save(page.locator("svg").first.screenshot(), "terminal.png")
    page.close()


def take_report(browser: Browser, run: RunPaths) -> None:
    file = make_report(run.folder)
    page = browser.new_page(viewport={"width": 1240, "height": 1500})
    page.goto(file.as_uri())
    page.wait_for_timeout(3000)
    save(page.screenshot(), "report.png")
    page.close()
    text = with_cdn(file.read_text(encoding="utf-8")).replace(str(run.folder), f"results/{run.name}")
    (DOCS / "report.html").write_text(text, encoding="utf-8")


def with_cdn(page: str) -> str:
    """A report that fetches plotly.js instead of holding it: small enough for the repository."""
    tag = re.search(r"<script [^>]*cdn[^>]*></script>", plotly.io.to_html(go.Figure(), include_plotlyjs="cdn"))
    assert tag is not None
    page = page.replace(f"<script>{plotly.offline.get_plotlyjs()}</script>", tag[0])
    return page.replace("script-src 'unsafe-inline'", "script-src 'unsafe-inline' https://cdn.plot.ly")


def main() -> int:
    if CHROMIUM is None:
        print("make screenshots: no chromium here; Debian: sudo apt install chromium", file=sys.stderr)
        return 1
    begun = clock.monotonic()
    with tempfile.TemporaryDirectory(prefix="rddkit-screenshots-") as place, sync_playwright() as started:
        root = Path(place) / "root"
        run = start(root)
        server = Server(root, Path(place) / "jupyter")
        browser = started.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        try:
            take_dashboard(browser, server, run)
            take_terminal(browser, run)
            take_sliders(browser, server)
            Run.open(run.folder).wait()
            take_report(browser, run)
        finally:
            browser.close()
            server.close()
            clean_up(run)
    print(f"in {clock.words(clock.monotonic() - begun)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
