"""The connections of one worker: how many there may be, how large a head, and how long a request may take to arrive.

uvicorn closes what is idle after an answer (`timeout_keep_alive`), but waits without an end for the first request of a
connection, for the rest of a head and for a body that nobody reads; and it counts connections, but not by their
address. Its parser keeps a head of any size.
"""

from __future__ import annotations

import asyncio
import ipaddress
import logging
from functools import lru_cache
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

import orjson
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from lirdrec.server.logs import ACCESS
from lirdrec.server.middleware import SAFE_HEADERS
from lirdrec.server.problems import MEDIA_TYPE, Problem
from lirdrec.server.security import network_of

if TYPE_CHECKING:
    from lirdrec.server.services import Services

access = logging.getLogger(ACCESS)

STATE = "lirdrec.connections"  # where the lifespan's state holds the `Connections`
MAX_HEAD = 32 * 1024
MAX_PIPELINED = 100  # requests that wait for the answer to one before them, on the same connection
FRAMING = 8  # a body in chunks of one byte is six times as long as what it holds
ONE_READ = 256 * 1024  # of a socket, by asyncio and uvloop
GRACE = 5.0  # seconds after which a connection that should have ended by itself is cut


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

    def note(self, status: int, client: str | None) -> None:
        """Count and log an answer that no application gave."""
        self.services.metrics.requests.labels("other", "other", str(status)).inc()
        if self.services.config.access_log:
            access.info("refused", extra={"fields": {"status": status, "client": client}})

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


class LimitedProtocol(HttpToolsProtocol):
    """uvicorn's HTTP/1.1 with the limits of `Connections`, which the lifespan's state holds under `STATE`."""

    def __init__(self, config: Any, server_state: Any, app_state: dict[str, Any], _loop: Any = None):
        super().__init__(config, server_state, app_state, _loop)
        self._all: Connections = app_state[STATE]
        self.address = self.network = ""
        self._since: float | None = None  # when that began for which the peer is waited for; None: for nothing
        self._closing: float | None = None
        self._in_message = self._in_head = False
        self._received = self._head = 0  # bytes: of the message in all, of the fields of its head
        self._refusal: Problem | None = None

    # ------------------------------------------------------------ what the loop tells

    def connection_made(self, transport: Any) -> None:
        """Count the connection, or refuse it."""
        super().connection_made(transport)
        self.address = self.client[0] if self.client else ""
        self.network = network_of(self.address)
        self._since = self.loop.time()
        if not self._all.admit(self):
            self._refuse(Problem(503, "there are too many connections", {"Retry-After": "5"}))

    def connection_lost(self, exc: Exception | None) -> None:
        """Count the connection no more."""
        self._all.remove(self)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Parse, and end what goes on without an end."""
        super().data_received(data)
        if self._in_message:
            self._received += len(data)
            if self._in_head:
                if self._received > MAX_HEAD + ONE_READ:  # one field that has not ended
                    self._refuse(_too_large_head())
            elif self._received > self._all.longest:
                self.transport.close()

    # ------------------------------------------------------------ what the parser tells

    def on_message_begin(self) -> None:
        """A request begins."""
        if len(self.pipeline) >= MAX_PIPELINED:
            raise self._refused(Problem(400, "too many requests were sent without waiting for an answer"))
        self._in_message = self._in_head = True
        self._received = self._head = 0
        self._since = self.loop.time()
        super().on_message_begin()

    def on_url(self, url: bytes) -> None:
        """A part of the address."""
        self._head += len(url)
        if self._head > MAX_HEAD:
            raise self._refused(Problem(414, f"the address is longer than {MAX_HEAD:,} bytes"))
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        """A field of the head, or one after the body."""
        self._head += len(name) + len(value) + 4
        if self._head > MAX_HEAD:
            raise self._refused(_too_large_head())
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """The head is there."""
        self._in_head = False
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        """The request is there."""
        self._in_message, self._since = False, None
        super().on_message_complete()

    def send_400_response(self, msg: str) -> None:
        """Answer what could not be parsed, or was refused while it was."""
        self._refuse(self._refusal or Problem(400, "this is not HTTP"))

    # ------------------------------------------------------------ limits

    @property
    def is_waiting(self) -> bool:
        """Whether nothing can happen before the peer sends, or reads, more."""
        cycle = self.cycle
        return cycle is None or cycle.response_complete or (cycle.more_body and not cycle.response_started)

    def check(self, now: float) -> None:
        """End the connection if its peer took too long."""
        if self.transport.is_closing():
            self._closing = self._closing or now
            if now - self._closing > GRACE:  # the peer does not read the last answer
                self.transport.abort()
        elif self._since is None:
            if self.timeout_keep_alive_task is None and self.is_waiting:  # empty lines between requests
                self._since = now
        elif self._in_head and not self.is_waiting:  # of the next request; this one's answer takes long
            self._since = now
        elif self._in_message and not self._in_head:  # while the application reads, it answers in time itself
            if now - self._since > self._all.body_seconds + GRACE:
                self.cut()
        elif now - self._since > self._all.head_seconds:
            if self._in_message:
                seconds = self._all.head_seconds
                self._refuse(Problem(408, f"the head of the request took longer than {seconds:g} seconds"))
            else:
                self.transport.close()

    def cut(self) -> None:
        """End the connection now, but let the peer have what was written for it if it reads."""
        self.connections.discard(self)  # type: ignore[arg-type]
        if self.transport.get_write_buffer_size():
            self.transport.abort()
        else:
            self.transport.close()

    def _refused(self, problem: Problem) -> ValueError:
        """Note what to answer when the parser gives up, which it does when this is raised."""
        self._refusal = problem
        return ValueError(problem.detail)

    def _refuse(self, problem: Problem) -> None:
        if self.transport.is_closing():
            return
        if self.cycle is None or self.cycle.response_complete:  # else it would stand amidst another answer
            self.transport.write(_written(problem, self.server_state.default_headers))
            self._all.note(problem.status_code, self.address or None)
        self.transport.close()


def _too_large_head() -> Problem:
    return Problem(431, f"the headers are larger than {MAX_HEAD:,} bytes")


def _written(problem: Problem, default: list[tuple[bytes, bytes]]) -> bytes:
    body = orjson.dumps(problem.value())
    status = problem.status_code
    headers = [
        *default,
        (b"content-type", MEDIA_TYPE.encode()),
        (b"content-length", str(len(body)).encode()),
        (b"connection", b"close"),
        *((name.lower().encode(), value.encode()) for name, value in (problem.headers or {}).items()),
        *SAFE_HEADERS,
    ]
    lines = [f"HTTP/1.1 {status} {HTTPStatus(status).phrase}".encode(), *(b": ".join(one) for one in headers)]
    return b"\r\n".join([*lines, b"", body])
