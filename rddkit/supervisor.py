"""The supervisor: starts the worker, writes the journal, names every cause, decides what follows. Never imports torch.

One process a run, in a session of its own:
`python -m rddkit.supervisor FOLDER --lock FD [--caller FD] [--until STAMP]`.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import select
import selectors
import signal
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rddkit import cause, clock, durable, lock, memory, runfile, status, tables
from rddkit.cause import Cause, Ending, Step
from rddkit.journal import Journal, last
from rddkit.paths import RunPaths

POLL_SECONDS = 1.0
LOG_TAIL_BYTES = 4000
CLOSED = {"finish": "done", "stop": "stopped", "fail": "failed"}  # progress.json's state by the last step


@dataclass
class Attempt:
    """One life of the worker, as the supervisor sees it."""

    number: int
    process: subprocess.Popen[bytes]
    messages: int
    buffer: bytes = b""
    last_words: dict[str, Any] = field(default_factory=dict)
    beat: dict[str, Any] = field(default_factory=dict)
    peak_bytes: int = 0


class Supervisor:
    """Runs attempts until the run is done, stopped or failed. `run` returns the exit code."""

    def __init__(self, paths: RunPaths, lock_fd: int, caller_fd: int | None, until: str | None = None) -> None:
        self.paths = paths
        self.lock_fd = lock_fd
        self.caller_fd = caller_fd
        self.until = until
        self.record = runfile.read(paths.run_yaml)
        self.journal = Journal(paths.journal)
        self.asked: str | None = None
        self.interrupts: list[int] = []
        self.ended_at_once = 0
        self.attempt: Attempt | None = None
        self.steps = tables.Steps(paths.steps_csv)
        self.memory = tables.Memory(paths.memory_csv)
        self.last_tick = 0.0
        self.woken = -1
        self.before: dict[str, Any] = {}
        self.progress_before = 0

    # -- the run -----------------------------------------------------------------------------------------------------

    def run(self) -> int:
        self.woken, wake = os.pipe()  # a signal's byte ends the wait for messages at once
        os.set_blocking(wake, False)
        signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
        signal.signal(signal.SIGTERM, self._on_signal)
        signal.signal(signal.SIGINT, self._on_signal)
        signal.signal(signal.SIGUSR1, self._on_signal)
        signal.signal(signal.SIGHUP, signal.SIG_IGN)  # a closed terminal is the caller's affair
        # Signed only now: who reads the signature may send signals, and each has its handler.
        lock.sign(self.lock_fd, supervisor_pid=os.getpid(), supervisor_started=lock.started(os.getpid()))
        for folder in (self.paths.folder, self.paths.weights, self.paths.snapshots):
            durable.remove_leftovers(folder)
        self.progress_before = self._progress_made()
        events = self.journal.read()
        if last(events, "run_started") is None:
            self.journal.add("run_started", 0, name=self.record.name, config=self.record.config, plan=self.record.plan)
        number = max((int(event.get("attempt", 0)) for event in events), default=0)
        while True:
            number += 1
            ending, why = self._attempt(number)
            step = self._decide(why)
            if step.action != "retry":
                return self._close(number, ending, why, step)
            if not self._wait(step.wait_seconds):
                return self._close(number, ending, why, Step("stop", self.asked or "", exit=cause.STOPPED_EXIT))

    def _decide(self, why: Cause) -> Step:
        ended = [event for event in self.journal.read() if event["event"] == "attempt_ended"]
        since = [event for event in ended if event.get("session") == os.getpid()]
        stuck = cause.without_progress([int(event.get("progress", 0)) for event in since], self.progress_before)
        return cause.next_step(why, stuck, self.record.safety["retries"], self.record.safety["backoff_seconds"])

    def _close(self, number: int, ending: Ending, why: Cause, step: Step) -> int:
        beat = self.attempt.beat if self.attempt else {}
        if step.action == "finish":
            rows = status.read_rows(self.paths.results_csv)
            best = status.best_row(rows)
            self.journal.add(
                "run_done",
                number,
                epochs=len(rows),
                best_epoch=int(best["epoch"]) if "epoch" in best else None,
                best_map50=best.get("metrics/mAP50(B)"),
                seconds=rows[-1].get("time") if rows else None,
            )
        elif step.action == "stop":
            self.journal.add(
                "run_stopped",
                number,
                reason=step.reason,
                epoch=beat.get("epoch"),
                batch=beat.get("batch"),
                exit=self.ended_at_once or step.exit,
            )
        else:
            advice = f"read {self.paths.log(number)}; mend it; start again with the same command"
            self.journal.add(
                "run_failed", number, cause=why.name, evidence=why.evidence, what_to_do=advice, exit=step.exit
            )
            print(f"{self.record.name} failed: {why.evidence}\n{step.reason}\n{advice}", file=sys.stderr, flush=True)
        self._write_progress(CLOSED[step.action])
        if step.action == "finish":
            self._report()
        return self.ended_at_once or step.exit

    def _report(self) -> None:
        """Write report.html in a child, so that plotting is never loaded here; a failure is said, and harms nothing."""
        command = [sys.executable, "-m", "rddkit.report", str(self.paths.folder)]
        answer = subprocess.run(command, capture_output=True, text=True, check=False)
        if answer.returncode != 0:
            print(f"no report: {answer.stderr.strip()[-500:]}", file=sys.stderr, flush=True)

    # -- one attempt -------------------------------------------------------------------------------------------------

    def _attempt(self, number: int) -> tuple[Ending, Cause]:
        left = status.read_progress(self.paths.progress)
        self.before = left if left.get("epoch") else self.before  # an attempt may end before it trains
        attempt = self.attempt = self._start(number)
        self.journal.add(
            "attempt_started", number, plan=self.record.plan, worker_pid=attempt.process.pid, device=self.record.device
        )
        with selectors.DefaultSelector() as selector:
            selector.register(attempt.messages, selectors.EVENT_READ, "worker")
            selector.register(self.woken, selectors.EVENT_READ, "signal")
            if self.caller_fd is not None:
                selector.register(self.caller_fd, selectors.EVENT_READ, "caller")
            while attempt.process.poll() is None or attempt.messages in selector.get_map():
                ready = selector.select(POLL_SECONDS)
                for key, _ in ready:
                    if key.data == "caller":
                        selector.unregister(key.fd)
                        self._ask_to_stop("the caller went away")
                    elif key.data == "signal":
                        os.read(key.fd, 1024)
                    elif not self._read(attempt):
                        selector.unregister(key.fd)
                self._heed_interrupts()
                self._tick(attempt)
                if attempt.process.poll() is not None and not ready:
                    break  # a grandchild may hold the pipe open; the worker's own words have been read
        os.close(attempt.messages)
        ending = self._ending(attempt)
        why = cause.name_cause(ending)
        self.journal.add(
            "attempt_ended",
            number,
            cause=why.name,
            evidence=why.evidence,
            exit=ending.exit,
            peak_bytes=attempt.peak_bytes,
            progress=self._progress_made(),
            session=os.getpid(),
        )
        return ending, why

    def _start(self, number: int) -> Attempt:
        read_end, write_end = os.pipe()
        self.paths.logs.mkdir(exist_ok=True)
        command = [sys.executable, "-m", "rddkit.worker", str(self.paths.folder), str(number), str(write_end)]
        with open(self.paths.log(number), "ab") as log:
            process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=subprocess.STDOUT,
                pass_fds=(write_end, self.lock_fd),
                start_new_session=True,
                env={**os.environ, **self._environment()},
            )
        os.close(write_end)
        return Attempt(number, process, read_end)

    def _environment(self) -> dict[str, str]:
        """What must be set before torch and Ultralytics start: threads, allocator, and no network unasked."""
        return {
            "OMP_NUM_THREADS": str(self.record.threads),
            "MKL_NUM_THREADS": str(self.record.threads),
            "PYTHONUNBUFFERED": "1",
            **self.record.allocator,
        }

    def _read(self, attempt: Attempt) -> bool:
        """Take in what the worker says; False at the pipe's end."""
        block = os.read(attempt.messages, 1 << 16)
        attempt.buffer += block
        *lines, attempt.buffer = attempt.buffer.split(b"\n")
        for line in lines:
            try:
                self._hear(attempt, json.loads(line))
            except (ValueError, KeyError, TypeError) as error:  # a library may write to the descriptor by mistake
                print(f"passed over from the worker: {line[:200]!r} ({error})", file=sys.stderr, flush=True)
        return bool(block)

    def _hear(self, attempt: Attempt, message: dict[str, Any]) -> None:
        kind = message.pop("kind")
        if kind == "beat":
            attempt.beat = message
            self.steps.add(attempt.number, message)
            self._write_progress("running")
        elif kind == "event":
            if message["event"] == "resumed":
                self.steps.drop_after(message["epoch"], message["batch"])
                message |= lost_work(self.before, message)
            self.journal.add(attempt=attempt.number, **message)
        elif kind == "end":
            attempt.last_words = message

    def _tick(self, attempt: Attempt) -> None:
        now = clock.monotonic()
        if now - self.last_tick < POLL_SECONDS:
            return
        self.last_tick = now
        self.journal.flush()
        if self.until and self.asked is None and clock.age_seconds(self.until) >= 0:
            self._ask_to_stop(f"the session window is over (until {clock.local_time(self.until)})")
        held = memory.tree(attempt.process.pid).bytes
        attempt.peak_bytes = max(attempt.peak_bytes, held)
        self.memory.add(
            attempt=attempt.number,
            worker=held,
            device=attempt.beat.get("device_memory"),
            available=memory.available().bytes,
            budget=self.record.budget.get("bytes"),
            swap=memory.swap_used().bytes,
        )
        self._write_progress("running")

    def _write_progress(self, state: str) -> None:
        attempt = self.attempt
        beat = attempt.beat if attempt else {}
        content = {
            "state": state,
            **{key: beat.get(key) for key in tables.PROGRESS_KEYS},
            "heartbeat": beat.get("t"),
            "attempt": attempt.number if attempt else 0,
            "worker_pid": attempt.process.pid if attempt else None,
            "supervisor_pid": os.getpid(),
            "supervisor_started": lock.started(os.getpid()),
            "until": self.until,
        }
        with contextlib.suppress(OSError):  # a full disk must not end the run; the next second tries again
            durable.write_quickly(self.paths.progress, json.dumps(content))

    def _ending(self, attempt: Attempt) -> Ending:
        return Ending(
            exit=attempt.process.returncode,
            outcome=attempt.last_words.get("outcome"),
            error=attempt.last_words.get("error", ""),
            asked=self.asked,
            log_tail=log_tail(self.paths.log(attempt.number)),
        )

    def _progress_made(self) -> int:
        """How far what is on disk has come: millionths of an epoch, by the newest snapshot or whole epoch."""
        reached = [0.0]
        for event in self.journal.read():
            if event["event"] == "epoch":
                reached.append(float(event["epoch"]))
            elif event["event"] == "snapshot":
                reached.append(event["epoch"] - 1 + event["batch"] / max(event["batches"], 1))
        return round(max(reached) * 1e6)

    # -- being asked to stop -------------------------------------------------------------------------------------------

    def _on_signal(self, number: int, _frame: object) -> None:
        self.interrupts.append(number)

    def _heed_interrupts(self) -> None:
        while self.interrupts:
            number = self.interrupts.pop(0)
            name = cause.signal_name(number)
            if number == signal.SIGUSR1:
                self._tell_worker("snapshot")
            elif self.asked is None:
                self._ask_to_stop(f"asked to stop ({name})")
            elif not self.ended_at_once:
                self.asked = f"ended at once (a second {name})"
                self.ended_at_once = 128 + number
                if self.attempt and self.attempt.process.poll() is None:
                    self.attempt.process.kill()

    def _ask_to_stop(self, why: str) -> None:
        if self.asked is None:
            self.asked = why
            self._tell_worker("stop")

    def _tell_worker(self, word: str) -> None:
        process = self.attempt.process if self.attempt else None
        if process and process.stdin and process.poll() is None:
            with contextlib.suppress(OSError):
                os.write(process.stdin.fileno(), f"{word}\n".encode())

    def _wait(self, seconds: float) -> bool:
        """Wait before the next attempt; False if asked to stop meanwhile."""
        deadline = clock.monotonic() + seconds
        caller = [] if self.caller_fd is None else [self.caller_fd]
        while self.asked is None and (left := deadline - clock.monotonic()) > 0:
            ready, _, _ = select.select([self.woken, *caller], [], [], min(left, POLL_SECONDS))
            if self.woken in ready:
                os.read(self.woken, 1024)
            if caller and self.caller_fd in ready:
                self._ask_to_stop("the caller went away")
            self._heed_interrupts()
        return self.asked is None


def lost_work(before: dict[str, Any], resumed: dict[str, Any]) -> dict[str, Any]:
    """The batches and seconds of training that a resume repeats.

    Args:
        before: progress.json as the attempt before left it.
        resumed: epoch (1-based), batch (of it, done) and train_seconds of the state continued from.
    """
    batches = int(before.get("batches") or 0)
    was = int(before.get("epoch") or 0) * batches + int(before.get("batch") or 0)
    now = int(resumed["epoch"]) * batches + int(resumed["batch"])
    until = before.get("train_seconds")
    if until is None:  # killed before its first batch: nothing was trained that could be lost
        return {"lost_batches": 0, "lost_seconds": 0.0}
    seconds = until - (resumed.get("train_seconds") or 0.0)
    return {"lost_batches": max(0, was - now), "lost_seconds": round(max(0.0, seconds), 1)}


def log_tail(path: Path, size: int = LOG_TAIL_BYTES) -> str:
    """The last lines of a log, for people."""
    try:
        with open(path, "rb") as file:
            end = file.seek(0, os.SEEK_END)
            file.seek(max(0, end - size))
            return file.read().decode(errors="replace").strip()
    except OSError:
        return ""


def main() -> int:
    parser = argparse.ArgumentParser(prog="rddkit.supervisor")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--lock", type=int, required=True)
    parser.add_argument("--caller", type=int)
    parser.add_argument("--until")
    words = parser.parse_args()
    paths = RunPaths(words.folder)
    return Supervisor(paths, words.lock, words.caller, words.until).run()


if __name__ == "__main__":
    sys.exit(main())
