"""The supervisor and its worker as real processes on a tiny set: to the end, killed, stopped, orphaned, crashed.

Runs are shared between tests, because torch takes seconds to start: each fixture below is one life of a run.
"""

from __future__ import annotations

import contextlib
import csv
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
from workshop import Cli, Workshop, alive, events, one_row_per_epoch, wait_for

from rddkit import clock, dataset, journal, lock, memory
from rddkit.paths import RunPaths
from rddkit.run import Run
from rddkit.status import read_rows, read_status

# Every process of ours: whoever connects beyond this machine is refused, and written down.
NO_NETWORK = """
import os, socket
def refuse(call):
    def instead(*args):
        address = next((a for a in args if isinstance(a, (tuple, str))), "")
        host = address[0] if isinstance(address, tuple) else address
        if str(host) in ("127.0.0.1", "::1", "localhost") or str(host).startswith("/"):
            return call(*args)
        with open(os.environ["NETWORK_LOG"], "a") as log:
            log.write(f"{os.getpid()} {call.__name__} {address}\\n")
        raise OSError(101, "the test has no network")
    return instead
class Socket(socket.socket):
    connect = refuse(socket.socket.connect)
    connect_ex = refuse(socket.socket.connect_ex)
    sendto = refuse(socket.socket.sendto)
socket.socket = Socket
look_up = socket.getaddrinfo
def getaddrinfo(host, *rest, **more):
    return refuse(lambda name: look_up(name, *rest, **more))(str(host))
socket.getaddrinfo = getaddrinfo
"""


# -- a run that nothing happens to -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def quiet(workshop: Callable[..., Workshop]) -> dict[str, Any]:
    """One attached run to its end, with plots, in a folder with spaces and accents, and no network for anybody."""
    shop = workshop("Straße & Co 1", plots=True, name="Nacht eins")
    shop.run = RunPaths(shop.root / "results" / "Nacht eins")
    (shop.root / "sitecustomize.py").write_text(NO_NETWORK)
    network = shop.root / "network.log"
    environment = {**shop.environment, "PYTHONPATH": str(shop.root), "NETWORK_LOG": str(network)}
    command = [sys.executable, "-m", "rddkit.cli", "train", "--config", "configs/tiny.yaml"]
    caller = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)
    seen = {"sessions": set(), "rss": 0, "torch": False, "status": ""}
    while caller.poll() is None:
        with contextlib.suppress(psutil.Error, OSError, ValueError, KeyError):
            pids = json.loads(shop.run.progress.read_text())
            supervisor = psutil.Process(pids["supervisor_pid"])
            seen["rss"] = max(seen["rss"], supervisor.memory_info().rss)
            seen["torch"] |= any("libtorch" in part.path for part in supervisor.memory_maps())
            seen["sessions"] |= {os.getsid(pid) for pid in (os.getpid(), supervisor.pid, pids["worker_pid"])}
            if pids["epoch"]:
                seen["status"] = read_status(shop.run).sentence
        clock.sleep(0.2)
    said, errors = caller.communicate()
    return {"shop": shop, "code": caller.returncode, "said": said, "errors": errors, "network": network, **seen}


def test_a_run_ends_with_exit_0_and_one_row_per_epoch(quiet: dict[str, Any]) -> None:
    run = quiet["shop"].run
    assert quiet["code"] == 0, quiet["errors"] + (run.log(1).read_text() if run.log(1).exists() else "")
    one_row_per_epoch(run, 3)
    assert read_status(run).state == "done"
    assert "Finished" in quiet["said"] and "Epoch 3 of 3" in quiet["said"]
    assert quiet["status"].startswith("Running, epoch ")


def test_the_journal_tells_the_run_in_order(quiet: dict[str, Any]) -> None:
    told = [event["event"] for event in journal.read_events(quiet["shop"].run.journal)]
    story = [name for name in told if name not in ("snapshot", "cache_cleared")]
    assert story == ["run_started", "attempt_started", "epoch", "epoch", "epoch", "attempt_ended", "run_done"]
    assert ">Finished " in quiet["shop"].run.report_html.read_text(), (
        "the report that the run leaves knows that it is over"
    )
    ended = events(quiet["shop"].run, "attempt_ended")[0]
    assert (ended["cause"], ended["exit"], ended["progress"]) == ("done", 0, 3_000_000), "millionths of an epoch"
    assert ended["peak_bytes"] > 200 << 20
    cleared = events(quiet["shop"].run, "cache_cleared")
    assert cleared and cleared[0]["freed_bytes"] >= 0


def test_the_runs_folder_holds_what_the_design_says(quiet: dict[str, Any]) -> None:
    run = quiet["shop"].run
    for path in (
        run.args_yaml,
        run.run_yaml,
        run.last,
        run.best,
        run.steps_csv,
        run.memory_csv,
        run.progress,
        run.log(1),
    ):
        assert path.stat().st_size > 0, path
    assert not [path for path in run.folder.rglob("*.partial")]
    assert json.loads(run.progress.read_text())["state"] == "done"
    with open(run.steps_csv, newline="") as file:
        steps = [(int(row["epoch"]), int(row["batch"])) for row in csv.DictReader(file)]
    assert steps == sorted(set(steps))
    assert {epoch for epoch, _ in steps} == {1, 2, 3}, "each epoch's last batch at least"
    with open(run.memory_csv, newline="") as file:
        rows = list(csv.DictReader(file))
    assert rows and all(int(row["available"]) > 0 for row in rows)
    assert max(int(row["worker"]) for row in rows) > 200 << 20


def test_no_process_of_a_run_reaches_for_the_network(quiet: dict[str, Any]) -> None:
    assert quiet["code"] == 0
    assert not quiet["network"].exists(), quiet["network"].read_text()
    assert list(quiet["shop"].run.folder.glob("*.png")), "plots were drawn, with their fonts"


def test_the_network_guard_of_the_test_above_does_catch(quiet: dict[str, Any], tmp_path: Path) -> None:
    log = tmp_path / "log"
    reach = "try: u.urlopen('http://192.0.2.1/', timeout=2)\nexcept OSError as error: print(error)"
    code = f"import urllib.request as u\nu.install_opener(u.build_opener(u.ProxyHandler({{}})))\n{reach}"
    environment = {**os.environ, "PYTHONPATH": str(quiet["shop"].root), "NETWORK_LOG": str(log)}
    subprocess.run([sys.executable, "-c", code], env=environment, check=True, capture_output=True)
    assert "192.0.2.1" in log.read_text()


def test_caller_supervisor_and_worker_are_three_sessions(quiet: dict[str, Any]) -> None:
    assert len(quiet["sessions"]) == 3


def test_the_supervisor_is_small_and_never_loads_torch(quiet: dict[str, Any]) -> None:
    print(f"supervisor's resident memory: {memory.human(quiet['rss'])}")
    assert not quiet["torch"]
    assert 0 < quiet["rss"] <= 60 << 20


def test_a_finished_run_says_so_and_other_settings_are_refused(quiet: dict[str, Any]) -> None:
    shop = quiet["shop"]
    before = shop.run.journal.read_bytes()
    again = shop.train()
    assert again.returncode == 0
    assert "the run Nacht eins is finished; another: --name NEW, or again from the start: --fresh" in again.stdout
    assert "Finished" in again.stdout
    other = shop.train("epochs=9")
    assert other.returncode == 2
    assert "epochs: 3 there, 9 asked" in other.stderr and "--fresh" in other.stderr
    assert shop.run.journal.read_bytes() == before
    assert shop.cli("status", "Nacht eins", "--exit-code").returncode == 0
    assert json.loads(shop.cli("status", "--json").stdout)["state"] == "done"
    stop = shop.cli("stop")
    assert stop.returncode == 0 and "Nacht eins is not running. Finished" in stop.stdout


# -- a run whose caller and worker are killed --------------------------------------------------------------------------


@pytest.fixture(scope="module")
def killed(workshop: Callable[..., Workshop]) -> dict[str, Any]:
    """Detached: the kernel interrupted, then killed; the worker killed after epoch 1; then left alone to its end."""
    shop = workshop("killed", epochs=8)
    caller = shop.caller("detach")
    alive(shop.run)
    os.killpg(caller.pid, signal.SIGINT)  # what Interrupt Kernel does
    caller.wait(10)
    interrupted = read_status(shop.run).state
    training = wait_for(lambda: (now := read_status(shop.run)).epoch >= 2 and now)
    os.kill(training.worker_pid, signal.SIGKILL)
    code = Run.open(shop.run.folder).wait(timeout=100)
    return {"shop": shop, "interrupted": interrupted, "code": code}


def test_an_interrupt_of_the_caller_does_not_touch_a_detached_run(killed: dict[str, Any]) -> None:
    assert killed["interrupted"] == "running"
    assert killed["code"] == 0


def test_a_killed_worker_is_told_and_the_run_continues_by_itself(killed: dict[str, Any]) -> None:
    run = killed["shop"].run
    first, second = events(run, "attempt_ended")
    assert (first["cause"], first["exit"]) == ("killed", -9)
    assert first["evidence"] == "SIGKILL from outside, no sign of memory"
    assert second["cause"] == "done"
    (resumed,) = events(run, "resumed")
    assert resumed["attempt"] == 2
    assert resumed["epoch"] >= 2, "epoch 1 was whole and is not trained again"
    assert resumed["lost_batches"] >= 0 and resumed["lost_seconds"] < 30


def test_after_a_kill_there_is_one_row_per_epoch_and_time_goes_on(killed: dict[str, Any]) -> None:
    run = killed["shop"].run
    one_row_per_epoch(run, 8)
    assert "; 1 kill, " in read_status(run).sentence
    with open(run.steps_csv, newline="") as file:
        steps = [(int(row["epoch"]), int(row["batch"])) for row in csv.DictReader(file)]
    assert steps == sorted(set(steps)), "no step is told twice"


# -- a run that is stopped in every way there is -----------------------------------------------------------------------


@pytest.fixture(scope="module")
def long(workshop: Callable[..., Workshop]) -> Workshop:
    """A run too long to end here."""
    return workshop("long", epochs=500)


@pytest.mark.faults
def test_a_killed_supervisor_takes_its_worker_along_and_a_second_start_meanwhile_is_refused(long: Workshop) -> None:
    assert long.train("--detach").returncode == 0
    wait_for(lambda: len(read_rows(long.run.results_csv)) >= 1)
    now = alive(long.run)
    assert long.cli("status", "tiny", "--exit-code").returncode == 3
    second = long.train()
    assert second.returncode == 2
    assert f"the run 'tiny' is being trained by process {now.supervisor_pid} since" in second.stderr
    assert "Look at it: rddkit status tiny. Stop it: rddkit stop tiny" in second.stderr
    worker = psutil.Process(now.worker_pid)
    worker.suspend()  # a worker that is slow to leave
    os.kill(now.supervisor_pid, signal.SIGKILL)  # type: ignore[arg-type]
    refused = long.train()
    assert refused.returncode == 2
    assert "still held by a worker whose supervisor is gone; it leaves within 10 s, then start again" in refused.stderr
    worker.resume()
    began = clock.monotonic()
    wait_for(lambda: not worker.is_running(), 10)
    print(f"worker gone {clock.monotonic() - began:.2f} s after it could notice")
    dead = read_status(long.run)
    assert (dead.state, dead.exit_code) == ("dead", 75)
    assert dead.sentence.startswith("Dead at epoch ")


@pytest.mark.faults
def test_the_next_start_continues_and_stop_ends_it_resumably_with_75(long: Workshop) -> None:
    if not long.run.journal.exists():
        pytest.skip("needs the run of the test before")
    done = len(read_rows(long.run.results_csv))
    command = [sys.executable, "-m", "rddkit.cli", "train", "--config", "configs/tiny.yaml", "--resume"]
    caller = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=long.environment)
    wait_for(lambda: len(read_rows(long.run.results_csv)) > done)
    stop = long.cli("stop")
    assert stop.returncode == 0 and "Stopped" in stop.stdout
    said, _ = caller.communicate(timeout=30)
    assert caller.returncode == 75
    assert "resumable with the same command" in said
    assert events(long.run, "attempt_ended")[-1]["cause"] == "stopped"
    assert events(long.run, "run_stopped")[-1]["reason"] == "asked to stop (SIGTERM)"
    assert events(long.run, "resumed")[-1]["epoch"] > done
    one_row_per_epoch(long.run, len(read_rows(long.run.results_csv)))
    assert json.loads(long.run.progress.read_text())["state"] == "stopped"


@pytest.mark.faults
def test_an_attached_run_stops_when_its_caller_dies(long: Workshop) -> None:
    caller = long.caller("attach")
    alive(long.run)
    before = len(events(long.run, "run_stopped"))
    caller.kill()
    caller.wait()
    wait_for(lambda: len(events(long.run, "run_stopped")) > before)
    assert events(long.run, "run_stopped")[-1]["reason"] == "the caller went away"
    wait_for(lambda: not lock.is_held(long.run.lock), 10)
    assert read_status(long.run).exit_code == 75


@pytest.mark.faults
@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_second_interrupt_ends_the_run_at_once(long: Workshop, number: signal.Signals, code: int) -> None:
    command = [sys.executable, "-m", "rddkit.cli", "train", "--config", "configs/tiny.yaml"]
    caller = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=long.environment)
    started = len(events(long.run, "attempt_started"))
    wait_for(lambda: len(events(long.run, "attempt_started")) > started)
    worker = psutil.Process(events(long.run, "attempt_started")[-1]["worker_pid"])
    worker.suspend()  # a worker that does not come to a batch's end
    caller.send_signal(number)
    clock.sleep(0.1)  # well within the second that two signals of one kind count as one
    caller.send_signal(number)
    clock.sleep(2.5)  # well beyond it, also where busy cores let the first wait
    assert caller.poll() is None and worker.is_running(), "the first asks, and one right behind it is the same"
    caller.send_signal(number)
    caller.communicate(timeout=20)
    assert caller.returncode == code
    assert not worker.is_running()
    assert read_status(long.run).state == "stopped"
    assert read_status(long.run).exit_code == code
    assert events(long.run, "run_stopped")[-1]["reason"].startswith(f"ended at once (a second {number.name})")


@pytest.mark.faults
def test_a_shutdown_that_signals_every_process_at_once_is_one_interrupt(long: Workshop) -> None:
    command = [sys.executable, "-m", "rddkit.cli", "train", "--config", "configs/tiny.yaml"]
    caller = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=long.environment)
    started = len(events(long.run, "attempt_started"))
    wait_for(lambda: len(events(long.run, "attempt_started")) > started)
    now = alive(long.run)
    for pid in (caller.pid, now.supervisor_pid, now.worker_pid):
        os.kill(pid, signal.SIGTERM)
    caller.communicate(timeout=30)
    assert caller.returncode == 75
    assert events(long.run, "run_stopped")[-1]["reason"] == "asked to stop (SIGTERM)"
    assert events(long.run, "attempt_ended")[-1]["cause"] == "stopped"
    assert events(long.run, "snapshot")[-1]["attempt"] == started + 1, "it left with a snapshot"


# -- a run that crashes ------------------------------------------------------------------------------------------------


def test_a_crash_ends_with_exit_1_the_last_lines_and_what_to_do(
    workshop: Callable[..., Workshop], tmp_path: Path
) -> None:
    dataset.write_sample(tmp_path / "raw", images=12, seed=1)
    dataset.prepare(tmp_path / "raw", tmp_path / "set", val_fraction=0.25, block=2, copy=True)
    for image in (tmp_path / "set").rglob("*.jpg"):
        image.write_bytes(b"not an image")  # an SD card's way to go
    shop = workshop("crash", data=str(tmp_path / "set" / "rdd2022.yaml"))
    answer = shop.train()
    assert answer.returncode == 1, answer.stderr
    (failed,) = events(shop.run, "run_failed")
    assert failed["cause"] == "crash" and failed["exit"] == 1
    assert failed["what_to_do"] == f"read {shop.run.log(1)}; mend it; start again with the same command"
    now = read_status(shop.run)
    assert (now.state, now.exit_code) == ("failed", 1)
    assert f": crash, {failed['evidence'].splitlines()[0]}" in now.sentence
    assert failed["evidence"].splitlines()[0] in answer.stdout
    assert "Traceback" in shop.run.log(1).read_text()
    assert len(events(shop.run, "attempt_started")) == 1, "a crash is not tried again"


# -- light -------------------------------------------------------------------------------------------------------------

HEAVY = "('torch', 'torchvision', 'ultralytics', 'plotly', 'matplotlib', 'cv2')"


@pytest.mark.parametrize(
    "module", ["rddkit", "rddkit.run", "rddkit.cli", "rddkit.supervisor", "rddkit.doctor", "rddkit.words"]
)
def test_what_a_kernel_or_the_supervisor_imports_is_light(module: str) -> None:
    code = f"import sys, {module}\nfrom rddkit import Run\nprint([name for name in {HEAVY} if name in sys.modules])"
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert answer.stdout.strip() == "[]"


def test_the_supervisor_does_without_pandas_numpy_and_pydantic() -> None:
    code = "import sys, rddkit.supervisor\nprint({'numpy', 'pandas', 'pydantic', 'typer'} & set(sys.modules))"
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert answer.stdout.strip() == "set()"


def test_the_help_names_every_command(run_cli: Cli) -> None:
    said = run_cli("--help").stdout
    for command in ("train", "status", "stop", "report", "doctor", "sample", "prepare", "download"):
        assert f" {command} " in said
