"""Ranking: diversification by its definition, blocks against the full top-k, values not finite; the cache."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from lirdrec.data.dataset import Dataset
from lirdrec.data.synthetic import make_synthetic_dataset
from lirdrec.errors import DataError
from lirdrec.models.content_knn import ContentKNN, ContentKNNConfig
from lirdrec.ranking.item_filters import Filter
from lirdrec.ranking.item_weight_scorer import ItemWeightScorer
from lirdrec.ranking.scorers import VectorScorer
from lirdrec.ranking.top_k import top_k_dense
from lirdrec.recommender.model_inputs import make_model_inputs
from lirdrec.recommender.recommender import Recommender
from lirdrec.server.engine.query import Query, RankingResult
from lirdrec.server.engine.ranker import BLOCK, Ranker, maximal_marginal_relevance, n_candidates, top_k_blocked
from lirdrec.server.lru_cache import ENTRY_BYTES, ByteCache
from lirdrec.server.state import LiveState
from lirdrec.server.store import Event, NewItem, Store

from .runs import DIMS, asked, growing, new_item, vectors


def written_out(vectors: np.ndarray, scores: np.ndarray, k: int, diversity: float) -> list[int]:
    relevance = (scores - scores.min()) / (scores.max() - scores.min())
    cosine = lambda i, j: vectors[i] @ vectors[j] / np.linalg.norm(vectors[i]) / np.linalg.norm(vectors[j])
    chosen = [0]
    while len(chosen) < min(k, len(scores)):
        values = {
            i: (1 - diversity) * relevance[i] - diversity * max(cosine(i, j) for j in chosen)
            for i in range(len(scores))
            if i not in chosen
        }
        chosen.append(max(values, key=lambda i: values[i]))
    return chosen


@pytest.mark.parametrize("seed", range(20))
def test_the_order_is_that_of_the_definition(seed):
    draw = np.random.default_rng(seed)
    vectors = draw.normal(size=(60, 5)).astype(np.float32)
    user = draw.normal(size=5).astype(np.float32)
    scorer = VectorScorer(torch.tensor(user[None]), torch.tensor(vectors))
    items = torch.tensor(draw.permutation(60)[:30])
    scores = torch.tensor(vectors @ user)[items]
    scores, order = scores.sort(descending=True)
    items, k, diversity = items[order], int(draw.integers(1, 35)), float(draw.uniform(0.05, 1))
    found = maximal_marginal_relevance(scorer, items, scores, k, diversity)
    truth = written_out(vectors[items.numpy()].astype(float), scores.numpy().astype(float), k, diversity)
    assert found.tolist() == truth


def test_of_two_twins_the_second_waits_and_without_diversity_nothing_moves():
    vectors = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.8, 0.6], [0.0, 1.0]])
    scorer = VectorScorer(torch.tensor([[1.0, 0.1]]), vectors)
    scores, items = scorer.scores(torch.tensor([[1.0, 0.1]]))[0].sort(descending=True, stable=True)
    assert maximal_marginal_relevance(scorer, items, scores, 3, 0.0).tolist() == [0, 1, 2]
    assert items[maximal_marginal_relevance(scorer, items, scores, 4, 0.6)].tolist() == [0, 3, 2, 1]


def test_equal_scores_and_few_candidates_are_no_trouble():
    scorer = VectorScorer(torch.ones(1, 2), torch.ones(3, 2))
    items = torch.arange(3)
    assert maximal_marginal_relevance(scorer, items, torch.ones(3), 9, 0.5).tolist() == [0, 1, 2]
    assert maximal_marginal_relevance(scorer, items[:0], torch.ones(0), 9, 0.5).tolist() == []
    assert [n_candidates(*case) for case in ((20, 0.0), (20, 0.5), (500, 0.5), (5000, 0.5))] == [
        20,
        200,
        1000,
        5000,
    ]


def test_models_without_vectors_are_diversified_by_their_weights():
    weights = torch.tensor([[0.0, 9, 0, 0], [9, 0, 0, 0], [0, 0, 0, 1], [0, 0, 1, 0]])
    scorer = ItemWeightScorer(torch.eye(4).to_sparse_csr(), weights)
    scores = torch.tensor([4.0, 3.9, 1.0, 0.0])
    assert maximal_marginal_relevance(scorer, torch.arange(4), scores, 2, 0.5).tolist() == [0, 2]


# ---------------------------------------------------------------- the best items by blocks


CASES = {
    "all different": lambda draw, n: torch.randn(8, n, generator=draw),
    "a few values": lambda draw, n: torch.randint(0, 5, (8, n), generator=draw).float(),
    "many values": lambda draw, n: torch.randint(0, n // 3, (8, n), generator=draw).float(),
    "all equal": lambda draw, n: torch.zeros(8, n),
    "one large stretch": lambda draw, n: torch.arange(n, 0, -1.0).expand(8, n).clone(),
    "equals at the end": lambda draw, n: torch.arange(n).div(97).floor().expand(8, n).clone(),
    "hardly any left": lambda draw, n: torch.where(torch.rand(8, n, generator=draw) < 0.001, 1.0, -torch.inf),
    "nothing left": lambda draw, n: torch.full((8, n), -torch.inf),
}


@pytest.mark.parametrize("n", [4000, 64 * BLOCK, 64 * BLOCK + 1, 10_007])
@pytest.mark.parametrize("case", CASES)
def test_the_fast_way_gives_the_same_bits(case, n):
    draw = torch.Generator().manual_seed(n)
    for k in (1, 2, 10, 25, 5000):
        scores = CASES[case](draw, n)
        scores[torch.rand(8, n, generator=draw) < 0.05] = -torch.inf
        values, items = top_k_blocked(scores.clone(), k)
        true_values, true_items = top_k_dense(scores, k)
        assert torch.equal(values, true_values) and torch.equal(items, true_items)


# ---------------------------------------------------------------- vectors and scores that are not finite


@pytest.mark.parametrize("value", [3e38, 1e25, 1e16])
def test_a_poisonous_item_is_refused_by_its_id(client, recommender, value):
    before = asked(client, user=0, k=20), asked(client, user=0, k=20, diversity=0.5)
    trained = recommender.features.trained
    poison = {"id": 901, "features": {name: [value] * matrix.dims for name, matrix in trained.items()}}
    good = {"id": 902, "features": vectors(recommender, 101)}
    answer = client.post("/items", json={"items": [good, poison]})
    assert answer.status_code == 422 and "901" in answer.json()["detail"] and "902" not in answer.json()["detail"]
    assert client.get("/items/901").status_code == client.get("/items/902").status_code == 404
    assert client.post("/events", json={"events": [{"user": 0, "item": 901}]}).status_code == 404
    assert (asked(client, user=0, k=20), asked(client, user=0, k=20, diversity=0.5)) == before


def test_an_item_that_an_older_server_took_is_left_out(tmp_path):
    run, store = growing(tmp_path / "run"), Store(f"sqlite:///{tmp_path / 'store.sqlite'}")
    poison = NewItem(100, features={name: np.full(width, 3e38, np.float32) for name, width in DIMS.items()})
    store.add_items([new_item(101), poison, new_item(102)])
    store.add_events([Event(1, 100), Event(1, 101), Event("new", 100)])
    snapshot = LiveState(run, store).snapshot
    assert [snapshot.item_row(item) for item in (100, 101, 102)] == [-1, 50, 51]
    assert "new" not in snapshot.user_states and 50 in snapshot.user_states[1].history.tolist()
    answer = Ranker().rank(snapshot, [Query(1, k=60)])[0]
    assert isinstance(answer, RankingResult) and np.isfinite(answer.scores).all()


def test_one_query_without_a_finite_vector_leaves_the_others(tmp_path):
    live = LiveState(growing(tmp_path / "run"), Store(f"sqlite:///{tmp_path / 'store.sqlite'}"))
    live.add_events([Event("ann", 7), Event("bob", 8)])
    live.snapshot.recommender.scorer.memory["item_states"][7] = torch.inf
    queries = [Query("bob"), Query("ann"), Query(history=[3]), Query(history=[7]), Query(5)]
    answers = Ranker().rank(live.snapshot, queries)
    assert [type(one) for one in answers] == [RankingResult, DataError, RankingResult, DataError, RankingResult]
    alone = [Ranker().rank(live.snapshot, [queries[place]])[0].items for place in (0, 2, 4)]
    assert [answers[place].items for place in (0, 2, 4)] == alone


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_stretches_leave_out_what_is_no_number(bad):
    draw = np.random.default_rng(0)
    scores = torch.tensor(draw.normal(size=(4, 6400)), dtype=torch.float32)
    places = torch.tensor(draw.choice(6400, 90, replace=False))
    truth = scores.index_fill(1, places, -torch.inf)
    for given, wanted in zip(
        top_k_blocked(scores.index_fill(1, places, bad), 10), top_k_blocked(truth, 10), strict=True
    ):
        assert torch.equal(given, wanted)


def test_diverse_lists_of_numbers_at_the_edge():
    draw = np.random.default_rng(0)
    vectors = torch.tensor(draw.normal(size=(30, 4)), dtype=torch.float32)
    scores = torch.linspace(1, 0, 30)
    users = torch.zeros(1, 4)
    order = maximal_marginal_relevance(VectorScorer(users, vectors), torch.arange(30), scores, 12, 0.6)
    large = VectorScorer(users, vectors * 1e30)  # squares overflow, directions are the same
    assert torch.equal(maximal_marginal_relevance(large, torch.arange(30), scores, 12, 0.6), order)
    wide = (scores - 0.5) * 6e38  # their differences overflow
    chosen = maximal_marginal_relevance(large, torch.arange(30), wide, 12, 0.6)
    assert len(set(chosen.tolist())) == 12 and chosen[0] == 0


def test_what_was_not_used_for_longest_makes_room():
    cache: ByteCache[str, int] = ByteCache(3 * ENTRY_BYTES + 30)
    for number, name in enumerate("abc"):
        cache.put(name, number, 10)
    assert cache.get("a") == 0  # so that "b" is the oldest
    cache.put("d", 3, 10)
    assert [cache.get(name) for name in "abcd"] == [0, None, 2, 3]
    cache.put("d", 4, 20)  # too much for three: of "a" and "c", "a" was asked for first
    assert [cache.get(name) for name in "acd"] == [None, 2, 4] and cache.size == 2 * ENTRY_BYTES + 30
    cache.put("e", 5, 10_000)  # would drive out all others
    assert cache.get("e") is None and cache.get("d") == 4


def test_the_size_that_is_kept_never_exceeds_the_limit():
    draw, cache = np.random.default_rng(0), ByteCache[int, bytes](5_000)
    for key, size in zip(draw.integers(0, 40, 2000).tolist(), draw.integers(0, 6000, 2000).tolist(), strict=True):
        cache.put(key, bytes(size), size)
        held = {one: cache.get(one) for one in range(40)}
        assert cache.size == sum(len(one) + ENTRY_BYTES for one in held.values() if one is not None) <= cache.limit


@pytest.fixture
def live(tmp_path) -> LiveState:
    return LiveState(growing(tmp_path / "run"), Store(f"sqlite:///{tmp_path / 'store.sqlite'}"))


def test_large_filters_leave_only_their_masks(live):
    ranker, snapshot = Ranker(), live.snapshot
    for number in range(300):
        where = Filter.parse({"group": {"in": [number, *range(1000, 1500)]}})
        assert len(where.key) == 16
        ranker.rank(snapshot, [Query(1, where=where)])
    kept = ranker._prepared_for(snapshot).unwanted
    assert len(kept) == 300 and kept.size == 300 * (snapshot.recommender.n_items + ENTRY_BYTES)
    first = Filter.parse({"group": {"in": [0, *range(1000, 1500)]}})
    assert torch.equal(kept.get(first.key), ~first.mask(snapshot.recommender.item_table))


def test_filters_of_one_meaning_share_a_mask_and_others_do_not():
    one, other = ({"a": {"ge": 1, "lt": 2}, "b": "é"}, {"b": "é", "a": {"lt": 2, "ge": 1}})
    assert Filter.parse(one).key == Filter.parse(other).key
    different = [{"a": 1}, {"a": "1"}, {"a": 1.5}, {"a": True}, {"b": 1}, {"a": {"in": [1]}}, {"a": "\ud800"}]
    assert len({Filter.parse(conditions).key for conditions in different}) == len(different)


def test_vectors_of_people_are_bounded_and_come_back_the_same(live):
    snapshot = live.add_events([Event(f"u{number}", number % 50) for number in range(40)])
    people = [snapshot.user_states[f"u{number}"] for number in range(40)]
    snapshot.vectors.limit = 0
    before = snapshot.queries(people)
    assert len(snapshot.vectors) == 0
    snapshot.vectors.limit = 5 * (before[0].nbytes + people[0].history.nbytes + ENTRY_BYTES)
    torch.testing.assert_close(torch.cat([snapshot.queries([one]) for one in people]), before)
    assert len(snapshot.vectors) == 5


def knn(folder: Path) -> Path:
    data: Dataset = make_synthetic_dataset(60, 50, 600, DIMS, groups=5, noise=0.3, seed=1)
    model = ContentKNN(make_model_inputs(data, "cpu"), ContentKNNConfig(n_neighbors=5))
    model.solve()
    return Recommender.from_training(model, data).save(folder)


def test_histories_as_rows_are_not_kept_and_fit_after_the_next_item(tmp_path):
    live = LiveState(knn(tmp_path / "run"), Store(f"sqlite:///{tmp_path / 'store.sqlite'}"))
    live.add_events([Event("ann", 3)])
    assert len(Ranker().rank(live.snapshot, [Query("ann")])[0].items) == 10
    snapshot = live.add_items([new_item(100)])
    assert len(Ranker().rank(snapshot, [Query("ann")])[0].items) == 10 and len(snapshot.vectors) == 0
