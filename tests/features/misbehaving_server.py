"""A local server of OpenAI's HTTP interface that misbehaves as its script says, and counts what it was asked."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import io
import json
import threading
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


def describe(content: bytes) -> dict[str, str]:
    """What the server sees in an image: its mean color."""
    from PIL import Image

    image = Image.open(io.BytesIO(content)).convert("RGB").resize((1, 1))
    r, g, b = image.getpixel((0, 0))
    name = ("red", "green", "blue")[(r, g, b).index(max(r, g, b))]
    return {
        "category": "plain tile",
        "colour": f"{name}, {r // 16}-{g // 16}-{b // 16}",
        "printed": "unknown",
    }


def embed(text: str) -> list[float]:
    """Three numbers of a text."""
    return [value / 255 for value in hashlib.sha256(text.encode()).digest()[:3]]


class Clock:
    """A clock that moves when a client waits, and by `seconds` with each answer of the server (as `Server.sticky`)."""

    def __init__(self, seconds: float):
        self.now, self.seconds = 0.0, seconds

    def time(self) -> float:
        return self.now

    def wait(self, seconds: float) -> None:
        self.now += seconds

    def answer(self, body: object) -> None:
        self.now += self.seconds


class Server:
    """`with Server(script) as server:` answers at `server.url`.

    Args:
        script: what to do with the first requests, in order; afterwards all goes well. See `_misbehave`.
        sticky: request → what to do with it every time; gets the decoded body.
        answer: content → what the model says.
    """

    def __init__(self, script: Any = (), sticky: Any = None, answer: Any = None, port: int = 0):
        self.script, self.sticky = list(script), sticky
        self.answer = answer or (lambda content: json.dumps(describe(content)))
        self.asked: list[str] = []  # what each request was about
        self.answered: Counter[str] = Counter()
        self.headers: list[dict[str, str]] = []
        self.bodies: list[Any] = []
        self.release = threading.Event()  # lets held requests go
        self.lock = threading.Lock()
        self.busy = self.busiest = 0
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                outer.handle(self)

            def log_message(self, *args: Any) -> None:
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", port), Handler)
        self.http.daemon_threads = True

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.http.server_port}"

    def __enter__(self) -> Server:
        threading.Thread(target=self.http.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        return self

    def __exit__(self, *error: object) -> None:
        self.release.set()
        self.http.shutdown()
        self.http.server_close()

    def handle(self, request: Any) -> None:
        body = json.loads(request.rfile.read(int(request.headers["Content-Length"])))
        with self.lock:
            self.busy += 1
            self.busiest = max(self.busiest, self.busy)
            self.bodies.append(body)
            self.headers.append(dict(request.headers))
            what = self.script.pop(0) if self.script else "ok"
            if self.sticky is not None:
                what = self.sticky(body) or what
        try:
            if request.path == "/v1/chat/completions":
                self._chat(request, body, what)
            elif request.path == "/v1/embeddings":
                self._embeddings(request, body, what)
            else:
                self._send(request, 404, {"error": {"message": f"no route {request.path}"}})
        except OSError:
            pass  # the client went away
        finally:
            with self.lock:
                self.busy -= 1

    def _chat(self, request: Any, body: Any, what: Any) -> None:
        url = next(part["image_url"]["url"] for part in body["messages"][0]["content"] if part["type"] == "image_url")
        content = base64.b64decode(url.removeprefix("data:image/jpeg;base64,"), validate=True)
        name = hashlib.sha256(content).hexdigest()[:12]
        with self.lock:
            self.asked.append(name)
        if self._misbehave(request, what):
            return
        said = what["say"] if isinstance(what, dict) and "say" in what else self.answer(content)
        usage = {"prompt_tokens": 900, "completion_tokens": 40}
        message = {"role": "assistant", "content": said}
        answer = {"object": "chat.completion", "choices": [{"index": 0, "message": message}], "usage": usage}
        self._send(request, 200, answer)
        with self.lock:
            self.answered[name] += 1

    def _embeddings(self, request: Any, body: Any, what: Any) -> None:
        texts = body["input"]
        with self.lock:
            self.asked.append(json.dumps(texts))
        if self._misbehave(request, what):
            return
        data = [{"object": "embedding", "index": index, "embedding": embed(text)} for index, text in enumerate(texts)]
        if what == "too few":
            data = data[:-1]
        if what == "not finite":
            data[0]["embedding"] = [float("nan")] * 3
        if what == "ragged":
            data[0]["embedding"] = [1.0]
        if what == "scalar":
            data = [{**entry, "embedding": 1.0} for entry in data]
        usage = {"prompt_tokens": sum(map(len, texts)) * 2}  # two tokens a letter
        self._send(request, 200, {"object": "list", "data": data[::-1], "usage": usage})  # the order is in `index`
        with self.lock:
            self.answered.update(texts)

    def _misbehave(self, request: Any, what: Any) -> bool:
        """A status, (status, headers), (status, body), or a word; False: answer as one should."""
        if what in ("ok", "too few", "not finite", "ragged", "scalar") or (isinstance(what, dict) and "say" in what):
            return False
        if isinstance(what, int):
            self._send(request, what, {"error": {"message": f"status {what} as ordered"}})
        elif isinstance(what, tuple):
            status, extra = what
            headers = extra if isinstance(extra, dict) and "error" not in extra else {}
            self._send(request, status, {} if headers else extra, headers)
        elif what == "cut":  # the header promises more than comes
            request.send_response(200)
            request.send_header("Content-Type", "application/json")
            request.send_header("Content-Length", "1000")
            request.end_headers()
            request.wfile.write(b'{"choices": [{"mess')
            request.close_connection = True
        elif what == "hang up":
            request.close_connection = True
            with contextlib.suppress(OSError):
                request.connection.shutdown(2)
        elif what == "garbage":
            self._send(request, 200, b"\x00\xff<html>not what you want")
        elif what == "bad gzip":
            self._send(request, 200, b"no gzip", {"Content-Encoding": "gzip"})
        elif what == "deep":
            self._send(request, 200, b"[" * 200_000)
        elif what == "shape":
            self._send(request, 200, {"choices": [{"text": "an older interface"}], "data": "none"})
        elif what == "error in 200":
            self._send(request, 200, {"error": {"message": "the model is loading"}})
        elif what == "null":
            self._send(request, 200, {"choices": [{"message": {"content": None}}]})
        elif what == "decline":
            self._send(request, 200, {"choices": [{"message": {"content": None, "refusal": "I cannot\nhelp"}}]})
        elif what == "parts":
            said = [{"type": "text", "text": '{"category": "in '}, {"type": "text", "text": 'parts"}'}]
            self._send(request, 200, {"choices": [{"message": {"content": said}}]})
        elif what == "hold":
            self.release.wait(600)
        else:
            raise AssertionError(f"unknown misbehaviour {what!r}")
        return True

    def _send(self, request: Any, status: int, body: Any, headers: Any = None) -> None:
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        request.send_response(status)
        for name, value in (headers or {}).items():
            request.send_header(name, value)
        request.send_header("Content-Type", "application/json")
        request.send_header("Content-Length", str(len(content)))
        request.end_headers()
        request.wfile.write(content)
