"""Several GPUs: two real ranks of Ultralytics' DDP under the real supervisor, on the CPU over gloo (gloo/)."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
from workshop import Workshop, events, one_row_per_epoch, wait_for

from rddkit import journal, lock
from rddkit.run import Run
from rddkit.status import read_rows

pytestmark = [pytest.mark.faults, pytest.mark.slow]
TWO_GPUS = {"PYTHONPATH": str(Path(__file__).parent / "gloo")}
PATIENCE = 150.0  # two ranks go at each other's pace, on a machine that may be busy
NEVER_EXACT = "several GPUs are trained by Ultralytics' DDP; resumed by epochs"
OUT_OF_MEMORY = "CUDA out of memory. Tried to allocate 20.00 MiB. GPU 1 has a total capacity of 7.79 GiB"


def ranks_of(shop: Workshop, attempt: int) -> dict[int, psutil.Process]:
    """An attempt's ranks by their numbers, once both are there."""
    began = wait_for(lambda: next((e for e in events(shop.run, "attempt_started") if e["attempt"] == attempt), None))
    found = wait_for(lambda: len(children := psutil.Process(began["worker_pid"]).children()) == 2 and children)
    return {int(wait_for(lambda one=one: one.environ().get("RANK"))): one for one in found}


def all_gone(ranks: dict[int, psutil.Process]) -> bool:
    return not any(one.is_running() and one.status() != psutil.STATUS_ZOMBIE for one in ranks.values())


def whole(shop: Workshop, epochs: int) -> None:
    """One row and one event for each epoch, and every line of the journal read."""
    one_row_per_epoch(shop.run, epochs)
    assert [event["epoch"] for event in events(shop.run, "epoch")] == list(range(1, epochs + 1))
    assert len(shop.run.journal.read_bytes().splitlines()) == len(journal.read_events(shop.run.journal))
    assert not lock.is_held(shop.run.lock)


@pytest.mark.timeout(400)
def test_two_ranks_stop_together_and_finish_when_continued(workshop: Callable[..., Workshop]) -> None:
    shop = workshop("two", device="0,1", epochs=4)
    assert shop.train("--detach", **TWO_GPUS).returncode == 0
    ranks = ranks_of(shop, 1)
    assert set(ranks) == {0, 1}
    older = shop.run.snapshots / "000001-epoch1-batch1.pt"  # as our loop on one GPU may have left it
    older.parent.mkdir(exist_ok=True)
    older.touch()
    wait_for(lambda: len(read_rows(shop.run.results_csv)) >= 1, PATIENCE)
    assert shop.cli("stop").returncode == 0
    assert Run.open(shop.run.folder).wait(timeout=30) == 75
    assert all_gone(ranks) and not lock.is_held(shop.run.lock)
    assert not older.exists(), "last.pt is newer"
    (stopped,) = events(shop.run, "attempt_ended")
    assert (stopped["cause"], stopped["exit"]) == ("stopped", 75)
    done = len(read_rows(shop.run.results_csv))

    assert shop.train(**TWO_GPUS).returncode == 0
    (resumed,) = events(shop.run, "resumed")
    assert (resumed["epoch"], resumed["batch"], resumed["source"]) == (done + 1, 0, "last.pt")
    assert (resumed["exact"], resumed["reason"]) == (False, NEVER_EXACT)
    whole(shop, 4)
    memory = shop.run.memory_csv.read_text().splitlines()[1:]
    device = [int(row.split(",")[3]) for row in memory if row.split(",")[3]]
    assert max(device) == 2 << 30, "the fuller of the two devices is told"
    assert max(int(row.split(",")[2]) for row in memory) > 600 << 20, "both ranks count"


@pytest.mark.timeout(400)
def test_memory_out_in_the_second_rank_is_named_and_a_lighter_plan_finishes(
    workshop: Callable[..., Workshop], tmp_path: Path
) -> None:
    shop = workshop("short", device="0,1", epochs=2, batch=6, imgsz=64)
    safety = shop.root / "configs" / "safety.yaml"
    safety.write_text("backoff_seconds: 0.5\nestimate: false\npredictions: false\nfallbacks: [lean, batch]\n")
    for epoch in (1, 2):
        (tmp_path / f"oom-{epoch}").touch()
    done = shop.train(**TWO_GPUS, RDDKIT_OOM=OUT_OF_MEMORY, RDDKIT_OOM_DIR=str(tmp_path))
    assert done.returncode == 0, done.stdout + done.stderr
    ends = events(shop.run, "attempt_ended")
    assert [end["cause"] for end in ends] == ["oom", "oom", "done"]
    said = f"cuda:1: torch on CUDA: RuntimeError: {OUT_OF_MEMORY} (in training)"
    assert ends[0]["evidence"] == ends[1]["evidence"] == said
    lean, smaller = events(shop.run, "fallback")
    assert (lean["kind"], lean["to"]["val_batch"]) == ("lean", 6)
    assert (smaller["kind"], smaller["to"]) == ("batch", {"batch": 2, "val_batch": 2})  # three cannot be shared by two
    assert events(shop.run, "resumed")[-1]["epoch"] == 2
    whole(shop, 2)


def test_the_guard_counts_every_rank_and_ends_them_together(workshop: Callable[..., Workshop]) -> None:
    shop = workshop("guarded", device="0,1", epochs=2)
    limit = 720 << 20  # a rank alone holds about 450 MiB
    safety = f"budget: {limit}\nestimate: false\npredictions: false\nfallbacks: []\nretries: 0\n"
    (shop.root / "configs" / "safety.yaml").write_text(safety)
    assert shop.train("--detach", **TWO_GPUS).returncode == 0
    ranks = ranks_of(shop, 1)
    (end,) = wait_for(lambda: events(shop.run, "attempt_ended"), PATIENCE)
    assert end["cause"] == "oom" and end["evidence"].startswith("our guard: "), end
    assert 620 << 20 < end["peak_bytes"] < limit + (400 << 20)
    assert all_gone(ranks)
    assert Run.open(shop.run.folder).wait(timeout=30) == 69


@pytest.mark.campaign
@pytest.mark.timeout(400)
def test_a_kill_of_one_rank_ends_the_other_and_costs_no_whole_epoch(workshop: Callable[..., Workshop]) -> None:
    shop = workshop("killed", device="0,1", epochs=4)
    assert shop.train("--detach", **TWO_GPUS).returncode == 0
    ranks = ranks_of(shop, 1)
    wait_for(lambda: len(read_rows(shop.run.results_csv)) >= 2, PATIENCE)  # last.pt follows the row
    os.kill(ranks[1].pid, signal.SIGKILL)
    assert Run.open(shop.run.folder).wait(timeout=PATIENCE) == 0
    assert all_gone(ranks)
    killed, done = events(shop.run, "attempt_ended")
    assert (killed["cause"], killed["exit"], done["cause"]) == ("killed", -9, "done")
    assert killed["evidence"] == "SIGKILL of cuda:1 from outside, no sign of memory"
    (resumed,) = events(shop.run, "resumed")
    assert resumed["epoch"] >= 2 and not resumed["exact"]
    whole(shop, 4)
