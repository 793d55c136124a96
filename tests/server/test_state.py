"""The state that follows the store: what each snapshot holds, and that it never changes."""

from __future__ import annotations

import logging
import threading
from pathlib import Path

import numpy as np
import pytest
import torch

from lirdrec.errors import CapabilityError, DataError, LirdrecError, RunFolderError
from lirdrec.models.lirdrec import LIRDRec
from lirdrec.recommender.recommender import Recommender
from lirdrec.server.engine.query import Query, RankingResult
from lirdrec.server.engine.ranker import Ranker
from lirdrec.server.snapshot import RECENT, PersistentMap, Snapshot
from lirdrec.server.state import LiveState
from lirdrec.server.store import ConflictError, Event, NewItem, Store, StoreFullError

from ..helpers import assert_error
from .runs import DIMS, growing, new_item


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    return growing(tmp_path_factory.mktemp("run") / "run")


@pytest.fixture
def url(tmp_path) -> str:
    return f"sqlite:///{tmp_path / 'store.sqlite'}"


@pytest.fixture
def live(run, url) -> LiveState:
    return LiveState(run, Store(url))


def top(snapshot: Snapshot, user: object = 1) -> RankingResult:
    answer = Ranker().rank(snapshot, [Query(user, k=100, unknown="popular")])[0]
    assert isinstance(answer, RankingResult), answer
    return answer


def content(snapshot: Snapshot) -> tuple:
    """Everything that an answer can be made of."""
    scorer = snapshot.recommender.scorer
    tensors = {name: tensor.clone() for name, tensor in scorer.tensors().items()}
    people = {
        user: (one.history.tolist(), snapshot.queries([one]).tolist()) for user, one in snapshot.user_states.items()
    }
    return (
        snapshot.number,
        snapshot.removed.tolist(),
        dict(snapshot.item_rows),
        people,
        snapshot.recommender.items.series.to_list(),
        snapshot.recommender.item_table.to_dicts(),
        {name: tensor.tolist() for name, tensor in tensors.items()},
    )


def test_an_added_item_lies_where_its_twin_lies(live, run):
    twin = Recommender.load(run)
    features = {name: np.array(matrix.values[7]) for name, matrix in twin.features.blocks()[0].items()}
    snapshot = live.add_items([NewItem(100, {"group": 3}, features)])
    row = snapshot.item_row(100)
    assert row == 50 and snapshot.recommender.item_table.row(50, named=True)["group"] == 3
    near = snapshot.recommender.scorer.similar_items(torch.tensor([row]))[0, :50]
    groups = snapshot.recommender.item_table["group"].to_list()
    assert {groups[index] for index in near.topk(5).indices.tolist()} == {groups[7]} and float(near[7]) > 0.98


def test_a_restart_gives_the_same_bits(live, run, url):
    live.add_items([new_item(100), new_item(101)])
    live.add_events([Event(1, 100), Event("new", 3), Event("new", 3), Event("new", 4)])
    live.remove_item(3)
    assert content(LiveState(run, Store(url)).snapshot) == content(live.snapshot)
    assert live.snapshot.user_states["new"].history.tolist() == [3, 4]  # liked twice counts once


def test_float64_features_are_the_same_after_a_restart(live, run, url):
    draw = np.random.default_rng(0)
    live.add_items([NewItem(100, features={name: draw.normal(size=width) for name, width in DIMS.items()})])
    assert content(LiveState(run, Store(url)).snapshot) == content(live.snapshot)


def test_two_servers_on_one_store_agree_whoever_writes(run, url):
    first, second = LiveState(run, Store(url)), LiveState(run, Store(url))
    first.add_items([new_item(100)])
    second.add_items([new_item(101)])  # sees 100 first
    first.add_events([Event(4, 101)])
    second.remove_item(100)
    assert content(first.catch_up()) == content(second.catch_up())
    assert first.snapshot.item_row(100) == -1 and first.snapshot.item_row(101) == 51
    with assert_error(ConflictError, mentions=[101]):
        first.add_items([new_item(101)])
    with assert_error(ConflictError, mentions=[100]):
        first.remove_item(100)


def test_a_write_in_between_comes_first(run, url):
    """Another server writes after this one has looked, and before it writes."""
    first, second = LiveState(run, Store(url)), LiveState(run, Store(url))
    add = first.store.add_items

    def late(items):
        second.add_items([new_item(200)])
        return add(items)

    first.store.add_items = late
    snapshot = first.add_items([new_item(100)])
    assert (snapshot.item_row(200), snapshot.item_row(100)) == (50, 51)
    assert content(second.catch_up())[:6] == content(snapshot)[:6]


def test_a_crash_between_writing_and_applying_loses_nothing(run, url):
    first = LiveState(run, Store(url))
    first.store.add_items([new_item(100)])  # on the disk, and then the power is gone
    assert first.snapshot.item_row(100) == -1
    assert LiveState(run, Store(url)).snapshot.item_row(100) == 50
    with pytest.raises(ConflictError):
        first.add_items([new_item(100)])


WRONG = [
    ([new_item(100), new_item(7)], ConflictError, [7]),
    ([new_item(100), new_item(100)], ConflictError, []),
    ([new_item(100), NewItem(101)], DataError, ["1 ", 101]),
    ([new_item(100), new_item("101")], DataError, ["'101'"]),
    ([new_item(100), new_item(-1)], DataError, [-1]),
    ([new_item(100), new_item(2**63)], DataError, [2**63]),
    ([new_item(100), NewItem(101, features={"text": np.ones(9)})], DataError, ["'text'"]),
    ([new_item(100), NewItem(101, features={"text": np.full(8, np.nan)})], DataError, ["'text'", "NaN", 101]),
    ([new_item(100), NewItem(101, features={"text": np.full(8, 1e300)})], DataError, ["'text'", 101]),
    ([new_item(100), NewItem(101, features={"sound": np.ones(8)})], DataError, ["'sound'"]),
    ([new_item(100, columns={"colour": "red"})], DataError, ["'colour'", "group"]),
    ([new_item(100, columns={"group": "red"})], DataError, ["'group'"]),
    ([new_item(100, columns={"group": 1}), new_item(101, columns={"group": "x"})], DataError, []),
    ([new_item(100, columns={"group": 2**70})], DataError, ["'group'"]),
]


@pytest.mark.parametrize(("items", "kind", "facts"), WRONG)
@pytest.mark.filterwarnings("ignore:overflow encountered")
def test_a_batch_that_fails_leaves_nothing(live, url, run, items, kind, facts):
    before = content(live.snapshot)
    with assert_error(kind, mentions=facts) as caught:
        live.add_items(items)
    assert "\n" not in str(caught.value)
    assert content(live.snapshot) == before and live.store.latest() == 0
    assert live.add_items([new_item(300)]).item_row(300) == 50 and live.snapshot.item_row(100) == -1


def test_a_write_that_fails_leaves_nothing(live):
    """The disk is full after the item was placed in memory: its id must not stand for the next item."""
    add = live.store.add_items

    def full(items):
        raise StoreFullError("the disk of the store is full; nothing was changed")

    live.store.add_items = full
    before = content(live.snapshot)
    with pytest.raises(StoreFullError):
        live.add_items([new_item(100)])
    assert content(live.snapshot) == before
    live.store.add_items = add
    snapshot = live.add_items([new_item(200)])
    assert snapshot.item_row(100) == -1 and snapshot.item_row(200) == 50


def test_events_need_an_item_that_is_there_and_no_known_user(live):
    with assert_error(ConflictError, mentions=[99]):
        live.add_events([Event(1, 5), Event(1, 99)])
    assert live.store.latest() == 0 and len(live.snapshot.user_states) == 0
    snapshot = live.add_events([Event("unknown", 5), Event("1", 6), Event(1, 6)])
    assert snapshot.user_states["unknown"].history.tolist() == [5] and snapshot.user_states["1"].history.tolist() == [6]
    assert set(snapshot.user_states[1].history.tolist()) == {*snapshot.recommender.liked(1), 6}
    assert 5 not in top(snapshot, "unknown").items and top(snapshot, "unknown").fallback is None


def test_a_like_that_training_knew_changes_nothing(live, run, url):
    """After the events went into a newer run, its own vectors are better than folded ones."""
    known = Recommender.load(run).liked(1)
    before = top(live.snapshot)
    snapshot = live.add_events([Event(1, known[0]), Event(1, known[-1])])
    assert len(snapshot.user_states) == 0 and top(snapshot) == before
    other = next(item for item in range(50) if item not in known)
    assert 1 in live.add_events([Event(1, other)]).user_states
    person = live.snapshot.user_states[1]
    assert live.add_events([Event(1, other)]).user_states[1] is person


def test_a_server_that_starts_folds_in_no_user_before_the_first_query(live, run, url, monkeypatch):
    live.add_events([Event(f"u{number % 40}", number % 50) for number in range(400)])
    folded = []
    fold_in = LIRDRec.fold_in
    monkeypatch.setattr(
        LIRDRec, "fold_in", lambda self, scorer, some: (folded.append(len(some)), fold_in(self, scorer, some))[1]
    )
    again = LiveState(run, Store(url)).snapshot
    assert len(again.user_states) == 40 and folded == []
    first, second = top(again, "u7"), top(again, "u7")
    assert folded == [1] and first == second == top(live.snapshot, "u7")


def test_a_removed_id_comes_again_as_another_item(live, run, url):
    live.add_events([Event("ann", 7)])
    live.remove_item(7)
    snapshot = live.add_items([new_item(7, seed=1)])
    assert snapshot.item_row(7) == 50 and top(snapshot).items.count(7) == 1
    assert 7 in top(snapshot, "ann").items  # what ann liked was the other one
    live.remove_item(7)
    assert live.snapshot.item_row(7) == -1 and 7 not in top(live.snapshot).items
    snapshot = live.add_items([new_item(7, seed=2), new_item(100)])
    live.add_events([Event("bob", 7)])
    assert live.snapshot.user_states["bob"].history.tolist() == [51]
    again = LiveState(run, Store(url)).snapshot
    assert content(again)[1:6] == content(live.snapshot)[1:6]
    assert top(again).items == top(live.snapshot).items


def test_an_older_snapshot_never_changes(live):
    snapshots, contents = [live.snapshot], [content(live.snapshot)]
    for step in range(40):
        if step % 4 == 0:
            live.add_items([new_item(100 + step)])
        elif step % 4 == 1:
            live.add_events([Event(step % 3, 100 + step - 1), Event("new", step)])
        elif step % 4 == 2:
            live.remove_item(step)
        else:
            live.add_items([new_item(step - 1, seed=step)])
        snapshots.append(live.snapshot)
        contents.append(content(live.snapshot))
    assert [content(one) for one in snapshots] == contents
    assert len({one.number for one in snapshots}) == 41


def test_a_ranking_in_progress_sees_one_state(live):
    """Each item 1000+n is added with the event that user "u" likes it; then 1000+n-1 is removed, in one write order.

    A reader that saw half a state would recommend to "u" an item that "u" likes, or one beyond its snapshot.
    """
    live.add_items([new_item(1000)])
    live.add_events([Event("u", 1000)])
    stop, faults, ranked = threading.Event(), [], []

    def read() -> None:
        ranker = Ranker()
        while not stop.is_set():
            snapshot = live.catch_up()
            rows = snapshot.recommender.n_items
            answer = ranker.rank(snapshot, [Query("u", k=rows)])[0]
            allowed = {id for id, row in snapshot.item_rows.items() if not bool(snapshot.removed[row])}
            liked = {snapshot.recommender.items.series[row] for row in snapshot.liked_rows("u").tolist()}
            if set(answer.items) != allowed - liked or len(snapshot.item_rows) > rows:
                faults.append((snapshot.number, answer))
            ranked.append(snapshot.number)

    readers = [threading.Thread(target=read) for _ in range(2)]
    for one in readers:
        one.start()
    for step in range(1, 15):
        live.add_items([new_item(1000 + step)])
        live.add_events([Event("u", 1000 + step)])
        live.remove_item(1000 + step - 1)
    while not ranked or ranked[-1] < live.snapshot.number:
        threading.Event().wait(0.001)
    stop.set()
    for one in readers:
        one.join()
    assert not faults and max(ranked) == live.snapshot.number


def test_a_user_with_thousands_of_likes(tmp_path):
    run = growing(tmp_path / "run", items=4000)
    live = LiveState(run, Store(f"sqlite:///{tmp_path / 'store.sqlite'}"))
    live.add_events([Event("all", item) for item in range(3990)] * 2)
    assert len(live.snapshot.user_states["all"].history) == 3990
    assert sorted(top(live.snapshot, "all").items) == list(range(3990, 4000))
    truth = Recommender.load(run).recommend_for_history([list(range(3990))], k=10)["item"].to_list()
    assert top(live.snapshot, "all").items == truth


def test_a_swap_takes_all_changes_along(live, tmp_path, run):
    live.add_items([new_item(100), new_item(101), new_item(55)])
    live.add_events([Event("ann", 100), Event(2, 101)])
    live.remove_item(101)
    live.remove_item(9)
    newer = growing(tmp_path / "newer", seed=2, items=60)  # trained with 55
    snapshot = live.swap(newer)
    assert snapshot.run == newer and snapshot.recommender.n_items == 62
    assert (snapshot.item_row(55), snapshot.item_row(100)) == (55, 60)
    assert snapshot.item_row(101) == snapshot.item_row(9) == -1
    assert snapshot.user_states["ann"].history.tolist() == [60]
    assert content(live.swap(run))[1:6] == content(LiveState(run, live.store).snapshot)[1:6]


def test_items_that_do_not_fit_a_newer_run_are_left_out_and_can_be_replaced(live, tmp_path, caplog):
    live.add_items([new_item(index) for index in range(100, 110)])
    live.add_events([Event("ann", 100)])
    wider = growing(tmp_path / "wider", dims={"image": 13, "text": 8})
    fits = NewItem(110, features={"text": np.ones(8)})
    live.add_items([fits])
    with caplog.at_level(logging.WARNING):
        snapshot = live.swap(wider)
    assert snapshot.item_row(110) == 50 and snapshot.item_row(100) == -1 and "ann" not in snapshot.user_states
    left = [one.getMessage() for one in caplog.records if one.name == "lirdrec.server.snapshot_changes"]
    assert len(left) == 10 and all(str(index) in said for index, said in zip(range(100, 110), left, strict=True))
    with assert_error(ConflictError, mentions=[100]):
        live.add_items([new_item(100, dims={"image": 13, "text": 8})])
    live.remove_item(100)
    assert live.add_items([new_item(100, dims={"image": 13, "text": 8})]).item_row(100) == 51


def test_a_run_that_cannot_be_loaded_leaves_the_old_one(live, tmp_path):
    before = content(live.snapshot)
    with pytest.raises(RunFolderError):
        live.swap(tmp_path / "nothing")
    assert content(live.snapshot) == before


def test_a_slim_run_takes_no_items_but_forgets_them(run, url, tmp_path):
    Recommender.load(run).slim(tmp_path / "slim")
    live = LiveState(tmp_path / "slim", Store(url))
    with assert_error(CapabilityError, mentions=["slim"]):
        live.add_items([new_item(100)])
    live.remove_item(4)
    assert live.snapshot.item_row(4) == -1
    live.add_events([Event(3, 5)])
    assert not live.snapshot.user_states[3].is_folded


def test_a_store_of_another_catalog_is_served_without_its_items(tmp_path, run, caplog):
    store = Store(f"sqlite:///{tmp_path / 'store.sqlite'}")
    store.add_items([new_item("a"), new_item("b")])
    store.add_events([Event("u", "a"), Event(1, "a")])
    store.remove_item("zz")
    live = LiveState(run, store)
    assert live.snapshot.recommender.n_items == 50 and len(live.snapshot.user_states) == 0 and live.snapshot.number == 5


@pytest.mark.parametrize("seed", range(3))
def test_any_history_of_changes_ends_in_the_state_that_a_plain_book_keeps(run, url, seed):
    """Random changes, some refused, through two servers; after a restart the stretches are grouped differently."""
    draw = np.random.default_rng(seed)
    servers = [LiveState(run, Store(url)) for _ in range(2)]
    there, likes = set(range(50)), {}
    for step in range(60):
        live, item, kind = servers[draw.integers(2)], int(draw.integers(40, 60)), draw.choice(["add", "remove", "like"])
        try:
            if kind == "add":
                live.add_items([new_item(item, seed=step)])
                assert item not in there
                there.add(item)
            elif kind == "remove":
                live.remove_item(item)
                there.remove(item)
                likes = {user: some - {item} for user, some in likes.items()}
            else:
                live.add_events([Event("u", item)])
                assert item in there
                likes.setdefault("u", set()).add(item)
        except ConflictError:
            assert (item in there) is (kind == "add")
    states = [live.catch_up() for live in servers] + [LiveState(run, Store(url)).snapshot]
    for snapshot in states:
        assert {id for id in snapshot.item_rows if snapshot.item_row(id) >= 0} == there
        if "u" in likes:
            assert set(top(snapshot, "u").items) == there - likes["u"]
        assert len(set(snapshot.recommender.items.series)) == snapshot.recommender.n_items


def test_a_layered_mapping_is_a_dict_that_forks():
    truth, mapping, old = {}, PersistentMap({0: -1}), []
    truth[0] = -1
    draw = np.random.default_rng(0)
    for step in range(RECENT // 50 * 3):
        entries = {int(key): step for key in draw.integers(0, 20_000, 50)}
        truth |= entries
        old.append((mapping, dict(mapping)))
        mapping = mapping.updated(entries)
        assert mapping == truth and len(mapping) == len(truth) and mapping.get(-5) is None and mapping.get(-5, 3) == 3
    for one, was in old[:: len(old) // 5]:
        assert dict(one) == was and -5 not in one
    assert all(key in mapping and mapping[key] == mapping.get(key) == value for key, value in truth.items())


def test_errors_of_live_are_sentences(live):
    with pytest.raises(LirdrecError):
        live.remove_item("nothing")


def test_likes_move_an_item_that_was_added_and_no_other(live, run):
    snapshot = live.add_items([new_item(100), new_item(101)])
    before = snapshot.recommender.scorer
    likers = [3, 8, 21]
    snapshot = live.add_events([Event(user, 100) for user in likers])
    now = snapshot.recommender.scorer
    own = Recommender.load(run).model().fold_in_items(before, torch.tensor([50]), [before.user_vectors[likers]])
    assert torch.equal(now.item_vectors, own.item_vectors)
    assert now.moved_items.tolist() == [50] and not torch.equal(now.item_vectors[50], before.item_vectors[50])
    # a like of an item of the training moves nothing, and one that is known neither
    snapshot = live.add_events([Event(5, 7), Event(3, 100)])
    assert snapshot.recommender.scorer is now


def test_moved_items_do_not_depend_on_how_likes_came_together(live, run, url):
    """Users of the training and new ones, whose own vectors follow from all they like, in small steps and at once."""
    live.add_items([new_item(100), new_item(101)])
    likes = [(3, 100), (70, 101), (70, 100), (70, 5), (8, 101), (71, 100), (71, 9), (3, 100)]
    for user, item in likes:
        live.add_events([Event(user, item)])
    live.remove_item(101)
    again = LiveState(run, Store(url))
    assert content(again.snapshot) == content(live.snapshot)
    scorer = again.snapshot.recommender.scorer
    assert scorer.moved_items.tolist() == [50, 51]
    model, base = again.snapshot.recommender.model(), scorer.vectors_before(torch.arange(52))
    assert torch.equal(base[:50], Recommender.load(run).scorer.item_vectors)
    # user 71 counts by item 9, user 70 by the items 5 and 101; their liking 100 says nothing about themselves
    folded = [model.fold_in(scorer, [torch.tensor(rows)]) for rows in ([5, 51], [9])]
    expected = model.fold_in_items(scorer, torch.tensor([50]), [torch.cat([scorer.user_vectors[[3]], *folded])])
    assert torch.equal(expected.item_vectors[50], scorer.item_vectors[50])


def test_a_run_with_likes_continues_from_them(live, tmp_path, run):
    saved = Recommender.load(run)
    item = new_item(100)
    saved.add_items([100], {name: [row] for name, row in item.features.items()})
    saved.update([(3, 100)])
    served = LiveState(saved.save(tmp_path / "liked"), Store(f"sqlite:///{tmp_path / 'other.sqlite'}"))
    served.add_events([Event(8, 100)])
    live.add_items([item])
    live.add_events([Event(3, 100), Event(8, 100)])
    vectors = [one.snapshot.recommender.scorer.item_vectors for one in (served, live)]
    assert torch.equal(*vectors)


@pytest.mark.parametrize(
    "batches",
    [
        [[(3, None)], [(3, "dislike")]],
        [[(3, None), (8, None)], [(3, "dislike"), (8, "dislike"), (21, None)]],
        [[(3, None), (8, None)], [(3, "dislike")]],
    ],
)
def test_likes_that_are_taken_back_leave_the_item_as_after_a_restart(live, run, url, batches):
    live.add_items([new_item(100)])
    for batch in batches:
        live.add_events([Event(user, 100, kind) for user, kind in batch])
    again = LiveState(run, Store(url)).snapshot
    assert torch.equal(again.recommender.scorer.item_vectors, live.snapshot.recommender.scorer.item_vectors)
    liked = {user for batch in batches for user, kind in batch if kind is None}
    liked -= {user for batch in batches for user, kind in batch if kind == "dislike"}
    assert live.snapshot.likers.get(50, frozenset()) == liked == again.likers.get(50, frozenset())
