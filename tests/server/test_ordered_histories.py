"""The server with a model of ordered histories: histories in order, events appended, restarts, new items."""

from __future__ import annotations

import pytest
import torch

from lirdrec.recommender.recommender import Recommender
from lirdrec.server.engine.query import Query
from lirdrec.server.engine.ranker import Ranker
from lirdrec.server.state import LiveState
from lirdrec.server.store import Event, NewItem, Store

from ..cycles import N_ITEMS, after, places, walker
from .runs import Servers


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return Recommender.from_state(walker().state).save(tmp_path_factory.mktemp("run") / "run")


@pytest.fixture
def url(tmp_path):
    return f"sqlite:///{tmp_path / 'store.sqlite'}"


@pytest.fixture
def live(run, url):
    return LiveState(run, Store(url))


def best(snapshot, user=None, history=None, **options) -> int:
    (answer,) = Ranker().rank(snapshot, [Query(user, history, k=1, **options)])
    return answer.items[0]


def same_state(one, other) -> bool:
    return one is not None and (
        torch.equal(one.history, other.history)
        and one.is_folded == other.is_folded
        and torch.equal(one.disliked, other.disliked)
    )


def test_the_order_of_a_history_decides(live):
    snapshot = live.snapshot
    assert best(snapshot, history=[5, 17]) == 18 and best(snapshot, history=[17, 5]) == 6
    assert best(snapshot, history=[17, 5, 17]) == 18
    answers = Ranker().rank(snapshot, [Query(history=[5, 17], k=1), Query(3, k=1), Query(history=[17, 5], k=1)])
    assert [answer.items[0] for answer in answers] == [18, after(walker().liked(3)[-1]), 6]


def test_events_are_appended_and_a_restart_keeps_them(live, run, url):
    start = walker().liked(3)
    first = after(start[-1])
    for item in (first, after(first)):
        snapshot = live.add_events([Event(3, item)])
        assert snapshot.liked_rows(3).tolist()[-1] == item and best(snapshot, 3) == after(item)
    assert snapshot.liked_rows(3).tolist() == [*start, first, after(first)]
    snapshot = live.add_events([Event(700, 8), Event(700, 9), Event(4, 11, "dislike"), Event(3, start[0])])
    assert best(snapshot, 700) == 10 and best(snapshot, 3, exclude_seen=False) == after(start[0])
    assert snapshot.liked_rows(3).tolist() == [*start[1:], first, after(first), start[0]]
    again = LiveState(run, Store(url)).snapshot
    for user in (3, 4, 700):
        assert same_state(again.user_states.get(user), snapshot.user_states[user])
        ranked = [Ranker().rank(one, [Query(user, k=9, unknown="popular")])[0] for one in (again, snapshot)]
        assert ranked[0].items == ranked[1].items and ranked[0].scores == ranked[1].scores


def test_the_library_and_the_server_agree(live):
    library, likes = Recommender.from_state(walker().state), [(3, 7), (3, 9), (5, 1)]
    library.update(likes)
    snapshot = live.add_events([Event(*like) for like in likes])
    for user in (3, 5, 6):
        vector = library.scorer.queries(torch.tensor([user]))
        state = snapshot.user_states.get(user)
        assert (state is None) is (user == 6)
        if state is not None:
            torch.testing.assert_close(snapshot.queries([state]), vector)
            assert state.history.tolist() == library.histories.of(user).tolist()


def test_times_put_events_in_order_however_they_arrive(run, tmp_path):
    start = walker().liked(3)
    new = [item for item in range(N_ITEMS) if item not in start][:4]
    events = [
        Event(3, new[0], timestamp=300.0),
        Event(3, new[1], timestamp=100.0),
        Event(3, new[2]),  # the latest
        Event(3, new[0], timestamp=50.0),  # sent late: it has been taken again since
        Event(3, new[3], timestamp=200.0),
        Event(3, new[2], "dislike", timestamp=400.0),
        Event(3, new[2], timestamp=250.0),  # sent late: it has been disliked since
        Event(3, new[3], "dislike", timestamp=150.0),  # sent late: it has been liked since
        Event(3, new[0], "dislike", timestamp=500.0),
        Event(3, new[0], timestamp=600.0),
    ]
    single = LiveState(run, Store(f"sqlite:///{tmp_path / 'single.sqlite'}"))
    for event in events:
        single.add_events([event])
    whole = LiveState(run, Store(f"sqlite:///{tmp_path / 'whole.sqlite'}"))
    whole.add_events(events)
    times = {new[0]: 600.0, new[1]: 100.0, new[2]: 400.0, new[3]: 200.0}
    for snapshot in (single.snapshot, whole.snapshot):
        state = snapshot.user_states[3]
        assert state.history.tolist() == [*start, new[1], new[3], new[0]] and state.disliked.tolist() == [new[2]]
        assert snapshot.event_times[3] == times
    again = LiveState(run, Store(f"sqlite:///{tmp_path / 'single.sqlite'}")).snapshot
    assert same_state(again.user_states[3], single.snapshot.user_states[3])


def test_a_history_as_in_training_keeps_the_trained_vector(live):
    start = walker().liked(3)
    before = Ranker().rank(live.snapshot, [Query(3, k=9)])[0].scores
    snapshot = live.add_events([Event(3, start[-1]), Event(3, 21, "dislike"), Event(3, start[-1])])
    assert not snapshot.user_states[3].is_folded
    assert best(snapshot, 3) == after(start[-1]) and Ranker().rank(snapshot, [Query(3, k=1)])[0].scores[0] == before[0]


def test_added_items_are_recommended_and_part_of_histories(live, run, url):
    place = places([6.5])  # between 6 and 7
    snapshot = live.add_items([NewItem(100, {"title": "Between"}, {"image": place[0, :6], "text": place[0]})])
    assert 100 in Ranker().rank(snapshot, [Query(history=[4, 5, 6], k=4)])[0].items
    assert best(snapshot, history=[5, 6, 100]) in (7, 8)
    snapshot = live.add_events([Event(700, 5), Event(700, 6), Event(700, 100), Event(3, 100)])
    assert snapshot.recommender.scorer.moved_items.tolist() == [N_ITEMS]
    again = LiveState(run, Store(url)).snapshot
    assert torch.equal(again.recommender.scorer.item_vectors, snapshot.recommender.scorer.item_vectors)
    assert best(again, 700) == best(snapshot, 700)


def test_the_api_explains_by_what_each_item_moved(run, url):
    servers = Servers(run, url)
    client = servers(ui=True)
    try:
        start = walker().liked(3)
        item = after(after(start[-1]))
        client.post("/events", json={"events": [{"user": 3, "item": after(start[-1])}]}).raise_for_status()
        answer = client.post("/recommend", json={"user": 3, "k": 1, "parts": True}).json()["items"][0]
        assert answer["item"] == item
        reason = client.get("/explain", params={"user": 3, "item": item, "n_liked": 3}).json()
        assert reason["liked"][0]["item"] == after(start[-1]) and reason["liked"][0]["moved"] > 0
        assert sum(reason["parts"].values()) == reason["score"] == pytest.approx(answer["score"], abs=1e-5)
        shown = client.get("/users/3").json()["liked"]
        assert [one["item"] for one in shown] == [after(start[-1]), *reversed(start)]
        assert client.post("/recommend", json={"history": [17, 5], "k": 1}).json()["items"][0]["item"] == 6
    finally:
        servers.stop_all()
