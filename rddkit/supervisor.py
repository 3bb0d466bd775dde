"""The supervisor: starts workers, names why each one ended, decides what follows. Never imports torch.

One process a run, in a session of its own:
`python -m rddkit.supervisor FOLDER --lock FD [--caller FD] [--until STAMP]`.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import select
import signal
import subprocess
import sys
import uuid
from dataclasses import replace
from pathlib import Path
from typing import Any

from rddkit import cause, choice, clock, durable, estimate, fallbacks, fence, host, lock, memory, runfile, status
from rddkit.books import Books
from rddkit.calibration import Stopped
from rddkit.cause import STOPPED_EXIT, Cause, Step
from rddkit.estimate import Known
from rddkit.fallbacks import Fallback
from rddkit.journal import last
from rddkit.life import Life
from rddkit.lighter import take, ways_on
from rddkit.paths import RunPaths

POLL_SECONDS = 1.0
# `systemctl stop` and a shutdown signal caller, supervisor and worker at once, and the caller passes its own on: within
# this span two of the same signal are one.
ONE_INTERRUPT_SECONDS = 1.0
REPORT_SECONDS = 300.0
CLOSED = {"finish": "done", "stop": "stopped", "fail": "failed"}  # progress.json's state by the last step


class Supervisor:
    """Runs attempts until the run is done, stopped or failed. `run` returns the exit code."""

    def __init__(self, paths: RunPaths, lock_fd: int, caller_fd: int | None, until: str | None = None) -> None:
        self.paths = paths
        self.lock_fd = lock_fd
        self.caller_fd = caller_fd
        self.until = until
        self.record = runfile.read(paths.run_yaml)
        self.books = Books(paths, until)
        self.journal = self.books.journal
        self.asked: str | None = None
        self.asked_at = 0.0
        self.asked_by: int | None = None  # the signal, if it was one
        self.session = uuid.uuid4().hex  # not the pid: in a container each supervisor may have the same
        self.interrupts: list[int] = []
        self.ended_at_once = 0
        self.life: Life | None = None
        self.woken = -1
        self.reached_before = 0
        self.reseed = False
        self.known: Known | None = None

    # -- the run -----------------------------------------------------------------------------------------------------

    def run(self) -> int:
        self._listen_to_signals()
        # Signed only now: who reads the signature may send signals, and each has its handler.
        lock.sign(self.lock_fd, supervisor_pid=os.getpid(), supervisor_started=lock.started(os.getpid()))
        if not self._take_over():
            return cause.STOPPED_EXIT
        host.keep_awake(self.record.safety["keep_awake"])
        for folder in (self.paths.folder, self.paths.weights, self.paths.snapshots):
            durable.remove_leftovers(folder)
        self.reached_before = self.books.reached()
        events = self.books.events()
        if last(events, "run_started") is None:
            self.journal.add("run_started", 0, name=self.record.name, config=self.record.config, plan=self.record.plan)
        number = max((int(event.get("attempt", 0)) for event in events), default=0)
        if (nothing := self._choose_plan(number + 1)) is not None:
            return nothing
        while True:
            number += 1
            why = self._attempt(number)
            lighter = self._next_fallback()
            step = self._decide(why, lighter)
            if step.action == "fallback" and lighter:
                try:
                    self._take(number, lighter, why)
                except OSError as error:  # run.yaml is as it was
                    reason = f"no lighter plan could be written: {error}"
                    return self._close(number, why, Step("stop", reason, exit=cause.STOPPED_EXIT))
            elif step.action != "retry":
                return self._close(number, why, step)
            self.reseed = step.reseed
            if not self._wait(step.wait_seconds):
                return self._close(number, why, Step("stop", self.asked or "", exit=cause.STOPPED_EXIT))

    def _take_over(self) -> bool:
        """Raise the fence, and give an owner on another machine that may still write the time to see it; False if
        asked to stop meanwhile.
        """
        self.fence, elsewhere = fence.raise_fence(self.paths.fence)
        newest = last(self.books.events(), *status.BADGES, "attempt_started")
        left = newest is None or newest["event"] in status.BADGES
        return left or not elsewhere or self._wait(fence.GRACE_SECONDS)

    def _decide(self, why: Cause, lighter: Fallback | None) -> Step:
        ended = [event for event in self.books.events() if event["event"] == "attempt_ended"]
        since = [event for event in ended if event.get("session") == self.session]
        stuck = cause.without_progress([int(event.get("progress", 0)) for event in since], self.reached_before)
        safety = self.record.safety
        return cause.next_step(why, stuck, safety["retries"], safety["backoff_seconds"], lighter is not None)

    def _close(self, number: int, why: Cause, step: Step) -> int:
        beat = self.life.beat if self.life else {}
        code = self.ended_at_once or step.exit
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
            where = {"epoch": beat.get("epoch"), "batch": beat.get("batch")}
            self.journal.add("run_stopped", number, reason=step.reason, **where, exit=code)
        else:
            told = {"cause": why.name, "evidence": why.evidence, "reason": step.reason}
            advice = self._advice(number, step)
            self.journal.add("run_failed", number, **told, what_to_do=advice, exit=code)
            print(f"{self.record.name} failed: {why.evidence}\n{step.reason}\n{advice}", file=sys.stderr, flush=True)
        self.books.progress(CLOSED[step.action], number, self.life.pid if self.life else None, beat)
        if step.action != "stop":
            self._report()
            self._notify(CLOSED[step.action])
        return code

    def _advice(self, number: int, step: Step) -> str:
        if step.exit != cause.NO_PLAN_EXIT:
            return f"read {self.paths.log(number)}; mend it; start again with the same command"
        return ways_on(self.paths)

    def _report(self) -> None:
        """Write report.html in a child, so that plotting is never loaded here; a failure is said, and harms nothing."""
        command = [sys.executable, "-m", "rddkit.report", str(self.paths.folder)]
        try:
            subprocess.run(command, capture_output=True, text=True, check=True, timeout=REPORT_SECONDS)
        except subprocess.SubprocessError as error:
            said = (getattr(error, "stderr", None) or str(error)).strip()[-500:]
            print(f"no report: {said}", file=sys.stderr, flush=True)

    def _notify(self, what: str) -> None:
        command = self.record.safety["notify"]
        if command:
            sentence = f"{self.record.name}: {status.read_status(self.paths).sentence}"
            answer = host.notify(command, what, self.record.name, sentence)
            self.journal.add("notified", self.life.number if self.life else 0, about=what, reason=answer)

    # -- one attempt -------------------------------------------------------------------------------------------------

    def _attempt(self, number: int) -> Cause:
        self.books.remember_progress()
        self._renew_budget()
        why = self._cannot_start()
        if why is None:
            life = self.life = Life(number, self.books, self.record, self.lock_fd, self.reseed)
            life.expected = self._expected()
            plan, device = self.record.plan, self.record.device
            budget = self.record.budget.get("bytes")
            where = {"node": fence.node(), "worker_pid": life.pid}
            self.journal.add("attempt_started", number, plan=plan, **where, device=device, budget=budget)
            if self.asked:
                life.tell("stop")
            life.watch([self.woken, *([] if self.caller_fd is None else [self.caller_fd])], self._attend)
            ending = life.ending(self.asked)
            why = cause.name_cause(ending)
            held = {"peak_bytes": life.peak_bytes, "peak_resident_bytes": life.peak_resident_bytes}
            told = {"exit": ending.exit, **held, "where": ending.phase}
        else:
            told = {"exit": None, "peak_bytes": 0}
        progress = {"progress": self.books.reached(), "session": self.session}
        self.journal.add("attempt_ended", number, cause=why.name, evidence=why.evidence, **told, **progress)
        return why

    def _renew_budget(self) -> None:
        """What may be used now: other programs come and go between two attempts."""
        budget = memory.memory_budget(self.record.safety["budget"], self.record.safety["reserve"])
        self.record.budget |= {"bytes": budget.bytes, "source": budget.source}
        with contextlib.suppress(OSError):  # a full disk: the worker reads the budget of before
            self.record.write(self.paths.run_yaml)

    def _cannot_start(self) -> Cause | None:
        """What stands in the way of an attempt, looked for before torch is started."""
        data = Path(str(self.record.config["data"]))
        if not data.is_file():
            return Cause("crash", f"the data set is not at {data} any more")
        return None

    # -- the first plan ------------------------------------------------------------------------------------------------

    def _choose_plan(self, number: int) -> int | None:
        """Before a plan's first attempt: take the first that fits; the exit code where none does."""
        started = [event["plan"] for event in self.books.events() if event["event"] == "attempt_started"]
        plan = self.record.plan
        if not self.record.safety["estimate"] or any(fallbacks.same(plan, other) for other in started):
            return None
        self._renew_budget()
        if self._cannot_start():
            return None
        self.books.remember_progress()
        self.books.progress("running", number, None, {"phase": "estimate", "t": clock.stamp()})
        try:
            self.known = estimate.know(self.record, estimate.measure(self.record, lambda: self._wait(0.0)))
        except Stopped:
            return self._close(
                number, Cause("stopped", self.asked or ""), Step("stop", self.asked or "", exit=STOPPED_EXIT)
            )
        except Exception as error:  # an estimate must never keep a run from being tried
            print(f"no estimate: {type(error).__name__}: {error}", file=sys.stderr, flush=True)
            return None
        found = choice.choose(self.known, plan, self._ladder())
        keys = ("estimate", "safe_bound", "fits", "may_fit", "calibrated", "seconds_per_epoch")
        told = {key: found.told[key] for key in keys}
        self.journal.add("estimated", number, **told, budget=found.told["budget"], reason=found.reason)
        if not found.takes:
            reason = f"{found.reason}; no plan fits"
            return self._close(number, Cause("oom", reason), Step("fail", reason, exit=cause.NO_PLAN_EXIT))
        if found.fallback:
            self._take(number, found.fallback, Cause("oom", found.reason))
        return None

    def _ladder(self) -> list[Fallback]:
        safety = self.record.safety
        return fallbacks.ladder(self.record.plan, safety["fallbacks"], safety["min_imgsz"])

    def _expected(self) -> dict[str, Any] | None:
        """The estimate of the plan in use, by the budget of now."""
        if self.known is None:
            return None
        budget, source = estimate.budget_of(self.record)
        self.known = replace(self.known, budget=budget, budget_source=source)
        return estimate.judged(self.known, self.record.plan)

    # -- lighter plans -------------------------------------------------------------------------------------------------

    def _next_fallback(self) -> Fallback | None:
        safety = self.record.safety
        failed = [*self.record.failed, self.record.plan]
        if self._expected() and self.known:
            failed += choice.too_big(self.known, self._ladder())
        return fallbacks.next_fallback(self.record.plan, failed, safety["fallbacks"], safety["min_imgsz"])

    def _take(self, number: int, lighter: Fallback, why: Cause) -> None:
        epoch = self.life.beat.get("epoch") if self.life else None
        take(self.paths, self.journal, self.record, lighter, number, epoch, why.evidence)
        self._notify("fallback")

    # -- being asked to stop -------------------------------------------------------------------------------------------

    def _listen_to_signals(self) -> None:
        self.woken, wake = os.pipe()  # a signal's byte ends the wait for messages at once
        os.set_blocking(wake, False)
        signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1):
            signal.signal(number, lambda number, _frame: self.interrupts.append(number))
        signal.signal(signal.SIGHUP, signal.SIG_IGN)  # a closed terminal is the caller's affair

    def _attend(self, fd: int) -> bool:
        """Heed what is not the worker: signals, the caller, the clock. False for a pipe that has ended."""
        ended = False
        if fd == self.woken:
            os.read(fd, 1024)
        elif fd == self.caller_fd and fd >= 0:
            self.caller_fd = None
            self._ask_to_stop("the caller went away")
            ended = True
        self._heed_interrupts()
        self._mind_fence()
        if self.until and self.asked is None and clock.age_seconds(self.until) >= 0:
            self._ask_to_stop(f"the session window is over (until {clock.local_time(self.until)})")
        return not ended

    def _heed_interrupts(self) -> None:
        while self.interrupts:
            number = self.interrupts.pop(0)
            name = cause.signal_name(number)
            if number == signal.SIGUSR1:
                if self.life:
                    self.life.tell("snapshot")
            elif self.asked is None:
                self.asked_by = number
                self._ask_to_stop(f"asked to stop ({name})")
            elif self.asked_by in (None, number) and clock.monotonic() - self.asked_at < ONE_INTERRUPT_SECONDS:
                continue
            elif not self.ended_at_once:
                self.asked = f"ended at once (a second {name})"
                self.ended_at_once = 128 + number
                if self.life:
                    self.life.end()

    def _mind_fence(self) -> None:
        """Leave at once and write nothing more where another machine has taken the run."""
        if self.fence.is_lost():
            if self.life:
                self.life.end()
                self.life.process.wait()
            newer = fence.read(self.paths.fence).get("node", "another machine")
            print(f"{self.record.name}: {newer} has taken the run; leaving it", file=sys.stderr, flush=True)
            sys.exit(cause.STOPPED_EXIT)

    def _ask_to_stop(self, why: str) -> None:
        if self.asked is None:
            self.asked, self.asked_at = why, clock.monotonic()
            if self.life:
                self.life.tell("stop")

    def _wait(self, seconds: float) -> bool:
        """Wait before the next attempt; False if asked to stop meanwhile."""
        deadline = clock.monotonic() + seconds
        while True:
            left = max(0.0, deadline - clock.monotonic())
            waiting = [self.woken] if self.caller_fd is None else [self.woken, self.caller_fd]
            ready, _, _ = select.select(waiting, [], [], min(left, POLL_SECONDS))
            for fd in ready or [-1]:
                self._attend(fd)
            if self.asked is not None or left == 0:
                return self.asked is None


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
