"""JupyterLab in a real browser: a server, its page, and what a person does there."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import nbformat
from playwright.sync_api import Locator, Page
from workshop import wait_for

REPOSITORY = Path(__file__).resolve().parents[2]
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "google-chrome", "chromium-browser"))), None)
# Without the background flags Chromium looks up Google's hosts, which a closed network refuses again and again.
FLAGS = """--no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking
--disable-component-update --disable-sync""".split()
START = 150.0  # seconds for the server, the kernel and the widgets' JavaScript on a busy machine
IDLE = """() => window.jupyterapp?.shell.currentWidget?.context?.sessionContext?.session?.kernel?.status === 'idle'"""
NOT_OURS = ("favicon", "/api/me", "/lab/api/", "/api/contents", "/static/", "/lsp/", "ResizeObserver")


def promised(seconds: float) -> float:
    """A time that is promised on a machine that is not busy with more than it has cores for; longer where it is."""
    return seconds * max(1.0, os.getloadavg()[0] / (os.cpu_count() or 1))


class Server:
    """JupyterLab over a root for runs, with the repository's notebooks in it, given other parameters."""

    def __init__(self, root: Path, home: Path) -> None:
        self.root = root
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        (home / "config" / "labconfig").mkdir(parents=True)
        quiet = {"disabledExtensions": {"@jupyterlab/apputils-extension:announcements": True}}
        (home / "config" / "labconfig" / "page_config.json").write_text(json.dumps(quiet))
        folders = {f"JUPYTER_{kind.upper()}_DIR": str(home / kind) for kind in ("config", "data", "runtime")}
        environment = {**os.environ, **folders, "RDDKIT_ROOT": str(root), "JUPYTER_PREFER_ENV_PATH": "1"}
        options = ["--no-browser", "--expose-app-in-browser", "--allow-root", "--IdentityProvider.token="]
        options += [f"--ServerApp.root_dir={root}", f"--ServerApp.port={self.port}", "--ServerApp.port_retries=0"]
        options += ["--LabApp.extension_manager=readonly", "--ServerApp.ip=127.0.0.1"]
        self.log = home / "lab.log"
        with open(self.log, "wb") as log:
            command = [sys.executable, "-m", "jupyterlab", *options]
            self.process = subprocess.Popen(command, env=environment, stdout=log, stderr=subprocess.STDOUT, cwd=root)
        wait_for(self._answers, START, each=0.3)

    def _answers(self) -> bool:
        assert self.process.poll() is None, self.log.read_text()[-2000:]
        try:
            return urllib.request.urlopen(f"{self.url}/api/status", timeout=2).status == 200
        except (urllib.error.URLError, OSError):
            return False

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def put(self, name: str, parameters: Mapping[str, Any], more: str = "") -> None:
        """A notebook of the repository with other parameters, and at its end one more cell."""
        book = nbformat.read(REPOSITORY / "notebooks" / f"{name}.ipynb", as_version=4)
        for cell in book.cells:
            if "parameters" in cell.metadata.get("tags", []):
                cell.source += "".join(f"\n{key} = {value!r}" for key, value in parameters.items())
        if more:
            book.cells.append(nbformat.v4.new_code_cell(more))
        (self.root / "notebooks").mkdir(exist_ok=True)
        nbformat.write(book, self.root / "notebooks" / f"{name}.ipynb")

    def close(self) -> None:
        """End the server, which ends its kernels."""
        self.process.terminate()
        try:
            self.process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            self.process.kill()


class Notebook:
    """A notebook open in JupyterLab. `errors`: what the browser's console complained of."""

    def __init__(self, page: Page, server: Server, name: str) -> None:
        self.page = page
        page.set_default_timeout(START * 1000)
        self.errors: list[str] = []
        page.on("console", lambda said: self._hear(said.type, f"{said.text} {said.location.get('url', '')}"))
        page.on("pageerror", lambda error: self._hear("error", str(error)))
        page.goto(f"{server.url}/lab/tree/notebooks/{name}.ipynb?reset", wait_until="domcontentloaded")
        page.wait_for_function(IDLE, timeout=START * 1000)

    def _hear(self, kind: str, text: str) -> None:
        if kind == "error" and not any(part in text for part in NOT_OURS):
            self.errors.append(text)

    def run_all(self) -> None:
        self.page.evaluate("() => { window.jupyterapp.commands.execute('notebook:run-all-cells') }")

    def text(self) -> str:
        """All that the notebook shows, as far as it is in the page."""
        return self.page.locator(".jp-Notebook").inner_text()

    def shows(self, text: str, seconds: float = 20.0) -> None:
        """Wait until a text is shown in an output."""
        self.page.get_by_text(text).first.wait_for(timeout=seconds * 1000, state="attached")

    def button(self, text: str) -> Locator:
        """A button by what stands on it, its icon apart."""
        return self.page.locator("button.jupyter-button", has_text=text)

    def click(self, button: str) -> None:
        self.button(button).click()

    def points(self, trace: str) -> int:
        """How many points the first trace of that name has; 0 where it is not drawn."""
        look = """name => { for (const plot of document.querySelectorAll('.js-plotly-plot'))
            for (const trace of plot.data || []) if (trace.name === name) return trace.x.length; return 0 }"""
        return int(self.page.evaluate(look, trace))

    def signs(self) -> list[str]:
        """The signs that stand on the axes of all figures."""
        look = """() => [...document.querySelectorAll('.js-plotly-plot')].flatMap(
            plot => (plot.layout?.annotations || []).map(note => note.text))"""
        return list(self.page.evaluate(look))
