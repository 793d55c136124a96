"""Servers in this process: some that share a store, and one that really listens."""

from __future__ import annotations

import socket
import threading
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import uvicorn
from starlette.testclient import TestClient

from lirdrec.server.app import create_app
from lirdrec.server.config import ServerConfig
from lirdrec.server.main import uvicorn_options

from ..helpers import PATIENCE


class Servers:
    """Starts servers that share a store, and stops them."""

    def __init__(self, run: Path, store: str):
        self.defaults: dict[str, Any] = {"run": str(run), "store": store, "timeout_seconds": PATIENCE}
        self._open: dict[TestClient, ExitStack] = {}

    def __call__(self, *, ready: bool = True, **options: Any) -> TestClient:
        client = TestClient(create_app(ServerConfig(**self.defaults | options)), base_url="http://127.0.0.1")
        self._open[client] = stack = ExitStack()
        stack.enter_context(client)
        while ready and client.get("/ready").status_code == 503 and client.get("/health").status_code == 200:
            pass
        return client

    def stop(self, client: TestClient) -> None:
        self._open.pop(client).close()

    def stop_all(self) -> None:
        for client in list(self._open):
            self.stop(client)


class Listening:
    """A real server on a free port, in a thread."""

    def __init__(self, shop, tmp_path, **options):
        options = {"store": f"sqlite:///{tmp_path / 'live.sqlite'}", "timeout_seconds": PATIENCE} | options
        config = ServerConfig(str(shop), **options)
        self.socket = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self.socket.getsockname()[1]}"
        self.server = uvicorn.Server(uvicorn.Config(create_app(config), **uvicorn_options(config)))
        self.thread = threading.Thread(target=self.server.run, kwargs={"sockets": [self.socket]})

    def __enter__(self):
        self.thread.start()
        with httpx.Client(base_url=self.url, timeout=PATIENCE) as client:
            while client.get("/ready").status_code == 503:
                assert client.get("/health").status_code == 200
        return self

    def __exit__(self, *error):
        self.server.should_exit = True
        self.thread.join()
        self.socket.close()
