"""One life of the worker: started, listened to, guarded, ended. Never imports torch.

The supervisor decides what comes before and after it; this is what happens while it lives.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import psutil

from rddkit import allocators, caps, cgroup, clock, ddp, guard, hang, macos, memory, need
from rddkit.books import Books, log_tail
from rddkit.cause import Ending
from rddkit.runfile import RunFile

TICK_SECONDS = 1.0
PRESSURE_SECONDS = 5.0  # macOS tells its pressure through a child process: not every tick
RECENT_SECONDS = 60.0  # a level of memory pressure older than this explains no kill
CLOSING_SECONDS = 0.02  # a dying worker's pipe ends a moment before the worker does
COUNTER_SECONDS = 0.5  # the exit is seen before the kernel's counter moves


class Life:
    """One worker process, from its start to its `ending`."""

    def __init__(self, number: int, books: Books, record: RunFile, lock_fd: int, reseed: bool = False) -> None:
        self.number = number
        self.books = books
        self.record = record
        self.beat: dict[str, Any] = {}
        self.last_words: dict[str, Any] = {}
        self.buffer = b""
        self.peak_bytes = self.peak_resident_bytes = 0
        self.guarded: str | None = None
        self.hung: str | None = None
        self.asked_at: float | None = None
        self.silence = hang.Silence()
        self.last_tick = self.last_warning = self.last_look = -1e9
        self.poll = TICK_SECONDS
        self.pressure_level: int | None = None
        self.critical_at = -1e9
        self.swap_before = memory.swap_used().bytes
        self.kills_before = cgroup.kills()
        self.epochs_held: list[int] = []
        self.epoch_held = self.epoch_needed = 0
        self.began_whole = True
        self.expected: dict[str, Any] | None = None  # the plan's estimate
        self.exceeded = False
        safety = record.safety
        self.measure = memory.tree if len(ddp.devices(record.device)) > 1 else memory.process
        self.limits = guard.Limits(safety["guard_warn"], safety["guard_stop"], safety["guard_end"])
        self._spawn(lock_fd, reseed)

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def alive(self) -> bool:
        return self.process.poll() is None

    def _spawn(self, lock_fd: int, reseed: bool) -> None:
        paths = self.books.paths
        self.messages, write_end = os.pipe()
        paths.logs.mkdir(exist_ok=True)
        command = [sys.executable, "-m", "rddkit.worker", str(paths.folder), str(self.number), str(write_end)]
        with open(paths.log(self.number), "ab") as log:
            self.process = subprocess.Popen(
                command + (["--reseed"] if reseed else []),
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=subprocess.STDOUT,
                pass_fds=(write_end, lock_fd),
                start_new_session=True,
                env={**os.environ, **environment(self.record)},
            )
        os.close(write_end)

    # -- while it lives ------------------------------------------------------------------------------------------------

    def watch(self, others: list[int], on_ready: Callable[[int], bool]) -> None:
        """Attend to the worker until it is gone.

        Args:
            others: further descriptors to wait for (a caller's pipe, signals).
            on_ready: called with one that is ready; False takes it from the list.
        """
        waiting = [self.messages, *others]
        while self.alive or self.messages in waiting:
            lived = self.alive  # asked before: what it says last is then seen by this very look
            poll = self.poll if self.messages in waiting else min(self.poll, CLOSING_SECONDS)
            ready, _, _ = select.select(waiting, [], [], poll if lived else 0)
            for fd in ready:
                keep = self._read() if fd == self.messages else on_ready(fd)
                if not keep:
                    waiting.remove(fd)
            on_ready(-1)
            self._tick()
            if not lived and not ready:
                break  # a grandchild may hold the pipe open; the worker's own words have been read
        os.close(self.messages)

    def tell(self, word: str) -> None:
        """Send the worker an order: `stop` or `snapshot`."""
        stdin = self.process.stdin
        if stdin and self.alive:
            with contextlib.suppress(OSError):
                os.write(stdin.fileno(), f"{word}\n".encode())

    def end(self) -> None:
        """Kill the worker and what it started."""
        if self.alive:
            self._kill()

    def _kill(self) -> None:
        with contextlib.suppress(OSError):  # gone already
            os.killpg(self.pid, signal.SIGKILL)  # the worker leads a session of its own

    def _read(self) -> bool:
        """Take in what the worker says; False at the pipe's end."""
        block = os.read(self.messages, 1 << 16)
        self.buffer += block
        *lines, self.buffer = self.buffer.split(b"\n")
        for line in lines:
            try:
                self._hear(json.loads(line))
            except (ValueError, KeyError, TypeError) as error:  # a library may write to the descriptor by mistake
                print(f"passed over from the worker: {line[:200]!r} ({error})", file=sys.stderr, flush=True)
        return bool(block)

    def _hear(self, message: dict[str, Any]) -> None:
        kind = message.pop("kind")
        self.silence.heard()
        if kind == "beat":
            self.beat = message
            self.books.steps.add(self.number, message)
            self._note_progress()
        elif kind == "event":
            if message["event"] == "resumed":
                self.began_whole = not message["batch"]
                self.books.resumed(self.number, message)
                return
            self.books.journal.add(attempt=self.number, **message)
            if message["event"] == "epoch":
                self._close_epoch()
        elif kind == "end":
            self.last_words = message

    def _close_epoch(self) -> None:
        """Keep the most that was held in the epoch; one that was begun in the middle is no measure."""
        if self.began_whole:
            self.epochs_held.append(self.epoch_held)
            if len(self.epochs_held) == 1 and self.expected:
                told = need.compared(self.expected["estimate"], self.epoch_needed)
                measured = {"estimate": self.expected["estimate"], "measured_bytes": self.epoch_needed}
                self.books.journal.add("estimated", self.number, **measured, reason=told)
        self.began_whole, self.epoch_held, self.epoch_needed = True, 0, 0

    def _note_progress(self) -> None:
        self.books.progress("running", self.number, self.pid, self.beat)

    def _tick(self) -> None:
        now = clock.monotonic()
        if self.alive:
            slept = self.silence.poll(now, clock.utc_now().timestamp(), self._is_paused())
            if slept:
                self.books.journal.add("slept", self.number, seconds=round(slept))
            self._mind_silence()
            self._guard(now)
        if now - self.last_tick < TICK_SECONDS:
            return
        self.last_tick = now
        self.books.journal.flush()
        held = memory.tree(self.pid).bytes
        self._note_held(held)
        self.books.memory.add(
            attempt=self.number,
            worker=held,
            device=self.beat.get("device_memory"),
            available=memory.available().bytes,
            budget=self.record.budget.get("bytes"),
            swap=memory.swap_used().bytes,
        )
        self._note_progress()

    def _note_held(self, held: int) -> None:
        if held > self.peak_bytes:
            self.peak_bytes = held
            self.peak_resident_bytes = max(self.peak_resident_bytes, memory.resident(self.pid).bytes)
        self.epoch_held = max(self.epoch_held, held)
        on_gpu = self.record.device.startswith("cuda")  # of which the estimate is; of several, of the fullest
        needed = int(self.beat.get("device_memory") or 0) if on_gpu else held
        self.epoch_needed = max(self.epoch_needed, needed)
        if self.expected and needed > self.expected["safe_bound"] and not self.exceeded:
            self.exceeded = True
            told = f"more is held than the plan was to need at most; {need.compared(self.expected['estimate'], needed)}"
            self.books.journal.add("memory_warning", self.number, reason=told, available=memory.available().bytes)

    def _is_paused(self) -> bool:
        try:
            return psutil.Process(self.pid).status() == psutil.STATUS_STOPPED
        except psutil.Error:
            return False

    def _mind_silence(self) -> None:
        phase = self.beat.get("phase") or "start"
        allowed = hang.deadline(phase, self.record.safety["hang_seconds"])
        if self.silence.seconds <= allowed or self.hung:
            return
        where = f"epoch {self.beat.get('epoch', 0)}, batch {self.beat.get('batch', 0)}"
        self.hung = f"no word for {self.silence.seconds:.0f} s in phase {phase} at {where}; {allowed:.0f} s are allowed"
        with contextlib.suppress(OSError):
            os.killpg(self.pid, signal.SIGUSR2)  # the worker's faulthandler writes every thread's stack into the log
        clock.sleep(TICK_SECONDS)
        self.end()

    def _guard(self, now: float) -> None:
        safety = self.record.safety
        if not safety["guard"]:
            return
        budget = int(self.record.budget.get("bytes") or 0)
        verdict = guard.decide(self._look(now, budget), self.limits)
        self.poll = min(verdict.poll_seconds, TICK_SECONDS)
        if verdict.action == "warn" and now - self.last_warning > 60:
            self.last_warning = now
            self.books.journal.add("memory_warning", self.number, reason=verdict.reason, available=verdict.headroom)
        elif verdict.action in ("stop", "end") and budget:
            self._guard_stop(verdict, now)

    def _guard_stop(self, verdict: guard.Verdict, now: float) -> None:
        if self.guarded is None:
            self.guarded = verdict.reason
            self.asked_at = now
            where = {key: self.beat.get(key) for key in ("epoch", "batch", "phase")}
            self.books.journal.add("guard_stop", self.number, reason=verdict.reason, **where)
            self.tell("stop")
        if verdict.action == "end":
            self.guarded = verdict.reason
            self.end()

    def _look(self, now: float, budget: int) -> guard.Reading:
        held = self.measure(self.pid).bytes
        self._note_held(held)
        safety = self.record.safety
        capped = safety["cap"] and self.record.device == "cpu" and sys.platform.startswith("linux")
        if sys.platform == "darwin" and now - self.last_look > PRESSURE_SECONDS:
            self.last_look = now
            self.pressure_level = macos.pressure_level()
            if (self.pressure_level or 0) >= macos.CRITICAL:
                self.critical_at = now
        pressed = cgroup.pressure()
        return guard.Reading(
            budget=budget,
            held=held,
            available=memory.available().bytes,
            binding=safety["budget"] != "auto" and not capped,
            pressure=pressed[0] if pressed else None,
            pressure_level=self.pressure_level,
            swap_growth=memory.swap_used().bytes - self.swap_before,
            asked_for=None if self.asked_at is None else now - self.asked_at,
        )

    # -- afterwards ----------------------------------------------------------------------------------------------------

    def ending(self, asked: str | None) -> Ending:
        """What was seen of its end; `asked` says who asked it to stop."""
        kills, source, own = self._kernel_kills()
        self._kill()  # what it started goes with it
        return Ending(
            exit=self.process.wait(),
            outcome=self.last_words.get("outcome"),
            error=self.last_words.get("error", ""),
            asked=asked,
            log_tail=log_tail(self.books.paths.log(self.number)),
            phase=self.last_words.get("stage", "") or self.beat.get("phase", ""),
            guard=self.guarded,
            hang=self.hung,
            kernel_kills=kills,
            kernel_source=source,
            kernel_own=own,
            footprints=tuple(self.epochs_held),
            pressure=macos.CRITICAL if clock.monotonic() - self.critical_at < RECENT_SECONDS else None,
        )

    def _kernel_kills(self) -> tuple[int, str, bool]:
        """How many more processes the kernel killed for memory than before this life."""
        if self.kills_before is None:
            return 0, "no kill counter here", False
        patience = COUNTER_SECONDS if self.process.wait() == -signal.SIGKILL else 0.0
        return cgroup.more_kills(self.kills_before, patience), self.kills_before.source, self.kills_before.own


def environment(record: RunFile) -> dict[str, str]:
    """What must be set before torch and Ultralytics start: threads, allocator, and caps of a device."""
    capped = {}
    if record.safety["cap"]:
        recommended = record.budget.get("device_bytes")
        capped = caps.environment(record.device, int(record.budget.get("bytes") or 0), recommended)
    return {
        "OMP_NUM_THREADS": str(record.threads),
        "MKL_NUM_THREADS": str(record.threads),
        "PYTHONUNBUFFERED": "1",
        "ARROW_DEFAULT_MEMORY_POOL": "system",  # pandas' pyarrow, where it is there, would map a GiB (mimalloc)
        **allocators.SETTINGS[record.plan.get("allocator") or "default"],
        **record.allocator,
        **capped,
    }
