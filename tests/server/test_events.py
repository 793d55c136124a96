"""POST /events: types and times, dislikes, and batches of which only some events are valid."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from lirdrec.recommender.recommender import Recommender
from lirdrec.server.engine.query import Query
from lirdrec.server.engine.ranker import Ranker
from lirdrec.server.state import LiveState
from lirdrec.server.store import Event, Store

from ..helpers import assert_mentions
from .runs import asked, growing, vectors


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return growing(tmp_path_factory.mktemp("run") / "run")


@pytest.fixture
def live(run, tmp_path):
    return LiveState(run, Store(f"sqlite:///{tmp_path / 'store.sqlite'}"))


def best(snapshot, user, **more):
    return Ranker().rank(snapshot, [Query(user, k=50, unknown="popular", **more)])[0].items


def stored(client):
    return [change.event for change in client.app.state.services.live.store.changes() if change.event is not None]


def test_a_dislike_excludes_the_item_and_moves_no_vector(live):
    before, all_items = best(live.snapshot, 1), best(live.snapshot, 1, exclude_seen=False)
    gone, kept = before[0], before[1:]
    snapshot = live.add_events([Event(1, gone, "dislike"), Event("nobody", 3, "dislike")])
    assert best(snapshot, 1) == kept
    assert best(snapshot, 1, exclude_seen=False) == [item for item in all_items if item != gone]
    assert best(snapshot, 2) == best(live._load(snapshot.run), 2)
    assert snapshot.liked_rows("nobody").tolist() == [] and snapshot.disliked_rows("nobody").tolist() == [3]
    popular = best(snapshot, "nobody", exclude_seen=False)
    assert popular == [item for item in best(snapshot, "somebody") if item != 3] and len(popular) == 49


def test_the_last_event_of_a_user_and_an_item_counts(live, run):
    own = Recommender.load(run)
    trained = torch.tensor(own.liked_rows(1))
    first, second, third = [row for row in range(50) if row not in trained.tolist()][:3]
    live.add_events([Event(1, first), Event(1, second, "view"), Event(1, third, "dislike")])
    snapshot = live.add_events([Event(1, first, "dislike"), Event(1, third, "buy")])
    state = snapshot.user_states[1]
    assert state.history.tolist() == sorted([*trained.tolist(), second, third]) and state.disliked.tolist() == [first]
    expected = own.model().fold_in(own.scorer, [state.history])
    assert state.is_folded and torch.equal(snapshot.queries([state]), expected)
    # of the training too
    lost = int(trained[0])
    snapshot = live.add_events([Event(1, lost, "dislike")])
    assert lost not in snapshot.liked_rows(1).tolist() and lost not in best(snapshot, 1, exclude_seen=False)
    # whose likes are those of the training again has the trained vector
    snapshot = live.add_events([Event(1, lost), Event(1, second, "dislike"), Event(1, third, "dislike")])
    assert not snapshot.user_states[1].is_folded
    assert snapshot.liked_rows(1).tolist() == sorted(trained.tolist())
    again = LiveState(run, live.store).snapshot.user_states[1]
    assert torch.equal(again.history, snapshot.user_states[1].history) and not again.is_folded
    assert again.disliked.tolist() == snapshot.user_states[1].disliked.tolist() == sorted([first, second, third])


LIKE, DISLIKE = None, "dislike"


@pytest.mark.parametrize(
    ("events", "is_liked"),
    [
        ([(LIKE, 200.0), (DISLIKE, 100.0)], True),  # the dislike was sent late
        ([(DISLIKE, 200.0), (LIKE, 100.0)], False),
        ([(LIKE, 100.0), (DISLIKE, 200.0), (LIKE, 150.0)], False),
        ([(LIKE, 100.0), (DISLIKE, 100.0)], False),  # of the same time: the last
        ([(LIKE, 100.0), (DISLIKE, None)], False),
        ([(LIKE, 200.0), (DISLIKE, None), (LIKE, 100.0)], False),  # without a time, it is as new as the like before
        ([(LIKE, 100.0), (DISLIKE, 50.0), (DISLIKE, 200.0)], False),
        ([(DISLIKE, None), (LIKE, 100.0)], True),
        ([(DISLIKE, None), (LIKE, None)], True),
    ],
)
def test_the_newest_event_decides_however_late_the_others_arrive(live, run, tmp_path, events, is_liked):
    item = next(row for row in range(50) if row not in live.snapshot.liked_rows(1).tolist())
    sent = [Event(1, item, kind, time) for kind, time in events]
    for event in sent:
        live.add_events([event])
    whole = LiveState(run, Store(f"sqlite:///{tmp_path / 'whole.sqlite'}"))
    whole.add_events(sent)
    for snapshot in (live.snapshot, whole.snapshot, LiveState(run, live.store).snapshot):
        assert (item in snapshot.liked_rows(1).tolist()) is is_liked
        assert snapshot.disliked_rows(1).tolist() == ([] if is_liked else [item])
        assert snapshot.event_times.get(1) == whole.snapshot.event_times.get(1)


def test_a_late_dislike_leaves_a_newer_like_of_an_item_of_the_training(live):
    trained = live.snapshot.liked_rows(1).tolist()
    snapshot = live.add_events([Event(1, trained[0], timestamp=200.0)])
    assert 1 not in snapshot.user_states  # nothing has changed but the time of the like
    snapshot = live.add_events([Event(1, trained[0], "dislike", timestamp=100.0)])
    assert snapshot.liked_rows(1).tolist() == trained and snapshot.disliked_rows(1).tolist() == []
    snapshot = live.add_events([Event(1, trained[0], "dislike", timestamp=300.0)])
    assert snapshot.disliked_rows(1).tolist() == [trained[0]]


def test_types_and_times_are_stored_and_types_are_chosen_by_the_server(start, recommender):
    client = start(dislikes=("skip", "dislike"))
    events = [
        {"user": 0, "item": 201, "type": "buy", "timestamp": "2026-05-31T18:30:00Z"},
        {"user": 0, "item": 202, "type": "skip", "timestamp": 1780252200.5},
        {"user": 0, "item": 203, "timestamp": "2026-05-31T20:30:00+02:00"},
        {"user": 0, "item": 204, "type": None, "timestamp": None},
    ]
    answer = client.post("/events", json={"events": events})
    assert answer.status_code == 200 and answer.json() == {"change": 4, "users": [0]}
    assert stored(client) == [
        Event(0, 201, "buy", 1780252200.0),
        Event(0, 202, "skip", 1780252200.5),
        Event(0, 203, None, 1780252200.0),
        Event(0, 204, None, None),
    ]
    assert not {201, 202, 203, 204} & set(asked(client, user=0, k=48))
    assert {201, 203, 204} <= set(asked(client, user=0, k=48, exclude_seen=False))
    assert 202 not in asked(client, user=0, k=48, exclude_seen=False)
    liked = {one["item"] for one in client.get("/users/0?limit=100").json()["liked"]}
    assert liked == {*recommender.liked(0), 201, 203, 204}
    other = start()  # takes "skip" for a like, on the same store
    assert 202 in asked(other, user=0, k=48, exclude_seen=False)
    members = [one["user"] for one in client.get("/items/202/audience").json()["members"]]
    assert members and 0 not in members


BAD = [
    ({"user": 0, "item": 99_999}, 404, ["99999"]),
    ({"user": "ann", "item": 101}, 422, ["'ann'", "integers"]),
    ({"user": 0, "item": 101, "timestamp": "yesterday"}, 422, ["timestamp", "yesterday", "ISO 8601"]),
    ({"user": 0, "item": 101, "timestamp": 1780252200000}, 422, ["timestamp"]),
    ({"user": 0, "item": 101, "type": "x" * 65}, 422, ["type", "64"]),
    ({"user": 0, "item": 101, "type": ""}, 422, ["type"]),
    ({"user": 0}, 422, ["item"]),
    ({"user": 0, "item": 101, "stars": 5}, 422, ["stars"]),
    (7, 422, []),
]


@pytest.mark.parametrize(("bad", "status", "mentions"), BAD)
def test_one_bad_event_refuses_the_batch_by_default(client, bad, status, mentions):
    answer = client.post("/events", json={"events": [{"user": 0, "item": 201}, bad]})
    assert answer.status_code == status, answer.text
    assert_mentions(answer.text, mentions)
    assert stored(client) == []


def test_partial_stores_the_good_events_and_names_the_others(client):
    good = [{"user": 0, "item": 201, "type": "buy"}, {"user": 777, "item": 202}]
    events = [good[0], *(bad for bad, *_ in BAD), good[1]]
    answer = client.post("/events", json={"events": events, "partial": True})
    assert answer.status_code == 200, answer.text
    assert (answer.json()["change"], answer.json()["users"]) == (2, [0, 777])
    assert stored(client) == [Event(0, 201, "buy"), Event(777, 202)]
    refused = answer.json()["refused"]
    assert [one["position"] for one in refused] == list(range(1, 1 + len(BAD)))
    for one, (_, _, mentions) in zip(refused, BAD, strict=True):
        assert_mentions(one["reason"], mentions)
    none = client.post("/events", json={"partial": True, "events": [BAD[0][0]]}).json()
    assert (none["change"], none["users"], len(none["refused"])) == (2, [], 1)
    assert client.post("/events", json={"partial": True, "events": good}).json()["refused"] == []


def test_places_and_likes_of_new_items_are_counted(client, recommender):
    start = client.get("/model").json()["exposure"]
    assert start["share_of_places"] is None and start["likes"] == 0
    items = [{"id": 900 + n, "features": vectors(recommender, 200 + n, 0.05)} for n in range(3)]
    assert client.post("/items", json={"items": items}).status_code == 201
    shown = [asked(client, user=user, k=10, new_items={"share": share}) for user, share in ((5, 0.2), (6, 0.3), (7, 0))]
    unknown = {"user": 999, "k": 5, "unknown": "popular", "candidates": [900, 101]}
    batch = [{"user": 8, "k": 4, "diversity": 0.5}, {"user": 999}, unknown]
    answers = client.post("/recommend/batch", json={"requests": batch}).json()["answers"]
    shown += [[one["item"] for one in answer.get("items", [])] for answer in answers]
    events = [(5, 900, None), (5, 101, None), (6, 902, "buy"), (6, 901, "dislike")]
    sent = [{"user": user, "item": item, "type": kind} for user, item, kind in events]
    assert client.post("/events", json={"events": sent}).status_code == 200
    found = client.get("/model").json()["exposure"]
    places = [item for items in shown for item in items]
    n_new = int(np.isin(places, [900, 901, 902]).sum())
    assert n_new >= 6 and found == {
        "places": len(places),
        "new_item_places": n_new,
        "share_of_places": n_new / len(places),
        "likes": 3,
        "new_item_likes": 2,
        "share_of_likes": 2 / 3,
    }
    lines = client.get("/metrics").text.splitlines()
    assert f"lirdrec_new_item_places_total {float(n_new)}" in lines and "lirdrec_new_item_likes_total 2.0" in lines
