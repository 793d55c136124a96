"""Two thousand invalid requests: none breaks the server, and each gets the reason."""

from __future__ import annotations

import logging
from collections import Counter

import httpx
import pytest
from fastapi import Response

from lirdrec.server.engine.batcher import MicroBatcher
from lirdrec.server.http.errors import Problem
from lirdrec.server.state import LiveState

from ..helpers import PATIENCE
from .fuzzing import Asked, Fuzzer, ask, fault
from .runs import Listening, image, vectors

N = 2000
PROBE = {"user": 5, "k": 3, "filter": {"kind": "tent"}, "columns": ["title"]}


def fuzzer_of(recommender, seed):
    like_a_cup = vectors(recommender, 403)
    condition = {"price": {"lt": 60}, "kind": {"in": ["cup", "tent"]}, "title": {"contains": "old"}, "in_stock": True}
    weighed = {"history": [401, 402], "diversity": 0.3, "branch_weights": {"text": 2.0}, "parts": True}
    item = {"id": 700, "columns": {"title": "cup", "price": 3.5}, "features": like_a_cup}
    posts = {
        "/recommend": [{"user": 30, "k": 5, "filter": condition, "columns": ["price"]}, weighed],
        "/recommend/batch": [{"requests": [{"user": 31}, {"history": [401], "k": 3}, {"user": "x"}]}],
        "/events": [{"events": [{"user": 40, "item": 405}, {"user": 900, "item": 406}]}],
        "/items": [{"items": [item]}],
        "/model": [{"run": "nothing"}],
    }
    gets = (
        *("/similar/402?k=3", "/explain?user=30&item=401&n_liked=2", "/items/401", "/items?query=cup&offset=0&limit=5"),
        *(
            "/users?query=3&offset=0&limit=5",
            "/users/30?offset=0&limit=5",
            "/items/401/image",
            "/projection?column=kind",
        ),
        *("/facets", "/items/401/audience?k=3", "/model", "/ready", "/metrics", "/nothing/here", "/ui/", "/ui/nothing"),
    )
    good = [("POST", path, body) for path, bodies in posts.items() for body in bodies]
    good += [("GET", path, None) for path in gets] + [("DELETE", "/items/411", None)]
    form = {"title": b"a new cup", "price": b"5", "image": image("cup", 1), "features": b"{}"}
    return Fuzzer(seed, good, form)


def probed(listening):
    items = httpx.post(f"{listening.url}/recommend", json=PROBE, timeout=PATIENCE).json()["items"]
    return [(one["item"], pytest.approx(one["score"]), one["columns"]) for one in items]


def reported(asked: Asked) -> str:
    return f"{asked.method} {asked.target[:200]} {dict(asked.headers)} {asked.body[:300]!r}"


@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(1, 6))])
def test_two_thousand_wrong_requests(shop, tmp_path, recommender, caplog, seed):
    caplog.set_level(logging.WARNING)
    statuses: Counter[int | None] = Counter()
    current = tmp_path / "current"
    current.write_text(f"{shop}\n")
    with Listening(current, tmp_path, runs=str(shop.parent), ui=True, encoders=True) as listening:
        port = listening.socket.getsockname()[1]
        before = probed(listening)
        assert len(before) == 3
        for asked in fuzzer_of(recommender, seed).requests(N):
            answered = ask(port, asked)
            statuses[answered and answered.status] += 1
            wrong = fault(asked, answered)
            assert wrong is None, f"{wrong}: {reported(asked)}"
        assert probed(listening) == before  # nobody asked to change these
    assert not [one.getMessage() for one in caplog.records if one.exc_info or one.levelno >= logging.ERROR]
    # had all been refused at the door, nothing of what is behind it would have been tried
    assert statuses[200] + statuses[201] > N / 20 and len(statuses) >= 10, statuses


@pytest.mark.parametrize(
    ("place", "name", "does", "found"),
    [
        (MicroBatcher, "rank", lambda *_: 1 / 0, "status 500"),
        (LiveState, "snapshot", property(lambda _: {}["nothing"]), "status 500"),
        (Problem, "response", lambda self: Response(self.detail, self.status_code), "an error as"),
        (
            Problem,
            "response",
            lambda self: Response(b"Traceback (most recent call last)"),
            "a traceback",
        ),
    ],
)
def test_a_server_that_breaks_is_found_out(shop, tmp_path, recommender, monkeypatch, place, name, does, found):
    with Listening(shop, tmp_path) as listening:
        port = listening.socket.getsockname()[1]
        monkeypatch.setattr(place, name, does)
        faults = {fault(asked, ask(port, asked)) for asked in fuzzer_of(recommender, 0).requests(100)}
        monkeypatch.undo()
    assert any(one is not None and one.startswith(found) for one in faults), faults
