"""Sweeps on a real Ray: trials that finish, a node that dies, memory that does for one trial only, a second machine."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import kernel
import psutil
import pytest
import yaml
from compare import RECIPE, same_weights, train_once
from workshop import TINY, Workshop, clean_up, events, one_row_per_epoch, wait_for

from rddkit import lock, outlook, standings, sweep
from rddkit.paths import RunPaths
from rddkit.status import read_progress, read_status

needs_quiet = pytest.mark.skipif(
    not os.environ.get("RDDKIT_CAMPAIGN"),
    reason="Ray gives its agents 15 s to start, which two busy cores do not keep: RDDKIT_CAMPAIGN=1",
)
pytestmark = [pytest.mark.faults, pytest.mark.campaign, pytest.mark.timeout(1200), needs_quiet]
SWEEP_SECONDS = 500  # Ray starts seven processes; on two busy cores that alone takes a minute
HERE = Path(__file__).resolve().parent


class Many:
    """A sweep in a root of its own."""

    def __init__(self, shop: Workshop, safety: str = "", **content: Any) -> None:
        self.shop, self.root = shop, shop.root
        self.started: list[subprocess.Popen[str]] = []
        self.file = shop.root / "configs" / "many.yaml"
        self.file.write_text(yaml.safe_dump({"config": "configs/tiny.yaml", **content}, sort_keys=False))
        if safety:
            (shop.root / "configs" / "safety.yaml").write_text(safety)

    def command(self, *words: str) -> list[str]:
        return [sys.executable, "-m", "rddkit.cli", "sweep", str(self.file), *words]

    def start(self, *words: str, **env: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            self.command(*words),
            env={**self.shop.environment, **env},
            start_new_session=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self.started.append(process)
        return process

    def end(self) -> None:
        """End what a failed test may have left: the command (and with it its Ray), then the runs."""
        for process in self.started:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            process.wait()
        for folder in (self.root / "results").glob("many-*"):
            clean_up(RunPaths(folder))

    def run(self, *words: str, **env: str) -> tuple[int, str]:
        """The whole sweep: its exit code and what it said."""
        process = self.start(*words, **env)
        said = process.communicate(timeout=SWEEP_SECONDS)[0]
        return process.returncode, said

    def trial(self, name: str) -> RunPaths:
        return RunPaths(self.root / "results" / f"many-{name}")

    @property
    def told(self) -> standings.Standings:
        found = standings.read(self.root / "results" / "many" / "sweep.json")
        assert found is not None
        return found


@pytest.fixture
def many(workshop: Callable[..., Workshop], request: pytest.FixtureRequest) -> Iterator[Callable[..., Many]]:
    """`many(grid={...}, settings={...})`: a sweep of tiny runs."""
    made: list[Many] = []

    def make(safety: str = "", settings: dict[str, Any] | None = None, **content: Any) -> Many:
        made.append(Many(workshop(request.node.name[:30], **(settings or {})), safety, **content))
        return made[-1]

    yield make
    for one in made:
        one.end()


def intervals(*runs: RunPaths) -> list[tuple[str, str]]:
    """When each attempt of these runs began and ended, in the order of time."""
    found = []
    for run in runs:
        starts = [event["t"] for event in events(run, "attempt_started")]
        ends = [event["t"] for event in events(run, "attempt_ended")]
        found += list(zip(starts, ends, strict=True))
    return sorted(found)


def test_trials_finish_with_a_table_and_again_nothing_is_trained(many: Callable[..., Many]) -> None:
    two = many(settings={"epochs": 1}, grid={"seed": [1, 2]}, pack="off")
    code, said = two.run()
    assert code == 0, said
    assert "many: 2 of 2 done; best mAP50" in said and "many-seed_1: epoch 1, mAP50" in said
    for name in ("seed_1", "seed_2"):
        run = two.trial(name)
        assert read_status(run).state == "done" and len(events(run, "attempt_started")) == 1
        assert name in said and run.report_html.is_file()
    assert [trial.state for trial in two.told.trials] == ["done", "done"] and two.told.ended
    assert not (two.root / "results" / "many" / "ray").exists()
    again, told = two.run()
    assert again == 0 and "many-seed_1: done" in told, told
    assert len(events(two.trial("seed_1"), "attempt_started")) == 1


def test_a_second_machine_takes_a_run_and_the_first_leaves_without_a_word(
    workshop: Callable[..., Workshop],
) -> None:
    settings = {**RECIPE, "epochs": 24}
    shop = workshop("fence", **settings)
    (shop.root / "configs" / "safety.yaml").write_text("snapshot_seconds: 1.0\nestimate: false\npredictions: false\n")
    assert shop.train("--detach", RDDKIT_NODE="node-a").returncode == 0
    wait_for(lambda: events(shop.run, "epoch"))
    first = read_progress(shop.run.progress)
    shop.run.lock.unlink()  # as on storage whose locks do not reach over machines
    second = shop.train(RDDKIT_NODE="node-b")
    assert second.returncode == 0, second.stdout + second.stderr
    assert not lock.is_same(first["supervisor_pid"], first["supervisor_started"])
    assert not psutil.pid_exists(first["worker_pid"])
    started = events(shop.run, "attempt_started")
    assert [event["node"] for event in started] == ["node-a", "node-b"]
    (ended,) = events(shop.run, "attempt_ended")
    assert ended["cause"] == "done" and ended["attempt"] == 2, "the first wrote nothing when it left"
    assert "node-b has taken the run; leaving it" in shop.run.supervisor_log.read_text()
    (resumed,) = events(shop.run, "resumed")
    assert resumed["exact"] is True
    one_row_per_epoch(shop.run, 24)
    data = yaml.safe_load(shop.run.run_yaml.read_text())["config"]["data"]
    same_weights(shop.run.folder, train_once("plain", shop.root / "plain" / "run", {**TINY, **settings, "data": data}))


def test_four_trials_on_two_cores_two_at_a_time(many: Callable[..., Many]) -> None:
    four = many(grid={"lr0": [0.01, 0.002], "seed": [1, 2]}, settings={"epochs": 2})
    code, said = four.run()
    assert code == 0, said
    assert "4 of 4 done" in said and "need up to" in said
    assert all(trial.asked_bytes and trial.peak_bytes < trial.asked_bytes for trial in four.told.trials)
    names = ["lr0_0.01-seed_1", "lr0_0.01-seed_2", "lr0_0.002-seed_1", "lr0_0.002-seed_2"]
    assert side_by_side(list(map(four.trial, names)))
    again, told = four.run()
    assert again == 0 and len(intervals(*map(four.trial, names))) == 4, told


def test_a_sweep_that_is_terminated_leaves_resumable_runs_and_goes_on(many: Callable[..., Many]) -> None:
    two = many(settings={**RECIPE, "epochs": 12}, grid={"seed": [7, 8]}, pack="off")
    process = two.start()
    wait_for(lambda: all(events(two.trial(name), "epoch") for name in ("seed_7", "seed_8")), seconds=120)
    process.send_signal(signal.SIGTERM)
    said = process.communicate(timeout=120)[0]
    assert process.returncode == 75, said
    assert [trial.state for trial in two.told.trials] == ["stopped", "stopped"]
    code, said = two.run()
    assert code == 0, said
    assert len(events(two.trial("seed_7"), "resumed")) == 1
    one_row_per_epoch(two.trial("seed_7"), 12)


def test_asha_stops_the_weaker_trials_resumably_and_they_are_left_so(many: Callable[..., Many]) -> None:
    # One at a time, the better first: what follows is below what was seen at the first rung.
    trials = [{"name": "rated_0.5", "seed": 1}, {"name": "rated_0.2", "seed": 2}]
    asha = {"grace_epochs": 1, "reduction": 2}
    two = many(settings={"epochs": 6}, trials=trials, asha=asha, cpus=os.cpu_count(), pack="off")
    code, said = two.run(PYTHONPATH=str(HERE / "inject_metric"))
    assert code == 0, said
    assert read_status(two.trial("rated_0.5")).state == "done"
    stopped = two.told.of("many-rated_0.2")
    assert stopped.state == standings.ASHA and stopped.epochs < 6
    assert read_status(two.trial("rated_0.2")).state == "stopped"
    assert f"continue many-rated_0.2: rddkit train --config {two.root}/configs/tiny.yaml" in said
    again, told = two.run()
    assert again == 0 and "many-rated_0.2: stopped by ASHA" in told
    assert len(events(two.trial("rated_0.2"), "attempt_started")) == 1
    alone = two.shop.cli("train", "--config", "configs/tiny.yaml", "--name", "many-rated_0.2", "seed=2")
    assert alone.returncode == 0, alone.stdout + alone.stderr
    one_row_per_epoch(two.trial("rated_0.2"), 6)


@contextlib.contextmanager
def cluster() -> Iterator[Any]:
    """A Ray cluster on this machine: a head without cores, to which nodes can be added."""
    sweep.need_ray()
    from ray.cluster_utils import Cluster

    from rddkit.raynodes import persistently

    made = Cluster(initialize_head=False)
    made.add_patiently = lambda **how: persistently(lambda: made.add_node(**how))
    try:
        made.add_patiently(num_cpus=0, include_dashboard=False)
        yield made
    finally:
        made.shutdown()


def end_node(node: Any) -> list[int]:
    """Kill a node as a power cut would: its raylet and all that it started, our supervisor and worker among them."""
    (raylet,) = (info.process for info in node.all_processes["raylet"])
    there = psutil.Process(raylet.pid)
    mine = [there, *there.children(recursive=True)]
    for process in mine:
        with contextlib.suppress(psutil.Error):
            process.kill()
    return [process.pid for process in mine]


def test_a_node_killed_in_mid_trial_loses_nothing_and_its_trial_resumes_on_the_other(
    many: Callable[..., Many], monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = {**RECIPE, "epochs": 12}
    two = many("snapshot_seconds: 1.0\n", settings, grid={"seed": [7, 8]}, pack="off")
    monkeypatch.setenv("RAY_health_check_period_ms", "1000")
    with cluster() as made:
        process = two.start("--address", made.address)
        # The command has joined the head by now, not a node that will die.
        wait_for(lambda: (two.root / "results" / "many" / "ray").exists() or process.poll() is not None, seconds=120)
        nodes = [made.add_patiently(num_cpus=1) for _ in range(2)]
        lost = two.trial("seed_7")
        wait_for(lambda: len(events(lost, "epoch")) > 2, seconds=150)
        here = events(lost, "attempt_started")[0]["node"]
        (node,) = (node for node in nodes if node.node_id[:6] == here.rpartition("/")[2])
        progress = read_progress(lost.progress)
        assert {progress["supervisor_pid"], progress["worker_pid"]} <= set(end_node(node))
        said = process.communicate(timeout=SWEEP_SECONDS)[0]
    assert process.returncode == 0, said
    assert f"{lost.name}: continued on" in said
    first, *_, last = events(lost, "attempt_started")
    assert first["node"] == here != last["node"]
    (resumed,) = events(lost, "resumed")
    assert resumed["exact"] is True
    one_row_per_epoch(lost, 12)
    data = yaml.safe_load(lost.run_yaml.read_text())["config"]["data"]
    plain = train_once("plain", two.root / "plain" / "run", {**TINY, **settings, "seed": 7, "data": data})
    same_weights(lost.folder, plain)


# Ray holds about 0.9 GB, one worker at batch 12 about 1.2 GB: the limit does for one, not for two.
BIG = {"batch": 12, "imgsz": 320, "epochs": 4}
FOR_ONE = 3 << 30
BARE = "cap: false\nguard: false\nestimate: false\npredictions: false\n"
BARE += "backoff_seconds: 0.0\nsnapshot_seconds: 1.0\nfallbacks: [batch]\n"


def side_by_side(runs: list[RunPaths]) -> bool:
    spans = intervals(*runs)
    return any(end > later for (_, end), (later, _) in zip(spans, spans[1:], strict=False))


def test_memory_for_less_than_two_has_trials_run_one_after_the_other(
    many: Callable[..., Many], monkeypatch: pytest.MonkeyPatch
) -> None:
    sweep.need_ray()
    from rddkit.raynodes import BESIDE

    two = many(settings={"epochs": 2}, grid={"seed": [1, 2]})
    monkeypatch.setenv("RDDKIT_ROOT", str(two.root))
    (trial, _) = sweep.read(two.file).trials
    needs = outlook.look(trial.asked.source, **trial.overrides).told["safe_bound"] + BESIDE
    safety = f"budget: {2 * needs - 1}\nestimate: false\npredictions: false\n"
    (two.root / "configs" / "safety.yaml").write_text(safety)
    code, said = two.run()
    assert code == 0, said
    assert not side_by_side([two.trial("seed_1"), two.trial("seed_2")])
    for name in ("seed_1", "seed_2"):
        assert [event["cause"] for event in events(two.trial(name), "attempt_ended")] == ["done"]
    assert [trial.asked_bytes for trial in two.told.trials] == [needs, needs]


@pytest.mark.parametrize("pack", ["off", "estimate"])
def test_in_a_memory_cgroup_packing_by_cores_brings_the_kernels_kill_and_by_estimate_none(
    many: Callable[..., Many], pack: str
) -> None:
    two = many(BARE, BIG, grid={"seed": [1, 2]}, pack=pack)
    runs = [two.trial("seed_1"), two.trial("seed_2")]
    try:
        with kernel.group(FOR_ONE) as group:
            said = group.start(two.command(), two.shop.environment).communicate(timeout=400)[0]
            kills = group.kills
    except kernel.Impossible as why:
        pytest.skip(str(why))
    ended = [event for run in runs for event in events(run, "attempt_ended")]
    assert side_by_side(runs) == (pack == "off"), said
    if pack == "off":
        killed = [event["evidence"] for event in ended if event["cause"] == "oom"]
        assert kills and killed and all("the kernel's kill counter went up" in evidence for evidence in killed), said
    else:
        assert not kills and [event["cause"] for event in ended] == ["done", "done"], said
