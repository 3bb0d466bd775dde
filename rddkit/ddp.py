"""Several GPUs: a process for each (a rank), trained by Ultralytics' DDP, and the worker that leads them.

Ultralytics starts its ranks by a file that it writes and `torch.distributed.run`; neither news nor orders pass through
that. Here the worker starts them itself, each a worker with pipes of its own. It holds no torch, passes on what rank 0
says, gives rank 0 the order to stop, and ends the others when one has left: only rank 0 writes, so that nothing is
lost, and nobody leaves while rank 0 may wait for it. A rank whose leader is gone ends at once.
"""

from __future__ import annotations

import contextlib
import faulthandler
import json
import os
import random
import select
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from rddkit import clock
from rddkit.cause import STOPPED_EXIT

POLL_SECONDS = 0.1
SETTLE_SECONDS = 2.0  # a rank that lost its peer may be seen to end before that peer is
FAREWELL_SECONDS = 10.0  # for the others, after rank 0 is done
# What a rank says whose peer has gone: torch's gloo, NCCL and store, by parts of their messages.
TORN = ("connection closed by peer", "connection reset by peer", "broken pipe", "gloo", "nccl", "tcpstore")

Message = dict[str, Any]


class Orders(Protocol):
    """What is asked of the worker."""

    stop: str | None


def devices(device: str) -> list[str]:
    """A run's devices one by one: `cuda:0,1` is `cuda:0` and `cuda:1`; any other is itself."""
    kind, _, numbers = device.partition(":")
    return [f"{kind}:{number}" for number in numbers.split(",")] if "," in numbers else [device]


def rank() -> int:
    """This process's number among the ranks; -1 for the only process of a training, as Ultralytics counts."""
    return int(os.environ.get("RANK", -1))


def own_device(device: str) -> str:
    """This process's device among a run's."""
    return devices(device)[max(0, rank())]


# -- whose end was it --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class End:
    """A rank's end that was not of our making: exit status, negative for a signal, and its last words, if any."""

    rank: int
    exit: int
    words: Message | None = None


def blame(ends: Sequence[End]) -> End | None:
    """The end that brought the others about; None where no rank has failed or stopped."""
    failed = [end for end in ends if end.exit != 0]
    return min(failed, key=lambda end: (_consequence(end), end.rank), default=None)


def _consequence(end: End) -> int:
    """How likely it is that a rank ended because another did: 0 never, 4 surely."""
    if end.words is None:
        return 3 if end.exit == -signal.SIGABRT or end.exit > 0 else 1  # NCCL's watchdog aborts when a peer is gone
    if end.words.get("outcome") == "crash":
        return 4 if is_torn(end) else 2
    return 0 if end.words.get("outcome") in ("oom", "nonfinite") else 1


def is_torn(end: End) -> bool:
    """Whether a rank only says that another one is gone."""
    said = str((end.words or {}).get("error", "")).lower()
    return any(part in said for part in TORN)


# -- the ranks ---------------------------------------------------------------------------------------------------------


class Rank:
    """One process, its pipes, and what it said."""

    def __init__(self, number: int, command: Sequence[str], flags: Sequence[str], environment: dict[str, str]) -> None:
        self.number = number
        self.words: Message | None = None
        self.device_memory: int | None = None
        self.open = True
        self.buffer = b""
        self.messages, write = os.pipe()
        os.set_inheritable(write, True)
        # Everything inheritable goes along: the run's lock, so that no second owner starts while a rank lives.
        self.process = subprocess.Popen(
            [*command, str(write), *flags], stdin=subprocess.PIPE, env=environment, close_fds=False
        )
        os.close(write)

    @property
    def exit(self) -> int | None:
        """The exit status; None while it lives."""
        return self.process.poll()

    def hear(self) -> list[Message]:
        """What it has said since the last time; a pipe's end closes it."""
        if not self.open or not select.select([self.messages], [], [], 0)[0]:
            return []
        block = os.read(self.messages, 1 << 16)
        self.open = bool(block)
        *lines, self.buffer = (self.buffer + block).split(b"\n")
        heard = []
        for line in lines:
            with contextlib.suppress(ValueError):  # a library may write to the descriptor by mistake
                heard.append(json.loads(line))
        return heard

    def tell(self, word: str) -> None:
        if self.process.stdin:
            with contextlib.suppress(OSError):
                os.write(self.process.stdin.fileno(), f"{word}\n".encode())

    def end(self) -> None:
        if self.exit is None:
            self.process.kill()
            self.process.wait()


def free_port() -> int:
    """A port for the ranks to meet at, below those that systems give to outgoing connections."""
    for port in random.SystemRandom().sample(range(10_000, 32_768), 20):
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
    raise OSError("no port is free on 127.0.0.1 for the ranks to meet at")


def rank_environment(number: int, count: int, port: int) -> dict[str, str]:
    """What torch and Ultralytics read to know which rank they are."""
    place = {"RANK": number, "LOCAL_RANK": number, "WORLD_SIZE": count, "MASTER_PORT": port}
    return {**os.environ, "MASTER_ADDR": "127.0.0.1", **{key: str(value) for key, value in place.items()}}


class Leader:
    """Starts the ranks, listens to them, and ends them together.

    Args:
        names: the ranks' devices, in their order.
        command: what starts a rank, without the descriptor for its messages; `flags` follow that.
        say: passes a message on to the supervisor.
    """

    def __init__(
        self,
        names: Sequence[str],
        command: Sequence[str],
        flags: Sequence[str],
        say: Callable[[Message], None],
        orders: Orders,
    ) -> None:
        self.names, self.say, self.orders = names, say, orders
        port = free_port()
        count = len(names)
        self.ranks = [Rank(i, command, flags, rank_environment(i, count, port)) for i in range(count)]
        self.told = False

    def lead(self) -> int:
        """Until the ranks are gone; the worker's exit status. Its last words have been said."""
        try:
            self._until(self._is_over)
            if self.ranks[0].exit == 0:
                self._until(lambda: all(one.exit is not None for one in self.ranks), FAREWELL_SECONDS)
            else:
                self._until(self._is_clear, SETTLE_SECONDS)
            ends = [End(one.number, one.exit, one.words) for one in self.ranks if one.exit is not None]
        finally:
            for one in self.ranks:
                one.end()
        return self._last_words(ends)

    def _is_over(self) -> bool:
        exits = [one.exit for one in self.ranks]
        return exits[0] is not None or any(exits)  # another rank's 0 is no reason to leave

    def _is_clear(self) -> bool:
        """Whether it is known which rank's end brought the others about."""
        ends = [End(one.number, one.exit, one.words) for one in self.ranks if one.exit is not None]
        found = blame(ends)
        return len(ends) == len(self.ranks) or (found is not None and _consequence(found) < 3)

    def _until(self, over: Callable[[], bool], seconds: float = float("inf")) -> None:
        """Listen and pass on until `over`, or for so long; then hear what those that are gone have said."""
        deadline = clock.monotonic() + seconds
        while not over() and clock.monotonic() < deadline:
            select.select([one.messages for one in self.ranks if one.open], [], [], POLL_SECONDS)
            self._listen()
            if self.orders.stop and not self.told:
                self.told = True
                self.ranks[0].tell("stop")
        while self._listen():
            pass

    def _listen(self) -> int:
        """Hear every rank once; how many messages there were."""
        count = 0
        for one in self.ranks:
            for message in one.hear():
                count += 1
                self._heed(one, message)
        return count

    def _heed(self, one: Rank, message: Message) -> None:
        if message.get("kind") == "end":
            one.words = one.words or message
            return
        if message.get("kind") == "beat":
            one.device_memory = message.get("device_memory")
            known = [other.device_memory for other in self.ranks if other.device_memory is not None]
            message["device_memory"] = max(known, default=None)  # the fullest device decides
        if one.number == 0:
            self.say(message)

    def _last_words(self, ends: Sequence[End]) -> int:
        found = blame(ends)
        if self.ranks[0].exit == 0 or found is None:
            self.say({"kind": "end", "outcome": "done", "error": "", "stage": ""})
            return 0
        name = self.names[found.rank]
        print(f"{name} (rank {found.rank}) ended first: exit {found.exit}; the others were ended", flush=True)
        if found.words is None:
            self.say({"kind": "end", "outcome": None, "error": name, "stage": ""})
            if found.exit < 0:
                _die_by(-found.exit)
            return found.exit
        if found.words["outcome"] == "stopped":
            self.say({**found.words, "error": self.orders.stop or found.words["error"]})
            return STOPPED_EXIT
        self.say({**found.words, "error": f"{name}: {found.words['error']}"})
        return 1


def _die_by(number: int) -> None:
    """End this process by the signal that ended a rank, so that the supervisor sees what happened."""
    sys.stdout.flush()
    faulthandler.disable()
    if number != signal.SIGKILL:
        signal.signal(number, signal.SIG_DFL)
    os.kill(os.getpid(), number)
