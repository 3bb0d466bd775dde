"""Fetching over a connection that is cut again and again: what came stays, and the sum decides."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from server import Server

from rddkit import transfer
from rddkit.transfer import Span, TransferError, fetch

CONTENT = os.urandom(1_050_000)
SUM = f"sha256:{hashlib.sha256(CONTENT).hexdigest()}"


@pytest.fixture
def serve(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Server]]:
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(transfer, "PAUSE", 0.0)
    made: list[Server] = []

    def start(**more: object) -> Server:
        made.append(Server({"a.zip": CONTENT}, **more))  # type: ignore[arg-type]
        return made[-1]

    yield start
    for server in made:
        server.close()


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_connection_cut_every_100_kb_completes_without_a_byte_twice(
    serve: Callable[..., Server], tmp_path: Path
) -> None:
    server = serve(cut=100_000)
    seen: list[int] = []
    fetch(server.address + "a.zip", tmp_path / "a.zip", SUM, on_progress=lambda have, size: seen.append(have))
    assert (tmp_path / "a.zip").read_bytes() == CONTENT and names(tmp_path) == ["a.zip"]
    assert len(server.asked) == 11 and server.sent == len(CONTENT)
    assert seen == sorted(seen) and seen[-1] == len(CONTENT)


@pytest.mark.slow
def test_a_connection_cut_every_megabyte_completes_and_verifies(serve: Callable[..., Server], tmp_path: Path) -> None:
    server = serve(cut=1_000_000)
    server.files["large.zip"] = large = os.urandom(25_300_000)
    checksum = f"md5:{hashlib.md5(large).hexdigest()}"
    fetch(server.address + "large.zip", tmp_path / "a.zip", checksum)
    assert (tmp_path / "a.zip").read_bytes() == large and len(server.asked) == 26


def test_the_next_call_goes_on_where_this_one_stopped(serve: Callable[..., Server], tmp_path: Path) -> None:
    server = serve(cut=100_000)

    def stop(have: int, size: int | None) -> None:
        if have > 300_000:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fetch(server.address + "a.zip", tmp_path / "a.zip", on_progress=stop)
    assert names(tmp_path) == ["a.zip.part", "a.zip.part.json"]
    before = server.sent
    fetch(server.address + "a.zip", tmp_path / "a.zip", SUM)
    assert server.sent - before < len(CONTENT) - 290_000 and names(tmp_path) == ["a.zip"]


def test_a_wrong_checksum_is_refused_and_nothing_left(serve: Callable[..., Server], tmp_path: Path) -> None:
    server = serve()
    (tmp_path / "a.zip").write_bytes(b"an older one")
    with pytest.raises(TransferError, match=f"should be: {SUM}, expected sha256:0+; nothing of it was kept"):
        fetch(server.address + "a.zip", tmp_path / "a.zip", "sha256:" + "0" * 64)
    assert names(tmp_path) == ["a.zip"] and (tmp_path / "a.zip").read_bytes() == b"an older one"


def test_a_file_that_changed_between_two_calls_comes_anew(serve: Callable[..., Server], tmp_path: Path) -> None:
    server = serve(cut=400_000)

    def change(have: int, size: int | None) -> None:
        if have > 300_000:
            server.files["a.zip"] = CONTENT[::-1]

    fetch(server.address + "a.zip", tmp_path / "a.zip", on_progress=change)
    assert (tmp_path / "a.zip").read_bytes() == CONTENT[::-1]


def test_a_server_without_ranges_is_asked_again_from_the_start_and_given_up(
    serve: Callable[..., Server], tmp_path: Path
) -> None:
    server = serve(cut=300_000, ranges=False)
    with pytest.raises(TransferError, match=r"5 times in a row; 300,000 bytes are kept in .*a.zip.part: the same"):
        fetch(server.address + "a.zip", tmp_path / "a.zip")
    server.cut = None
    assert fetch(server.address + "a.zip", tmp_path / "a.zip", SUM).read_bytes() == CONTENT


def test_a_piece_of_a_file_is_a_file(serve: Callable[..., Server], tmp_path: Path) -> None:
    server = serve(cut=100_000)
    fetch(server.address + "a.zip", tmp_path / "piece", span=Span(1000, 450_000))
    assert (tmp_path / "piece").read_bytes() == CONTENT[1000:451_000]
    server.ranges = False
    with pytest.raises(TransferError, match="gives no ranges, so that no piece of it can be fetched"):
        fetch(server.address + "a.zip", tmp_path / "other", span=Span(1000, 450_000))


def test_what_is_not_there_or_is_a_page_is_told_at_once(serve: Callable[..., Server], tmp_path: Path) -> None:
    server = serve()
    with pytest.raises(TransferError, match=r"b.zip: 404 Not Found$"):
        fetch(server.address + "b.zip", tmp_path / "b.zip")
    server.kind = "text/html; charset=utf-8"
    with pytest.raises(TransferError, match=r"answers with a page \(200\), not with the file"):
        fetch(server.address + "a.zip", tmp_path / "a.zip")
    assert names(tmp_path) == [] and len(server.asked) == 2


def test_nobody_there_is_told_after_some_patience(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transfer, "PAUSE", 0.0)
    with pytest.raises(TransferError, match="5 times in a row; nothing came"):
        fetch("http://127.0.0.1:9/a.zip", tmp_path / "a.zip")
    assert names(tmp_path) == []
