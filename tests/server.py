"""A web server of our own that behaves as badly as a test wants: it cuts connections, ignores ranges, changes files."""

from __future__ import annotations

import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class Server:
    """Serves `files` (bytes by name) until closed; `cut`: bytes after which every connection ends."""

    def __init__(self, files: dict[str, bytes], cut: int | None = None, ranges: bool = True) -> None:
        self.files, self.cut, self.ranges = files, cut, ranges
        self.kind = "application/zip"
        self.asked: list[tuple[str, str | None]] = []  # names, and the ranges asked for
        self.sent = 0
        server = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_: Any) -> None:
                pass

            def do_GET(self) -> None:
                server.answer(self)

        class Quiet(ThreadingHTTPServer):
            def handle_error(self, *_: Any) -> None:
                pass  # a client that hangs up, which is what some tests do

        self._http = Quiet(("127.0.0.1", 0), Handler)
        self.address = f"http://127.0.0.1:{self._http.server_port}/"
        threading.Thread(target=self._http.serve_forever, args=(0.05,), daemon=True).start()

    def close(self) -> None:
        self._http.shutdown()
        self._http.server_close()

    def answer(self, request: BaseHTTPRequestHandler) -> None:
        name, wanted = request.path.lstrip("/"), request.headers.get("Range")
        self.asked.append((name, wanted))
        if name not in self.files:
            request.send_error(404)
            return
        content, etag = self.files[name], f'"{hash(self.files[name])}"'
        first, last = 0, len(content) - 1
        same = request.headers.get("If-Range", etag) == etag
        piece = bool(self.ranges and same and wanted and (found := re.fullmatch(r"bytes=(\d+)-(\d*)", wanted)))
        if piece and found:
            first, last = int(found[1]), min(last, int(found[2] or last))
        if first > last:
            request.send_error(416)
            return
        request.send_response(206 if piece else 200)
        request.send_header("ETag", etag)
        request.send_header("Content-Type", self.kind)
        request.send_header("Content-Length", str(last - first + 1))
        if piece:
            request.send_header("Content-Range", f"bytes {first}-{last}/{len(content)}")
        request.end_headers()
        body = content[first : last + 1]
        part = body if self.cut is None else body[: self.cut]
        self.sent += len(part)
        request.wfile.write(part)
        if len(part) < len(body):
            request.close_connection = True
