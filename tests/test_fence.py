"""The fence: the newest owner's name in the run's folder, and older owners that leave when they see another's."""

from __future__ import annotations

from pathlib import Path

import pytest

from rddkit import fence


def test_a_newer_owner_is_seen_by_the_older_one_and_not_by_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fence, "LOOK_SECONDS", 0.0)
    first, elsewhere = fence.raise_fence(tmp_path / ".fence")
    assert not elsewhere and not first.is_lost()
    monkeypatch.setenv("RDDKIT_NODE", "node-b")
    second, elsewhere = fence.raise_fence(tmp_path / ".fence")
    assert elsewhere and first.is_lost() and not second.is_lost()
    assert fence.read(tmp_path / ".fence")["number"] == 2
    assert fence.read(tmp_path / ".fence")["node"] == "node-b"


def test_an_owner_before_on_the_same_machine_needs_no_wait(tmp_path: Path) -> None:
    fence.raise_fence(tmp_path / ".fence")
    _, elsewhere = fence.raise_fence(tmp_path / ".fence")
    assert not elsewhere


def test_the_file_is_looked_at_every_few_seconds_only(tmp_path: Path) -> None:
    first, _ = fence.raise_fence(tmp_path / ".fence")
    fence.raise_fence(tmp_path / ".fence")
    assert not first.is_lost(), "it has just been looked at"
    first.looked -= fence.LOOK_SECONDS
    assert first.is_lost()


def test_a_file_out_of_reach_or_torn_is_no_reason_to_leave_or_to_fail(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fence, "LOOK_SECONDS", 0.0)
    path = tmp_path / ".fence"
    path.write_text("[torn")
    assert fence.read(path) == {}
    first, elsewhere = fence.raise_fence(path)
    assert not elsewhere
    path.unlink()
    assert not first.is_lost()


def test_a_full_disk_keeps_nobody_from_starting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fence, "LOOK_SECONDS", 0.0)

    def full(path: Path, content: str) -> None:
        raise OSError(28, "No space left on device")

    fence.raise_fence(tmp_path / ".fence")
    monkeypatch.setattr(fence.durable, "write", full)
    behind, _ = fence.raise_fence(tmp_path / ".fence")
    assert not behind.is_lost()
