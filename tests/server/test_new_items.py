"""How items that were added compete: policies, candidates and the column `added`, against `Recommender`."""

from __future__ import annotations

import itertools
import random
from dataclasses import replace

import numpy as np
import pytest
import torch

from lirdrec.errors import ConfigError, UnknownIdError
from lirdrec.ranking.item_filters import Filter
from lirdrec.ranking.scorers import NEW_ITEM, VectorScorer
from lirdrec.recommender.new_item_encoder import LaunchStep, NewItemEncoder, NewItemPolicy
from lirdrec.recommender.recommender import Recommender
from lirdrec.server.engine.ann import ApproximateIndex
from lirdrec.server.engine.query import Query, RankingResult
from lirdrec.server.engine.ranker import Ranker, filter_mask
from lirdrec.server.request_models import unix_seconds
from lirdrec.server.snapshot import PersistentMap
from lirdrec.server.state import LiveState
from lirdrec.server.store import Store

from ..helpers import assert_error, assert_mentions
from .runs import asked, growing, new_item, vectors, whole_numbers
from .test_batcher import state

N_TRAINED = 250
STEPS = [(0, 0, 0.01), (1, 0.02, 0.1), (3, 0.2, 0.5)]
ENCODER = NewItemEncoder(offset=1.0, frontier=tuple(LaunchStep(*step, 0.0) for step in STEPS))
POLICIES = ["calibrated", "none", "boost=0.3", "boost=0.0", "share=0.25", "share=0", "share=1"]


@pytest.fixture(scope="module")
def numbers() -> Recommender:
    """300 items, of which the last 50 were added, with an offset of 1; all scores are whole numbers."""
    made = whole_numbers()
    scorer = made.scorer
    offsets = torch.zeros(made.n_items)
    offsets[N_TRAINED:] = ENCODER.offset
    made.scorer = VectorScorer(scorer.user_vectors, scorer.item_vectors, scorer.branch_names, offsets=offsets)
    made.n_trained_items = N_TRAINED
    made.info["new_items"] = ENCODER.to_info()
    return made


def is_new(item: str) -> bool:
    return int(item[1:]) >= N_TRAINED


def test_policies_and_candidates_in_one_batch_are_those_of_the_recommender(numbers):
    draw = random.Random(1)
    ids = numbers.items.series.to_list()
    queries = [
        Query(
            f"u{draw.randrange(40)}",
            k=draw.choice([1, 4, 10, 30, 100]),
            exclude_seen=draw.random() < 0.5,
            new_items=NewItemPolicy.parse(policy),
            candidates=draw.choice([None, draw.sample(ids, 60), draw.sample(ids[:N_TRAINED], 20), ids[-30:]]),
        )
        for policy in POLICIES * 12
    ]
    before = numbers.scorer.offsets.clone()
    for query, answer in zip(queries, Ranker().rank(state(numbers), queries), strict=True):
        frame = numbers.recommend(
            query.user,
            query.k,
            exclude_seen=query.exclude_seen,
            candidates=query.candidates,
            new_items=query.new_items,
        )
        assert (answer.items, answer.scores) == (frame["item"].to_list(), frame["score"].to_list())
        assert len(answer.new) == sum(map(is_new, answer.items))
    assert torch.equal(numbers.scorer.offsets, before)


@pytest.mark.parametrize("diversity", [0.0, 0.4, 1.0])
def test_a_share_is_exact_with_and_without_diversity(numbers, diversity):
    snapshot = state(numbers)
    for share, k in itertools.product([0.0, 0.1, 0.25, 0.5, 1.0], [1, 4, 10, 30]):
        query = Query("u7", k=k, diversity=diversity, new_items=NewItemPolicy("share", share))
        answer, plain = Ranker().rank(snapshot, [query, Query("u7", k=100)])
        assert len(answer.items) == len(set(answer.items)) == k
        assert len(answer.new) == round(share * k) == sum(map(is_new, answer.items))
        assert len(plain.items) == 100
    few = [f"i{row}" for row in (*range(20), 297, 298)]  # two new items only: the others get the places
    query = Query(
        "u7", k=10, exclude_seen=False, diversity=diversity, candidates=few, new_items=NewItemPolicy("share", 0.5)
    )
    (answer,) = Ranker().rank(snapshot, [query])
    assert len(answer.items) == 10 and len(answer.new) == 2 and set(answer.items) <= set(few)


def test_parts_sum_to_the_boosted_score(numbers):
    for policy, offset in (("calibrated", 1), ("none", 0), ("boost=0.3", 3)):
        query = Query("u3", k=300, parts=True, exclude_seen=False, new_items=NewItemPolicy.parse(policy))
        (answer,) = Ranker().rank(state(numbers), [query])
        for item, score, parts in zip(answer.items, answer.scores, answer.parts, strict=True):
            assert sum(parts.values()) == score and parts[NEW_ITEM] == (offset if is_new(item) else 0)


def test_a_query_that_cannot_be_answered_spoils_no_other(numbers):
    plain = Recommender.from_state(numbers.state)
    plain.info = {}
    wrong = Query("u1", candidates=["i1", "i999"]), Query("u1", new_items=NewItemPolicy("boost", 0.1))
    answers = Ranker().rank(state(plain, gone=(5,)), [*wrong, Query("u1", candidates=["i5"]), Query("u1")])
    assert [type(one) for one in answers] == [UnknownIdError, ConfigError, UnknownIdError, RankingResult]
    assert_mentions(str(answers[0]), ["i999", "candidates"])
    with assert_error(ConfigError, mentions=["candidates"]):
        Query("u1", candidates=[])
    popular = Query("nobody", unknown="popular", k=5, candidates=["i3", "i270"])
    (answer,) = Ranker().rank(state(numbers), [popular])
    assert sorted(answer.items) == ["i270", "i3"] and len(answer.new) == 1


@pytest.mark.parametrize("kind", ["hnsw", "ivf"])
def test_the_approximate_index_ranks_offsets(kind):
    pytest.importorskip("faiss", reason="faiss not found: pip install lirdrec[ann]")
    draw = np.random.default_rng(0)
    made = whole_numbers(60, 4000)
    users, items = (torch.tensor(draw.normal(size=(n, 6)), dtype=torch.float32) for n in (60, 4000))
    offsets = torch.zeros(4000)
    offsets[3600:] = 2.5
    made.scorer, made.n_trained_items = VectorScorer(users, items, offsets=offsets), 3600
    made.info["new_items"] = replace(ENCODER, offset=2.5).to_info()
    queries = [Query(f"u{user}", k=20) for user in range(60)]
    ranker = Ranker(ApproximateIndex(kind, cell_share=1 / 3))
    hits = n_new = 0
    for found, exact in zip(ranker.rank(state(made), queries), Ranker().rank(state(made), queries), strict=True):
        scores = dict(zip(exact.items, exact.scores, strict=True))
        hits += len(scores.keys() & set(found.items))
        n_new += len(found.new)
        assert all(
            score == pytest.approx(scores.get(item, score), abs=1e-4)
            for item, score in zip(found.items, found.scores, strict=True)
        )
    assert hits > 0.93 * 1200 and 200 < n_new < 1200
    others = [Query(f"u{n}", k=20, new_items=NewItemPolicy.parse(POLICIES[n % 7])) for n in range(14)]
    assert ranker.rank(state(made), others)[1:7] == Ranker().rank(state(made), others)[1:7]


# ---------------------------------------------------------------- the column `added`


def test_added_compares_with_truth_and_with_times(tmp_path):
    url, run = f"sqlite:///{tmp_path / 'store.sqlite'}", growing(tmp_path / "run")
    live = LiveState(run, Store(url))
    live.add_items([replace(new_item(100), at=unix_seconds("2026-01-01"))])
    live.add_items([replace(new_item(101), at=unix_seconds("2026-03-01T12:00:00Z"))])
    restarted = LiveState(run, Store(url))
    cases = [
        (True, [100, 101]),
        ({"ne": False}, [100, 101]),
        ({"ge": "2026-02-01"}, [101]),
        ({"lt": "2026-02-01"}, [100]),
        ({"ge": "2026-03-01T13:00:00+01:00"}, [101]),
        ({"gt": "2026-03-01T13:00:00+01:00"}, []),
        ({"ge": unix_seconds("2026-01-01"), "lt": unix_seconds("2026-01-02")}, [100]),
    ]
    for one, (condition, expected) in itertools.product((live, restarted), cases):
        snapshot = one.snapshot
        mask = filter_mask(snapshot, Filter.parse({"added": condition}))
        assert snapshot.recommender.items.series.filter(mask.numpy()).to_list() == expected
    assert int(filter_mask(live.snapshot, Filter.parse({"added": False})).sum()) == 50
    for wrong in ("soon", 1e12, -1, {"ge": "2026-02-01", "eq": True}):
        with assert_error(ConfigError, mentions=["'added'"]):
            filter_mask(live.snapshot, Filter.parse({"added": wrong}))


def test_a_column_of_the_table_called_added_is_the_one_that_counts(numbers):
    own = Recommender.from_state(numbers.state)
    own.item_table = own.item_table.with_columns(added=own.item_table["price"] == 3)
    mask = filter_mask(state(own), Filter.parse({"added": True}))
    assert mask.tolist() == (own.item_table["price"] == 3).fill_null(False).to_list()
    whole = filter_mask(state(numbers), Filter.parse({"added": True, "kind": "tent"}))
    assert whole.nonzero().squeeze(1).tolist() == [row for row in range(N_TRAINED, 300) if row % 3 == 0]
    assert isinstance(state(numbers).added_at, PersistentMap)


# ---------------------------------------------------------------- over HTTP


def test_the_server_takes_policies_candidates_and_added(client, recommender):
    items = [{"id": 900 + n, "features": vectors(recommender, 200 + n, 0.05)} for n in range(4)]
    assert client.post("/items", json={"items": items}).status_code == 201
    added = {900, 901, 902, 903}
    for share, n in ((0, 0), (0.2, 2), (0.4, 4)):
        assert len(added & set(asked(client, user=5, k=10, new_items={"share": share}))) == n
    assert set(asked(client, user=5, filter={"added": True})) == added
    assert not added & set(asked(client, user=5, k=48, filter={"added": False}))
    assert set(asked(client, user=5, filter={"added": {"ge": "2020-01-01"}})) == added
    assert asked(client, user=5, filter={"added": {"lt": "2020-01-01"}}) == []
    assert set(asked(client, user=5, candidates=[900, 101, 102], exclude_seen=False)) == {900, 101, 102}
    requests = [{"user": 5, "new_items": policy} for policy in ("none", {"share": 0.3}, "calibrated", {"share": 0})]
    answers = client.post("/recommend/batch", json={"requests": requests}).json()["answers"]
    for request, answer in zip(requests, answers, strict=True):
        assert [one["item"] for one in answer["items"]] == asked(client, **request)
    for text, share in (("share=0.4", 0.4), ("share=0", 0), ("share=1", 1)):
        assert asked(client, user=5, new_items=text) == asked(client, user=5, new_items={"share": share})


@pytest.mark.parametrize(
    ("fields", "status", "mentions"),
    [
        ({"new_items": "most"}, 422, ["new_items", "share=SHARE"]),
        ({"new_items": "share=1.5"}, 422, ["new_items", "share=SHARE"]),
        ({"new_items": "share"}, 422, ["new_items", "share=SHARE"]),
        ({"new_items": "boost=1"}, 422, ["new_items", "boost=SHARE"]),
        ({"new_items": "share=" + "0" * 100}, 422, ["new_items"]),
        ({"new_items": {"share": 1.5}}, 422, ["share"]),
        ({"new_items": {"boost": 1}}, 422, ["boost"]),
        ({"new_items": {"share": 0.1, "boost": 0.1}}, 422, ["new_items"]),
        ({"candidates": []}, 422, ["candidates"]),
        ({"candidates": [101, 99999]}, 404, ["99999"]),
        ({"candidates": ["101"]}, 422, ["'101'"]),
        ({"candidates": list(range(10_001))}, 422, ["candidates"]),
        ({"filter": {"added": "soon"}}, 422, ["added", "soon"]),
    ],
)
def test_mistakes_are_said_in_the_words_of_the_request(client, recommender, fields, status, mentions):
    client.post("/items", json={"items": [{"id": 900, "features": vectors(recommender, 201)}]})
    answer = client.post("/recommend", json={"user": 5, **fields})
    assert answer.status_code == status, answer.text
    assert_mentions(answer.text, mentions)


@pytest.mark.parametrize("policy", ["share=40%", {"boost": 2}, {"share": "x"}, 7])
def test_a_wrong_policy_is_one_fault_in_the_words_of_the_request(client, policy):
    answer = client.post("/recommend", json={"user": 0, "new_items": policy})
    assert answer.status_code == 422
    (fault,) = answer.json()["faults"]
    assert fault["where"] == ".".join(["new_items", *(policy if isinstance(policy, dict) else ())])
