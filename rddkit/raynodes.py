"""Where a sweep's trials run: Ray, started here or a cluster's, and what it keeps for each. Needs the `ray` extra."""

from __future__ import annotations

import contextlib
import logging
import tempfile
from collections.abc import Callable, Iterator
from typing import Any

import psutil
import ray

from rddkit import memory, outlook
from rddkit.config import PLAN_KEYS, ConfigError
from rddkit.memory import MIB, human
from rddkit.safety import Safety
from rddkit.sweep import Sweep, Trial

TRIES = 4  # of a start; each brings more of Ray into the file cache
STORE = 80 * MIB  # Ray's object store; it wants 75 MiB, and nothing of ours goes through it
OWN = 900 * MIB  # a Ray started here and the command: 850 MB resident were seen; benchmarks/sweep_overhead.py measures
BESIDE = 200 * MIB  # a trial's process on Ray and its supervisor (the same)
ESTIMATED_BY = (*PLAN_KEYS, "data", "epochs", "nbs", "optimizer", "mosaic")  # the settings that an estimate reads


@contextlib.contextmanager
def running_ray(address: str | None, limits: Safety) -> Iterator[None]:
    """Ray, started here and ended afterwards, with this machine's budget for its trials; or that of a cluster.

    Raises ConfigError where it cannot be started or reached.
    """
    with tempfile.TemporaryDirectory(prefix="rdd-", dir="/tmp", ignore_cleanup_errors=True) as scratch:
        # Ray's sockets lie below: their paths may have 107 bytes.
        own = {
            "object_store_memory": STORE,
            "_memory": _for_trials(limits),
            "_temp_dir": scratch,
            "include_dashboard": False,
        }
        how = {"address": address} if address else {"address": "local", "_node_ip_address": "127.0.0.1", **own}
        try:
            try:
                persistently(lambda: ray.init(**how, log_to_driver=False, logging_level=logging.ERROR))
            except Exception as error:
                raise ConfigError(_unreachable(address, error)) from error
            yield
        finally:
            ray.shutdown()


def persistently(start: Callable[[], Any]) -> Any:
    """What `start` gives. A node of Ray's ends itself when its agents take 15 s to start, as they can on a small, busy
    machine: then what is left of it is ended, and it is tried again.
    """
    before = {child.pid for child in psutil.Process().children(recursive=True)}
    for left in reversed(range(TRIES)):
        try:
            return start()
        except Exception as error:
            if not left or "timed out during startup" not in str(error):
                raise
            for child in psutil.Process().children(recursive=True):
                if child.pid not in before:
                    with contextlib.suppress(psutil.Error):
                        child.kill()
    return None


def _for_trials(limits: Safety) -> int:
    """Bytes of this machine that trials may share: the budget, less what Ray holds itself where it is not set."""
    budget = memory.memory_budget(limits.budget, limits.reserve).bytes
    return budget if limits.budget != "auto" else max(budget - OWN, MIB)


def _unreachable(address: str | None, error: Exception) -> str:
    reason = next(iter(str(error).splitlines()), type(error).__name__)
    if address is None:
        return f"Ray could not be started here ({reason}); try again when the machine is less busy"
    return (
        f"no Ray cluster at {address!r} ({reason}). Start one: ray start --head; "
        f"or leave --address out: then Ray is started here and ended with the sweep"
    )


class Needs:
    """What Ray reserves for a trial. Plans that need the same are estimated once."""

    def __init__(self, sweep: Sweep, safety: str | None, say: Callable[[str], None]) -> None:
        self.sweep, self.safety, self.say = sweep, safety, say
        self.known: dict[str, tuple[int | None, str]] = {}
        list_nodes: Callable[[], list[dict[str, Any]]] = ray.nodes
        nodes = [node["Resources"] for node in list_nodes() if node["Alive"]]
        self.largest = max((int(node.get("memory", 0)) for node in nodes), default=0)
        self.gpus = any(node.get("GPU", 0) for node in nodes)

    def of(self, trial: Trial) -> dict[str, Any]:
        """CPU, GPU and memory (bytes), as far as they are reserved. One larger than any node gets the largest whole."""
        found: dict[str, Any] = {"CPU": self.sweep.file.cpus}
        device = trial.asked.args.get("device")
        if self.gpus and device not in ("cpu", "mps"):
            found["GPU"] = len(str(device).split(",")) if device not in (None, "") else 1
        if self.sweep.file.pack == "off" or "GPU" in found:
            return found
        args = trial.asked.args
        about = str([args.get(key) for key in ESTIMATED_BY])
        if about not in self.known:
            self.known[about] = self._estimate(trial)
            self.say(self.known[about][1])
        bound, _ = self.known[about]
        return found if bound is None else {**found, "memory": min(bound + BESIDE, self.largest)}

    def _estimate(self, trial: Trial) -> tuple[int | None, str]:
        try:
            told = outlook.look(trial.asked.source, safety=self.safety, **trial.overrides).told
        except Exception as error:  # an estimate must never keep a run from being tried
            return None, f"{trial.name}: no estimate ({type(error).__name__}: {error}); packed by cores alone"
        bound = int(told["safe_bound"])
        more = f", more than the largest node has ({human(self.largest)}): it gets that node to itself"
        fits = bound + BESIDE <= self.largest
        return bound, f"{trial.name} and alike: need up to {human(bound)} each{'' if fits else more}"
