"""Several GPUs: whose end it was, and a leader with real processes for ranks (faults/test_several_gpus.py trains)."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from types import SimpleNamespace
from typing import Any

import psutil
import pytest
from workshop import wait_for

from rddkit import ddp
from rddkit.config import ConfigError
from rddkit.ddp import End, Leader, blame, devices, own_device
from rddkit.recording import shared_out

NAMES = ["cuda:0", "cuda:1"]
# What every rank of these tests begins with: `say(...)`, its number, and whether its orders have ended.
BEGIN = """
import json, os, sys, time
number = int(os.environ["RANK"])
def say(**message): os.write(int(sys.argv[1]), (json.dumps(message) + "\\n").encode())
"""


@pytest.mark.parametrize(
    ("device", "each"),
    [
        ("cpu", ["cpu"]),
        ("mps", ["mps"]),
        ("cuda:0", ["cuda:0"]),
        ("cuda:0,1", NAMES),
        ("cuda:3,1,2", ["cuda:3", "cuda:1", "cuda:2"]),
    ],
)
def test_devices_one_by_one(device: str, each: list[str]) -> None:
    assert devices(device) == each


def test_a_rank_has_its_own_device_and_a_lone_process_the_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RANK", raising=False)
    assert (ddp.rank(), own_device("cuda:4"), own_device("cpu")) == (-1, "cuda:4", "cpu")
    monkeypatch.setenv("RANK", "1")
    assert (ddp.rank(), own_device("cuda:2,5")) == (1, "cuda:5")


def crash(rank: int, error: str) -> End:
    return End(rank, 1, {"outcome": "crash", "error": error})


OOM = End(1, 1, {"outcome": "oom", "error": "torch on CUDA: OutOfMemoryError: CUDA out of memory."})
TORN = crash(0, "RuntimeError: [pair.cc:534] Connection closed by peer [127.0.0.1]:4321")
NCCL = crash(0, "DistBackendError: NCCL error in: ProcessGroupNCCL.cpp:3356, remote process exited")
BUG = crash(1, "ValueError: no images")


@pytest.mark.parametrize(
    ("ends", "first"),
    [
        ([TORN, OOM], OOM),
        ([NCCL, OOM], OOM),
        ([TORN, BUG], BUG),
        ([TORN, End(1, -signal.SIGKILL)], End(1, -signal.SIGKILL)),
        ([End(0, -signal.SIGABRT), OOM], OOM),  # NCCL's watchdog aborts a rank whose peer is gone
        ([End(0, -signal.SIGABRT), BUG], BUG),
        ([TORN, End(1, -signal.SIGABRT)], End(1, -signal.SIGABRT)),
        ([TORN, End(1, 75, {"outcome": "stopped"})], End(1, 75, {"outcome": "stopped"})),
        ([crash(0, "ValueError: a"), crash(1, "ValueError: b")], crash(0, "ValueError: a")),
        ([TORN], TORN),
        ([TORN, End(1, 0, {"outcome": "done"})], TORN),
        ([End(0, 0, {"outcome": "done"}), End(1, 0)], None),
    ],
)
def test_the_rank_that_brought_the_others_down_is_told_from_them(ends: list[End], first: End | None) -> None:
    assert blame(ends) == first == blame(ends[::-1])


@pytest.mark.parametrize(("batch", "near"), [(5, "4 or 6"), (1, "2")])
def test_a_batch_that_devices_cannot_share_is_refused_with_one_that_they_can(batch: int, near: str) -> None:
    with pytest.raises(ConfigError) as refused:
        shared_out({"batch": batch}, "cuda:0,1")
    said = f"batch={batch} cannot be shared evenly by 2 devices (cuda:0,1); take --batch {near}"
    assert str(refused.value) == said


def test_a_plan_knows_its_devices_where_there_are_several() -> None:
    assert shared_out({"batch": 6}, "cuda:0,1") == {"batch": 6, "devices": 2}
    assert shared_out({"batch": 6, "devices": 2}, "cuda:0") == {"batch": 6}


class Led:
    """A leader of two ranks that run `script`, led in this process."""

    def __init__(self, script: str, **orders: Any) -> None:
        self.said: list[dict[str, Any]] = []
        self.orders = SimpleNamespace(stop=None, **orders)
        self.leader = Leader(NAMES, [sys.executable, "-c", BEGIN + script], ["--rank"], self.said.append, self.orders)

    def lead(self) -> int:
        code = self.leader.lead()
        assert all(one.process.poll() is not None for one in self.leader.ranks)
        return code

    @property
    def words(self) -> dict[str, Any]:
        (found,) = [message for message in self.said if message["kind"] == "end"]
        return found


def test_ranks_know_who_they_are_and_only_the_first_is_passed_on() -> None:
    led = Led("""
keys = "RANK LOCAL_RANK WORLD_SIZE MASTER_ADDR MASTER_PORT".split()
say(kind="event", event="about", environment={key: os.environ[key] for key in keys}, flags=sys.argv[2:])
say(kind="end", outcome="done", error="", stage="")
""")
    assert led.lead() == 0
    (about,) = [message for message in led.said if message["kind"] == "event"]
    port = about["environment"].pop("MASTER_PORT")
    assert 10_000 <= int(port) < 32_768
    assert about["environment"] == {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1"}
    assert about["flags"] == ["--rank"]
    assert led.words["outcome"] == "done"


def test_the_fullest_device_is_told() -> None:
    led = Led("""
if number == 1:
    say(kind="beat", phase="train", device_memory=700)
else:
    sys.stdin.readline()
    say(kind="beat", phase="train", device_memory=300)
""")
    first, second = led.leader.ranks

    def go_on_once_the_second_was_heard() -> None:
        wait_for(lambda: second.device_memory)
        first.tell("on")

    threading.Thread(target=go_on_once_the_second_was_heard).start()
    assert led.lead() == 0
    assert [message["device_memory"] for message in led.said if message["kind"] == "beat"] == [700]


def test_a_rank_that_ran_out_of_memory_is_the_cause_though_the_first_says_that_it_lost_it() -> None:
    led = Led("""
if number == 1:
    say(kind="end", outcome="oom", error="torch on CUDA: OutOfMemoryError: CUDA out of memory.", stage="training")
else:
    time.sleep(0.3)
    say(kind="end", outcome="crash", error="RuntimeError: Connection closed by peer", stage="")
sys.exit(1)
""")
    assert led.lead() == 1
    assert led.words["outcome"] == "oom"
    assert led.words["error"] == "cuda:1: torch on CUDA: OutOfMemoryError: CUDA out of memory."


def test_a_rank_that_waits_for_one_that_is_gone_is_ended_at_once() -> None:
    led = Led("""
if number == 0:
    time.sleep(600)
say(kind="end", outcome="crash", error="ValueError: no images", stage="")
sys.exit(1)
""")
    assert led.lead() == 1
    assert led.leader.ranks[0].exit == -signal.SIGKILL
    assert (led.words["outcome"], led.words["error"]) == ("crash", "cuda:1: ValueError: no images")


def test_only_the_first_rank_is_told_to_stop_and_the_others_end_when_it_has_left() -> None:
    led = Led("""
word = sys.stdin.readline().strip()  # the second waits here until it is ended
say(kind="event", event="told", word=word)
say(kind="end", outcome="stopped", error=word, stage="")
sys.exit(75)
""")
    threading.Timer(0.3, setattr, (led.orders, "stop", "asked to stop (SIGTERM)")).start()
    assert led.lead() == 75
    assert [message["word"] for message in led.said if message["kind"] == "event"] == ["stop"]
    assert (led.words["outcome"], led.words["error"]) == ("stopped", "asked to stop (SIGTERM)")
    assert led.leader.ranks[1].words is None and led.leader.ranks[1].exit == -signal.SIGKILL


def test_a_leader_dies_as_its_rank_did(tmp_path: Any) -> None:
    script = BEGIN + "if number: os.kill(os.getpid(), 9)\nelse: time.sleep(60)"
    look = (
        "import json, sys\nfrom types import SimpleNamespace\nfrom rddkit.ddp import Leader\n"
        "say = lambda message: print(json.dumps(message), flush=True)\n"
        f"command = [sys.executable, '-c', {script!r}]\n"
        f"Leader({NAMES!r}, command, [], say, SimpleNamespace(stop=None)).lead()\n"
    )
    done = subprocess.run([sys.executable, "-c", look], capture_output=True, text=True, timeout=60)
    assert done.returncode == -signal.SIGKILL, done.stderr
    said, words = done.stdout.splitlines()
    assert said == "cuda:1 (rank 1) ended first: exit -9; the others were ended"
    assert json.loads(words) == {"kind": "end", "outcome": None, "error": "cuda:1", "stage": ""}


def test_what_is_no_message_is_passed_over() -> None:
    led = Led("os.write(int(sys.argv[1]), b'not json\\n'); say(kind='event', event='after')")
    assert led.lead() == 0
    assert [message.get("event") for message in led.said] == ["after", None]


def test_a_rank_inherits_the_runs_lock(tmp_path: Any) -> None:
    fd = os.open(tmp_path / "lock", os.O_RDWR | os.O_CREAT)
    os.set_inheritable(fd, True)  # as a worker has it from its supervisor
    try:
        led = Led(f"say(kind='event', event='lock', size=os.fstat({fd}).st_size)")
        assert led.lead() == 0
        assert led.said[0]["size"] == 0
    finally:
        os.close(fd)


def test_a_rank_whose_leader_is_gone_ends_at_once() -> None:
    script = "import time; from rddkit.worker import Orders; Orders(0.0).listen(); print('ready', flush=True)"
    script += "; time.sleep(60)"
    with subprocess.Popen(
        [sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True
    ) as rank:
        assert rank.stdin and rank.stdout and rank.stdout.readline() == b"ready\n"
        rank.stdin.close()
        assert rank.wait(5) == 75
        assert not psutil.pid_exists(rank.pid)
