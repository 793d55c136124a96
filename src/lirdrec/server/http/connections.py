"""The connections of one worker: how many there may be, from one address and in all."""

from __future__ import annotations

import asyncio
import ipaddress
import logging
from functools import lru_cache
from http import HTTPStatus
from typing import TYPE_CHECKING

import orjson

from lirdrec.server.http.errors import MEDIA_TYPE, Problem
from lirdrec.server.http.middleware import ACCESS, SAFE_HEADERS
from lirdrec.server.http.protocol import MAX_HEAD, LimitedProtocol

if TYPE_CHECKING:
    from lirdrec.server.dependencies import Services

access = logging.getLogger(ACCESS)

FRAMING = 8  # a body in chunks of one byte is six times as long as what it holds


class Connections:
    """The open connections of one worker, by the network that they come from.

    A new connection beyond a limit takes the place of the oldest one that only waits for its peer: one that has sent
    half a request, or nothing since its last answer. Where all are being answered, the new one is refused.

    Args:
        services: for the limits, the log and the figures.
    """

    def __init__(self, services: Services):
        config = services.config
        self.services = services
        self.head_seconds = config.head_seconds
        self.body_seconds = config.timeout_seconds
        self.longest = MAX_HEAD + FRAMING * config.max_body_bytes
        self._total, self._each = config.max_connections, config.address_connections
        self._proxies = [ipaddress.ip_network(one) for one in config.trusted_proxies]
        self._open: dict[LimitedProtocol, None] = {}  # oldest first, as all dictionaries are
        self._by_network: dict[str, dict[LimitedProtocol, None]] = {}
        self._is_proxy = lru_cache(maxsize=1024)(self._in_proxies)

    def __len__(self) -> int:
        return len(self._open)

    def admit(self, connection: LimitedProtocol) -> bool:
        """Count a new connection; False if there is no room for it."""
        own = self._by_network.setdefault(connection.network, {})
        if len(own) >= self._each and not self._is_proxy(connection.address) and not self._make_room(own):
            return False
        if len(self._open) >= self._total and not self._make_room(self._open):
            self._forget(connection)
            return False
        self._by_network.setdefault(connection.network, own)[connection] = None
        self._open[connection] = None
        return True

    def remove(self, connection: LimitedProtocol) -> None:
        """Count a connection no more."""
        self._open.pop(connection, None)
        self._forget(connection)

    def check(self, now: float) -> None:
        """End the connections whose peers took too long; `now` is the loop's time."""
        for connection in list(self._open):
            connection.check(now)

    async def watch(self) -> None:
        """Check again and again."""
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(min(1.0, self.head_seconds / 4))
            self.check(loop.time())

    def refused(self, status: int, detail: str, address: str, default: list[tuple[bytes, bytes]]) -> bytes:
        """The bytes of an answer that no application gives, counted and logged; `default` headers are uvicorn's."""
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
        lines = [f"HTTP/1.1 {status} {HTTPStatus(status).phrase}".encode(), *(b": ".join(one) for one in headers)]
        return b"\r\n".join([*lines, b"", body])

    def _make_room(self, among: dict[LimitedProtocol, None]) -> bool:
        oldest = next((one for one in among if one.is_waiting), None)
        if oldest is not None:
            self.remove(oldest)
            oldest.cut()
        return oldest is not None

    def _forget(self, connection: LimitedProtocol) -> None:
        own = self._by_network.get(connection.network)
        if own is not None:
            own.pop(connection, None)
            if not own:
                del self._by_network[connection.network]

    def _in_proxies(self, address: str) -> bool:
        try:
            ip = ipaddress.ip_address(address)
        except ValueError:
            return False
        return any(ip in network for network in self._proxies)
