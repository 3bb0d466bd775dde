"""The report as a browser draws it: whole, with the network off."""

from __future__ import annotations

from pathlib import Path

from fabricate import fabricate_run
from lab import START
from playwright.sync_api import Browser

from rddkit import report


def test_a_report_draws_every_figure_with_the_network_off(browser: Browser, tmp_path: Path) -> None:
    run = fabricate_run(tmp_path / "a run é", epochs=20, attempts=3, memory_rows=800, fallback=True)
    page_file = report.write_report(run.folder)
    context = browser.new_context(offline=True, viewport={"width": 1300, "height": 1600})
    page = context.new_page()
    asked: list[str] = []
    said: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.on("requestfailed", lambda request: said.append(f"failed: {request.url}"))
    page.on("console", lambda told: said.append(told.text) if told.type in ("error", "warning") else None)
    page.on("pageerror", lambda error: said.append(str(error)))
    page.set_default_timeout(START * 1000)
    page.goto(page_file.as_uri())
    page.wait_for_function("() => document.querySelectorAll('.js-plotly-plot .main-svg').length >= 10")
    drawn = page.evaluate(
        "() => [...document.querySelectorAll('.js-plotly-plot')].map(plot => plot.querySelectorAll('path').length)"
    )
    assert len(drawn) == 5 and min(drawn) > 5
    assert [url for url in asked if not url.startswith(("file:", "data:", "blob:"))] == []
    assert said == []
    assert page.locator(".sentence").inner_text().startswith("Finished")
    context.close()
