"""What the page asks the server for: search, people, images, columns, the map, who would get an item."""

from __future__ import annotations

import io
import xml.etree.ElementTree as ElementTree

import numpy as np
import polars as pl
import pytest
import torch
from PIL import Image
from starlette.testclient import TestClient

from lirdrec.data.dataset import Interactions
from lirdrec.recommender.new_item_encoder import LaunchStep, NewItemEncoder
from lirdrec.recommender.recommender import Recommender
from lirdrec.server.catalog.images import initials, placeholder

from .runs import KINDS, N_USERS, Servers, asked, image, vectors, whole_numbers

HOSTILE = "<script>alert(1)</script>\"'&\x00\u2028"


def get(client, path, **query):
    response = client.get(path, params=query)
    assert response.status_code == 200, response.text
    return response.json()


# ---------------------------------------------------------------- search


def test_items_are_found_by_all_words_and_those_that_more_people_liked_come_first(client, recommender):
    likes = np.bincount(recommender.train.items, minlength=recommender.n_items)
    found = get(client, "/items", query="LAMP old", limit=50)
    expected = [row for row, title in enumerate(recommender.item_table["title"]) if "lamp" in title and "old" in title]
    ids = recommender.items.series
    assert found["total"] == len(expected)
    assert {one["item"] for one in found["items"]} == {ids[row] for row in expected}
    counts = [likes[int(recommender.items.rows([one["item"]])[0])] for one in found["items"]]
    assert counts == sorted(counts, reverse=True)
    # a title that begins with the words is meant more than one that holds them
    first = get(client, "/items", query="light tent", limit=1)["items"][0]
    assert first["title"].startswith("light tent") and first["columns"]["kind"] == "tent"
    assert get(client, "/items", query="203", limit=1)["items"][0]["item"] == 203
    assert get(client, "/items", query=".*")["total"] == 0  # no pattern, but two letters


def test_pages_of_items_follow_each_other(client, recommender):
    whole = get(client, "/items", limit=200)
    assert whole["total"] == recommender.n_items == len(whole["items"])
    parts = [one for offset in range(0, 48, 7) for one in get(client, "/items", offset=offset, limit=7)["items"]]
    assert parts == whole["items"]


def test_users_are_found_by_their_ids_the_one_who_is_meant_first(client):
    found = get(client, "/users", query="4", limit=50)
    users = [one["user"] for one in found["users"]]
    assert users == [4, *range(40, 48), 14, 24, 34]
    assert found["users"][0]["liked"] == get(client, "/users/4")["total"]
    client.post("/events", json={"events": [{"user": 4000, "item": 100}]})
    assert {"user": 4000, "liked": 1} in get(client, "/users", query="4000")["users"]


def test_a_history_begins_with_what_was_liked_since_training(client, recommender):
    before = get(client, "/users/3")
    assert sorted(one["item"] for one in before["liked"]) == sorted(recommender.liked(3))
    assert before["known"] and set(before["weights"]) == set(recommender.scorer.part_names) - {"content"}
    new = next(item for item in (200, 201, 202, 203) if item not in recommender.liked(3))
    client.post("/events", json={"events": [{"user": 3, "item": new}, {"user": 77777, "item": new}]})
    after = get(client, "/users/3")
    assert after["liked"][0]["item"] == new and after["liked"][1:] == before["liked"]
    unknown = get(client, "/users/77777")
    assert (unknown["known"], unknown["total"], unknown["weights"]) == (False, 1, None)
    assert client.get("/users/88888").status_code == 404
    client.delete(f"/items/{new}")
    assert get(client, "/users/3")["liked"] == before["liked"]


# ---------------------------------------------------------------- images


def test_an_image_of_the_dataset_an_uploaded_one_and_a_drawn_one(client, recommender):
    kept = client.get("/items/105/image")
    assert kept.headers["content-type"] == "image/jpeg"
    shown = np.asarray(Image.open(io.BytesIO(kept.content)).convert("RGB")).astype(float).mean((0, 1))
    true = np.asarray(Image.open(io.BytesIO(image("lamp", 5))).convert("RGB")).astype(float).mean((0, 1))
    np.testing.assert_allclose(shown, true, atol=4)
    features = vectors(recommender, 105)
    client.post("/items", json={"items": [{"id": 7000, "columns": {"title": HOSTILE}, "features": features}]})
    drawn = client.get("/items/7000/image")
    assert drawn.headers["content-type"] == "image/svg+xml"
    assert drawn.headers["content-security-policy"].startswith("default-src 'none'")
    assert drawn.headers["x-content-type-options"] == "nosniff"
    assert client.get("/items/1/image").status_code == 404


def test_a_browser_that_has_an_image_is_not_sent_it_again(client):
    first = client.get("/items/105/image")
    again = client.get("/items/105/image", headers={"If-None-Match": first.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")
    assert client.get("/items/106/image", headers={"If-None-Match": first.headers["etag"]}).status_code == 200


def test_another_folder_of_images_and_files_that_are_none(start, shop, tmp_path):
    folder = tmp_path / "images"
    folder.mkdir()
    secret = tmp_path / "secret.png"
    secret.write_bytes(image("cup", 1))
    (folder / "100.png").write_bytes(image("boot", 1))
    (folder / "101.png").symlink_to(secret)  # leads out of the folder
    (folder / "102.png").write_bytes(image("lamp", 1)[:200])  # cut off
    (folder / "103.png").write_bytes(b"<svg onload='alert(1)'/>")
    client = start(images=str(folder))
    kinds = {id: client.get(f"/items/{id}/image").headers["content-type"] for id in (100, 101, 102, 103, 104)}
    assert kinds == {100: "image/jpeg"} | dict.fromkeys((101, 102, 103, 104), "image/svg+xml")
    assert start(images=str(tmp_path / "nowhere")).get("/items/100/image").headers["content-type"] == "image/svg+xml"


def test_drawn_images_are_whole_documents_whatever_the_title(tmp_path):
    namespace = "{http://www.w3.org/2000/svg}"
    for title in (HOSTILE.replace("\x00", ""), "", "  ", None, "]]>", "ähnlich Öl", "🏕 tent", "\ud800 half", "a\x00b"):
        root = ElementTree.fromstring(placeholder("x<y>", title))
        assert {child.tag for child in root} == {
            f"{namespace}rect",
            f"{namespace}circle",
            f"{namespace}path",
            f"{namespace}text",
        }
    assert placeholder(7, "Lamp") == placeholder(7, "Lamp") != placeholder("7", "Lamp")


@pytest.mark.parametrize(
    ("title", "letters"),
    [
        ("The Red Lamp", "RL"),
        ("lamp", "L"),
        ("12 Angry Men", "AM"),
        ("2001: A Space Odyssey", "SO"),
        ("1984", "1"),
        ("The And", "TA"),
        ("“…and justice”", "J"),
        ("!!!", "·"),
        ("élan vital", "ÉV"),
    ],
)
def test_letters_of_titles(title, letters):
    assert initials(title) == letters


# ---------------------------------------------------------------- the map and columns


def test_the_map_holds_all_items_with_their_colors(client, recommender):
    points = get(client, "/projection", column="kind")
    assert points["items"] == recommender.items.series.to_list() and points["total"] == len(points["items"])
    shown = [points["labels"][code] for code in points["codes"]]
    assert shown == recommender.item_table["kind"].to_list()
    # planted truth: the nearest in the plane is of the same kind
    places = torch.tensor([points["x"], points["y"]]).T
    nearest = torch.cdist(places, places).fill_diagonal_(torch.inf).argmin(1)
    assert np.mean([shown[a] == shown[b] for a, b in enumerate(nearest.tolist())]) > 0.8


def test_added_items_are_marked_and_removed_ones_are_gone(client, recommender):
    before = get(client, "/projection")
    client.post(
        "/items", json={"items": [{"id": 7000, "columns": {"title": "x" * 300}, "features": vectors(recommender, 105)}]}
    )
    client.delete("/items/100")
    after = get(client, "/projection")
    assert after["items"] == [*before["items"][1:], 7000]
    assert [after["items"][index] for index in after["added"]] == [7000]
    assert len(after["titles"][-1]) == 80
    assert after["x"][:-1] == before["x"][1:]


def test_a_large_catalog_is_thinned_but_keeps_what_was_added(client, recommender, monkeypatch):
    from lirdrec.server.routes import ui_data

    monkeypatch.setattr(ui_data, "MAX_POINTS", 10)
    items = [{"id": 7000 + n, "columns": {}, "features": vectors(recommender, 105)} for n in range(3)]
    client.post("/items", json={"items": items})
    points = get(client, "/projection")
    assert points["total"] == recommender.n_items + 3
    assert {7000, 7001, 7002} <= set(points["items"]) and len(points["items"]) <= 13
    assert len(points["x"]) == len(points["titles"]) == len(points["items"])


@pytest.mark.parametrize("column", ["nothing", "image", "item", "'; drop table"])
def test_a_column_that_is_none_is_refused(client, column):
    response = client.get("/projection", params={"column": column})
    assert response.status_code == 422 and column in response.json()["detail"]


def test_columns(client):
    found = {one["name"]: one for one in get(client, "/facets")["columns"]}
    assert "image" not in found and "item" not in found
    assert found["kind"] == {"name": "kind", "kind": "choice", "values": sorted(KINDS), "colors": True}
    assert found["price"]["values"] == [5.0, 82.0]


# ---------------------------------------------------------------- who would get it


def test_the_audience_is_what_counting_all_lists_gives(client, recommender):
    item = 203
    row = int(recommender.items.rows([item])[0])
    scorer = recommender.scorer
    scores = scorer.scores(scorer.queries(torch.arange(N_USERS)))
    liked = [user for user in range(N_USERS) if item in recommender.liked(user)]
    places = {}
    for user in range(N_USERS):
        order = [
            other
            for other in scores[user].argsort(descending=True).tolist()
            if other not in set(recommender.liked_rows(user).tolist())
        ]
        if user not in liked:
            places[user] = order.index(row) + 1
    found = get(client, "/items/203/audience", k=12)
    assert found["liked"] == len(liked)
    assert found["looked_at"] == N_USERS - len(liked)
    assert found["reach"] == pytest.approx(np.mean([place <= found["listed"] for place in places.values()]))
    expected = sorted(places, key=lambda user: (places[user], -float(scores[user, row])))[:12]
    assert [one["user"] for one in found["members"]] == expected
    for one in found["members"]:
        assert one["rank"] == places[one["user"]]
        assert one["score"] == pytest.approx(float(scores[one["user"], row]), abs=1e-5)
        assert sum(one["parts"].values()) == pytest.approx(one["score"], abs=1e-5)
    # and it is what /recommend does
    best = found["members"][0]
    assert asked(client, user=best["user"], k=48).index(item) + 1 == best["rank"]


def test_the_audience_knows_new_likes_and_new_items(client, recommender):
    first = get(client, "/items/203/audience")["members"][0]["user"]
    liked = get(client, "/items/203/audience")["liked"]
    client.post("/events", json={"events": [{"user": first, "item": 203}]})
    after = get(client, "/items/203/audience", k=48)
    assert after["liked"] == liked + 1 and first not in [one["user"] for one in after["members"]]
    client.post("/items", json={"items": [{"id": 7000, "features": vectors(recommender, 203)}]})
    members = get(client, "/items/7000/audience", k=8)["members"]
    assert all(KINDS[one["user"] % len(KINDS)] == "tent" for one in members)
    # the refreshed vector counts, as it does for /recommend
    mine = next((one for one in get(client, "/items/7000/audience", k=48)["members"] if one["user"] == first), None)
    assert mine is not None and asked(client, user=first, k=48).index(7000) + 1 == mine["rank"]


def test_the_audience_knows_the_likes_and_dislikes_that_the_run_has(start, recommender, tmp_path):
    fans, averse = [1, 5], 2
    recommender.info["new_items"] = NewItemEncoder(offset=0.1, frontier=(LaunchStep(0.1, 0.0, 0.1, 0.1),)).to_info()
    recommender.add_items([7000], {name: [row] for name, row in vectors(recommender, 203).items()})
    recommender.update([(user, 7000) for user in fans])
    row = int(recommender.items.rows([203])[0])
    assert 203 not in recommender.liked(averse)
    recommender.dislikes = Interactions(np.array([averse]), np.array([row]))
    client = start(run=str(recommender.save(tmp_path / "grown")))
    added = get(client, "/items/7000/audience", k=48)
    assert added["liked"] == len(fans) and added["looked_at"] == N_USERS - len(fans)
    assert {one["user"] for one in added["members"]} == set(range(N_USERS)) - set(fans)
    n_liked = sum(203 in recommender.liked(user) for user in range(N_USERS))
    trained = get(client, "/items/203/audience", k=48)
    assert trained["liked"] == n_liked and trained["looked_at"] == N_USERS - n_liked - 1
    assert averse not in {one["user"] for one in trained["members"]}
    mine = next(one for one in added["members"] if one["user"] == averse)
    assert asked(client, user=averse, k=49).index(7000) + 1 == mine["rank"]


def test_before_the_run_is_loaded_all_of_it_says_so(start, tmp_path):
    client = start(ready=False, run=str(tmp_path / "no such run"))
    for path in ("/items", "/users", "/users/1", "/items/1/image", "/facets", "/projection", "/items/1/audience"):
        assert client.get(path).status_code == 503, path


def test_a_slim_run_shows_what_it_can(start, recommender, tmp_path):
    recommender.slim(tmp_path / "slim")
    client = start(run=str(tmp_path / "slim"))
    assert get(client, "/items", query="100")["items"][0] == {"item": 100, "title": None, "columns": {}, "added": False}
    assert get(client, "/facets") == {"columns": [], "map": True}  # it keeps vectors and ids only
    assert get(client, "/users/4") | {"weights": None} == {
        "user": 4,
        "known": True,
        "total": 0,
        "liked": [],
        "weights": None,
    }
    assert len(get(client, "/projection")["items"]) == recommender.n_items
    assert client.get("/items/100/image").status_code == 200
    refused = client.get("/items/203/audience")
    assert refused.status_code == 409 and "slim" in refused.json()["detail"]


# ---------------------------------------------------------------- titles that are lists of words


def test_titles_of_words_are_found_and_shown(tmp_path):
    run = whole_numbers(n_items=20)
    words = [["The", "Glass", f"River{row}"] if row else None for row in range(20)]
    table = run.item_table.with_columns(pl.Series("title", words, dtype=pl.List(pl.String)))
    Recommender(run.scorer, run.users, run.items, table, run.train, info={"dataset": "words", "model": "lirdrec"}).save(
        tmp_path / "run"
    )
    servers = Servers(tmp_path / "run", f"sqlite:///{tmp_path / 'live.sqlite'}")
    client: TestClient = servers()
    try:
        found = client.get("/items", params={"query": "glass river3"}).json()
        assert [one["item"] for one in found["items"]] == ["i3"]
        assert found["items"][0]["title"] == "The Glass River3"
        assert client.get("/items/i3").json()["title"] == "The Glass River3"
        assert client.get("/items/i0").json()["title"] is None
    finally:
        servers.stop_all()
