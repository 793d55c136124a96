"""Around every request: its id, its log line and figures; who may ask, how much, how long. Plain ASGI, for speed.

Log lines as JSON, one a line, for machines to collect. No line holds a key, a body or a query string.
"""

from __future__ import annotations

import asyncio
import datetime
import ipaddress
import itertools
import json
import logging
import re
import secrets
import sys
import time
from contextvars import ContextVar
from typing import Any, TextIO
from urllib.parse import urlsplit

import orjson
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from lirdrec.escaping import visible_json
from lirdrec.server.auth import network_of
from lirdrec.server.config import ServerConfig
from lirdrec.server.dependencies import Services
from lirdrec.server.http.errors import Problem

ACCESS = "lirdrec.server.access"
REQUEST: ContextVar[str] = ContextVar("request", default="")  # id of the request that is being answered


class JsonFormatter(logging.Formatter):
    """A record as one JSON object: time, level, logger, message, what `extra={"fields": …}` gives, and a traceback."""

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
        return visible_json(_dumped(value))


def _dumped(value: dict[str, Any]) -> str:
    try:
        return orjson.dumps(value, default=str).decode()
    except TypeError:  # halves of letters, as in file names that are no text
        return json.dumps(value, default=str, ensure_ascii=False)


def _is_news(record: logging.LogRecord) -> bool:
    """Not uvicorn's traceback of a start that failed for a reason that was told in a sentence before."""
    return not (record.name == "uvicorn.error" and "lirdrec.errors.ConfigError" in record.getMessage())


def configure(level: int = logging.INFO, stream: TextIO | None = None) -> None:
    """Write the records of lirdrec and of uvicorn as JSON to a stream, by default the error stream."""
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(JsonFormatter())
    handler.addFilter(_is_news)
    for name in ("lirdrec", "uvicorn"):
        logger = logging.getLogger(name)
        logger.handlers = [handler]
        logger.setLevel(level)
        logger.propagate = False
    logging.getLogger("uvicorn.access").disabled = True  # ours knows routes, request ids and callers


log = logging.getLogger(__name__)
access = logging.getLogger(ACCESS)

OPEN = ("/health", "/ready", "/openapi.json")
ASKING = ("/recommend", "/recommend/batch")  # POST, but nothing is changed
PAGE = "/ui"
CALLER = "lirdrec.caller"
GONE = 499  # in log and figures: whoever asked did not wait for an answer
_ID = re.compile(rb"[A-Za-z0-9._-]{1,64}")
SAFE_HEADERS = (
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-resource-policy", b"same-origin"),
)
_POLICY = (b"content-security-policy", b"default-src 'none'; frame-ancestors 'none'")
_PAGE_POLICY = (
    b"content-security-policy",
    b"default-src 'self'; img-src 'self' data: blob:; object-src 'none'; base-uri 'none'; frame-ancestors 'none'",
)


class ObservabilityMiddleware:
    """Gives each request an id, counts, times and logs it, and turns what nobody caught into a 500 without details."""

    def __init__(self, app: ASGIApp, services: Services):
        self.app, self.services = app, services
        self._worker, self._numbers = secrets.token_hex(6), itertools.count(1)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers = dict(scope["headers"])
        given = headers.get(b"x-request-id", b"")
        request_id = given if _ID.fullmatch(given) else f"{self._worker}-{next(self._numbers)}".encode()
        REQUEST.set(request_id.decode())
        safe = (
            *SAFE_HEADERS,
            _PAGE_POLICY if scope["path"].startswith(PAGE) else _POLICY,
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
        except ClientDisconnect:  # went away before it had sent all: nothing failed here, and nobody waits
            status = status or GONE
        except Exception:
            log.exception("request failed", extra={"fields": {"request": request_id.decode()}})
            if status == 0:
                failed = Problem(500, f"an internal error; the log tells more under request {request_id.decode()}")
                await failed.response()(scope, receive, sending)
        finally:
            self._note(scope, request_id, status, time.perf_counter() - started)

    def _note(self, scope: Scope, request_id: bytes, status: int, seconds: float) -> None:
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
    """Lets a request through if it may ask, and holds it to the limits of body and time."""

    def __init__(self, app: ASGIApp, services: Services):
        self.app, self.services = app, services
        config = services.config
        self._limit, self._seconds = config.max_body_bytes, config.timeout_seconds
        self._names = _names(config)

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
            self._admit(scope)
            body = BodyLimitMiddleware(scope, receive, self._limit)
            async with asyncio.timeout(self._seconds) as clock:
                await self.app(scope, body, sending)
        except Problem as problem:
            if started:
                raise
            await problem.response()(scope, receive, send)
        except TimeoutError:
            if started or not clock.expired():
                raise
            await self._late(body.is_awaited).response()(scope, receive, send)

    def _late(self, sending: bool) -> Problem:
        if sending:
            return Problem(
                408, f"the body of the request took longer than {self._seconds:g} seconds", {"Connection": "close"}
            )
        return Problem(
            503,
            f"this took longer than {self._seconds:g} seconds and was given up; a change may have been made all the"
            " same: look before you repeat it",
            {"Retry-After": "5"},
        )

    def _admit(self, scope: Scope) -> None:
        path, method = scope["path"], scope["method"]
        if path in OPEN or path == PAGE or path.startswith(PAGE + "/"):
            return
        headers = dict(scope["headers"])
        client = scope.get("client")
        caller = client[0] if client else "unknown"
        network = network_of(caller)
        if self.services.keys is not None:
            caller = network = self._key(headers, method, path)
        else:
            _refuse_strangers(headers, self._names, self.services.config.cors)
        scope[CALLER] = caller
        if self.services.limiter is not None:
            wait = self.services.limiter.wait(network)
            if wait > 0:
                raise Problem(
                    429,
                    f"too many requests: {self.services.limiter.rate:g} a second are allowed",
                    {"Retry-After": str(int(wait) + 1)},
                )

    def _key(self, headers: dict[bytes, bytes], method: str, path: str) -> str:
        """The name of the caller."""
        assert self.services.keys is not None
        presented = headers.get(b"x-api-key")
        if presented is None:
            scheme, _, rest = headers.get(b"authorization", b"").partition(b" ")
            presented = rest.strip() if scheme.lower() == b"bearer" else None
        if not presented:
            raise Problem(
                401,
                "an API key is needed: Authorization: Bearer KEY, or X-API-Key: KEY",
                {"WWW-Authenticate": 'Bearer realm="lirdrec"'},
            )
        key = self.services.keys.find(presented.decode("latin-1"))
        if key is None:
            raise Problem(
                401,
                "this API key is not known here",
                {"WWW-Authenticate": 'Bearer realm="lirdrec", error="invalid_token"'},
            )
        if key.role != "write" and not (method in ("GET", "HEAD", "OPTIONS") or path in ASKING):
            raise Problem(403, "this API key may read only")
        return key.name


class BodyLimitMiddleware:
    """`receive` of a request that refuses more than a limit, whether the length was announced or not.

    Attributes:
        is_awaited: whether the application waits for more of the body.

    Raises:
        Problem: a larger body is announced.
    """

    __slots__ = ("_limit", "_read", "_receive", "is_awaited")

    def __init__(self, scope: Scope, receive: Receive, limit: int):
        for name, value in scope["headers"]:
            if name == b"content-length" and value.isdigit() and (len(value) > 18 or int(value) > limit):
                raise _too_large(limit)
        self._receive, self._limit, self._read, self.is_awaited = receive, limit, 0, False

    async def __call__(self) -> Message:
        self.is_awaited = True  # also if the request is given up here
        message = await self._receive()
        self.is_awaited = False
        if message["type"] == "http.request":
            self._read += len(message.get("body", b""))
            if self._read > self._limit:
                raise _too_large(self._limit)
        return message


def _too_large(limit: int) -> Problem:
    return Problem(413, f"the body is larger than {limit:,} bytes", {"Connection": "close"})


def _names(config: ServerConfig) -> frozenset[str] | None:
    """Host names that a server without keys answers to; None where it may be reached under any.

    A page that a person of this machine looks at could else ask the server in the person's place, under a name that it
    lets point to 127.0.0.1.
    """
    return frozenset({"localhost", config.host, *config.hosts}) if config.is_local else None


def _refuse_strangers(headers: dict[bytes, bytes], names: frozenset[str] | None, origins: tuple[str, ...]) -> None:
    host = headers.get(b"host", b"").decode("latin-1")
    name = _host(host)
    if names is not None and name not in names and not _is_loopback(name):
        raise Problem(
            403, "without API keys only this machine is answered; name other hosts with --allow-host, or use keys"
        )
    origin = headers.get(b"origin", b"").decode("latin-1")
    if origin and origin not in origins and _netloc(origin) != host:
        raise Problem(403, "a page of another origin asks; allow it with --cors")


def _host(netloc: str) -> str:
    try:
        return urlsplit(f"//{netloc}").hostname or ""
    except ValueError:
        return ""


def _netloc(origin: str) -> str:
    try:
        return urlsplit(origin).netloc
    except ValueError:
        return ""


def _is_loopback(name: str) -> bool:
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False
