"""Fetch a file over HTTP so that a cut connection costs nothing: what is there stays, and the rest is asked for."""

from __future__ import annotations

import hashlib
import io
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import requests
import urllib3

from rddkit import clock, durable

PART = ".part"  # a file on its way; beside it, as .part.json, what the server said that it is
PATIENCE = 5  # attempts in a row that bring nothing new
PAUSE = 2.0  # seconds after the first of them, doubled each time
TIMEOUT = (20, 60)  # seconds to connect, and to wait for the next bytes
CHUNK = 1 << 18
HEADERS = {"Accept-Encoding": "identity"}  # ranges count the file's own bytes

Progress = Callable[[int, "int | None"], None]


class TransferError(Exception):
    """A file could not be fetched or is not what it should be; the message says which, where, and what is kept."""


class Span(NamedTuple):
    """A piece of what lies at an address: its first byte and its length."""

    first: int
    length: int


def fetch(
    address: str,
    target: Path,
    checksum: str | None = None,
    span: Span | None = None,
    on_progress: Progress | None = None,
) -> Path:
    """Bring `address` (or a `span` of it) to `target`, whole or not at all; continues what an earlier call began.

    `checksum` is `sha256:...` or `md5:...`. A connection that ends is taken up where it ended, as often as it brings
    anything. Raises TransferError; after a wrong checksum nothing is left, otherwise what came stays for the next call.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(target.name + PART)
    said = part.with_name(part.name + ".json")
    fruitless = most = 0
    while True:
        try:
            if _ask(address, part, said, span, on_progress or _silent):
                break
            why = "the connection ended early"
        except requests.RequestException as error:
            why = _reason(error, address)
        except urllib3.exceptions.HTTPError as error:
            why = str(error)
        except OSError as error:  # the disk's, not the network's
            raise TransferError(f"{target} cannot be written: {error.strerror}; {_kept(part)}") from error
        have = part.stat().st_size if part.exists() else 0
        fruitless = 0 if have > most else fruitless + 1
        most = max(most, have)
        if fruitless >= PATIENCE:
            raise TransferError(f"{address}: {why}, {PATIENCE} times in a row; {_kept(part)}")
        if fruitless:
            clock.sleep(PAUSE * 2 ** (fruitless - 1))
    if checksum and (found := digest(part, checksum)) != checksum:
        part.unlink()
        said.unlink(missing_ok=True)
        raise TransferError(f"{address} is not what it should be: {found}, expected {checksum}; nothing of it was kept")
    durable.replace(part, target)
    said.unlink(missing_ok=True)
    return target


def digest(path: Path, like: str) -> str:
    """The checksum of a file, by the algorithm of `like`, with its name before it: `sha256:...`."""
    name = like.partition(":")[0]
    found = hashlib.new(name)
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            found.update(block)
    return f"{name}:{found.hexdigest()}"


def _ask(address: str, part: Path, said: Path, span: Span | None, on_progress: Progress) -> bool:
    """One request for what is missing; whether the file is complete."""
    have = part.stat().st_size if part.exists() else 0
    before = durable.read_json(said) if have else {}
    if before.get("address") != address or before.get("span") != (list(span) if span else None):
        have, before = 0, {}
    headers = dict(HEADERS)
    first = span.first if span else 0
    if span or have:
        headers["Range"] = f"bytes={first + have}-{first + span.length - 1 if span else ''}"
    if have and before.get("etag"):
        headers["If-Range"] = before["etag"]  # a file that changed meanwhile comes anew, from its beginning
    with requests.get(address, headers=headers, stream=True, timeout=TIMEOUT) as answer:
        if answer.status_code == 416 and have and have == before.get("size"):
            return True
        if answer.status_code == 416:
            part.unlink(missing_ok=True)
            return False
        answer.raise_for_status()
        if span and answer.status_code != 206:
            part.unlink(missing_ok=True)  # of a file that has changed since
            said.unlink(missing_ok=True)
            raise TransferError(f"{address}: its server gives no ranges, so that no piece of it can be fetched")
        if answer.status_code not in (200, 206) or "html" in answer.headers.get("Content-Type", ""):
            raise TransferError(f"{address}: its server answers with a page ({answer.status_code}), not with the file")
        if answer.status_code == 200:
            have = 0
        size = span.length if span else _size(answer, have)
        known = {"address": address, "span": span, "etag": _etag(answer), "size": size}
        durable.write_quickly(said, json.dumps(known))
        with open(part, "r+b" if have else "wb") as file:
            file.seek(have)
            file.truncate()
            # Not iter_content: at a cut it loses what had come of a chunk, and would never get on over a bad line.
            while block := answer.raw.read1(CHUNK):
                file.write(block)
                have += len(block)
                on_progress(have, size)
    if size is not None and have > size:
        part.unlink()
        raise TransferError(f"{address}: its server sent more than the {size:,} bytes it spoke of; nothing was kept")
    return size is None or have == size


def read_span(address: str, span: Span) -> bytes:
    """A few bytes of what lies at `address`; TransferError if its server does not give them."""
    wanted = f"bytes={span.first}-{span.first + span.length - 1}"
    try:
        answer = requests.get(address, headers={**HEADERS, "Range": wanted}, timeout=TIMEOUT, stream=True)
        answer.raise_for_status()
        if answer.status_code != 206:
            raise TransferError(f"{address}: its server gives no ranges")
        return answer.content
    except requests.RequestException as error:
        raise TransferError(f"{address}: {_reason(error, address)}") from error


class Remote(io.RawIOBase):
    """What lies at an address, as a file to read from: for an archive's directory, without fetching the archive."""

    def __init__(self, address: str, size: int) -> None:
        self.address, self.size, self.at = address, size, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self.at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self.at = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self.at, io.SEEK_END: self.size}[whence]
        return self.at

    def readinto(self, buffer: Any) -> int:
        length = min(len(buffer), self.size - self.at)
        if length <= 0:
            return 0
        buffer[:length] = read_span(self.address, Span(self.at, length))
        self.at += length
        return length


def _size(answer: requests.Response, have: int) -> int | None:
    total = re.fullmatch(r"bytes \d+-\d+/(\d+)", answer.headers.get("Content-Range", ""))
    if total:
        return int(total[1])
    length = answer.headers.get("Content-Length", "")
    return have + int(length) if length.isdigit() else None


def _etag(answer: requests.Response) -> str | None:
    etag = answer.headers.get("ETag")
    return etag if etag and not etag.startswith("W/") else answer.headers.get("Last-Modified")


def _reason(error: requests.RequestException, address: str) -> str:
    """What to say of an attempt that failed; TransferError at once where another would fail in the same way."""
    answer = error.response
    if answer is None:
        return str(error)
    said = f"{answer.status_code} {answer.reason}"
    if 400 <= answer.status_code < 500 and answer.status_code not in (408, 429):
        raise TransferError(f"{address}: {said}") from error
    return said


def _kept(part: Path) -> str:
    if not part.exists() or not part.stat().st_size:
        part.unlink(missing_ok=True)
        part.with_name(part.name + ".json").unlink(missing_ok=True)
        return "nothing came"
    return f"{part.stat().st_size:,} bytes are kept in {part}: the same command continues there"


def _silent(have: int, size: int | None) -> None:
    return None
