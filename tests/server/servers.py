"""Servers in this process that share a store."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import Any

from starlette.testclient import TestClient

from lirdrec.server.app import create_app
from lirdrec.server.config import ServerConfig


class Servers:
    """Starts servers that share a store, and stops them."""

    def __init__(self, run: Path, store: str):
        self.defaults: dict[str, Any] = {"run": str(run), "store": store}
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
