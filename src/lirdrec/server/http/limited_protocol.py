"""Extend uvicorn's HTTP/1.1 protocol with limits on the size of request heads and on the time until a request arrives.

uvicorn closes connections that are idle after an answer (`timeout_keep_alive`). But it waits forever for the first
request of a connection, for the rest of a head, and for a body that the application does not read. Its parser accepts
a head of any size.

Worker processes import this module before they report that they are alive, and slow ones are restarted. So this module
must not import modules that are slow to import.
"""

from __future__ import annotations

from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from lirdrec.server.auth import network_of

STATE = "lirdrec.connections"  # key of the `Connections` in the state of the lifespan
MAX_HEAD = 32 * 1024
FIELD = 32  # bytes that count for each field of a head in addition to its name and value
MAX_PIPELINED = 100  # requests on one connection that wait for an earlier answer
ONE_READ = 256 * 1024  # bytes that asyncio and uvloop read at once
GRACE = 5.0  # seconds before a connection that should have closed is cut

Refusal = tuple[int, str]  # status and message
TOO_LARGE_HEAD: Refusal = (431, f"the headers are larger than {MAX_HEAD:,} bytes")


class LimitedProtocol(HttpToolsProtocol):
    """uvicorn's HTTP/1.1 protocol for one connection, with the limits of the worker's `Connections`."""

    def __init__(self, config: Any, server_state: Any, app_state: dict[str, Any], _loop: Any = None):
        super().__init__(config, server_state, app_state, _loop)
        self._registry: Any = app_state[STATE]  # `Connections`, whose module is slow to import
        self.address = self.network = ""
        self._since: float | None = None  # start of the time limit that runs now, if any
        self._closing: float | None = None
        self._in_message = self._in_head = False
        self._received = self._head = 0  # bytes of the request, and of the fields of its head
        self._refusal: Refusal | None = None

    # ------------------------------------------------------------ callbacks of the event loop

    def connection_made(self, transport: Any) -> None:
        """Register the connection, or refuse it."""
        super().connection_made(transport)
        self.address = self.client[0] if self.client else ""
        self.network = network_of(self.address)
        self._since = self.loop.time()
        if not self._registry.admit(self):
            self._refuse((503, "there are too many connections"))

    def connection_lost(self, exc: Exception | None) -> None:
        """Remove the connection from the registry."""
        self._registry.remove(self)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Parse received data; refuse a head that is too large, and close the connection if a body is too large."""
        super().data_received(data)
        if self._in_message:
            self._received += len(data)
            if self._in_head:
                if self._received > MAX_HEAD + ONE_READ:  # one endless field
                    self._refuse(TOO_LARGE_HEAD)
            elif self._received > self._registry.longest:
                self.transport.close()

    # ------------------------------------------------------------ callbacks of the parser

    def on_message_begin(self) -> None:
        """Start the time limit of a request; refuse the request if too many before it wait for an answer."""
        if len(self.pipeline) >= MAX_PIPELINED:
            raise self._refused((400, "too many requests were sent without waiting for an answer"))
        self._in_message = self._in_head = True
        self._received = self._head = 0
        self._since = self.loop.time()
        super().on_message_begin()

    def on_url(self, url: bytes) -> None:
        """Refuse the request if its URL is too long."""
        self._head += len(url)
        if self._head > MAX_HEAD:
            raise self._refused((414, f"the address is longer than {MAX_HEAD:,} bytes"))
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        """Refuse the request if the header fields are too large in total; fields after the body count too."""
        self._head += len(name) + len(value) + FIELD
        if self._head > MAX_HEAD:
            raise self._refused(TOO_LARGE_HEAD)
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """Note that the head is complete: now the limits for the body hold."""
        self._in_head = False
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        """Note that the request has arrived completely, and end its time limit."""
        self._in_message, self._since = False, None
        super().on_message_complete()

    def send_400_response(self, msg: str) -> None:
        """Answer a request that was refused or could not be parsed, and close the connection."""
        self._refuse(self._refusal or (400, "this is not HTTP"))

    # ------------------------------------------------------------ limits

    @property
    def is_waiting(self) -> bool:
        """Whether the server waits for the client to send something: a request, or the rest of one."""
        cycle = self.cycle
        return cycle is None or cycle.response_complete or (cycle.more_body and not cycle.response_started)

    def check(self, now: float) -> None:
        """Close the connection if its client is too slow at the time `now` of the event loop; a slow head gets 408."""
        if self.transport.is_closing():
            self._closing = self._closing or now
            if now - self._closing > GRACE:  # the client does not read the last answer
                self.transport.abort()
        elif self._since is None:
            if self.timeout_keep_alive_task is None and self.is_waiting:  # empty lines between requests
                self._since = now
        elif self._in_head and not self.is_waiting:  # head of the next request, while one is still being answered
            self._since = now
        elif self._in_message and not self._in_head:  # a body that the application reads has its own time limit
            if now - self._since > self._registry.body_seconds + GRACE:
                self.cut()
        elif now - self._since > (limit := self._registry.head_seconds):
            if self._in_message:
                self._refuse((408, f"the head of the request took longer than {limit:g} seconds"))
            else:
                self.transport.close()

    def cut(self) -> None:
        """Close the connection now; if some data are not sent yet, abort it."""
        self.connections.discard(self)
        if self.transport.get_write_buffer_size():
            self.transport.abort()
        else:
            self.transport.close()

    def _refused(self, refusal: Refusal) -> ValueError:
        """Return an error to raise, which makes the parser stop; then the client gets `refusal` as the answer."""
        self._refusal = refusal
        return ValueError(refusal[1])

    def _refuse(self, refusal: Refusal) -> None:
        if self.transport.is_closing():
            return
        if self.cycle is None or self.cycle.response_complete:  # else these bytes would corrupt another answer
            self.transport.write(self._registry.refused(*refusal, self.address, self.server_state.default_headers))
        self.transport.close()
