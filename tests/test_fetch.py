"""Fetching weights, from a server of our own: by name only, whole or not at all, held to the sum of the first time."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from rddkit import config, fetch
from rddkit.config import ConfigError


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The address of a release with yolov8n.pt in it."""
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    (tmp_path / "yolov8n.pt").write_bytes(b"weights" * 1000)
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(tmp_path)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/"
    server.shutdown()
    server.server_close()


def test_weights_come_to_the_root_with_their_sum_beside_and_configs_find_them(root: Path, server: str) -> None:
    file = fetch.weights("yolov8n.pt", server)
    assert file == root / "yolov8n.pt"
    assert file.read_bytes() == b"weights" * 1000
    assert (root / "yolov8n.pt.sha256").read_text() == f"{hashlib.sha256(b'weights' * 1000).hexdigest()}  yolov8n.pt\n"
    assert config.find_model("yolov8n.pt") == str(file)


def test_a_file_that_was_damaged_since_is_fetched_again(root: Path, server: str) -> None:
    file = fetch.weights("yolov8n.pt", server)
    file.write_bytes(b"bit rot")
    assert fetch.weights("yolov8n.pt", server).read_bytes() == b"weights" * 1000


def test_other_bytes_under_the_same_name_are_refused(root: Path, tmp_path: Path, server: str) -> None:
    file = fetch.weights("yolov8n.pt", server)
    (tmp_path / "yolov8n.pt").write_bytes(b"something else")
    file.unlink()
    with pytest.raises(ConfigError, match="yolov8n.pt could not be fetched from .*is not what it should be: sha256:"):
        fetch.weights("yolov8n.pt", server)
    assert not file.exists()


def test_weights_that_are_not_there_are_told_with_the_other_ways(root: Path, server: str) -> None:
    with pytest.raises(ConfigError) as caught:
        fetch.weights("yolov8q.pt", server)
    said = str(caught.value)
    assert said.startswith(f"yolov8q.pt could not be fetched from {server}: {server}yolov8q.pt: 404")
    assert said.endswith(f". Put the file at {root}/yolov8q.pt, or train from scratch: model=yolov8q.yaml")
    assert [path.name for path in root.iterdir()] == ["configs"], "nothing half-fetched stays"


@pytest.mark.parametrize("name", ["yolov8n", "../x.pt", "a/b.pt", "", "http://x/y.pt", "x.pt\n", "yolov8n.onnx"])
def test_what_is_no_name_of_weights_is_refused_without_the_network(name: str) -> None:
    with pytest.raises(ConfigError) as caught:
        fetch.weights(name, "http://127.0.0.1:9/")
    assert str(caught.value) == f"{name!r} is not the name of weights, such as yolov8s.pt"
