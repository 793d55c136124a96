"""Items and likes that come while serving: seen by the next call, by other servers, and after a restart."""

from __future__ import annotations

import dataclasses
import sqlite3
from concurrent.futures import ThreadPoolExecutor

import polars as pl
import pytest
import torch

from lirdrec.data.ids import IdMap
from lirdrec.recommender.recommender import Recommender
from lirdrec.server.store import Store, StoreError, StoreFullError

from .runs import asked, vectors


def add(client, recommender, id=900, like=101, **columns):
    """Add an item with the features of another."""
    item = {"id": id, "columns": columns, "features": vectors(recommender, like, noise=0.01)}
    return client.post("/items", json={"items": [item]})


def test_an_item_is_recommended_on_the_next_call_and_after_a_restart(start, recommender):
    client = start()
    answer = add(client, recommender, title="red lamp of the shop window", price=3.5)
    assert (answer.status_code, answer.json()["items"]) == (201, [900])
    whole = asked(client, user=0, k=49)
    recommender.add_items([900], {n: [v] for n, v in vectors(recommender, 101, noise=0.01).items()})
    assert whole == recommender.recommend(0, 49)["item"].to_list()
    assert 900 in whole[:5], "someone who likes lamps must get it"
    assert 900 in asked(client, user=0, k=3, filter={"price": {"lt": 4}})
    start.stop(client)
    again = start()
    assert asked(again, user=0, k=49) == whole
    assert again.get("/items/900").json() == {
        "item": 900,
        "title": "red lamp of the shop window",
        "columns": {
            "title": "red lamp of the shop window",
            "price": 3.5,
            "kind": None,
            "in_stock": None,
            "image": None,
        },
        "added": True,
    }


def test_several_items_come_all_or_none(client, recommender):
    good = {"id": 901, "features": vectors(recommender, 101)}
    bad = {"id": 902, "features": {"text": [1.0]}}
    assert client.post("/items", json={"items": [good, bad]}).status_code == 422
    assert client.get("/items/901").status_code == 404
    twice = client.post("/items", json={"items": [good, good]})
    assert (twice.status_code, client.get("/items/901").status_code) == (409, 404)
    assert client.post("/items", json={"items": [good, good | {"id": 902}]}).json()["items"] == [901, 902]
    assert client.post("/items", json={"items": [good]}).status_code == 409


def test_a_removed_item_is_never_recommended_again(start, recommender):
    client = start()
    add(client, recommender)
    first = next(one for one in asked(client, user=0) if one != 900)
    for gone in (900, first):
        assert client.delete(f"/items/{gone}").json()["items"] == [gone]
        assert client.delete(f"/items/{gone}").status_code == 404
    start.stop(client)
    again = start()
    assert not {900, first} & set(asked(again, user=0, k=50, exclude_seen=False))
    assert not {900, first} & set(asked(again, user=999, k=50, unknown="popular"))
    assert not {900, first} & {one["item"] for one in again.get("/similar/102?k=50").json()["neighbors"]}
    assert again.get(f"/similar/{first}").status_code == 404
    assert again.post("/events", json={"events": [{"user": 1, "item": 900}]}).status_code == 404
    assert add(again, recommender, like=201).status_code == 201, "its id may come again"
    assert 900 in asked(again, user=1, k=6)


def test_a_like_changes_the_vector_as_folding_in_does(client, recommender):
    before = asked(client, user=0, k=5)
    answer = client.post("/events", json={"events": [{"user": 0, "item": 305}, {"user": 0, "item": 307}]})
    assert answer.json()["users"] == [0]
    liked = torch.tensor(sorted({*recommender.liked_rows(0).tolist(), *recommender.items.rows([305, 307]).tolist()}))
    query = recommender.model().fold_in(recommender.scorer, [liked])
    scores = recommender.scorer.scores(query)[0]
    scores[liked] = -torch.inf
    order = [recommender.items.series[int(row)] for row in torch.argsort(scores, descending=True, stable=True)]
    after = asked(client, user=0, k=48)
    assert after == order[: len(after)] and not {305, 307} & set(after) and after[:5] != before
    best = client.post("/recommend", json={"user": 0, "k": 1}).json()["items"][0]
    reported = client.get(f"/explain?user=0&item={best['item']}").json()
    assert reported["score"] == pytest.approx(best["score"], abs=1e-5)
    assert client.get("/users/0").json()["total"] == len(liked)


def test_an_unknown_user_becomes_known_by_the_first_like(client, recommender):
    assert client.post("/recommend", json={"user": 777}).status_code == 404
    client.post("/events", json={"events": [{"user": 777, "item": 204}]})
    assert asked(client, user=777, k=20) == recommender.recommend_for_history([204], 20)["item"].to_list()


def test_two_servers_on_one_store_see_each_other_on_the_next_call(start, recommender):
    one, other = start(), start()
    for number in range(4):
        writer, reader = (one, other) if number % 2 else (other, one)
        assert add(writer, recommender, id=900 + number, like=110).status_code == 201
        assert 900 + number in asked(reader, user=0, k=8)
        assert add(reader, recommender, id=900 + number).status_code == 409
        reader.post("/events", json={"events": [{"user": 0, "item": 900 + number}]})
        assert 900 + number not in asked(writer, user=0, k=60)
    other.delete("/items/900")
    assert 900 not in asked(one, user=2, k=60) and 901 in asked(one, user=2, k=60)
    assert asked(one, user=4, k=60) == asked(other, user=4, k=60)


def test_writers_at_once_lose_nothing(start, recommender):
    servers = [start(), start()]
    with ThreadPoolExecutor(8) as pool:
        done = pool.map(lambda id: add(servers[id % 2], recommender, id=id).status_code, range(900, 932))
    assert set(done) == {201}
    for server in servers:
        assert set(range(900, 932)) < set(asked(server, user=0, k=100, exclude_seen=False))
        assert server.get("/model").json()["items"] == 48 + 32


@pytest.mark.parametrize(
    ("error", "sentence"),
    [(StoreFullError("the disk of the store is full; nothing was changed"), "full"), (StoreError("no way"), "no way")],
)
def test_a_store_that_cannot_be_written_gives_503_and_changes_nothing(
    client, recommender, monkeypatch, error, sentence
):
    def refuse(*_):
        raise error

    before = asked(client, user=0, k=60)
    for name in ("add_items", "add_events", "remove_item"):
        monkeypatch.setattr(Store, name, refuse)
    answers = [
        add(client, recommender),
        client.post("/events", json={"events": [{"user": 0, "item": 305}]}),
        client.delete("/items/101"),
    ]
    for answer in answers:
        assert answer.status_code == 503 and sentence in answer.json()["detail"] and "Retry-After" in answer.headers
    monkeypatch.undo()
    assert asked(client, user=0, k=60) == before
    assert add(client, recommender).status_code == 201


def test_a_real_store_that_is_locked_gives_503(start, recommender, tmp_path, monkeypatch):
    monkeypatch.setattr("lirdrec.server.store.SECONDS", 0.05)
    monkeypatch.setattr("lirdrec.server.store._SQLITE", {"connect_args": {"timeout": 0.05}})
    client = start()
    assert add(client, recommender).status_code == 201
    other = sqlite3.connect(tmp_path / "live.sqlite", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    refused = add(client, recommender, id=901)
    assert (refused.status_code, "locked" in refused.text) == (503, True)
    assert 900 in asked(client, user=0, k=60), "reading continues"
    other.execute("ROLLBACK")
    assert client.get("/items/901").status_code == 404 and add(client, recommender, id=901).status_code == 201


def test_a_run_without_its_features_takes_no_items_and_says_so(shop, start, recommender, tmp_path):
    slim = recommender.slim(tmp_path / "slim")
    client = start(run=str(slim))
    assert asked(client, user=0, k=48, exclude_seen=False)
    answer = add(client, Recommender.load(shop))
    assert answer.status_code == 409 and "slim" in answer.json()["detail"]
    assert client.get("/explain?user=0&item=101").status_code == 409
    assert client.get("/model").json()["new_items"] is False


def test_ids_of_text_travel_through_paths(start, recommender, tmp_path):
    names = [f"shop/{one} ü?#" for one in recommender.items.series]
    copy = Recommender.load(recommender.folder)
    copy.items = IdMap(pl.Series("item", names), "item")
    copy.item_table = copy.item_table.with_columns(copy.items.series.alias("item"))
    copy.features = dataclasses.replace(copy.features)
    client = start(run=str(copy.save(tmp_path / "named")))
    path = "/items/shop%2F101%20%C3%BC%3F%23"
    assert client.get(path).json()["item"] == names[1]
    assert client.delete(path).json()["items"] == [names[1]]
    assert client.get(path).status_code == 404
    assert client.post("/events", json={"events": [{"user": 0, "item": 102}]}).status_code == 404


def test_an_item_may_get_the_id_under_which_a_removed_one_is_kept(client, recommender):
    """A removed item whose id comes again needs another id inside; whichever it gets, a new item may have it."""
    for _ in range(2):
        client.delete("/items/101")
        assert add(client, recommender, id=101, title="again").status_code == 201
    for id in (2**63 - 1, 2**63 - 2, 2**62, 2**62 + 1):
        assert add(client, recommender, id=id, title=f"number {id}").json()["items"] == [id]
        assert client.get(f"/items/{id}").json()["title"] == f"number {id}"
    assert client.get("/items/101").json()["title"] == "again"
    client.delete(f"/items/{2**63 - 1}")
    assert add(client, recommender, id=2**63 - 1, title="once more").status_code == 201
    assert client.get(f"/items/{2**63 - 1}").json()["title"] == "once more"
