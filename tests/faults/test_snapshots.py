"""Snapshots under kills, damage and full disks, all of them real."""

from __future__ import annotations

import contextlib
import os
import random
import re
import shutil
import signal
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from compare import RECIPE, Attempts
from damage import flip_a_bit, truncate, zero
from workshop import Workshop, events, one_row_per_epoch, wait_for

from rddkit import clock, faults
from rddkit.run import Run
from rddkit.snapshot import KEEP, Store

pytestmark = pytest.mark.faults
STOPPED = 75
KILLS = [100, pytest.param(1000, marks=pytest.mark.campaign)]


@contextlib.contextmanager
def small_disk(folder: Path, size: str) -> Iterator[Path]:
    """A real file system of that size at `folder`; skips where it cannot be had."""
    folder.mkdir(parents=True, exist_ok=True)
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)]
    try:
        answer = subprocess.run(mount, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        pytest.skip("no mount command for a real full disk")
    if answer.returncode != 0:
        pytest.skip(f"no permission to mount a small disk: {answer.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)


# -- killed ------------------------------------------------------------------------------------------------------------


def state_of(number: int) -> dict[str, Any]:
    return {"number": number, "tensors": [torch.full((size,), float(number)) for size in (1000, 17, 25_003, 1, 3001)]}


def take_next(store: Store) -> None:
    number = int(store.names()[-1].name[:6]) + 1
    store.take(state_of(number), 1, number, end=number % 5 == 0)


def fork_that_takes_snapshots(store: Store, plan: str) -> int:
    """The pid of a child that takes one snapshot after another until it is killed."""
    pid = os.fork()
    if pid:
        return pid
    try:
        os.environ["RDDKIT_KILL"] = plan
        faults.begin(0)
        faults._reached.clear()
        while True:
            take_next(store)
    finally:
        os._exit(1)


def check_after_a_kill(store: Store, before: int) -> int:
    said: list[str] = []
    found = store.newest(said.append)
    assert found is not None and said == [], "what has a snapshot's name is whole"
    state, path = found
    number = int(path.name[:6])
    assert number == state["number"] >= before
    assert all(torch.equal(*pair) for pair in zip(state["tensors"], state_of(number)["tensors"], strict=True))
    return number


@pytest.mark.parametrize("kills", KILLS)
def test_kills_while_a_snapshot_is_written_leave_one_to_load_and_nothing_beside(tmp_path: Path, kills: int) -> None:
    store = Store(tmp_path / "snapshots")
    counted = _count_writes(store)
    began = clock.monotonic()
    for _ in range(20):
        take_next(store)
    once = (clock.monotonic() - began) / 20
    draw = random.Random(8)
    number, torn = int(store.names()[-1].name[:6]), 0
    for kill in range(kills):
        at_a_write = kill % 2 == 0
        plan = f"0:snapshot_write@{draw.randint(1, 2 * counted)}" if at_a_write else ""
        pid = fork_that_takes_snapshots(store, plan)
        if not at_a_write:
            clock.sleep(draw.uniform(0, 3 * once))
            os.kill(pid, signal.SIGKILL)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -signal.SIGKILL
        number = check_after_a_kill(store, number)
        there = {path.name for path in store.folder.iterdir()}
        store.clear_leftovers()
        names = [path.name for path in store.names()]
        whole = {name + end for name in names for end in ("", ".sha256")}
        torn += there != whole
        assert {path.name for path in store.folder.iterdir()} == whole
        assert KEEP <= len(names) <= KEEP + 3, "a kill between a rename and the pruning leaves no more than that"
    assert torn > kills / 2, "the kills came while snapshots were written"


def _count_writes(store: Store) -> int:
    """The writes of one snapshot; it is the store's first."""
    with pytest.MonkeyPatch.context() as patch:
        reached: list[str] = []
        patch.setattr(faults, "point", reached.append)
        store.take(state_of(1), 1, 1, False)
    return reached.count("snapshot_write")


# -- damaged -----------------------------------------------------------------------------------------------------------


@pytest.mark.campaign
def test_a_resume_goes_back_one_step_for_each_damaged_file_and_says_so(attempts: Callable[..., Attempts]) -> None:
    one = attempts(epochs=2, nbs=2)  # every batch is a step, and so a place for a snapshot
    killed = one.attempt(kill="batch@9", snapshot_seconds=0.001)
    assert killed.code == -signal.SIGKILL
    names = [path.name for path in Store(one.paths.snapshots).names()]
    assert [name[7:] for name in names] == ["epoch1-batch6-end.pt", "epoch2-batch1.pt", "epoch2-batch2.pt"]
    said: list[str] = []
    for damage, name, batch in zip((truncate, zero, flip_a_bit), reversed(names), (2, 1, 0), strict=True):
        (resumed,) = one.attempt(kill="batch@1").told("resumed")
        assert (resumed["source"], resumed["epoch"], resumed["batch"]) == (name, 2, batch)
        assert (resumed["exact"], resumed["reason"]) == (True, f"same state, same surroundings{passed(said)}")
        damage(one.paths.snapshots / name)
        said.append(f"snapshot passed over: {name} is not as it was written: its SHA-256 differs")

    (resumed,) = one.attempt(kill="batch@1").told("resumed")
    assert (resumed["source"], resumed["epoch"], resumed["batch"], resumed["exact"]) == ("last.pt", 2, 0, False)
    assert resumed["reason"].startswith("no snapshot: from last.pt") and resumed["reason"].endswith(passed(said))

    truncate(one.paths.last)
    last = one.attempt()
    (resumed,) = last.told("resumed")
    assert (resumed["source"], resumed["epoch"], resumed["batch"]) == ("the beginning", 1, 0)
    assert resumed["reason"].startswith("nothing to continue from: from the beginning")
    assert last.code == 0
    one_row_per_epoch(one.paths, 2)


def passed(said: list[str]) -> str:
    return f" ({'; '.join(said)})" if said else ""


# -- full --------------------------------------------------------------------------------------------------------------


PAGE = 4096


def filled(disk: Path) -> Path:
    """A file that takes all the room there is."""
    ballast = disk / "ballast"
    with contextlib.suppress(OSError), open(ballast, "wb", buffering=0) as file:
        while file.write(bytes(PAGE)):
            pass
    assert shutil.disk_usage(disk).free == 0
    return ballast


def test_a_full_disk_is_an_error_wherever_in_a_snapshot_it_comes_and_the_older_ones_stay(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", "1m") as disk:
        store = Store(disk / "snapshots")
        for number in range(1, KEEP + 1):
            store.take(state_of(number), 1, number, False)
        before, size = store.names(), sum(path.stat().st_size for path in store.names()) // KEEP
        ballast = filled(disk)
        for room in range(size // PAGE):
            with pytest.raises(OSError, match="No space left on device"):
                take_next(store)
                pytest.fail(f"it fitted into {room} pages")
            store.clear_leftovers()
            assert store.names() == before
            assert check_after_a_kill(store, KEEP) == KEEP
            os.truncate(ballast, ballast.stat().st_size - PAGE)
        os.truncate(ballast, ballast.stat().st_size - 3 * PAGE)
        take_next(store)
        assert check_after_a_kill(store, KEEP) == KEEP + 1


def test_room_that_comes_back_meanwhile_makes_no_snapshot_of_two_halves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ultralytics.utils.patches import torch_save

    monkeypatch.setattr(torch, "save", torch_save)  # as in a worker: it tries again, into the same stream
    with small_disk(tmp_path / "disk", "1m") as disk:
        store = Store(disk / "snapshots")
        store.take(state_of(1), 1, 1, False)
        freeing = threading.Timer(0.2, filled(disk).unlink)
        freeing.start()
        with contextlib.suppress(OSError):
            take_next(store)
        freeing.join()
        check_after_a_kill(store, 1)


def test_training_goes_on_where_the_disk_takes_no_more_snapshots(attempts: Callable[..., Attempts]) -> None:
    one = attempts(epochs=2)
    with small_disk(one.paths.snapshots, "60m"):
        done = one.attempt(snapshot_seconds=0.001)
        assert done.code == 0
        taken, failed = done.told("snapshot"), done.told("snapshot_failed")
        assert 0 < taken[0]["bytes"] < 60e6 < 2 * taken[0]["bytes"], "there is room for one and not for two"
        assert len(taken) == 1 and len(failed) > 1
        assert "No space left on device" in failed[0]["error"]
        assert failed[0]["error"].endswith("the older ones stay; training goes on")
        assert (failed[0]["epoch"], failed[0]["batches"]) == (1, 6)
    one_row_per_epoch(one.paths, 2)


def test_a_kill_on_a_full_disk_is_followed_by_a_resume_or_a_stop_and_never_by_silence(
    workshop: Callable[..., Workshop],
) -> None:
    shop = workshop("brimful", **{**RECIPE, "epochs": 40})
    limits = "snapshot_seconds: 1.0\nestimate: false\npredictions: false\nbackoff_seconds: 0.0\ndisk_reserve: 0\n"
    (shop.root / "configs" / "safety.yaml").write_text(limits)
    with small_disk(shop.root / "results", "200m") as disk:
        assert shop.train("--detach").returncode == 0
        wait_for(lambda: events(shop.run, "snapshot"))
        ballast = filled(disk)
        os.kill(events(shop.run, "attempt_started")[-1]["worker_pid"], signal.SIGKILL)
        clock.sleep(3.0)
        ballast.unlink()
        run = Run.open(shop.run.folder)
        wait_for(lambda: events(shop.run, "resumed") or not run.is_alive())
        run.stop()
        run.wait(timeout=60)
        now = run.status()
        assert (now.state, now.exit_code) in (("stopped", STOPPED), ("failed", 1)), now.sentence
        assert "without a last word" not in now.sentence
        assert shop.train("--detach").returncode == 0
        assert run.stop(at_once=True)
        assert run.wait(timeout=30) == 143


def test_a_disk_that_is_nearly_full_stops_the_run_resumably_and_says_so(workshop: Callable[..., Workshop]) -> None:
    shop = workshop("reserve", **{**RECIPE, "epochs": 2})
    (shop.root / "configs" / "safety.yaml").write_text("snapshot_seconds: 0.5\nestimate: false\npredictions: false\n")
    with small_disk(shop.root / "results", "300m") as disk:
        answer = shop.train()
        assert answer.returncode == STOPPED, answer.stdout + answer.stderr
        (stopped,) = events(shop.run, "run_stopped")
        assert stopped["exit"] == STOPPED
        assert re.fullmatch(
            r"the disk is nearly full: 2\d\d MB free, the reserve is 500 MB \(disk_reserve in safety.yaml\)",
            stopped["reason"],
        )
        assert len(events(shop.run, "snapshot")) == 1 and not events(shop.run, "snapshot_failed")
        subprocess.run(["mount", "-o", "remount,size=2g", str(disk)], check=True)
        answer = shop.train()
        assert answer.returncode == 0, answer.stdout + answer.stderr
        (resumed,) = events(shop.run, "resumed")
        assert (resumed["exact"], resumed["lost_batches"]) == (True, 0)
        one_row_per_epoch(shop.run, 2)
