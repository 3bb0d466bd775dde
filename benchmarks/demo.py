"""`make demo`: a tiny training that is really killed on the way, continued and shown; about three minutes, offline.

Paints a small synthetic set and runs the three notebooks by papermill with configs/demo.yaml; in the second epoch the
training process gets a SIGKILL. Then comes the self-test of this machine, whose table is the end. Nothing of the user's
is removed: an earlier results/demo is set aside. Exit 0 if all is as it should be, 1 with what is not.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
import warnings
from pathlib import Path
from typing import Any

import papermill
import psutil
from rich.console import Console
from rich.table import Table

from rddkit import Run, clock, dataset, journal, lock, records, selftest, words
from rddkit.config import ConfigError
from rddkit.dataset import DatasetError
from rddkit.paths import RunPaths, results, root
from rddkit.status import read_progress

CONFIG = "configs/demo.yaml"
RAW, DATA = "data/raw-sample", "data/sample"
RUN = RunPaths(results() / "demo")
NOTEBOOKS: dict[str, dict[str, Any]] = {
    "01_setup": {"config": CONFIG},
    "02_training": {"config": CONFIG, "fresh": True},
    "03_monitoring": {"run": str(RUN.folder)},
}
SAVED = results() / "notebooks"
SMALL = 1_000_000  # bytes a saved notebook stays below
out = Console(soft_wrap=True, highlight=False)


class Killer(threading.Thread):
    """Kills the worker once in the run's second epoch, after a snapshot and some batches more.

    On its own a run takes a snapshot every minute or so; this one is over by then, so that the demo asks for one.
    """

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.since = clock.utc_now()
        self.asked = False
        self.told = ""
        self.over = threading.Event()

    def run(self) -> None:
        while not self.told and not self.over.wait(0.1):
            events = journal.read_events(RUN.journal)
            progress = read_progress(RUN.progress)
            if not events or clock.parse_stamp(events[0]["t"]) < self.since or (progress.get("epoch") or 0) < 2:
                continue  # not begun, an earlier demo's, or the first epoch
            if not self.asked:
                self.asked = Run.open(RUN.folder).snapshot()
            elif is_time(progress, journal.last(events, "snapshot")):
                self.kill(events, progress)

    def kill(self, events: list[journal.Event], progress: dict[str, Any]) -> None:
        """SIGKILL to the worker, if the process of that number really is this run's."""
        pid = int((journal.last(events, "attempt_started") or {}).get("worker_pid") or 0)
        with contextlib.suppress(psutil.Error):
            command = psutil.Process(pid).cmdline()
            if "rddkit.worker" in command and str(RUN.folder) in command:
                os.kill(pid, signal.SIGKILL)
                self.told = (
                    f"process {pid}, in epoch {progress['epoch']}, batch {progress['batch']} of {progress['batches']}"
                )
                out.print(f"SIGKILL to the training: {self.told}", style="bold red")


def is_time(progress: dict[str, Any], snapshot: journal.Event | None) -> bool:
    """Whether there is a snapshot and some work beyond it to be lost; late in the epoch, whether there is or not."""
    here = (progress["epoch"], progress.get("batch") or 0)
    late = here >= (2, (progress.get("batches") or 0) - 3)
    return late or (snapshot is not None and here > (snapshot.get("epoch") or 0, (snapshot.get("batch") or 0) + 1))


def run_notebook(name: str) -> None:
    """Execute a notebook, what it prints shown as it comes."""
    given = NOTEBOOKS[name]
    told = " ".join(f"-p {key} {value}" for key, value in given.items())
    out.print(f"papermill notebooks/{name}.ipynb {SAVED.relative_to(root())}/{name}.ipynb {told}", style="bold")
    live = {"stdout_file": sys.stdout} if name == "02_training" else {}
    papermill.execute_notebook(
        root() / "notebooks" / f"{name}.ipynb",
        SAVED / f"{name}.ipynb",
        given,
        progress_bar=False,
        extra_arguments=["--IPKernelApp.log_level=50"],  # the kernel warns of the transport every kernel uses
        **live,
    )


def shortfalls(events: list[journal.Event]) -> list[str]:
    """What is not as it should be after the demo."""
    ended = [event.get("cause") for event in events if event["event"] == "attempt_ended"]
    rows = RUN.results_csv.read_text(encoding="utf-8").splitlines()[1:] if RUN.results_csv.exists() else []
    epochs = [row.split(",")[0].strip() for row in rows]
    wanted = [str(number) for number in range(1, int(Run.open(RUN.folder).record.config["epochs"]) + 1)]
    found = []
    if ended != ["killed", "done"]:
        found.append(f"attempts ended by {ended}, not by ['killed', 'done']")
    if not any(event["event"] == "resumed" for event in events):
        found.append("the journal tells of no resume")
    if epochs != wanted:
        found.append(f"results.csv has the epochs {epochs}, not each of {wanted} once")
    found += [f"{path} is not there" for path in (RUN.best, RUN.report_html) if not path.is_file()]
    found += records.read_records(RUN).notes
    for name in NOTEBOOKS:
        path = SAVED / f"{name}.ipynb"
        if not path.is_file() or path.stat().st_size > SMALL:
            found.append(f"{path} is not there, or larger than {SMALL} bytes")
    return found


def summary(killer: Killer, events: list[journal.Event], seconds: float) -> Table:
    """What was killed, what was lost, where to look."""
    table = Table(title=f"make demo: {clock.words(seconds)}", title_justify="left", show_header=False)
    resumed = [words.describe(event) for event in events if event["event"] == "resumed"]
    lost = records.lost_work(events)
    table.add_row("killed", f"{killer.told}, by a real SIGKILL")
    table.add_row("continued", " ".join(resumed))
    table.add_row("lost", f"{lost.batches} batches, {clock.words(lost.seconds)} of training, done again")
    table.add_row("the run", Run.open(RUN.folder).status().sentence)
    table.add_row("", "four epochs from scratch on 40 painted images: the mAP is not the point")
    for what, path in {
        "report": RUN.report_html,
        "journal": RUN.journal,
        "weights": RUN.best,
        "notebooks": SAVED,
    }.items():
        table.add_row(what, str(path.relative_to(root())))
    return table


def main() -> int:
    warnings.filterwarnings("ignore", module="papermill|nbclient|zmq|jupyter_client")
    begun = clock.monotonic()
    if lock.is_held(RUN.lock):
        raise lock.Busy(f"the run demo is being trained; stop it first: {Path(sys.executable).parent}/rddkit stop demo")
    out.print(f"painting a small synthetic set into {RAW}, preparing it into {DATA}", style="bold")
    dataset.write_sample(RAW)
    dataset.prepare(RAW, DATA)
    SAVED.mkdir(parents=True, exist_ok=True)
    run_notebook("01_setup")
    killer = Killer()
    killer.start()
    run_notebook("02_training")
    killer.over.set()
    killer.join()
    run_notebook("03_monitoring")
    events = journal.read_events(RUN.journal)
    wrong = shortfalls(events) if killer.told else ["the training was over before it could be killed"]
    out.print(summary(killer, events, clock.monotonic() - begun))
    for text in wrong:
        out.print(f"not as it should be: {text}", style="bold red", markup=False)
    out.print(f"rddkit selftest --config {CONFIG}", style="bold")
    tried = selftest.examine(CONFIG, lambda text: out.print(text, markup=False))
    out.print(tried.text(), markup=False)
    return 1 if wrong else tried.exit_code


if __name__ == "__main__":
    try:
        sys.exit(main())
    except (ConfigError, DatasetError, lock.Busy, papermill.PapermillExecutionError) as error:
        print(f"make demo: {error}", file=sys.stderr)
        sys.exit(1)
