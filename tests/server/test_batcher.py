"""The engine against `Recommender.recommend` bit for bit, and what befalls those who wait."""

from __future__ import annotations

import asyncio
import random
import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch

from lirdrec.errors import CapabilityError, ConfigError, UnknownIdError
from lirdrec.ranking.item_filters import Filter
from lirdrec.ranking.item_weight_scorer import ItemWeightScorer
from lirdrec.recommender.recommender import Recommender
from lirdrec.server.engine.batcher import MicroBatcher, Query, RankingResult
from lirdrec.server.engine.ranker import Ranker
from lirdrec.server.snapshot import PersistentMap, Snapshot, UserState
from lirdrec.server.state import LiveState
from lirdrec.server.store import Event, Store, StoreError

from ..helpers import assert_error, assert_mentions
from .runs import growing, new_item, whole_numbers


def state(recommender: Recommender, gone: tuple[int, ...] = (), people: dict | None = None) -> Snapshot:
    users, items = (
        PersistentMap({id: row for row, id in enumerate(known.series.to_list())})
        for known in (recommender.users, recommender.items)
    )
    mask = torch.zeros(recommender.n_items, dtype=torch.bool)
    mask[list(gone)] = True
    return Snapshot(recommender, 0, mask, users, items, PersistentMap(people or {}), Path("run"))


def expected(frame: pl.DataFrame, column: str = "user") -> list[tuple[list, list[float]]]:
    return [
        (part["item"].to_list(), part["score"].to_list()) for part in frame.partition_by(column, maintain_order=True)
    ]


def plain(answers: list) -> list[tuple[list, list[float]]]:
    assert all(isinstance(one, RankingResult) for one in answers), answers
    return [(one.items, one.scores) for one in answers]


@pytest.fixture(scope="module")
def numbers() -> Recommender:
    return whole_numbers()


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    return growing(tmp_path_factory.mktemp("run") / "run")


def live(run: Path, folder: Path) -> LiveState:
    return LiveState(run, Store(f"sqlite:///{folder / 'store.sqlite'}"))


# ------------------------------------------------------------ the same answers


@pytest.mark.parametrize("exclude_seen", [True, False])
@pytest.mark.parametrize("k", [1, 7, 300])
def test_every_user_gets_what_the_recommender_says(numbers, k, exclude_seen):
    """Scores are small whole numbers: hundreds of ties, and no batch can differ by rounding."""
    users = numbers.users.series.to_list()
    truth = expected(numbers.recommend(users, k=k, exclude_seen=exclude_seen))
    ranker, snapshot = Ranker(), state(numbers)
    queries = [Query(user, k=k, exclude_seen=exclude_seen) for user in users]
    assert plain(ranker.rank(snapshot, queries)) == truth
    shuffled = random.Random(1).sample(range(len(users)), len(users))
    for size in (1, 3):
        for start in range(0, len(users), size):
            some = shuffled[start : start + size]
            assert plain(ranker.rank(snapshot, [queries[index] for index in some])) == [truth[index] for index in some]


def test_a_batch_of_all_kinds_answers_each_as_if_alone(numbers):
    """Lengths, filters, histories of training or not, weights: the arguments of one query do not reach another."""
    draw = random.Random(5)
    filters = [
        None,
        Filter.parse({"price": {"lt": 20}}),
        Filter.parse({"kind": "tent"}),
        Filter.parse({"price": {"lt": -1}}),
    ]
    queries: list[Query] = []
    for _ in range(60):
        user = draw.choice(["u0", "u1", "u2", "u3", "nobody"])
        queries.append(
            Query(
                user,
                k=draw.choice([1, 5, 40, 500]),
                exclude_seen=draw.random() < 0.5,
                where=draw.choice(filters),
                branch_weights=draw.choice([None, {"image": 2.0}, {"image": 0.0, "text": -1.0}]),
                unknown=draw.choice(["raise", "popular"]),
                parts=draw.random() < 0.3,
                diversity=draw.choice([0.0, 0.0, 0.4]),
            )
        )
    person = UserState(torch.tensor([5, 7, 250]), True)
    snapshot = state(numbers, gone=(0, 8, 299), people={"u3": person})
    snapshot.vectors.put(person, torch.tensor([1.0, 0, 2, -1, 0, 1]), 24)
    together = Ranker().rank(snapshot, queries)
    for query, answer in zip(queries, together, strict=True):
        alone = Ranker().rank(snapshot, [query])[0]
        if isinstance(answer, RankingResult):
            assert answer == alone
            assert not {"i0", "i8", "i299"} & set(answer.items)
        else:
            assert isinstance(answer, UnknownIdError) and str(answer) == str(alone)
    assert {type(one) for one in together} == {RankingResult, UnknownIdError}


def test_filters_and_weights_against_a_list_that_was_sorted_by_hand(numbers):
    snapshot, scorer = state(numbers, gone=(2, 9)), numbers.scorer
    query = Query("u4", k=25, where=Filter.parse({"price": {"lt": 20}}), branch_weights={"image": 3.0, "text": 0.5})
    answer = Ranker().rank(snapshot, [query])[0]
    weights = torch.tensor([3.0] * 3 + [0.5] * 3)
    scores = (scorer.user_vectors[4] * weights) @ scorer.item_vectors.T
    liked, prices = set(numbers.liked_rows(4).tolist()), numbers.item_table["price"].to_list()
    there = [r for r in range(300) if r not in liked | {2, 9} and prices[r] is not None and prices[r] < 20]
    best = sorted(there, key=lambda row: (-float(scores[row]), row))[:25]
    assert answer == RankingResult([f"i{row}" for row in best], [float(scores[row]) for row in best])


def test_real_vectors_in_the_same_batch_give_the_same_bits(run):
    recommender = Recommender.load(run)
    users = list(range(60))
    answers = Ranker().rank(state(recommender), [Query(user, k=12) for user in users])
    assert plain(answers) == expected(recommender.recommend(users, k=12))


def test_histories_are_those_of_recommend_for_history(run):
    recommender = Recommender.load(run)
    lists = [[3, 4, 5], [7], list(range(20)), [3, 3, 3]]
    truth = expected(recommender.recommend_for_history(lists, k=50), "history")
    answers = Ranker().rank(state(recommender), [Query(history=one, k=50) for one in lists])
    assert plain(answers) == truth


def test_unknown_users_get_what_is_popular(numbers):
    truth = expected(numbers.recommend(["x", "y"], k=300, unknown="popular"))
    asked = [Query(user, k=300, unknown="popular") for user in ("x", "y")]
    answers = Ranker().rank(state(numbers), asked)
    assert plain(answers) == truth and answers[0].fallback == "popular"
    cheap = Filter.parse({"price": {"lt": 5}})
    prices = numbers.item_table["price"]
    answer = Ranker().rank(state(numbers, gone=(1,)), [replace(asked[0], where=cheap)])[0]
    wanted = {f"i{row}" for row, price in enumerate(prices) if price is not None and price < 5} - {"i1"}
    assert answer.items == [one for one in truth[0][0] if one in wanted]


def test_parts_sum_to_the_score(run):
    recommender = Recommender.load(run)
    answer = Ranker().rank(state(recommender), [Query(5, k=9, parts=True, diversity=0.3)])[0]
    assert len(answer.items) == 9 and answer.parts[0].keys() == {"image", "text", "shared", "content"}
    for score, parts in zip(answer.scores, answer.parts, strict=True):
        assert sum(parts.values()) == pytest.approx(score, abs=1e-6)


def test_a_model_of_item_weights_is_served_too(numbers):
    draw = np.random.default_rng(3)
    history = torch.zeros(40, 300)
    history[torch.tensor(numbers.train.users), torch.tensor(numbers.train.items)] = 1
    weights = torch.tensor(draw.integers(0, 3, (300, 300)), dtype=torch.float32)
    made = Recommender(
        ItemWeightScorer(history.to_sparse_csr(), weights),
        numbers.users,
        numbers.items,
        numbers.item_table,
        numbers.train,
    )
    users = made.users.series.to_list()
    snapshot = state(made)
    answers = Ranker().rank(snapshot, [Query(user, k=15) for user in users])
    assert plain(answers) == expected(made.recommend(users, k=15))
    refused = Ranker().rank(snapshot, [Query("u0", branch_weights={"score": 2.0}), Query(history=["i1"]), Query("u0")])
    assert [type(one) for one in refused] == [CapabilityError, CapabilityError, RankingResult]


def test_a_slim_run_says_that_it_cannot_leave_out_what_was_seen(run, tmp_path):
    slim = Recommender.load(Recommender.load(run).slim(tmp_path / "slim"))
    answers = Ranker().rank(
        state(slim), [Query(1), Query(1, exclude_seen=False), Query(99, exclude_seen=False, unknown="popular")]
    )
    assert [type(one) for one in answers] == [CapabilityError, RankingResult, CapabilityError]
    assert plain(answers[1:2]) == expected(slim.recommend(1, exclude_seen=False))


BAD = [
    (lambda: Query(), ["user", "history"]),
    (lambda: Query(1, [2]), ["user", "history"]),
    (lambda: Query(history=[]), ["history"]),
    (lambda: Query(1, k=0), ["k", 0, 1]),
    (lambda: Query(1, k=True), ["k", True]),
    (lambda: Query(1, diversity=1.5), ["diversity", 1.5]),
    (lambda: Query(1, diversity=float("nan")), ["diversity", "nan"]),
    (lambda: Query(1, branch_weights={"image": float("inf")}), ["'image'", "inf"]),
    (lambda: Query(1, branch_weights={"image": -1000.5}), ["'image'", -1000.5, 1000]),
]


@pytest.mark.parametrize(("make", "facts"), BAD)
def test_what_cannot_be_asked_is_refused_at_once(make, facts):
    with assert_error(ConfigError, mentions=facts):
        make()


# ------------------------------------------------------------ those who wait


def test_an_error_stays_with_its_query(run, tmp_path):
    engine = MicroBatcher(live(run, tmp_path))

    async def ask() -> list:
        queries = [
            Query(1),
            Query("1"),  # a text is not the number
            Query(history=[4, 777, 888]),
            Query(2, where=Filter.parse({"colour": 1})),
            Query(3, branch_weights={"sound": 1.0}),
            Query(4, k=10_000),
        ]
        return await asyncio.gather(*map(engine.recommend, queries), return_exceptions=True)

    first, text, history, where, weights, long = asyncio.run(ask())
    engine.stop()
    assert first.items == Recommender.load(run).recommend(1)["item"].to_list()
    assert [type(one) for one in (text, history, where, weights)] == [
        ConfigError,
        UnknownIdError,
        ConfigError,
        ConfigError,
    ]
    assert_mentions(str(text), ["user", "'1'", " 1"])
    assert_mentions(str(history), ["2 items", "777, 888"])
    assert_mentions(str(where), ["'colour'"])
    assert_mentions(str(weights), ["'sound'", "image, text, shared"])
    assert len(long.items) == 50 - len(Recommender.load(run).liked(4))


def test_one_query_that_breaks_the_ranking_fails_alone(run, tmp_path, caplog):
    class Broken(MicroBatcher):
        def rank(self, queries):
            if any(query.user == 13 for query in queries):
                raise RuntimeError("a fault of ours")
            return super().rank(queries)

    engine = Broken(live(run, tmp_path))

    async def ask() -> list:
        return await asyncio.gather(*(engine.recommend(Query(user)) for user in range(20)), return_exceptions=True)

    answers = asyncio.run(ask())
    engine.stop()
    assert [index for index, one in enumerate(answers) if not isinstance(one, RankingResult)] == [13]
    (failed,) = [one for one in caplog.records if one.name == "lirdrec.server.engine.batcher"]
    assert failed.levelname == "ERROR" and str(failed.exc_info[1]) == "a fault of ours"


class Held(MicroBatcher):
    """Ranks only when it is let."""

    def __init__(self, live: LiveState, max_batch: int = 64):
        self.let, self.batches = threading.Event(), []
        super().__init__(live, max_batch)

    def rank(self, queries):
        self.let.wait()
        self.batches.append([query.user for query in queries])
        return super().rank(queries)


def test_those_who_wait_are_ranked_together_and_the_cancelled_not_at_all(run, tmp_path):
    engine = Held(live(run, tmp_path), max_batch=4)

    async def ask() -> list:
        first = asyncio.create_task(engine.recommend(Query(0)))
        await asyncio.sleep(0)
        while engine._waiting:  # until the thread has taken it
            await asyncio.sleep(0)
        others = [asyncio.create_task(engine.recommend(Query(user))) for user in range(1, 9)]
        await asyncio.sleep(0)
        for index in (1, 4, 6):
            others[index].cancel()
        await asyncio.sleep(0)
        engine.let.set()
        return await asyncio.gather(first, *others, return_exceptions=True)

    answers = asyncio.run(ask())
    engine.stop()
    assert [type(one) for one in answers].count(asyncio.CancelledError) == 3
    ranked = [user for batch in engine.batches for user in batch]
    assert ranked == [0, 1, 3, 4, 6, 8] and max(map(len, engine.batches)) <= 4


def test_a_shutdown_answers_what_waits_and_refuses_what_comes(run, tmp_path):
    engine = Held(live(run, tmp_path), max_batch=2)

    async def ask() -> list:
        waiting = [asyncio.create_task(engine.recommend(Query(user))) for user in range(7)]
        await asyncio.sleep(0)
        stopping = asyncio.create_task(asyncio.to_thread(engine.stop))
        while not engine._stopped:
            await asyncio.sleep(0)
        with assert_error(CapabilityError):
            await engine.recommend(Query(1))
        engine.let.set()
        await stopping
        return await asyncio.gather(*waiting)

    answers = asyncio.run(ask())
    assert all(len(one.items) == 10 for one in answers) and not engine._thread.is_alive()
    engine.stop()  # twice does no harm


def test_a_caller_whose_loop_is_gone_does_not_stop_the_others(run, tmp_path):
    engine = Held(live(run, tmp_path))

    async def leave() -> None:
        asyncio.get_running_loop().call_soon(asyncio.current_task().cancel)
        await engine.recommend(Query(1))

    with pytest.raises(asyncio.CancelledError):
        asyncio.run(leave())
    engine.let.set()
    assert len(asyncio.run(engine.recommend(Query(2))).items) == 10
    engine.stop()


def test_recommendations_continue_while_the_store_does_not_answer(run, tmp_path, caplog):
    served = live(run, tmp_path)
    served.add_items([new_item(100)])
    engine = MicroBatcher(served)

    def fail() -> int:
        raise StoreError("gone")

    before = asyncio.run(engine.recommend(Query(1, k=60)))
    latest, served.store.latest = served.store.latest, fail
    assert asyncio.run(engine.recommend(Query(1, k=60))) == before and 100 in before.items
    (warned,) = [one for one in caplog.records if one.name == "lirdrec.server.engine.batcher"]
    assert warned.levelname == "WARNING" and "gone" in warned.getMessage()
    served.store.latest = latest
    Store(served.store.url.render_as_string(hide_password=False)).remove_item(100)
    engine._silent_until = 0.0
    assert 100 not in asyncio.run(engine.recommend(Query(1, k=60))).items
    engine.stop()


def test_what_was_added_removed_and_liked_counts_from_the_next_call(run, tmp_path):
    """Written through one server, asked of another on the same store."""
    writer, reader = live(run, tmp_path), live(run, tmp_path)
    engine = MicroBatcher(reader)

    def asked(query: Query) -> RankingResult:
        return asyncio.run(engine.recommend(query))

    before = asked(Query(7, k=100))
    writer.add_items([new_item(100)])
    assert set(asked(Query(7, k=100)).items) == {*before.items, 100}
    writer.add_events([Event(7, 100), Event(7, before.items[0]), Event("new", 3)])
    after = asked(Query(7, k=100))
    assert set(after.items) == set(before.items[1:])
    grown = Recommender.load(run)
    liked = sorted({*grown.liked(7), before.items[0]})
    grown.add_items(pl.DataFrame({"item": [100]}), {name: row[None] for name, row in new_item(100).features.items()})
    assert plain([asked(Query("new", k=40))]) == expected(grown.recommend_for_history([3], k=40), "history")
    assert plain([after]) == expected(grown.recommend_for_history([*liked, 100], k=51), "history")
    writer.remove_item(before.items[3])
    assert set(asked(Query(7, k=100)).items) == set(before.items[1:]) - {before.items[3]}
    engine.stop()
