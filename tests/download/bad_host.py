"""A local web server that sends the faults that a test asks for, and a network in which its names are public."""

from __future__ import annotations

import contextlib
import hashlib
import threading
from collections import defaultdict
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from lirdrec.download import connection
from lirdrec.download.connection import Network, is_public

INSIDE = "10.0.0.5"  # the address of inside.test


class Host:
    """`with Host() as host:` serves `host.files[path]`; `host.script[path]` says what goes wrong first, in order.

    short: half of what is announced; drop: no answer; hold: none until the end; STATUS: this status;
    wrong-range: another part than asked for;
    no-range: all of it, always; endless: bytes without an end; large: announces far too much; html: a web page;
    gzip: a coding that was not asked for; ignored-416: says that the part cannot be had; to:URL: a redirect.
    """

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.script: dict[str, list[str]] = defaultdict(list)
        self.always: dict[str, str] = {}
        self.requests: list[tuple[str, str | None]] = []  # path and Range
        self.paused: list[float] = []
        self.resolved: list[str] = []
        self.release = threading.Event()  # lets held requests go
        self.lock = threading.Lock()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                outer.handle(self)

            def log_message(self, *args: Any) -> None:
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.http.daemon_threads = True

    def __enter__(self) -> Host:
        threading.Thread(target=self.http.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        return self

    def __exit__(self, *error: object) -> None:
        self.release.set()
        self.http.shutdown()
        self.http.server_close()

    def url(self, path: str, name: str = "data.test") -> str:
        return f"http://{name}:{self.http.server_port}{path}"

    @property
    def network(self) -> Network:
        """Names resolve to this server, inside.test to a private address; of private ones only this server is open."""

        def resolve(host: str, port: int) -> list[str]:
            with self.lock:
                self.resolved.append(host)
            if host == "unknown.test":
                raise OSError("no such host")
            if host == "both.test":
                return ["127.0.0.1", INSIDE]
            if host.endswith(".test"):
                return [INSIDE] if host == "inside.test" else ["127.0.0.1"]
            return connection.resolve(host, port)  # of numbers only: no name server is asked

        return Network(resolve, lambda address: address == "127.0.0.1" or is_public(address), 20.0, self.paused.append)

    def handle(self, request: BaseHTTPRequestHandler) -> None:
        path, asked = request.path, request.headers.get("Range")
        with self.lock:
            self.requests.append((path, asked))
            deed = self.script[path].pop(0) if self.script[path] else self.always.get(path, "")
        content = self.files.get(path)
        if content is None and not deed:
            deed = "404"
        self._answer(request, deed, content or b"", asked)

    def _answer(self, request: BaseHTTPRequestHandler, deed: str, content: bytes, asked: str | None) -> None:
        tag = f'"{hashlib.sha256(content).hexdigest()[:16]}"'
        if deed == "hold":
            self.release.wait()
        if deed in ("drop", "hold"):
            request.close_connection = True
            return
        if deed.isdigit():
            return _send(request, int(deed), b"no", {"Retry-After": "7"} if deed == "503" else {})
        if deed.startswith("to:"):
            return _send(request, 302, b"", {"Location": deed.removeprefix("to:")})
        if deed == "endless":
            return _endless(request, content)
        if deed == "html":
            return _send(request, 200, b"<html>too many downloads</html>", {"Content-Type": "text/html; charset=utf-8"})
        headers = {"ETag": tag, "Content-Type": "application/octet-stream"}
        if deed == "gzip":
            return _send(request, 200, content, {**headers, "Content-Encoding": "gzip"})
        if deed == "large":
            return _send(request, 200, content, headers, announced=10**12)
        start, status = 0, 200
        if asked is not None and deed != "no-range" and request.headers.get("If-Range", tag) == tag:
            start, status = int(asked.removeprefix("bytes=").rstrip("-")), 206
            if start >= len(content):
                return _send(request, 416, b"", {"Content-Range": f"bytes */{len(content)}"})
        first = 0 if deed == "wrong-range" else start
        if status == 206:
            headers["Content-Range"] = f"bytes {first}-{len(content) - 1}/{len(content)}"
        part = content[first:]
        _send(request, status, part[: len(part) // 2] if deed == "short" else part, headers, announced=len(part))


def _send(
    request: BaseHTTPRequestHandler, status: int, body: bytes, headers: dict[str, str], announced: int | None = None
) -> None:
    request.send_response(status)
    for name, value in headers.items():
        request.send_header(name, value)
    request.send_header("Content-Length", str(len(body) if announced is None else announced))
    request.end_headers()
    with contextlib.suppress(OSError):
        request.wfile.write(body)
    request.close_connection = True


def _endless(request: BaseHTTPRequestHandler, start: bytes) -> None:
    request.send_response(200)
    request.end_headers()
    try:
        request.wfile.write(start)
        while True:
            request.wfile.write(bytes(1 << 16))
    except OSError:  # the client has left
        request.close_connection = True
