"""Durable files: whole or absent, in the right order, and nothing left beside."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rddkit import durable


@pytest.fixture
def trace(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str]]:
    """(call, name of the file) of every flush and rename, in order."""
    calls: list[tuple[str, str]] = []

    def name_of(fd: int) -> str:
        return Path(os.readlink(f"/proc/self/fd/{fd}")).name

    real_fsync, real_replace = os.fsync, os.replace

    def fsync(fd: int) -> None:
        written = os.fstat(fd).st_size if not os.path.isdir(f"/proc/self/fd/{fd}") else ""
        calls.append(("fsync", f"{name_of(fd)} {written}".strip()))
        real_fsync(fd)

    def replace(source: Path, target: Path) -> None:
        calls.append(("replace", f"{Path(source).name} {Path(target).name}"))
        real_replace(source, target)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(os, "replace", replace)
    return calls


@pytest.mark.skipif(sys.platform != "linux", reason="names of descriptors are read from /proc")
def test_a_file_is_written_then_flushed_then_renamed_then_its_folder_flushed(tmp_path: Path, trace: list[Any]) -> None:
    durable.write(tmp_path / "a.json", "12345")
    beside = f"a.json.{os.getpid()}.partial"
    assert trace == [("fsync", f"{beside} 5"), ("replace", f"{beside} a.json"), ("fsync", tmp_path.name)]


def test_macos_flushes_the_drive_and_falls_back_to_fsync(
    tmp_path: Path, trace: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    import fcntl

    asked = []

    def refuse(fd: int, command: int) -> int:
        asked.append(command)
        if len(asked) > 1:
            raise OSError("network file system")
        return 0

    monkeypatch.setattr(sys, "platform", "darwin")
    monkeypatch.setattr(fcntl, "F_FULLFSYNC", 51, raising=False)
    monkeypatch.setattr(fcntl, "fcntl", refuse)
    with open(tmp_path / "x", "wb") as file:
        durable.flush_to_drive(file.fileno())
        assert (asked, trace) == ([51], [])
        durable.flush_to_drive(file.fileno())
    assert asked == [51, 51]
    assert [call for call, _ in trace] == ["fsync"]


def test_an_error_inside_leaves_the_old_content_and_nothing_beside(tmp_path: Path) -> None:
    file = tmp_path / "a.bin"
    durable.write(file, b"old")
    with pytest.raises(RuntimeError), durable.replacing(file) as out:
        out.write(b"half of the n")
        raise RuntimeError("training broke")
    assert file.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [file]


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_failing_flush_or_rename_leaves_the_old_content_and_nothing_beside(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    file = tmp_path / "a.bin"
    durable.write(file, b"old")

    def fail(*_: object) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, call, fail)
    with pytest.raises(OSError, match="Input/output error"):
        durable.write(file, b"new")
    assert file.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [file]


@given(st.binary(max_size=200))
def test_any_bytes_come_back(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    file = tmp_path_factory.getbasetemp() / "any"
    durable.write(file, content)
    assert file.read_bytes() == content


def test_json_keeps_accents(tmp_path: Path) -> None:
    durable.write_json(tmp_path / "a.json", {"straße": [1, None]})
    text = (tmp_path / "a.json").read_text(encoding="utf-8")
    assert "straße" in text and text.endswith("}\n")
    assert json.loads(text) == {"straße": [1, None]}


def test_what_an_interrupted_write_left_is_removed_and_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "last.pt.123.partial").write_bytes(b"half")
    (tmp_path / "last.pt").write_bytes(b"whole")
    assert durable.remove_leftovers(tmp_path) == [tmp_path / "last.pt.123.partial"]
    assert [path.name for path in tmp_path.iterdir()] == ["last.pt"]
    assert durable.remove_leftovers(tmp_path / "missing") == []


def test_a_killed_writer_leaves_the_old_content(tmp_path: Path) -> None:
    file = tmp_path / "a.bin"
    durable.write(file, b"old")
    code = (
        "import os, pathlib\nfrom rddkit import durable\n"
        f"with durable.replacing(pathlib.Path({str(file)!r})) as out:\n"
        "    out.write(b'new' * 100000); out.flush(); os.kill(os.getpid(), 9)\n"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == -9
    assert file.read_bytes() == b"old"
    assert len(durable.remove_leftovers(tmp_path)) == 1


def test_lines_are_dropped_only_where_asked(tmp_path: Path) -> None:
    file = tmp_path / "a.csv"
    file.write_text("head\n1\n2\n3\n")
    assert durable.edit_lines(file, lambda line: line.strip() != "2") == 1
    assert file.read_text() == "head\n1\n3\n"
    assert durable.edit_lines(file, lambda line: True) == 0
    file.write_bytes(b"1\n\xff\0\n2\r\n3")
    assert durable.edit_lines(file, lambda line: line != "1\n") == 1
    assert file.read_bytes() == b"\xff\0\n2\r\n3"


def test_the_sum_of_a_file_is_its_sha256(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"abc")
    known = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert durable.sha256(tmp_path / "a", chunk=2) == known


@pytest.fixture
def tiny_disk(tmp_path: Path) -> Iterator[Path]:
    """A real file system of 64 KiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(folder)]
    try:
        answer = subprocess.run(mount, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        pytest.skip("no mount command for a real full disk")
    if answer.returncode != 0:
        pytest.skip(f"no permission to mount a tiny disk: {answer.stderr.strip()}")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_full_disk_is_an_error_that_leaves_the_old_content_and_nothing_beside(tiny_disk: Path) -> None:
    file = tiny_disk / "snapshot.bin"
    durable.write(file, b"old" * 1000)
    with pytest.raises(OSError, match="No space left on device"):
        durable.write(file, b"x" * 100_000)
    assert file.read_bytes() == b"old" * 1000
    assert list(tiny_disk.iterdir()) == [file]
    with pytest.raises(OSError, match="No space left on device"):
        durable.write_quickly(file, "x" * 100_000)
    assert file.read_bytes() == b"old" * 1000
    assert list(tiny_disk.iterdir()) == [file]
