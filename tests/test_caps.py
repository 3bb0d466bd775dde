"""Caps: their arithmetic, and that a real process meets a real MemoryError and lives."""

from __future__ import annotations

import json
import random
import subprocess
import sys
import types
from typing import Any

import pytest

from rddkit import caps
from rddkit.caps import Cap, cuda_fraction, data_limit, environment

MIB, GIB = 1 << 20, 1 << 30
linux = pytest.mark.skipif(sys.platform != "linux", reason="RLIMIT_DATA binds on Linux alone")


def child(code: str) -> Any:
    """What a Python process prints as JSON; a limit on this one could not be taken back."""
    prelude = "import json, os, resource, sys\nfrom rddkit import caps, memory\n"
    answer = subprocess.run([sys.executable, "-c", prelude + code], capture_output=True, text=True, check=False)
    assert answer.returncode == 0, answer.stderr
    return json.loads(answer.stdout)


@pytest.mark.parametrize(
    ("budget", "recommended", "high", "low"),
    [
        (8 * GIB, 10 * GIB, "0.800", "0.720"),
        (10 * GIB, 10 * GIB, "1.000", "0.900"),
        (40 * GIB, 10 * GIB, "1.000", "0.900"),
        (1, 10 * GIB, "0.050", "0.045"),
        (0, 10 * GIB, "0.050", "0.045"),
    ],
)
def test_mps_gets_both_watermarks_as_shares_of_what_is_recommended(
    budget: int, recommended: int, high: str, low: str
) -> None:
    assert environment("mps", budget, recommended) == {
        "PYTORCH_MPS_HIGH_WATERMARK_RATIO": high,
        "PYTORCH_MPS_LOW_WATERMARK_RATIO": low,
    }


def test_the_low_watermark_is_never_above_the_high_one_which_mps_would_refuse() -> None:
    draw = random.Random(7)
    for _ in range(1000):
        ratios = environment("mps", draw.randrange(0, 200 * GIB), draw.randrange(GIB, 200 * GIB))
        low, high = (float(ratios[f"PYTORCH_MPS_{which}_WATERMARK_RATIO"]) for which in ("LOW", "HIGH"))
        assert 0 < low <= high <= 1.0


@pytest.mark.parametrize(
    ("device", "recommended"), [("cpu", 10 * GIB), ("cuda", 10 * GIB), ("cuda:0", None), ("mps", None), ("mps", 0)]
)
def test_another_device_and_an_unknown_recommendation_set_nothing(device: str, recommended: int | None) -> None:
    assert environment(device, 8 * GIB, recommended) == {}


@pytest.mark.parametrize(
    ("budget", "free", "total", "share"),
    [
        (None, 80 * GIB, 80 * GIB, 0.95),
        (None, 40 * GIB, 80 * GIB, 0.45),
        (None, 4 * GIB, 80 * GIB, 0.01),
        (None, 0, 80 * GIB, 0.01),
        (20 * GIB, 80 * GIB, 80 * GIB, 0.25),
        (20 * GIB, 1 * GIB, 80 * GIB, 0.25),
        (200 * GIB, 80 * GIB, 80 * GIB, 1.0),
        (0, 80 * GIB, 80 * GIB, 0.01),
    ],
)
def test_the_share_of_a_gpu_is_the_budget_or_what_is_free_less_a_twentieth(
    budget: int | None, free: int, total: int, share: float
) -> None:
    assert cuda_fraction(budget, free, total) == pytest.approx(share)


@pytest.mark.parametrize(
    ("mapped", "held", "budget", "limit"),
    [(1000, 400, 600, 1200), (1000, 600, 600, 1000), (1000, 900, 600, 1000), (0, 0, 600, 600)],
)
def test_a_process_may_map_what_it_maps_now_and_the_rest_of_the_budget(
    mapped: int, held: int, budget: int, limit: int
) -> None:
    assert data_limit(mapped, held, budget) == limit


@linux
def test_a_process_grows_up_to_its_budget_then_meets_a_memory_error_and_lives() -> None:
    told = child(
        "budget = memory.process(os.getpid()).bytes + (128 << 20)\n"
        "cap = caps.with_model(budget, True)\n"
        "blocks, caught = [], False\n"
        "for _ in range(1000):\n"
        "    try:\n"
        "        blocks.append(bytearray(b'x' * (1 << 20)))\n"
        "    except MemoryError:\n"
        "        caught = True\n"
        "        break\n"
        "held = memory.process(os.getpid()).bytes\n"
        "taken = len(blocks)\n"
        "del blocks\n"
        "again = len(bytearray(b'x' * (32 << 20)))\n"
        "limit = resource.getrlimit(resource.RLIMIT_DATA)[0]\n"
        "print(json.dumps([caught, taken, held - budget, again, limit == cap.limit, cap.reason]))\n"
    )
    caught, taken, beyond, again, limited, reason = told
    assert caught and limited
    assert 100 <= taken <= 140
    assert abs(beyond) < 24 * MIB, "what it held at the end was the budget"
    assert again == 32 * MIB, "what it gave back it may take again"
    assert reason == "RLIMIT_DATA: what is mapped now and the rest of the budget"


@linux
def test_a_process_that_holds_more_than_its_budget_may_go_on_but_not_grow() -> None:
    told = child(
        "held = bytearray(b'x' * (64 << 20))\n"
        "caps.with_model(1 << 20, True)\n"
        "try:\n"
        "    more = bytearray(64 << 20)\n"
        "except MemoryError:\n"
        "    more = None\n"
        "print(json.dumps([more is None, len(held)]))\n"
    )
    assert told == [True, 64 * MIB]


@linux
def test_before_torch_a_process_becomes_the_kernels_first_victim_and_is_capped_roughly() -> None:
    told = child(
        "cap = caps.before_torch(200 << 20, True)\n"
        "try:\n"
        "    bytearray(4 << 30)\n"
        "    caught = False\n"
        "except MemoryError:\n"
        "    caught = True\n"
        "fits = len(bytearray(1 << 29))\n"
        "print(json.dumps([int(open('/proc/self/oom_score_adj').read()), cap.limit, caught, fits, cap.reason]))\n"
    )
    reason = "RLIMIT_DATA: the budget and what torch maps without touching"
    assert told == [caps.VICTIM, 200 * MIB + caps.UNTOUCHED, True, GIB // 2, reason]


@linux
def test_without_a_cap_it_is_the_first_victim_all_the_same() -> None:
    told = child(
        "before = resource.getrlimit(resource.RLIMIT_DATA)\n"
        "caps_ = [caps.before_torch(1, False), caps.with_model(1, False)]\n"
        "same = before == resource.getrlimit(resource.RLIMIT_DATA)\n"
        "print(json.dumps([int(open('/proc/self/oom_score_adj').read()), same, caps_]))\n"
    )
    assert told == [
        caps.VICTIM,
        True,
        [[None, "caps are off (cap in safety.yaml)"], [None, "no cap on the process"]],
    ]


@linux
def test_a_hard_limit_below_the_cap_is_kept() -> None:
    told = child(
        "resource.setrlimit(resource.RLIMIT_DATA, (5 << 30, 5 << 30))\n"
        "high, low = caps.before_torch(8 << 30, True), caps.before_torch(1 << 30, True)\n"
        "print(json.dumps([high.limit, low.limit, resource.getrlimit(resource.RLIMIT_DATA)]))\n"
    )
    assert told == [5 * GIB, 4 * GIB, [4 * GIB, 5 * GIB]]


@pytest.mark.parametrize("system", ["darwin", "win32"])
def test_another_system_has_no_cap_on_the_process_and_says_so(monkeypatch: pytest.MonkeyPatch, system: str) -> None:
    monkeypatch.setattr(sys, "platform", system)
    assert caps.before_torch(GIB, True) == Cap(None, "RLIMIT_DATA binds on Linux alone")
    assert caps.with_model(GIB, True) == Cap(None, "no cap on the process")


class Gpus:
    """A stand-in for torch.cuda: two GPUs of 80 GiB, of which the second has 40 free."""

    def __init__(self) -> None:
        self.set: list[tuple[float, int]] = []

    def mem_get_info(self, index: int) -> tuple[int, int]:
        return (80, 40)[index] * GIB, 80 * GIB

    def set_per_process_memory_fraction(self, share: float, index: int) -> None:
        self.set.append((share, index))


@pytest.mark.parametrize(
    ("device", "budget", "set_", "cap"),
    [
        ("cuda", None, (0.95, 0), Cap(76 * GIB, "95% of the GPU's 80.0 GB")),
        ("cuda:0", 20 * GIB, (0.25, 0), Cap(20 * GIB, "25% of the GPU's 80.0 GB")),
        ("cuda:1", None, (0.45, 1), Cap(36 * GIB, "45% of the GPU's 80.0 GB")),
    ],
)
def test_a_gpu_is_capped_by_its_number(
    monkeypatch: pytest.MonkeyPatch, device: str, budget: int | None, set_: tuple[float, int], cap: Cap
) -> None:
    cuda = Gpus()
    monkeypatch.setitem(sys.modules, "torch", types.SimpleNamespace(cuda=cuda))
    assert caps.on_device(device, budget) == cap
    assert cuda.set == [set_]


@pytest.mark.parametrize("device", ["cpu", "mps"])
def test_a_device_that_is_no_gpu_is_left_alone(monkeypatch: pytest.MonkeyPatch, device: str) -> None:
    monkeypatch.setitem(sys.modules, "torch", types.SimpleNamespace())
    assert caps.on_device(device, None) == Cap(None, "not a CUDA device")


def test_a_process_without_torch_caps_no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "torch", raising=False)
    assert caps.on_device("cuda", None).limit is None
    assert "torch" not in sys.modules
