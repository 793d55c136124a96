"""Limits on the open connections of one worker, per network and in total."""

from __future__ import annotations

import asyncio
import ipaddress
import logging
from functools import lru_cache
from http import HTTPStatus

import orjson

from lirdrec.server.dependencies import Services
from lirdrec.server.http.errors import MEDIA_TYPE, Problem
from lirdrec.server.http.middleware import ACCESS, SAFE_HEADERS
from lirdrec.server.http.protocol import MAX_HEAD, LimitedProtocol

access = logging.getLogger(ACCESS)

FRAMING = 8  # chunks of one byte make a body six times as long as its content


class Connections:
    """The open connections of one worker, by their network; the `ConnectionRegistry` of `LimitedProtocol`.

    A new connection above a limit replaces the oldest one that waits for its client: one that has sent half a request,
    or nothing since its last answer. If all are being answered, the new one is refused.

    Args:
        services: configuration with the limits, and metrics.
    """

    def __init__(self, services: Services):
        config = services.config
        self.services = services
        self.head_seconds = config.head_seconds
        self.body_seconds = config.timeout_seconds
        self.longest = MAX_HEAD + FRAMING * config.max_body_bytes
        self._total, self._each = config.max_connections, config.address_connections
        self._proxies = [ipaddress.ip_network(proxy) for proxy in config.trusted_proxies]
        self._open: dict[LimitedProtocol, None] = {}  # oldest first
        self._by_network: dict[str, dict[LimitedProtocol, None]] = {}
        self._is_proxy = lru_cache(maxsize=1024)(self._in_proxies)

    def __len__(self) -> int:
        return len(self._open)

    def admit(self, connection: LimitedProtocol) -> bool:
        """Add a new connection; False if a limit is reached."""
        group = self._by_network.setdefault(connection.network, {})
        if len(group) >= self._each and not self._is_proxy(connection.address) and not self._make_room(group):
            return False
        if len(self._open) >= self._total and not self._make_room(self._open):
            self._forget(connection)
            return False
        self._by_network.setdefault(connection.network, group)[connection] = None
        self._open[connection] = None
        return True

    def remove(self, connection: LimitedProtocol) -> None:
        """Remove a connection."""
        self._open.pop(connection, None)
        self._forget(connection)

    def check(self, now: float) -> None:
        """Close the connections whose clients took too long; `now` is the time of the event loop."""
        for connection in list(self._open):
            connection.check(now)

    async def watch(self) -> None:
        """Call `check` periodically, forever."""
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(min(1.0, self.head_seconds / 4))
            self.check(loop.time())

    def refused(self, status: int, detail: str, address: str, default: list[tuple[bytes, bytes]]) -> bytes:
        """The bytes of an error response with uvicorn's `default` headers; it is counted and logged."""
        self.services.metrics.requests.labels("other", "other", str(status)).inc()
        if self.services.config.access_log:
            access.info("refused", extra={"fields": {"status": status, "client": address or None}})
        body = orjson.dumps(Problem(status, detail).value())
        headers = [
            *default,
            (b"content-type", MEDIA_TYPE.encode()),
            (b"content-length", str(len(body)).encode()),
            (b"connection", b"close"),
            *([(b"retry-after", b"5")] if status == 503 else []),
            *SAFE_HEADERS,
        ]
        lines = [f"HTTP/1.1 {status} {HTTPStatus(status).phrase}".encode(), *(b": ".join(header) for header in headers)]
        return b"\r\n".join([*lines, b"", body])

    def _make_room(self, group: dict[LimitedProtocol, None]) -> bool:
        oldest = next((connection for connection in group if connection.is_waiting), None)
        if oldest is not None:
            self.remove(oldest)
            oldest.cut()
        return oldest is not None

    def _forget(self, connection: LimitedProtocol) -> None:
        group = self._by_network.get(connection.network)
        if group is not None:
            group.pop(connection, None)
            if not group:
                del self._by_network[connection.network]

    def _in_proxies(self, address: str) -> bool:
        try:
            ip = ipaddress.ip_address(address)
        except ValueError:
            return False
        return any(ip in network for network in self._proxies)
