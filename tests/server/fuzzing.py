"""Invalid requests, always the same for one seed, and what an answer to them must be."""

from __future__ import annotations

import copy
import gzip
import http.client
import itertools
import json
import random
import socket
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote

from lirdrec.server.config import ServerConfig

MAX_BODY = ServerConfig.max_body_bytes
METHODS = ("PUT", "PATCH", "OPTIONS", "HEAD", "TRACE", "DELETE", "GET", "POST", "FOO", "get")
# fmt: off
VALUES: tuple[Any, ...] = (
    None, True, False, 0, -1, 10**18, 2**62, 2**63, -(2**63), 2**64, 10**400, 0.5, -0.0, 3.0, 1e308, 5e-324,
    "", " ", "0", "lamp", "null", "\0", "a\0b", "line\nline", "\r\n", "\ud800", "\udfff\ud800", "💡", "é" * 300,
    "x" * 9000, "%s%n", "../../etc/passwd",
    "'; DROP TABLE items; --", "<script>", "{title}", "__class__", "\u202e", "NaN",
    [], {}, [[]], [None], {"": ""}, {"a": {"b": {"c": []}}}, [1, "a", None, {}], list(range(2000)),
)
RAW = (
    b"", b"{", b"}", b"[", b"nul", b"null", b"NaN", b"[NaN]", b'"', b"\0", b"\xff\xfe{}", b"\xef\xbb\xbf{}",
    b"\xed\xa0\x80", b'{"user": Infinity}', b'{"user": -Infinity}', b'{"user": NaN}', b'{"user": 1e999}',
    b'{"user": 1,}', b"{'user': 1}", b'{"user": 1, "user": 2}', b'{"user": "\\ud800"}', b'{"user": "\\udc00\\ud800"}',
    b'{"user": "\xff"}', b'{"user": 01}', b"[" * 100_000, b'{"filter":' * 5000,
    b'{"user":' + b"[" * 3000 + b"]" * 3000 + b"}", b"9" * 20_000, b" " * 50_000,
    b'{"user": 1}{"user": 1}', b'{"user": 1}\n', b"user=1&k=3", "{\"user\": 1}".encode("utf-16"), b"<xml/>",
)
TYPES = (
    "application/json", "application/json; charset=utf-16", "application/json;charset=nonsense", "APPLICATION/JSON",
    "text/plain", "application/x-www-form-urlencoded", "application/problem+json", "application/", "", ";", "\xff\xfe",
    "multipart/form-data", "multipart/form-data; boundary=", "multipart/form-data; boundary=" + "b" * 300,
    "a/" + "b" * 5000,
)
HEADERS = (
    *(("Content-Encoding", value) for value in ("gzip", "br", "deflate", "gzip, gzip", "identity", "\xff")),
    *(("Accept", "text/html;q=nan"), ("Accept-Encoding", "gzip;q=9"), ("Range", "bytes=5-1")),
    *(("If-None-Match", '"\xff'), ("TE", "x")),
    *(("X-Request-ID", value) for value in ("", "a b", "\xff", "x" * 5000, '"}{')),
    *(("Origin", value) for value in ("null", "http://[", "https://evil.example", "\xff")),
    *(("Host", value) for value in ("", "[", "evil.example", "127.0.0.1:99999", "\xff", "[::1]")),
    *(("Authorization", "Bearer \xff"), ("X-API-Key", "\xff"), ("Cookie", "a=" + "b" * 5000)),
    *(("X-Forwarded-For", "\xff"), ("Expect", "100-continue"), ("Upgrade", "h2c")),
    *(("Content-Length", value) for value in ("-1", "abc", "1, 2", "99999999999999999999", "0")),
    *(("Transfer-Encoding", "chunked"), ("Transfer-Encoding", "gzip, chunked")),
)
NUMBERS = (
    "0", "-1", "5", "1001", "", " ", "1e3", "NaN", "inf", "0x5", "٥", "+5", "5.0", "9" * 5000, "true", "%00", "%FF",
)
IDS = (
    "", "0", "-1", "%00", "%FF", "%ED%A0%80", "%2F", "..", "../..", "%2E%2E%2F", "a%0Ab", "1e3", " ", "%20", "٣", "%25",
    "?",
)
# fmt: on


@dataclass
class Asked:
    """A request as bytes, and whether it may go without an answer because it is no whole request."""

    method: str
    target: str
    headers: list[tuple[str, str]] = field(default_factory=list)
    body: bytes = b""
    longer: int = 0  # by so much is the body announced to be longer than it is

    @property
    def is_whole(self) -> bool:
        framing = {"content-length", "transfer-encoding", "upgrade"}
        if len(self.body) > MAX_BODY:  # refused before it was read to the end, so the answer may be lost
            return False
        return self.longer <= 0 and not any(name.lower() in framing for name, _ in self.headers)

    def content(self) -> bytes:
        given = {name.lower() for name, _ in self.headers}
        lines = [f"{self.method} {self.target} HTTP/1.1", "Connection: close"]
        if "host" not in given:
            lines.append("Host: 127.0.0.1")
        if "content-length" not in given and (self.body or self.longer):
            lines.append(f"Content-Length: {max(0, len(self.body) + self.longer)}")
        lines += [f"{name}: {value}" for name, value in self.headers]
        return "\r\n".join([*lines, "", ""]).encode("latin-1", "replace") + self.body


@dataclass(frozen=True)
class Answered:
    status: int
    kind: str
    body: bytes


class Fuzzer:
    """Draws requests.

    Args:
        good: requests that are right, which the wrong ones are made of: method, path, body or None.
        form: fields of a form that adds an item.
    """

    def __init__(self, seed: int, good: list[tuple[str, str, Any]], form: dict[str, bytes]):
        self.draw, self.good, self.form = random.Random(seed), good, form
        self.new = itertools.count(10_000)  # ids of items that nobody has added yet

    def requests(self, n: int) -> Iterator[Asked]:
        kinds: list[tuple[Callable[[], Asked], int]] = [
            *((self._value, 30), (self._raw, 10), (self._bytes, 10), (self._address, 20), (self._form, 15)),
            *((self._around, 12), (self._framing, 3)),
        ]
        functions, weights = zip(*kinds, strict=True)
        for make in self.draw.choices(functions, weights, k=n):
            yield make()

    # ------------------------------------------------------------ bodies

    def _json(self, path: str, content: bytes) -> Asked:
        return Asked("POST", path, [("Content-Type", "application/json")], content)

    def _some(self) -> tuple[str, Any]:
        _, path, body = self.draw.choice([one for one in self.good if one[2] is not None])
        body = json.loads(json.dumps(body))
        for item in body.get("items", []):
            item["id"] = next(self.new)
        return path, body

    def _value(self) -> Asked:
        """JSON in which one to three places are something else."""
        path, body = self._some()
        for _ in range(self.draw.randint(1, 3)):
            body = self._changed(body)
        return self._json(path, json.dumps(body).encode())

    def _changed(self, body: Any) -> Any:
        places = list(_places(body))
        holder, key = self.draw.choice(places) if places else ([body], 0)
        what = self.draw.randrange(6)
        if what == 0 and isinstance(holder, dict):
            del holder[key]
        elif what == 1 and isinstance(holder, dict):
            holder[self.draw.choice(("", "item", "\0", "kk", "x" * 300, "💡", "\ud800", "user"))] = self._thing(None)
        elif what == 2:
            holder[key] = [holder[key]] * self.draw.choice((0, 1, 2, 1500))
        elif what == 3:
            nested: Any = holder[key]
            for _ in range(self.draw.choice((1, 5, 60, 300))):
                nested = [nested] if self.draw.random() < 0.5 else {"in": nested}
            holder[key] = nested
        else:
            holder[key] = self._thing(holder[key])
        return body if places else holder[0]

    def _thing(self, old: Any) -> Any:
        """Something of the same type, so that it comes past the first check, or of any."""
        alike = [one for one in VALUES if type(one) is type(old)]
        return copy.deepcopy(self.draw.choice(alike if alike and self.draw.random() < 0.6 else VALUES))

    def _raw(self) -> Asked:
        path, _ = self._some()
        return self._json(path, self.draw.choice(RAW))

    def _bytes(self) -> Asked:
        """Right JSON whose bytes are cut, turned or put in twice."""
        path, body = self._some()
        return self._json(path, self._damaged(json.dumps(body).encode()))

    def _damaged(self, content: bytes) -> bytes:
        damaged = bytearray(content)
        for _ in range(self.draw.randint(1, 4)):
            index = self.draw.randrange(len(damaged) + 1)
            what = self.draw.randrange(4)
            if what == 0:
                damaged[index:] = b""
            elif what == 1:
                damaged[index:index] = self.draw.randbytes(self.draw.randint(1, 8))
            elif what == 2:
                del damaged[index : index + self.draw.randint(1, 20)]
            else:
                damaged[index:index] = damaged[max(0, index - 30) : index]
        return bytes(damaged)

    def _form(self) -> Asked:
        """A form whose fields, parts or bytes are wrong."""
        fields = self.form | {"id": str(next(self.new)).encode()}
        draw, boundary = self.draw, "edge"
        for _ in range(draw.randint(0, 2)):
            value = draw.choice(VALUES)
            text = value if isinstance(value, str) else json.dumps(value)
            fields[draw.choice((*self.form, "nothing", "", "item"))] = text.encode("utf-8", "surrogatepass")
        parts = []
        for name, content in fields.items():
            file = '; filename="p.png"' if (name == "image") is (draw.random() < 0.98) else ""
            lines = [f'Content-Disposition: form-data; name="{name}"{file}']
            if draw.random() < 0.03:
                lines[0] = draw.choice(
                    ("", "Content-Disposition: form-data", "Content-Disposition: \xff", "X: " + "y" * 9000)
                )
            if draw.random() < 0.03:
                lines.append(
                    draw.choice(("Content-Type: multipart/mixed", "Content-Transfer-Encoding: base64", "broken"))
                )
            parts.append(
                f"--{boundary}\r\n".encode() + "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n" + content + b"\r\n"
            )
        if draw.random() < 0.1:
            parts *= draw.choice((2, 30))
        body = b"".join(parts) + (f"--{boundary}--\r\n".encode() if draw.random() < 0.8 else b"")
        if draw.random() < 0.3:
            body = self._damaged(body)
        announced = (
            boundary if draw.random() < 0.9 else draw.choice(("other", '"edge', "", "edge; charset=nonsense", "\xff"))
        )
        return Asked("POST", "/items", [("Content-Type", f"multipart/form-data; boundary={announced}")], body)

    # ------------------------------------------------------------ addresses and what is around

    def _address(self) -> Asked:
        draw = self.draw
        method, path, _ = draw.choice([one for one in self.good if one[2] is None])
        path, _, query = path.partition("?")
        if path.count("/") > 1 and draw.random() < 0.5:
            longest = draw.choice(("9" * 19, "9" * 400, "x" * 3000, quote("💡" * 100)))
            path = path.rpartition("/")[0] + "/" + draw.choice((*IDS, longest))
        pairs = [pair.split("=") for pair in query.split("&") if pair]
        for pair in pairs:
            if draw.random() < 0.5:
                pair[1] = draw.choice((*NUMBERS, *IDS, "x" * 3000))
        if draw.random() < 0.3:
            pairs.append(
                [draw.choice(("k", "limit", "offset", "query", "column", "user", "", "a[]")), draw.choice(NUMBERS)]
            )
        query = "&".join("=".join(pair) for pair in pairs) + draw.choice(("", "", "&&&", "&=", "#x", ";"))
        if draw.random() < 0.3:
            method = draw.choice(METHODS)
        return Asked(method, quote(f"{path}?{query}", safe="/?&=%;#"))

    def _around(self) -> Asked:
        """A right request with headers, a method or an encoding that is wrong."""
        draw = self.draw
        method, path, body = draw.choice(self.good)
        content = b"" if body is None else json.dumps(body).encode()
        kind = draw.choice(TYPES) if draw.random() < 0.5 else "application/json"
        asked = Asked(method, path, [("Content-Type", kind)], content)
        some = [one for one in HEADERS if one[0] not in ("Content-Length", "Transfer-Encoding", "Upgrade")]
        asked.headers += draw.sample(some, draw.randint(0, 3))
        if draw.random() < 0.2:
            packed = gzip.compress(content, mtime=0)
            asked.body = packed[: draw.choice((3, 12, len(packed)))]
            asked.headers.append(("Content-Encoding", "gzip"))
        if draw.random() < 0.3:
            asked.method = draw.choice(METHODS)
        return asked

    def _framing(self) -> Asked:
        """A body that is not as long as announced, or a request that is none."""
        path, body = self._some()
        asked = self._json(path, json.dumps(body).encode())
        if self.draw.random() < 0.6:
            asked.longer = self.draw.choice((-5, -1, 1, 500, 200_000))
        else:
            framing = ("Content-Length", "Transfer-Encoding", "Upgrade")
            asked.headers.append(self.draw.choice([one for one in HEADERS if one[0] in framing]))
        return asked


def _places(value: Any) -> Iterator[tuple[Any, Any]]:
    """Everything inside: what holds it, and at which key."""
    inside = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, one in list(inside)[:50]:
        yield value, key
        yield from _places(one)


def ask(port: int, asked: Asked) -> Answered | None:
    """Send it over a connection of its own; None if there was no answer."""
    with socket.create_connection(("127.0.0.1", port), timeout=600) as connection:
        try:
            connection.sendall(asked.content())
            if not asked.is_whole:
                connection.shutdown(socket.SHUT_WR)
            response = http.client.HTTPResponse(connection, method=asked.method)
            response.begin()
            return Answered(response.status, response.headers.get("Content-Type", ""), response.read())
        except (ConnectionError, http.client.HTTPException):
            return None


def fault(asked: Asked, answered: Answered | None) -> str | None:
    """What is wrong with an answer, whatever was asked."""
    if answered is None:
        return "no answer" if asked.is_whole else None
    if answered.status >= 500:
        return f"status {answered.status}"
    if b"Traceback" in answered.body or b'File "' in answered.body:
        return "a traceback"
    if answered.status < 400:
        return None
    if answered.body == b"Invalid HTTP request received.":  # from uvicorn: it never was a request
        return None if answered.status == 400 else f"{answered.status} of the HTTP server"
    if answered.kind != "application/problem+json":
        return f"an error as {answered.kind!r}"
    if asked.method == "HEAD":
        return None
    problem = json.loads(answered.body)
    detail = problem["detail"]
    if problem["status"] != answered.status or not detail or not detail.isprintable() or len(detail) > 1000:
        return f"no sentence: {detail[:200]!r}, {len(detail)} letters"
    return None
