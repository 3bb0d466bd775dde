"""How a sweep's trials stand: `sweep.json`, the table of it, the winner, the exit code."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from rich import box
from rich.table import Table

from rddkit import clock, durable, journal, status
from rddkit.cause import NO_PLAN_EXIT, STOPPED_EXIT
from rddkit.journal import SCHEMA
from rddkit.memory import human
from rddkit.paths import RunPaths
from rddkit.records import METRICS

ASHA = "stopped by ASHA"
WAITING, RUNNING = "waiting", "running"
SETTLED = ("done", ASHA)  # nothing is left to do for these
COLUMNS = ("trial", "state", "epochs", "best mAP50", "of epoch", "peak", "node", "seconds")


@dataclass
class Standing:
    """One trial of a sweep, as far as it has come.

    `state`: a run's state, or waiting, running, or stopped by ASHA. `asked_bytes`: memory that Ray reserved for it.
    `peak_bytes`: the most its worker held. `seconds`: of training, over all its attempts. `note`: why it
    failed, or was given up.
    """

    run: str
    folder: str
    overrides: dict[str, Any] = field(default_factory=dict)
    state: str = WAITING
    node: str = ""
    epochs: int = 0
    best: dict[str, float] = field(default_factory=dict)
    best_epoch: int | None = None
    asked_bytes: int | None = None
    peak_bytes: int = 0
    seconds: float = 0.0
    exit: int = STOPPED_EXIT
    note: str = ""

    def look(self) -> None:
        """Take in what the run's folder tells."""
        run = RunPaths(Path(self.folder))
        rows, events = status.read_rows(run.results_csv), journal.read_events(run.journal)
        top = status.best_row(rows)
        self.epochs = len(rows)
        self.best = {name: top[column] for column, name in METRICS.items() if column in top}
        self.best_epoch = int(top["epoch"]) if "epoch" in top else None
        self.seconds = rows[-1].get("time", 0.0) if rows else 0.0
        self.peak_bytes = max((int(event.get("peak_bytes") or 0) for event in events), default=0)
        started = [event["node"] for event in events if event.get("node")]
        self.node = started[-1] if started else self.node

    def settle(self) -> None:
        """Take in how the run stands, once nothing of the sweep works on it any more."""
        self.look()
        now = status.read_status(RunPaths(Path(self.folder)))
        if self.state == ASHA and now.exit_code == STOPPED_EXIT:
            return
        self.state, self.exit = now.state, now.exit_code
        if now.state == "new" and self.note:  # it could not even be started, and would not be another time
            self.state, self.exit = "failed", 1
        elif now.state in ("failed", "dead"):
            self.note = now.sentence


@dataclass
class Standings:
    """All trials of a sweep, in the file's order; kept in `sweep.json` for whoever watches."""

    path: Path
    name: str
    metric: str
    trials: list[Standing]
    started: str = field(default_factory=clock.stamp)
    ended: str | None = None
    address: str | None = None

    def of(self, run: str) -> Standing:
        return next(trial for trial in self.trials if trial.run == run)

    def write(self) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        durable.write_quickly(self.path, json.dumps({"schema": SCHEMA, **asdict(self), "path": str(self.path)}))

    def ranked(self) -> list[Standing]:
        """The best first, by the sweep's metric; those without a number last, in the file's order."""
        return sorted(self.trials, key=lambda trial: -trial.best.get(self.metric, -1.0))

    def winner(self) -> Standing | None:
        """The trial with the best value so far; None where none has one."""
        first = self.ranked()[0] if self.trials else None
        return first if first and self.metric in first.best else None

    @property
    def exit_code(self) -> int:
        """What the command ends with: 75 while something can be continued, else the worst that happened."""
        exits = [trial.exit for trial in self.trials if trial.state not in SETTLED]
        if not exits:
            return 0
        if STOPPED_EXIT in exits:
            return STOPPED_EXIT
        return NO_PLAN_EXIT if set(exits) == {NO_PLAN_EXIT} else 1

    @property
    def sentence(self) -> str:
        """`3 of 4 done, 1 stopped by ASHA; best mAP50 0.41: demo-seed_2`."""
        counted: dict[str, int] = {}
        for trial in self.trials:
            counted[trial.state] = counted.get(trial.state, 0) + 1
        done = f"{counted.pop('done', 0)} of {len(self.trials)} done"
        told = ", ".join([done, *(f"{count} {state}" for state, count in counted.items())])
        best = self.winner()
        return told + (f"; best {self.metric} {best.best[self.metric]:.3f}: {best.run}" if best else "")

    def rows(self) -> list[tuple[str, ...]]:
        """The trials as cells of COLUMNS, the best first."""
        return [_cells(trial) for trial in self.ranked()]


def _cells(trial: Standing) -> tuple[str, ...]:
    best = trial.best.get("mAP50")
    return (
        trial.run,
        trial.state,
        str(trial.epochs),
        "" if best is None else f"{best:.3f}",
        "" if trial.best_epoch is None else str(trial.best_epoch),
        human(trial.peak_bytes) if trial.peak_bytes else "",
        trial.node,
        f"{trial.seconds:.0f}" if trial.seconds else "",
    )


def table(rows: Iterable[Sequence[str]], title: str) -> Table:
    """The trials for a terminal."""
    shown = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD)
    for name in COLUMNS:
        shown.add_column(name, no_wrap=name in COLUMNS[:2])
    for row in rows:
        shown.add_row(*row)
    return shown


def read(path: Path) -> Standings | None:
    """The standings that a `sweep.json` holds; None where there is none or it cannot be read."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        trials = [Standing(**_known(Standing, row)) for row in content["trials"]]
        return Standings(**{**_known(Standings, content), "path": path, "trials": trials})
    except (OSError, ValueError, TypeError, KeyError):
        return None


def _known(kind: type, row: Mapping[str, Any]) -> dict[str, Any]:
    names = {one.name for one in fields(kind)}
    return {key: value for key, value in row.items() if key in names}
