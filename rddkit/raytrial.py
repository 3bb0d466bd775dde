"""A trial of a sweep as Ray Tune sees it: an attached, supervised run. Needs the `ray` extra.

Its process on Ray holds no torch: it starts a supervisor and tells Tune of each epoch. When it goes away (a node's
end, a decision of Tune's), the supervisor stops the run at a snapshot.
"""

from __future__ import annotations

import os
import platform
from typing import Any

import ray
from ray import tune

from rddkit import clock, lock, status
from rddkit.run import Run

SLICE_SECONDS = 2.0  # a trial answers Tune at least this often, so that it can be asked to stop
POLL_SECONDS = 0.2
BUSY_SECONDS = 180.0  # a supervisor of before winds down; a lock on NFS outlives its node by up to 90 s
STOP_SECONDS = 500.0  # less than the 600 s after which Tune ends a trial's process


class Gone(RuntimeError):
    """A run whose supervisor left without a last word; Tune starts the trial again."""


class Trial(tune.Trainable):
    """One run, as Tune sees it. `config["trial"]`: run, config, overrides, safety, cpus, root, column, cluster."""

    def setup(self, config: dict[str, Any]) -> None:
        self.asked = config["trial"]
        os.environ["RDDKIT_ROOT"] = self.asked["root"]
        os.environ["RDDKIT_NODE"] = self.node = here(self.asked["cluster"])
        self.seen = 0
        self.run = begin(self.asked)

    def step(self) -> dict[str, Any]:
        """The newest epoch once there is one, what was told before after a while; `over` when the run has ended."""
        deadline = clock.monotonic() + SLICE_SECONDS
        while True:
            alive = self.run.is_alive()
            rows = status.read_rows(self.run.paths.results_csv)
            if not alive or len(rows) > self.seen or clock.monotonic() > deadline:
                break
            clock.sleep(POLL_SECONDS)
        self.seen = len(rows)
        newest = rows[-1] if rows else {}
        told = {"node": self.node, "epoch": int(newest.get("epoch", 0)), "over": not alive, "done": not alive}
        value = newest.get(self.asked["column"])
        if not alive and self.run.status().state == "dead":
            raise Gone(f"the supervisor of {self.run.name!r} is gone without a last word")
        return told if value is None else {**told, "metric": value}

    def cleanup(self) -> None:
        """Stop the run and wait for its end: until then its memory is in use, and Ray gives it to nobody else."""
        if self.run.is_alive():
            self.run.stop()
            self.run.wait(timeout=STOP_SECONDS)


def here(cluster: bool) -> str:
    """This node's name; in a cluster with the start of Ray's number for it, which tells two on one machine apart."""
    number = f"/{ray.get_runtime_context().get_node_id()[:6]}" if cluster else ""
    return platform.node() + number


def begin(asked: dict[str, Any]) -> Run:
    """Start or continue a trial's run, attached; one that is still being left by its last owner is waited for."""
    deadline = clock.monotonic() + BUSY_SECONDS
    while True:
        run = Run.create(asked["config"], safety=asked["safety"], name=asked["run"], **asked["overrides"])
        if run.decision.action == "new" and run.record is not None:
            run.record.threads = asked["cpus"]
            run.record.choices["threads"] = {"value": asked["cpus"], "reason": "the cores of a trial of this sweep"}
        try:
            return run.start()
        except lock.Busy:
            if clock.monotonic() > deadline:
                raise
            clock.sleep(1.0)
