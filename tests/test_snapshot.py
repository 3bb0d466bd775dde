"""Snapshots: whole or passed over, in the right order on disk, and never more than are needed."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from damage import flip_a_bit, truncate, zero

from rddkit import durable
from rddkit.snapshot import INTERVAL_BOUNDS, KEEP, Store, interval

GIGA = 10**9
DAILY = 100 * GIGA


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "snapshots")


def take(store: Store, *batches: int, end: bool = False) -> list[Path]:
    """Snapshots at these batches of epoch 1, each with its batch in it."""
    return [store.take({"batch": batch, "tensor": torch.full((50,), batch)}, 1, batch, end).path for batch in batches]


def hash_of(snapshot: Path) -> Path:
    return snapshot.with_name(snapshot.name + ".sha256")


def names(store: Store) -> list[str]:
    return sorted(path.name for path in store.folder.iterdir())


# -- written -----------------------------------------------------------------------------------------------------------


def test_names_tell_number_epoch_batch_and_an_epochs_end(store: Store) -> None:
    assert store.names() == []
    paths = [store.take({}, 3, 240, True).path, store.take({}, 4, 1, False).path, store.take({}, 10, 5, False).path]
    assert [path.name for path in paths] == [
        "000001-epoch3-batch240-end.pt",
        "000002-epoch4-batch1.pt",
        "000003-epoch10-batch5.pt",
    ]
    assert store.names() == paths


def test_numbers_go_on_where_the_newest_stands_whatever_its_epoch_says(store: Store) -> None:
    store.folder.mkdir()
    (store.folder / "000041-epoch9-batch9.pt").touch()
    for other in (
        "7-epoch1-batch1.pt",
        "000099-epoch1-batch1.pt.123.partial",
        "000099-epoch1-batch1.pt.sha256",
        "x.pt",
    ):
        (store.folder / other).touch()
    assert store.take({}, 2, 1, False).path.name == "000042-epoch2-batch1.pt"


def test_plain_values_and_tensors_come_back_as_they_were(store: Store) -> None:
    noise = torch.randn(3, 5, generator=torch.Generator().manual_seed(1))
    tensors = {
        "float": noise,
        "half": noise.half(),
        "bfloat": noise.bfloat16(),
        "bytes": torch.arange(256, dtype=torch.uint8),
        "none": torch.zeros(0),
        "odd": torch.tensor([float("nan"), float("inf"), -0.0]),
    }
    plain = {"none": None, "yes": True, "whole": 2**70, "real": 0.1, "text": "straße", "list": [1, (2, {"x": b"\0"})]}
    taken = store.take({"tensors": tensors, "plain": plain}, 1, 1, False)
    state = store.load(taken.path)
    assert state["plain"] == plain
    assert state["tensors"].keys() == tensors.keys()
    for key, tensor in tensors.items():
        back = state["tensors"][key]
        assert (back.dtype, back.shape) == (tensor.dtype, tensor.shape)
        assert torch.equal(back.view(torch.uint8), tensor.view(torch.uint8)), "to the bit, NaN and -0 too"
    assert taken.bytes == taken.path.stat().st_size
    assert taken.seconds > 0


@pytest.fixture
def trace(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Every flush (with the bytes that the file then has), rename and removal, in order."""
    calls: list[str] = []
    real_fsync, real_replace, real_unlink = os.fsync, os.replace, Path.unlink

    def fsync(fd: int) -> None:
        path = Path(os.readlink(f"/proc/self/fd/{fd}"))
        calls.append(f"fsync {path.name}" + ("" if path.is_dir() else f" {path.stat().st_size}"))
        real_fsync(fd)

    def replace(source: Path, target: Path) -> None:
        calls.append(f"rename {Path(source).name} {Path(target).name}")
        real_replace(source, target)

    def unlink(path: Path, missing_ok: bool = False) -> None:
        calls.append(f"unlink {path.name}")
        real_unlink(path, missing_ok)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(os, "replace", replace)
    monkeypatch.setattr(Path, "unlink", unlink)
    return calls


@pytest.mark.skipif(sys.platform != "linux", reason="names of descriptors are read from /proc")
def test_a_snapshot_is_flushed_before_its_name_and_older_ones_go_only_after_that(
    store: Store, trace: list[str]
) -> None:
    first, _ = take(store, *range(1, KEEP + 1))
    trace.clear()
    (new,) = take(store, 9)
    beside = f".{os.getpid()}.partial"
    wholly = new.stat().st_size
    assert trace == [
        f"fsync {new.name}.sha256{beside} 65",
        f"rename {new.name}.sha256{beside} {new.name}.sha256",
        "fsync snapshots",
        f"fsync {new.name}{beside} {wholly}",
        f"rename {new.name}{beside} {new.name}",
        "fsync snapshots",
        f"unlink {first.name}",
        f"unlink {first.name}.sha256",
    ]


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_snapshot_that_cannot_be_flushed_or_renamed_is_an_error_and_the_others_stay(
    store: Store, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    before = take(store, 1, 2)

    def fail(*_: object) -> None:
        raise OSError(5, "Input/output error")

    with monkeypatch.context() as broken:
        broken.setattr(os, call, fail)
        with pytest.raises(OSError, match="Input/output error"):
            take(store, 3)
    assert store.names() == before
    assert names(store) == sorted([path.name for path in before] + [hash_of(path).name for path in before])


# -- read --------------------------------------------------------------------------------------------------------------


def empty(path: Path) -> None:
    os.truncate(path, 0)


def lose_the_hash(path: Path) -> None:
    hash_of(path).unlink()


def tear_the_hash(path: Path) -> None:
    truncate(hash_of(path))


def zero_the_hash(path: Path) -> None:
    zero(hash_of(path))


def from_another_version(path: Path) -> None:
    torch.save({"schema": 99, "batch": 1}, path)
    durable.write(hash_of(path), durable.sha256(path) + "\n")


Damage = Callable[[Path], None]
DAMAGES: list[tuple[Damage, str]] = [
    (truncate, "is not as it was written: its SHA-256 differs"),
    (empty, "is not as it was written: its SHA-256 differs"),
    (zero, "is not as it was written: its SHA-256 differs"),
    (flip_a_bit, "is not as it was written: its SHA-256 differs"),
    (tear_the_hash, "is not as it was written: its SHA-256 differs"),
    (zero_the_hash, "is not as it was written: its SHA-256 differs"),
    (lose_the_hash, "has no hash beside it"),
    (from_another_version, "has schema 99, not 1"),
]


@pytest.mark.parametrize(("damage", "said"), DAMAGES, ids=[damage.__name__ for damage, _ in DAMAGES])
def test_what_is_not_as_it_was_written_is_refused_by_name(store: Store, damage: Damage, said: str) -> None:
    (path,) = take(store, 1)
    damage(path)
    with pytest.raises(ValueError) as error:
        store.load(path)
    assert str(error.value) == f"{path.name} {said}"


def test_the_newest_steps_back_one_at_a_time_and_says_each_one_passed_over(store: Store) -> None:
    assert store.newest(pytest.fail) is None
    left = [*take(store, 1, end=True), *take(store, 2, 3)]
    passed_over: list[str] = []
    for damage in (truncate, zero, flip_a_bit):
        said: list[str] = []
        found = store.newest(said.append)
        assert found is not None and found[1] == left[-1]
        assert found[0]["batch"] == int(found[0]["tensor"][0]) == len(left)
        assert said == passed_over
        damage(left[-1])
        passed_over.append(
            f"snapshot passed over: {left.pop().name} is not as it was written: its SHA-256 differs",
        )
    said = []
    assert store.newest(said.append) is None
    assert said == passed_over


class Intruder:
    """Makes a folder where it is unpickled."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.folder),)


def test_a_python_object_in_a_snapshot_is_refused_and_not_run(store: Store, tmp_path: Path) -> None:
    (good,) = take(store, 1)
    bad = store.take({"object": Intruder(tmp_path / "ran")}, 1, 2, False).path
    with pytest.raises(ValueError, match=bad.name):
        store.load(bad)
    said: list[str] = []
    found = store.newest(said.append)
    assert found is not None and found[1] == good
    assert len(said) == 1 and said[0].startswith("snapshot passed over: ")
    assert not (tmp_path / "ran").exists()


# -- kept and removed --------------------------------------------------------------------------------------------------


def test_the_last_ones_and_the_newest_epochs_end_are_kept_with_their_hashes(store: Store) -> None:
    for batch in range(1, 10):
        take(store, batch, end=batch in (2, 5))
    kept = ["000005-epoch1-batch5-end.pt", "000008-epoch1-batch8.pt", "000009-epoch1-batch9.pt"]
    assert [path.name for path in store.names()] == kept
    assert names(store) == sorted(kept + [f"{name}.sha256" for name in kept])
    take(store, 10, end=True)
    assert [path.name[:6] for path in store.names()] == ["000009", "000010"]
    assert len(store.names()) == KEEP


def test_a_damaged_snapshot_is_not_counted_among_those_that_are_kept(store: Store) -> None:
    good, bad = take(store, 1, 2)
    truncate(bad)
    found = store.newest(lambda _: None)
    assert found is not None and found[1] == good
    (new,) = take(store, 3)
    assert [path for path in store.names() if path != bad] == [good, new]


def test_leftovers_of_kills_are_removed_and_nothing_else(store: Store) -> None:
    store.clear_leftovers()
    assert not store.folder.exists()
    paths = take(store, 1, 2)
    store.note_stage(paths[-1], {"epoch": 0})
    before = names(store)
    for leftover in (
        "000003-epoch1-batch3.pt.123.partial",
        "000003-epoch1-batch3.pt.sha256.123.partial",
        "000003-epoch1-batch3.pt.sha256",
        "stage.json.123.partial",
    ):
        (store.folder / leftover).write_text("half")
    store.clear_leftovers()
    assert names(store) == before


def test_a_run_that_is_done_removes_them_all(store: Store) -> None:
    take(store, 1, 2)
    store.remove()
    assert not store.folder.exists()
    store.remove()


def test_a_note_belongs_to_one_snapshot(store: Store) -> None:
    before, after = take(store, 1, 2)
    assert store.stage(after) == {}
    store.note_stage(None, {"epoch": 3})
    assert store.stage(after) == {}
    store.note_stage(after, {"epoch": 3, "metrics": {"mAP": 0.5}})
    assert store.stage(after) == {"snapshot": after.name, "epoch": 3, "metrics": {"mAP": 0.5}}
    assert store.stage(before) == {}
    (store.folder / "stage.json").write_text('{"snapshot": "0000')
    assert store.stage(after) == {}


# -- how often ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("cost", "size", "asked", "daily", "seconds", "why"),
    [
        (0.0, 0, "auto", DAILY, INTERVAL_BOUNDS[0], "100 times its cost of 0.00 s, between 60 and 300 s"),
        (0.6, 1000, "auto", DAILY, 60.0, "100 times its cost of 0.60 s, between 60 and 300 s"),
        (2.0, 1000, "auto", DAILY, 200.0, "100 times its cost of 2.00 s, between 60 and 300 s"),
        (9.0, 1000, "auto", DAILY, INTERVAL_BOUNDS[1], "100 times its cost of 9.00 s, between 60 and 300 s"),
        (9.0, 1000, 7, DAILY, 7.0, "set in safety.yaml"),
        (9.0, GIGA, 0.5, GIGA, 0.5, "set in safety.yaml"),
        (2.0, GIGA // 10, "auto", DAILY, 200.0, "100 times its cost of 2.00 s, between 60 and 300 s"),
        (2.0, GIGA, "auto", DAILY, 864.0, "at most 100 GB a day, at 1000 MB each"),
        (9.0, 40 * 10**6, "auto", 5 * GIGA, 691.2, "at most 5 GB a day, at 40 MB each"),
    ],
)
def test_the_interval_follows_the_cost_within_bounds_and_the_days_bytes(
    cost: float, size: int, asked: float | str, daily: int, seconds: float, why: str
) -> None:
    got, reason = interval(cost, size, asked, daily)
    assert got == pytest.approx(seconds)
    assert reason == why
