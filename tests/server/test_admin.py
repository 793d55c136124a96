"""What those who run a server look at: health, figures, log lines, the end."""

from __future__ import annotations

import io
import json
import logging
import math
import socket
import subprocess
import sys
import threading

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from lirdrec import __version__
from lirdrec.errors import ConfigError
from lirdrec.recommender.recommender import Recommender
from lirdrec.server.engine.batcher import MicroBatcher
from lirdrec.server.http import middleware
from lirdrec.server.response_models import ModelAnswer
from lirdrec.server.services import Services
from lirdrec.server.state import LiveState
from lirdrec.server.store import Store, StoreError

from ..helpers import PATIENCE, assert_error
from .runs import Listening, asked, vectors


def figures(client):
    found = {}
    for family in text_string_to_metric_families(client.get("/metrics").text):
        for one in family.samples:
            found[(one.name, *sorted(one.labels.items()))] = one.value
    return found


def test_ready_means_loaded_and_the_store_followed(start, monkeypatch):
    loading, proceed = threading.Event(), threading.Event()
    load = LiveState._load

    def slowly(self, run):
        loading.set()
        proceed.wait()
        return load(self, run)

    monkeypatch.setattr(LiveState, "_load", slowly)
    client = start(ready=False)
    loading.wait()
    assert client.get("/health").json() == {"status": "ok"}
    for answer in (client.get("/ready"), client.post("/recommend", json={"user": 1}), client.get("/model")):
        assert answer.status_code == 503 and answer.headers["retry-after"] == "1"
    assert client.get("/metrics").status_code == 200
    proceed.set()
    while client.get("/ready").status_code == 503:
        pass
    assert asked(client, user=1)

    def unreachable(self):
        raise StoreError("the store is gone")

    monkeypatch.setattr(Store, "latest", unreachable)
    answer = client.get("/ready")
    assert (answer.status_code, answer.json()["detail"]) == (503, "the store is gone")
    assert client.get("/health").status_code == 200


def test_one_of_several_workers_takes_no_request_before_it_is_ready(start, tmp_path):
    """Its neighbor may be ready: a request must not meet a 503 because the wrong one took it."""
    client = start(workers=2, ready=False)
    assert client.get("/ready").status_code == 200
    with assert_error(ConfigError, mentions=["nothing"]):
        start(workers=2, ready=False, run=str(tmp_path / "nothing"))


@pytest.mark.parametrize(("limit", "built"), [(0, False), (2**20, True)])
def test_the_model_is_built_ahead_only_where_its_features_are_small(start, monkeypatch, limit, built):
    asked_for, warmed = [], threading.Event()
    model, warm = Recommender.model, Services._warm

    async def noted(self):
        await warm(self)
        warmed.set()

    monkeypatch.setattr("lirdrec.server.services.WARM_BYTES", limit)
    monkeypatch.setattr(Recommender, "model", lambda self, *purpose: (asked_for.append(1), model(self, *purpose))[1])
    monkeypatch.setattr(Services, "_warm", noted)
    start()
    assert warmed.wait(PATIENCE)
    assert bool(asked_for) is built


def test_a_server_that_cannot_start_says_why(start, tmp_path, caplog):
    client = start(run=str(tmp_path / "nothing"), ready=False)
    while client.get("/health").status_code == 200:
        pass
    for path in ("/health", "/ready", "/model"):
        answer = client.get(path)
        assert answer.status_code == 503 and "nothing" in answer.json()["detail"]
        assert "retry-after" not in answer.headers  # it does not help to wait
    (said,) = [one for one in caplog.records if one.name == "lirdrec.server.services"]
    assert said.levelname == "ERROR" and str(tmp_path / "nothing") in said.getMessage()


def test_figures_count_what_happened(client, recommender):
    before = figures(client)
    for user in range(5):
        asked(client, user=user)
    client.post("/recommend", json={"user": 999})
    client.get("/similar/101")
    client.get("/no/such/address")
    client.request("BREW", "/no/such/address")
    client.post("/items", json={"items": [{"id": 900, "features": vectors(recommender, 101)}]})
    after = figures(client)

    def grown(name, **labels):
        key = (name, *sorted(labels.items()))
        return after.get(key, 0) - before.get(key, 0)

    assert grown("lirdrec_requests_total", method="POST", route="/recommend", status="200") == 5
    assert grown("lirdrec_requests_total", method="POST", route="/recommend", status="404") == 1
    assert grown("lirdrec_requests_total", method="GET", route="/similar/{item}", status="200") == 1
    assert grown("lirdrec_requests_total", method="other", route="other", status="404") == 2, (
        "no label that a client chooses"
    )
    assert grown("lirdrec_request_seconds_count", route="/recommend") == 6
    assert grown("lirdrec_ranking_seconds_count") == grown("lirdrec_batch_size_count") == 6
    assert grown("lirdrec_batch_size_sum") == 6
    assert after[("lirdrec_items",)] == 49 and before[("lirdrec_items",)] == 48
    assert after[("lirdrec_changes_behind",)] == 0


def test_a_store_that_fails_does_not_take_the_figures_along(client, monkeypatch):
    def unreachable(self):
        raise StoreError("the store is gone")

    monkeypatch.setattr(Store, "latest", unreachable)
    assert math.isnan(figures(client)[("lirdrec_changes_behind",)])


def test_changes_behind_are_counted(start, recommender):
    one, other = start(), start()
    one.post("/items", json={"items": [{"id": 900, "features": vectors(recommender, 101)}]})
    assert figures(other)[("lirdrec_changes_behind",)] == 1
    asked(other, user=1)
    assert figures(other)[("lirdrec_changes_behind",)] == 0


def test_the_model_is_described(client, recommender):
    model = client.get("/model").json()
    ModelAnswer.model_validate(model, strict=True)
    assert (model["version"], model["run"], model["model"]) == (__version__, "run", "lirdrec")
    assert (model["users"], model["items"], model["added"], model["removed"]) == (48, 48, 0, 0)
    assert model["features"] == {"text": 18, "image": 496} and model["parts"] == list(recommender.scorer.part_names)
    assert model["columns"]["price"] == "Float64" and model["new_items"] and model["new_users"]
    client.delete("/items/101")
    assert client.get("/model").json()["items"] == 47 and client.get("/model").json()["removed"] == 1


def test_a_request_is_one_line_of_json(client, caplog):
    text = io.StringIO()
    handler = logging.StreamHandler(text)
    handler.setFormatter(middleware.JsonFormatter())
    logger = logging.getLogger(middleware.ACCESS)
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        client.get("/similar/101?k=3", headers={"X-Request-ID": "r-1"})
        client.post("/recommend", content=b'{"user": "\\n\\"}', headers={"Content-Type": "application/json"})
    finally:
        logger.removeHandler(handler)
        logger.setLevel(logging.NOTSET)
    first, second = (json.loads(line) for line in text.getvalue().splitlines())
    assert first["request"] == "r-1" and first["method"] == "GET" and first["path"] == "/similar/101"
    assert first["status"] == 200 and 0 < first["seconds"] < 60 and "k=3" not in str(first)
    assert first["level"] == "info" and first["time"].endswith("+00:00")
    assert second["status"] == 422


def test_shutdown_answers_the_requests_it_has_received(shop, tmp_path, monkeypatch, recommender):
    first_ranking, resume = threading.Event(), threading.Event()
    rank = MicroBatcher.rank

    def slowly(self, queries):
        first_ranking.set()
        resume.wait()
        return rank(self, queries)

    monkeypatch.setattr(MicroBatcher, "rank", slowly)
    answers = []
    with Listening(shop, tmp_path) as listening:
        senders = [
            threading.Thread(
                target=lambda user=user: answers.append(
                    (user, httpx.post(f"{listening.url}/recommend", json={"user": user, "k": 3}, timeout=PATIENCE))
                )
            )
            for user in range(4)
        ]
        for one in senders:
            one.start()
        first_ranking.wait()
        # A connection without a received request is closed at shutdown, so all four requests must have been read.
        while sum(one.cycle is not None for one in list(listening.server.server_state.connections)) < 4:
            pass
        listening.server.should_exit = True
        while listening.server.servers and any(one.is_serving() for one in listening.server.servers):
            pass
        with pytest.raises(httpx.TransportError):
            httpx.get(f"{listening.url}/health", timeout=2)
        resume.set()
        for one in senders:
            one.join()
    assert len(answers) == 4
    for user, answer in answers:
        items = [one["item"] for one in answer.json()["items"]]
        assert items == recommender.recommend(user, 3)["item"].to_list()


def test_over_a_real_connection(shop, tmp_path, recommender):
    """Keep-alive, a body in pieces, a request that is no HTTP."""
    with (
        Listening(shop, tmp_path, max_body_bytes=5000) as listening,
        httpx.Client(base_url=listening.url, timeout=PATIENCE) as client,
    ):
        for user in range(5):
            items = client.post("/recommend", json={"user": user, "k": 4}).json()["items"]
            assert [one["item"] for one in items] == recommender.recommend(user, 4)["item"].to_list()

        def pieces(n):
            for _ in range(n):
                yield b" " * 100

        kind = {"Content-Type": "application/json"}
        assert client.post("/recommend", content=pieces(3), headers=kind).status_code == 422
        assert client.post("/recommend", content=pieces(200), headers=kind).status_code == 413
        assert client.get("/health").status_code == 200
        with socket.create_connection(listening.socket.getsockname()) as raw:
            raw.sendall(b"nonsense\r\n\r\n")
            assert b"400" in raw.recv(1000)
        assert client.get("/health").status_code == 200


# ---------------------------------------------------------------- the process that serves


PROGRAM = """
import gc, sys
from lirdrec.server.main import _application
from lirdrec.server.config import ServerConfig

_application(ServerConfig(sys.argv[1]))
print(gc.get_freeze_count(), len(gc.get_objects()))
"""


def test_what_was_imported_is_left_out_of_full_collections(shop):
    done = subprocess.run([sys.executable, "-c", PROGRAM, str(shop)], capture_output=True, text=True, check=True)
    frozen, left = map(int, done.stdout.split())
    assert frozen > 100_000 and left < 10_000
