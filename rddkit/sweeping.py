"""What the sweep's notebook calls: start it, watch it, compare its trials. Light: Ray lives in a child process."""

from __future__ import annotations

import asyncio
import html
import os
import signal
import subprocess
import sys
from pathlib import Path

from rddkit import books, exhibits, lock, notebook, paths, standings, sweep
from rddkit.frontend import is_headless, show, show_table
from rddkit.notebook import NotDone
from rddkit.standings import COLUMNS, Standing, Standings
from rddkit.sweep import Sweep

MEANT = {"new": "will be trained", "continue": "will be continued", "done": "is done"}
_tasks: dict[Path, asyncio.Task[None]] = {}


def show_plan(asked: Sweep) -> None:
    """Each trial, what it changes, and what starting the sweep will do with it."""
    sweep.need_ray()
    rows = [(trial.name, _settings(trial.overrides), MEANT[sweep.standing(trial)]) for trial in asked.trials]
    show_table(rows, ("trial", "changes", "which"))


def start(asked: Sweep, address: str | None = None, safety: str | None = None) -> None:
    """Run the sweep in a child process.

    Watched, in the background: it goes on when the notebook is closed, and the table below the cell keeps up. Headless:
    its lines are printed, and NotDone is raised at the end of a sweep that is not done.
    """
    command = [sys.executable, "-m", "rddkit.cli", "sweep", str(asked.source)]
    command += ["--address", address] if address else []
    command += ["--safety", safety] if safety else []
    if is_headless():
        _attend(asked, command)
        return
    if not lock.is_held(asked.lock):
        asked.folder.mkdir(parents=True, exist_ok=True)
        with open(asked.log, "wb") as log:
            subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                cwd=paths.root(),
            )
    watch(asked)


def _attend(asked: Sweep, command: list[str]) -> None:
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=paths.root()
    ) as child:
        assert child.stdout is not None
        for line in child.stdout:
            print(line, end="", flush=True)
    if child.returncode:
        raise NotDone(
            f"the sweep {asked.name!r} ended with exit code {child.returncode}. {_sentence(asked)}\n"
            f"Next: the same again continues what is not done: rddkit sweep {asked.source}"
        )


def watch(asked: Sweep) -> asyncio.Task[None]:
    """Keep a table of the trials up to date below this cell until the sweep ends; other cells run meanwhile."""
    before = _tasks.pop(asked.folder, None)
    if before is not None:
        before.cancel()
    place = show(_progress(asked), raw=True, display_id=True)
    _tasks[asked.folder] = asyncio.get_running_loop().create_task(_refresh(asked, place))
    return _tasks[asked.folder]


async def _refresh(asked: Sweep, place: object) -> None:
    running = True
    quiet = 0
    while running or quiet < 10:  # Ray is seconds in starting
        place.update(_progress(asked), raw=True)  # type: ignore[attr-defined]
        await asyncio.sleep(notebook.REFRESH_SECONDS)
        running = lock.is_held(asked.lock)
        quiet = 0 if running else quiet + 1


def _progress(asked: Sweep) -> dict[str, str]:
    shown = exhibits.table(_rows(asked), COLUMNS)
    tail = books.log_tail(asked.log, 300).splitlines()[-2:]
    told = [_sentence(asked), *tail]
    page = "<br>".join(html.escape(line) for line in told) + shown["text/html"]
    return {"text/plain": "\n".join([*told, shown["text/plain"]]), "text/html": page}


def stop(asked: Sweep) -> bool:
    """Ask the sweep to stop with every trial resumable; False where it does not run on this machine."""
    owner = lock.signature(asked.lock)
    if not owner:
        return False
    os.kill(owner["supervisor_pid"], signal.SIGTERM)
    return True


def look(asked: Sweep) -> Standings:
    """How the trials stand now."""
    found = standings.read(asked.book)
    if found is None:
        waiting = [Standing(trial.name, str(trial.paths.folder), trial.overrides) for trial in asked.trials]
        found = Standings(asked.book, asked.name, asked.file.metric, waiting)
    return found


def _rows(asked: Sweep) -> list[tuple[str, ...]]:
    return look(asked).rows()


def _sentence(asked: Sweep) -> str:
    return look(asked).sentence


def show_trials(told: Standings) -> None:
    """The trials, the best first."""
    print(told.sentence)
    show_table(told.rows(), COLUMNS)


def show_winner(asked: Sweep, told: Standings) -> None:
    """The best trial, what it changed, how far the next one is behind, and where its weights are."""
    best = told.winner()
    if best is None:
        print("No winner yet: no trial has validated an epoch.")
        return
    run = paths.RunPaths(Path(best.folder))
    value = best.best[told.metric]
    rows = [
        ("run", best.run),
        ("changes", _settings(best.overrides)),
        (told.metric, f"{value:.3f} at epoch {best.best_epoch}"),
        ("state", best.state),
        ("weights", run.best),
        ("report", run.report_html),
    ]
    others = [trial for trial in told.ranked()[1:] if told.metric in trial.best]
    if others:
        behind = value - others[0].best[told.metric]
        rows.insert(3, ("ahead of the next by", f"{behind:.3f} ({others[0].run})"))
    show_table(rows, ("", "the winner"))
    seeds = {trial.overrides.get("seed") for trial in told.trials}
    if len(seeds) < 2:
        print("One seed each: a difference smaller than that of two seeds says nothing. Add `seed: [1, 2, 3]`.")


def _settings(overrides: dict[str, object]) -> str:
    return " ".join(f"{key}={value}" for key, value in overrides.items()) or "nothing"
