"""The worker: one attempt's child process. It trains, tells the supervisor how it goes, and stops when asked.

`python -m rddkit.worker FOLDER ATTEMPT FD [--reseed]`: messages go to descriptor FD, one JSON object a line; orders
(`stop`, `snapshot`) come on standard input, whose end means that the supervisor is gone. For several devices it leads
a worker for each (`--rank`), to which it is what the supervisor is to itself.
"""

from __future__ import annotations

import faulthandler
import json
import os
import signal
import sys
import threading
import traceback
from pathlib import Path
from typing import Any

from rddkit import allocators, caps, clock, ddp, memory, offline, paths, runfile, unused
from rddkit.allocators import stage_of
from rddkit.cause import STOPPED_EXIT
from rddkit.paths import RunPaths

BEAT_SECONDS = 0.5
# A worker whose supervisor is gone has this long to reach a batch's end; the run's next owner waits for it.
ORPHAN_SECONDS = 8.0


class Talk:
    """Messages to the supervisor. A supervisor that is gone is noticed on standard input, not here."""

    def __init__(self, fd: int, device: str) -> None:
        self.fd = fd
        self.device = device
        self.lock = threading.Lock()
        self.last_beat = 0.0
        self.phase = ""

    def send(self, message: dict[str, Any]) -> None:
        """Write a message as it is."""
        line = (json.dumps(message, default=str) + "\n").encode()
        with self.lock:
            try:
                while line:
                    line = line[os.write(self.fd, line) :]
            except OSError:
                pass

    def beat(self, phase: str, **where: Any) -> None:
        """Say where training stands: at most twice a second, at once when the phase changes or an epoch ends."""
        now = clock.monotonic()
        due = now - self.last_beat >= BEAT_SECONDS or phase != self.phase
        if due or where.get("batch") == where.get("batches"):
            self.last_beat, self.phase = now, phase
            device_memory = memory.device_memory(self.device)
            self.send({"kind": "beat", "t": clock.stamp(), "phase": phase, "device_memory": device_memory, **where})

    def event(self, event: str, **fields: Any) -> None:
        """Ask the supervisor to journal an event."""
        self.send({"kind": "event", "event": event, **fields})

    def end(self, outcome: str, error: str = "", stage: str = "") -> None:
        """The last words; `stage` is what training was doing."""
        self.send({"kind": "end", "outcome": outcome, "error": error, "stage": stage})


class Orders:
    """What was asked of the worker; set by a signal or from standard input, read between batches.

    Args:
        orphan_seconds: how long it may go on when who gives the orders is gone.
    """

    def __init__(self, orphan_seconds: float = ORPHAN_SECONDS) -> None:
        self.orphan_seconds = orphan_seconds
        self.stop: str | None = None
        self.snapshot = False
        self.stops = 0

    def listen(self) -> None:
        signal.signal(signal.SIGTERM, self._on_stop)
        signal.signal(signal.SIGINT, self._on_stop)
        signal.signal(signal.SIGUSR1, self._on_snapshot)
        threading.Thread(target=self._read, daemon=True).start()

    def _on_stop(self, number: int, _frame: object) -> None:
        self.stops += 1
        if self.stops > 1:
            os._exit(128 + number)
        self.stop = self.stop or f"asked to stop ({signal.Signals(number).name} to the worker)"

    def _on_snapshot(self, _number: int, _frame: object) -> None:
        self.snapshot = True

    def _read(self) -> None:
        for line in sys.stdin.buffer:
            word = line.strip()
            if word == b"stop":
                self.stop = self.stop or "asked to stop"
            elif word == b"snapshot":
                self.snapshot = True
        self.stop = self.stop or "the supervisor is gone"
        threading.Timer(self.orphan_seconds, os._exit, (STOPPED_EXIT,)).start()


def last_words(error: BaseException) -> tuple[str, str, str]:
    """The outcome (oom, nonfinite, crash), its text, and what training was doing, from an exception and its causes."""
    chain: list[BaseException] = []
    link: BaseException | None = error
    while link is not None and link not in chain:
        chain.append(link)
        link = link.__cause__ or link.__context__
    for link in chain:
        kind, text = type(link).__name__, str(link)
        functions = [frame.name for frame in traceback.extract_tb(link.__traceback__)]
        if owner := allocators.who_ran_out(kind, text):
            return (
                "oom",
                f"{owner}: {kind}: {text.strip().splitlines()[0] if text.strip() else ''}",
                stage_of(functions),
            )
        if kind == "NonFinite":
            return "nonfinite", text, stage_of(functions)
    return "crash", f"{type(error).__name__}: {error}", ""


def run(
    paths: RunPaths, attempt: int, talk: Talk, orders: Orders, record: runfile.RunFile, reseed: bool = False
) -> int:
    """Train until done or stopped; the exit status. Every way out has last words, but for a kill."""
    try:
        talk.beat("start")
        if record.device in ("cpu", "mps"):  # where it shares the memory that the training needs
            unused.keep_out(compiles=bool(record.config.get("compile")))
        from rddkit import attempt as one

        finished = one.train(paths, record, attempt, talk, orders, reseed)
    except Exception as error:
        traceback.print_exc()
        talk.end(*last_words(error))
        return 1
    if not finished:
        talk.end("stopped", orders.stop or "")
        return STOPPED_EXIT
    talk.end("done")
    return 0


def main() -> int:
    faulthandler.enable()
    faulthandler.register(
        signal.SIGUSR2, all_threads=True
    )  # the supervisor asks for it before it ends a hanging worker
    folder, attempt, fd = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    os.set_inheritable(fd, False)
    kept = paths.cache().resolve() not in folder.resolve().parents  # trials and self-tests train below .cache
    offline.prepare_home(kept)  # first: it reads the user's own settings, which the next line hides
    os.environ.update(offline.environment(kept))
    run_paths = RunPaths(folder)
    record = runfile.read(run_paths.run_yaml)
    flags, devices = sys.argv[4:], ddp.devices(record.device)
    orders = Orders(0.0 if "--rank" in flags else ORPHAN_SECONDS)
    orders.listen()
    if len(devices) > 1 and "--rank" not in flags:
        command = [sys.executable, "-m", "rddkit.worker", str(folder), str(attempt)]
        return ddp.Leader(devices, command, [*flags, "--rank"], Talk(fd, "cpu").send, orders).lead()
    caps.before_torch(int(record.budget.get("bytes") or 0), record.safety["cap"] and record.device == "cpu")
    return run(run_paths, attempt, Talk(fd, record.device), orders, record, "--reseed" in flags)


if __name__ == "__main__":
    code = main()
    sys.stdout.flush()
    os._exit(code)  # the reader thread sits in a read that an ordinary exit would wait for
