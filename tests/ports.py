"""Ports for servers in processes of their own, and how long to wait for these."""

from __future__ import annotations

import socket
import sys

PATIENCE = 600.0  # seconds; only ends a hang: on a busy machine a server takes a minute to start


class FreePort:
    """A port that no other process is given before the server that it is meant for listens on it.

    The socket stays bound until `close` and does not listen. Linux lets a server that sets SO_REUSEADDR, as all do
    here, listen beside it, gives the port to nobody who asks for any free one, and refuses connections meanwhile.
    """

    def __init__(self) -> None:
        self._held = socket.socket()
        self._held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._held.bind(("127.0.0.1", 0))
        self.number: int = self._held.getsockname()[1]
        if sys.platform != "linux":
            self.close()

    def close(self) -> None:
        self._held.close()
