"""`kill -9` while 200 items are being added at once: whatever was acknowledged is there afterwards.

pytest tests/server/test_killed.py -m slow        # 100 rounds, on SQLite
"""

from __future__ import annotations

import asyncio
import json
import multiprocessing
import os
import random
import sqlite3
from pathlib import Path

import pytest

from lirdrec.server.state import LiveState
from lirdrec.server.store import Store

from ..helpers import PATIENCE, FreePort
from .postgres import running
from .runs import growing, new_item

AT_ONCE = 200


# a child is forked from a process that has imported the server, and so is there in a moment
CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["lirdrec.server.main", "lirdrec.server.app", "lirdrec.models.lirdrec"])


def _serve(options: dict[str, object]) -> None:
    from lirdrec.server.config import ServerConfig
    from lirdrec.server.main import serve

    with open(os.devnull, "w") as nothing:
        os.dup2(nothing.fileno(), 2)
    serve(ServerConfig(**options))


class Server:
    """What `lirdrec serve` runs, in a process of its own."""

    def __init__(self, run: Path, store: str):
        self.held = FreePort()
        self.port = self.held.number
        options = {"run": str(run), "port": self.port, "store": store, "threads": 1, "access_log": False}
        options["timeout_seconds"] = PATIENCE
        self.process = CONTEXT.Process(target=_serve, args=(options,))
        self.process.start()

    async def ready(self) -> None:
        while True:
            assert self.process.is_alive(), "the server ended before it was ready"
            try:
                if (await self.ask("GET", "/ready"))[0] == 200:
                    return
            except OSError:
                pass
            await asyncio.sleep(0.05)

    async def ask(self, method: str, path: str, value: object = None) -> tuple[int, bytes]:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        try:
            body = b"" if value is None else json.dumps(value).encode()
            head = (
                f"{method} {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\nContent-Length: {len(body)}\r\n"
            )
            writer.write(f"{head}Content-Type: application/json\r\n\r\n".encode() + body)
            await writer.drain()
            answer = await reader.read()
        finally:
            writer.close()
        if b"\r\n\r\n" not in answer:
            raise ConnectionResetError
        return int(answer.split(b" ", 2)[1]), answer.partition(b"\r\n\r\n")[2]


def item(id: int) -> dict[str, object]:
    features = {name: row.tolist() for name, row in new_item(id).features.items()}
    return {"items": [{"id": id, "features": features}]}


async def killed(server: Server, after: int) -> set[int]:
    """Add 200 items at once, kill the server after so many answers; the ids that were acknowledged."""
    await server.ready()
    kept: set[int] = set()

    async def add(id: int) -> None:
        try:
            status, _ = await server.ask("POST", "/items", item(id))
        except OSError:
            return
        if status == 503:  # given up on a slow machine: not acknowledged
            return
        assert status in (200, 201), status
        kept.add(id)
        if len(kept) == after:
            server.process.kill()

    await asyncio.gather(*(add(1000 + index) for index in range(AT_ONCE)))
    return kept


def one_round(run: Path, url: str, after: int) -> int:
    server = Server(run, url)
    try:
        kept = asyncio.run(killed(server, after))
    finally:
        server.process.kill()
        server.process.join()
        server.held.close()
    assert after <= len(kept)
    store = Store(url)
    snapshot = LiveState(run, store).snapshot
    lost = [id for id in kept if snapshot.item_row(id) < 0 or not store.holds(id)]
    assert not lost, f"acknowledged, and gone: {lost}"
    there = [change.subject for change in store.changes()]
    assert len(there) == len(set(there)) and set(there) <= {1000 + index for index in range(AT_ONCE)}
    store.close()
    return len(kept)


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    return growing(tmp_path_factory.mktemp("run") / "run")


@pytest.mark.parametrize("rounds", [3, pytest.param(100, marks=pytest.mark.slow)])
def test_no_acknowledged_item_is_lost(run, tmp_path, rounds):
    draw = random.Random(rounds)
    kept = []
    for index in range(rounds):
        path = tmp_path / f"{index}.sqlite"
        kept.append(one_round(run, f"sqlite:///{path}", draw.randint(1, 150)))
        assert sqlite3.connect(path).execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        print(f"round {index + 1}: {kept[-1]} of {AT_ONCE} acknowledged, none lost", flush=True)
    print(f"{sum(kept)} items acknowledged in {rounds} rounds, none lost")


def test_no_acknowledged_item_is_lost_in_postgresql(run):
    with running() as cluster:
        one_round(run, cluster.url, 77)
