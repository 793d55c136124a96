"""uvicorn's HTTP/1.1 with limits: on heads, and on the time that a request takes to arrive.

uvicorn closes what is idle after an answer (`timeout_keep_alive`), but waits without an end for the first request of a
connection, for the rest of a head and for a body that nobody reads. Its parser keeps a head of any size.

Workers import this file before they say that they live, and what takes them long to say so is started again: it imports
nothing that is slow to import.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from lirdrec.server.auth import network_of

if TYPE_CHECKING:
    from lirdrec.server.http.connections import Connections

STATE = "lirdrec.connections"  # where the lifespan's state holds the `Connections`
MAX_HEAD = 32 * 1024
FIELD = 32  # bytes that a field of a head counts for, besides its own
MAX_PIPELINED = 100  # requests that wait for the answer to one before them, on the same connection
ONE_READ = 256 * 1024  # of a socket, by asyncio and uvloop
GRACE = 5.0  # seconds after which a connection that should have ended by itself is cut

Refusal = tuple[int, str]  # status and sentence
TOO_LARGE_HEAD: Refusal = (431, f"the headers are larger than {MAX_HEAD:,} bytes")


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
        self._refusal: Refusal | None = None

    # ------------------------------------------------------------ what the loop tells

    def connection_made(self, transport: Any) -> None:
        """Count the connection, or refuse it."""
        super().connection_made(transport)
        self.address = self.client[0] if self.client else ""
        self.network = network_of(self.address)
        self._since = self.loop.time()
        if not self._all.admit(self):
            self._refuse((503, "there are too many connections"))

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
                    self._refuse(TOO_LARGE_HEAD)
            elif self._received > self._all.longest:
                self.transport.close()

    # ------------------------------------------------------------ what the parser tells

    def on_message_begin(self) -> None:
        """A request begins."""
        if len(self.pipeline) >= MAX_PIPELINED:
            raise self._refused((400, "too many requests were sent without waiting for an answer"))
        self._in_message = self._in_head = True
        self._received = self._head = 0
        self._since = self.loop.time()
        super().on_message_begin()

    def on_url(self, url: bytes) -> None:
        """A part of the address."""
        self._head += len(url)
        if self._head > MAX_HEAD:
            raise self._refused((414, f"the address is longer than {MAX_HEAD:,} bytes"))
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        """A field of the head, or one after the body."""
        self._head += len(name) + len(value) + FIELD
        if self._head > MAX_HEAD:
            raise self._refused(TOO_LARGE_HEAD)
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
        self._refuse(self._refusal or (400, "this is not HTTP"))

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
                self._refuse((408, f"the head of the request took longer than {seconds:g} seconds"))
            else:
                self.transport.close()

    def cut(self) -> None:
        """End the connection now, but let the peer have what was written for it if it reads."""
        self.connections.discard(self)  # type: ignore[arg-type]
        if self.transport.get_write_buffer_size():
            self.transport.abort()
        else:
            self.transport.close()

    def _refused(self, refusal: Refusal) -> ValueError:
        """Note what to answer when the parser gives up, which it does when this is raised."""
        self._refusal = refusal
        return ValueError(refusal[1])

    def _refuse(self, refusal: Refusal) -> None:
        if self.transport.is_closing():
            return
        if self.cycle is None or self.cycle.response_complete:  # else it would stand amidst another answer
            self.transport.write(self._all.refused(*refusal, self.address, self.server_state.default_headers))
        self.transport.close()
