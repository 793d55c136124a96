"""A small shop whose right answers are known, and servers of it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from starlette.testclient import TestClient

from lirdrec.recommender.recommender import Recommender

from ..helpers import PATIENCE
from .runs import Servers, trained


@pytest.fixture(scope="session")
def shop(tmp_path_factory) -> Path:
    """A trained run beside its dataset, of the shop in `runs.py`. Nobody changes it."""
    return trained(tmp_path_factory.mktemp("shop"))


@pytest.fixture(autouse=True)
def patient_writers(monkeypatch) -> None:
    """Writers wait for each other as long as it takes: on a busy machine more than the ten seconds of a server."""
    monkeypatch.setattr("lirdrec.server.store.SECONDS", round(PATIENCE))


@pytest.fixture
def recommender(shop) -> Recommender:
    """The same run, asked directly."""
    return Recommender.load(shop)


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
