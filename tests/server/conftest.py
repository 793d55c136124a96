"""A small shop whose right answers are known, and servers of it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from lirdrec.recommender.recommender import Recommender
from lirdrec.server.app import create_app
from lirdrec.server.config import ServerConfig

from .shop import trained


@pytest.fixture(scope="session")
def shop(tmp_path_factory) -> Path:
    """A trained run beside its dataset, of the shop in `shop.py`. Nobody changes it."""
    return trained(tmp_path_factory.mktemp("shop"))


@pytest.fixture
def recommender(shop) -> Recommender:
    """The same run, asked directly."""
    return Recommender.load(shop)


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


@pytest.fixture
def start(shop, tmp_path) -> Iterator[Servers]:
    """`start(keys=…)` gives a client of a server that is ready; all of one test share one store."""
    servers = Servers(shop, f"sqlite:///{tmp_path / 'live.sqlite'}")
    yield servers
    servers.stop_all()


@pytest.fixture
def client(start) -> TestClient:
    """A server that is ready, as it is by default."""
    return start()
