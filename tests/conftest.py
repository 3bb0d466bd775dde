"""What every test stands on: a root of its own, so that nothing is ever written to the repository's `results/`."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, settings
from workshop import TINY, Cli, Workshop, clean_up

# Hypothesis allows an example 200 ms of the wall's clock, which one write to the drive may take on busy cores.
settings.register_profile("patient", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("patient")


@pytest.fixture(autouse=True)
def root(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The root of this test: a repository without content, in a temporary folder of its own."""
    folder = tmp_path_factory.mktemp("root")
    (folder / "configs").mkdir()
    monkeypatch.setenv("RDDKIT_ROOT", str(folder))
    return folder


@pytest.fixture(scope="session")
def tiny_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The data.yaml of a dozen painted images; never write into it."""
    from rddkit import dataset

    folder = tmp_path_factory.mktemp("tiny data")  # with a space, as folders have
    dataset.write_sample(folder / "raw", images=16, seed=1)
    dataset.prepare(folder / "raw", folder / "out", val_fraction=0.25, block=2)
    return folder / "out" / "rdd2022.yaml"


@pytest.fixture(scope="session")
def make_root(tiny_data: Path) -> Callable[..., Path]:
    """`make_root(folder, **settings)`: a root for real runs, with configs/tiny.yaml and a quick safety.yaml."""

    def make(folder: Path, /, **settings: object) -> Path:
        (folder / "configs").mkdir(parents=True, exist_ok=True)
        (folder / "results").mkdir(exist_ok=True)
        content = {**TINY, "data": str(tiny_data), **settings}
        (folder / "configs" / "tiny.yaml").write_text(yaml.safe_dump(content, allow_unicode=True), encoding="utf-8")
        quick = "backoff_seconds: 0.5\nestimate: false\npredictions: false\n"
        (folder / "configs" / "safety.yaml").write_text(quick, encoding="utf-8")
        return folder

    return make


@pytest.fixture
def attempts(make_root: Callable[..., Path], root: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """`attempts(epochs=2)`: a run on the CPU with compare.RECIPE and these, whose attempts a test starts one by one."""
    from compare import RECIPE, Attempts

    seen = {"cuda": [], "mps": False, "torch": "", "cpu": ""}
    monkeypatch.setattr("rddkit.recording.look_at_devices", lambda: seen)
    return lambda **settings: Attempts(make_root(root, **{**RECIPE, **settings}))


@pytest.fixture
def run_cli(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Cli:
    """`run_cli("train", "--batch", "0")`: the real command line in a process, from a folder that is not the root."""
    elsewhere = tmp_path_factory.mktemp("elsewhere")

    def run(
        *args: str, cwd: Path = elsewhere, env: Mapping[str, str] | None = None, timeout: float = 120
    ) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "rddkit.cli", *args],
            cwd=cwd,
            env={**os.environ, **(env or {})},
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )

    return run


@pytest.fixture(scope="module")
def workshop(
    make_root: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Callable[..., Workshop]]:
    made = []

    def make(folder: str, /, **settings: Any) -> Workshop:
        made.append(Workshop(make_root(tmp_path_factory.mktemp("workshop") / folder, **settings)))
        return made[-1]

    yield make
    for one in made:
        clean_up(one.run)


@pytest.fixture(scope="session")
def blocks(make_root: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Workshop:
    """A root with the finished run `blocks`, whose model finds something; tests may evaluate it, and not train it."""
    from blocks import SETTINGS, write_blocks

    folder = tmp_path_factory.mktemp("blocks")
    data = write_blocks(folder / "data")
    shop = Workshop(make_root(folder / "root", **{**SETTINGS, "data": str(data)}), name="blocks")
    done = shop.train()
    assert done.returncode == 0, done.stdout + done.stderr
    return shop
