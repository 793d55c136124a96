"""Middleware for request ids, logs, metrics, authentication and limits, written as plain ASGI because it is fast.

Logs are JSON, one object per line. They never contain API keys, bodies or query strings.
"""

from __future__ import annotations

import asyncio
import datetime
import itertools
import json
import logging
import re
import secrets
import sys
import time
from contextvars import ContextVar
from typing import Any
from urllib.parse import SplitResult, urlsplit

import orjson
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from lirdrec.control_characters import escape_json
from lirdrec.server.auth import network_of
from lirdrec.server.config import ServerConfig, is_loopback
from lirdrec.server.http.errors import Problem
from lirdrec.server.services import Services

ACCESS = "lirdrec.server.access"
REQUEST: ContextVar[str] = ContextVar("request", default="")  # id of the current request


class JsonFormatter(logging.Formatter):
    """Formats a log record as JSON: time, level, logger, message, request id, the `fields` of `extra`, traceback."""

    def format(self, record: logging.LogRecord) -> str:
        value: dict[str, Any] = {
            "time": datetime.datetime.fromtimestamp(record.created, datetime.UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if request := REQUEST.get():
            value["request"] = request
        value |= getattr(record, "fields", {})
        if record.exc_info:
            value["traceback"] = self.formatException(record.exc_info)
        try:
            text = orjson.dumps(value, default=str).decode()
        except TypeError:  # lone surrogates, as in file names that are not valid text
            text = json.dumps(value, default=str, ensure_ascii=False)
        return escape_json(text)


def _is_new(record: logging.LogRecord) -> bool:
    """Return whether to log a record: not uvicorn's traceback of a failed start, whose reason was logged before."""
    return not (record.name == "uvicorn.error" and "lirdrec.errors.ConfigError" in record.getMessage())


def configure() -> None:
    """Make lirdrec and uvicorn write their log records as JSON to stderr."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter())
    handler.addFilter(_is_new)
    for name in ("lirdrec", "uvicorn"):
        logger = logging.getLogger(name)
        logger.handlers = [handler]
        logger.setLevel(logging.INFO)
        logger.propagate = False
    logging.getLogger("uvicorn.access").disabled = True  # our access log also has routes, request ids and callers


log = logging.getLogger(__name__)
access = logging.getLogger(ACCESS)

OPEN = ("/health", "/ready", "/openapi.json")
READING = ("/recommend", "/recommend/batch")  # POST, but they change nothing
UI = "/ui"
CALLER = "lirdrec.caller"
DISCONNECTED = 499  # status in logs and metrics if the client did not wait for the answer
_ID = re.compile(rb"[A-Za-z0-9._-]{1,64}")
SAFE_HEADERS = (
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-resource-policy", b"same-origin"),
)
_POLICY = (b"content-security-policy", b"default-src 'none'; frame-ancestors 'none'")
_UI_POLICY = (
    b"content-security-policy",
    b"default-src 'self'; img-src 'self' data: blob:; object-src 'none'; base-uri 'none'; frame-ancestors 'none'",
)


class ObservabilityMiddleware:
    """Gives each request an id, measures and logs it, and answers unexpected exceptions with a plain 500.

    It adds the id and headers for security to each response.
    """

    def __init__(self, app: ASGIApp, services: Services):
        self.app, self.services = app, services
        self._worker, self._numbers = secrets.token_hex(6), itertools.count(1)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        given = dict(scope["headers"]).get(b"x-request-id", b"")
        request_id = given if _ID.fullmatch(given) else f"{self._worker}-{next(self._numbers)}".encode()
        REQUEST.set(request_id.decode())
        safe = (
            *SAFE_HEADERS,
            _UI_POLICY if scope["path"].startswith(UI) else _POLICY,
            (b"x-request-id", request_id),
        )
        started = time.perf_counter()
        status = 0

        async def sending(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message.get("headers", ()), *safe]
            await send(message)

        try:
            await self.app(scope, receive, sending)
        except ClientDisconnect:  # before the request was complete
            status = status or DISCONNECTED
        except Exception:
            log.exception("request failed", extra={"fields": {"request": request_id.decode()}})
            if status == 0:
                failed = Problem(
                    500, f"an internal error happened; the log has details under request {request_id.decode()}"
                )
                await failed.response()(scope, receive, sending)
        finally:
            self._record(scope, request_id, status, time.perf_counter() - started)

    def _record(self, scope: Scope, request_id: bytes, status: int, seconds: float) -> None:
        route = getattr(scope.get("route"), "path_format", "other")
        method = scope["method"] if route != "other" else "other"
        metrics = self.services.metrics
        metrics.requests.labels(method, route, str(status)).inc()
        metrics.seconds.labels(route).observe(seconds)
        if self.services.config.access_log and access.isEnabledFor(logging.INFO):
            client = scope.get("client")
            fields = {
                "request": request_id.decode(),
                "method": scope["method"],
                "path": scope["path"],
                "status": status,
                "seconds": round(seconds, 6),
                "caller": scope.get(CALLER),
                "client": client[0] if client else None,
            }
            access.info("answered", extra={"fields": fields})


class AuthMiddleware:
    """Checks the API key of each request, and the limits on the rate of requests, on body size and on time.

    Without keys, the Host and Origin of the request are checked instead. The addresses in `OPEN` and the files of the
    UI need no key.
    """

    def __init__(self, app: ASGIApp, services: Services):
        self.app, self.services = app, services
        self._limit, self._seconds = services.config.max_body_bytes, services.config.timeout_seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        started = False

        async def sending(message: Message) -> None:
            nonlocal started
            started = True
            await send(message)

        try:
            self._authenticate(scope)
            body = LimitedReceive(scope, receive, self._limit)
            async with asyncio.timeout(self._seconds) as clock:
                await self.app(scope, body, sending)
        except Problem as problem:
            if started:
                raise
            await problem.response()(scope, receive, send)
        except TimeoutError:
            if started or not clock.expired():
                raise
            limit = f"took longer than {self._seconds:g} seconds"
            if body.is_awaited:
                timed_out = Problem(408, f"the body of the request {limit}", {"Connection": "close"})
            else:
                message = (
                    f"the request {limit} and was stopped; its change may have been made: check before you repeat it"
                )
                timed_out = Problem(503, message, {"Retry-After": "5"})
            await timed_out.response()(scope, receive, send)

    def _authenticate(self, scope: Scope) -> None:
        path, method = scope["path"], scope["method"]
        if path in OPEN or path == UI or path.startswith(UI + "/"):
            return
        headers = dict(scope["headers"])
        client = scope.get("client")
        caller = client[0] if client else "unknown"
        network = network_of(caller)
        if self.services.keys is not None:
            caller = network = self._key_name(headers, method, path)
        else:
            _check_origin(headers, self.services.config)
        scope[CALLER] = caller
        limiter = self.services.limiter
        if limiter is not None and (wait := limiter.wait(network)) > 0:
            message = f"too many requests: {limiter.rate:g} per second are allowed"
            raise Problem(429, message, {"Retry-After": str(int(wait) + 1)})

    def _key_name(self, headers: dict[bytes, bytes], method: str, path: str) -> str:
        """Return the name in the entry of the API key that a request sent.

        Raise a Problem if there is no key, the key is unknown, or it is read-only and the request changes something.
        """
        assert self.services.keys is not None
        presented = headers.get(b"x-api-key")
        if presented is None:
            scheme, _, rest = headers.get(b"authorization", b"").partition(b" ")
            presented = rest.strip() if scheme.lower() == b"bearer" else None
        realm = 'Bearer realm="lirdrec"'
        if not presented:
            message = "an API key is needed: Authorization: Bearer KEY, or X-API-Key: KEY"
            raise Problem(401, message, {"WWW-Authenticate": realm})
        key = self.services.keys.find(presented.decode("latin-1"))
        if key is None:
            raise Problem(401, "this API key is unknown", {"WWW-Authenticate": f'{realm}, error="invalid_token"'})
        if key.role != "write" and not (method in ("GET", "HEAD", "OPTIONS") or path in READING):
            raise Problem(403, "this API key is read-only; use a key with the role write")
        return key.name


class LimitedReceive:
    """An ASGI function `receive` that raises a Problem (413) for a body of more than `limit` bytes, in chunks too."""

    def __init__(self, scope: Scope, receive: Receive, limit: int):
        self._receive, self._limit, self._read = receive, limit, 0
        self.is_awaited = False  # whether the application is waiting for more of the body
        for name, value in scope["headers"]:
            if name == b"content-length" and value.isdigit():
                self._check(limit + 1 if len(value) > 18 else int(value))

    async def __call__(self) -> Message:
        self.is_awaited = True  # stays true if the request is cancelled while it waits
        message = await self._receive()
        self.is_awaited = False
        if message["type"] == "http.request":
            self._read += len(message.get("body", b""))
            self._check(self._read)
        return message

    def _check(self, size: int) -> None:
        if size > self._limit:
            raise Problem(413, f"the body is larger than {self._limit:,} bytes", {"Connection": "close"})


def _check_origin(headers: dict[bytes, bytes], config: ServerConfig) -> None:
    """Check a request to a server without API keys; raise a Problem if a web page of another origin may have sent it.

    If only this machine can reach the server, the header Host must be a name of this machine. Otherwise a web page
    whose host name points to 127.0.0.1 (DNS rebinding) could send requests as the local user. The header Origin, if
    there is one, must be the server's own or in `config.cors`.
    """
    host, origin = (headers.get(name, b"").decode("latin-1") for name in (b"host", b"origin"))
    name = _split(f"//{host}").hostname or ""
    if config.is_local and name not in ("localhost", config.host, *config.hosts) and not is_loopback(name):
        raise Problem(
            403,
            "without API keys the server answers only requests whose header Host is a name of this machine; add another"
            " name of this machine with --allow-host, or use API keys (--keys)",
        )
    if origin and origin not in config.cors and _split(origin).netloc != host:
        raise Problem(403, "the request comes from a web page of another origin; allow this origin with --cors")


def _split(url: str) -> SplitResult:
    try:
        return urlsplit(url)
    except ValueError:
        return urlsplit("")
