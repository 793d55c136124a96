"""Limit the open connections of one worker process, for each network and in total."""

from __future__ import annotations

import asyncio
import ipaddress
import logging
from collections import Counter
from functools import lru_cache
from http import HTTPStatus

import orjson

from lirdrec.server.http.errors import MEDIA_TYPE, Problem
from lirdrec.server.http.limited_protocol import MAX_HEAD, LimitedProtocol
from lirdrec.server.http.middleware import ACCESS, SAFE_HEADERS
from lirdrec.server.services import Services

access = logging.getLogger(ACCESS)

FRAMING = 8  # allowed bytes of a request for each byte of content: chunks of one byte need six


class Connections:
    """The open connections of one worker, as `LimitedProtocol` needs them.

    A new connection above a limit replaces the oldest connection whose client is to send something: the client has
    sent a part of a request, or nothing since its last answer. If there is no such connection, the new one is refused.

    Attributes:
        head_seconds: time limit for the head of a request.
        body_seconds: time limit for the body of a request.
        longest: largest number of bytes of a request.
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
        self._of_network: Counter[str] = Counter()
        self._is_proxy = lru_cache(maxsize=1024)(self._in_proxies)

    def __len__(self) -> int:
        return len(self._open)

    def admit(self, connection: LimitedProtocol) -> bool:
        """Add a new connection, and return True; return False if a limit is reached and no other one can be closed."""
        network = connection.network
        is_full = self._of_network[network] >= self._each and not self._is_proxy(connection.address)
        if is_full and not self._make_room(network):
            return False
        if len(self._open) >= self._total and not self._make_room():
            return False
        self._open[connection] = None
        self._of_network[network] += 1
        return True

    def remove(self, connection: LimitedProtocol) -> None:
        """Remove a connection, unless it was refused or removed before."""
        if connection in self._open:
            del self._open[connection]
            self._of_network[connection.network] -= 1
            if self._of_network[connection.network] == 0:
                del self._of_network[connection.network]

    def check(self, now: float) -> None:
        """Close the connections whose clients are too slow; `now` is the time of the event loop."""
        for connection in list(self._open):
            connection.check(now)

    async def watch(self) -> None:
        """Call `check` periodically, forever."""
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(min(1.0, self.head_seconds / 4))
            self.check(loop.time())

    def refused(self, status: int, detail: str, address: str, default: list[tuple[bytes, bytes]]) -> bytes:
        """Return the bytes of the error response to a client that is refused; count and log the response.

        Args:
            status: the HTTP status.
            detail: a sentence about the error.
            address: the client's address, for the log.
            default: uvicorn's headers of each response.
        """
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

    def _make_room(self, network: str | None = None) -> bool:
        """Close the oldest connection (in `network`, if given) whose client is to send something; False if none is."""
        for connection in self._open:
            if network in (None, connection.network) and connection.is_waiting:
                self.remove(connection)
                connection.cut()
                return True
        return False

    def _in_proxies(self, address: str) -> bool:
        try:
            ip = ipaddress.ip_address(address)
        except ValueError:
            return False
        return any(ip in network for network in self._proxies)
