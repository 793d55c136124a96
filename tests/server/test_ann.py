"""The approximate index: nearly the exact answers, and never what was to be left out."""

from __future__ import annotations

import builtins
import copy
from dataclasses import replace

import numpy as np
import polars as pl
import pytest
import torch

from lirdrec.data.dataset import Interactions
from lirdrec.data.ids import IdMap
from lirdrec.errors import ConfigError
from lirdrec.ranking.item_filters import Filter
from lirdrec.ranking.scorers import VectorScorer
from lirdrec.recommender.recommender import Recommender
from lirdrec.server.engine import ann
from lirdrec.server.engine.ann import ApproximateIndex
from lirdrec.server.engine.query import Query
from lirdrec.server.engine.ranker import Ranker
from lirdrec.server.snapshot import PersistentMap

from ..helpers import assert_error
from .test_batcher import state

pytest.importorskip("faiss", reason="faiss not found: pip install lirdrec[ann]")

USERS, ITEMS = 60, 5000


@pytest.fixture(scope="module")
def made() -> Recommender:
    draw = np.random.default_rng(0)
    centers = draw.normal(size=(20, 24))
    vectors = [
        torch.tensor(centers[draw.integers(0, 20, n)] + draw.normal(size=(n, 24)), dtype=torch.float32)
        for n in (USERS, ITEMS)
    ]
    table = pl.DataFrame(
        {"item": np.arange(ITEMS), "rare": np.arange(ITEMS) % 1000 == 0, "even": np.arange(ITEMS) % 2 == 0}
    )
    owner = np.concatenate([np.repeat(np.arange(USERS), 30), np.zeros(3000, int)])  # user 0 has seen most of it
    liked = np.concatenate([draw.integers(0, ITEMS, 30 * USERS), np.arange(3000)])
    keys = np.unique(owner * ITEMS + liked)
    pairs = Interactions(keys // ITEMS, keys % ITEMS)
    return Recommender(
        VectorScorer(*vectors), IdMap(np.arange(USERS), "user"), IdMap(table["item"], "item"), table, pairs
    )


@pytest.mark.parametrize("kind", ["hnsw", "ivf"])
def test_nearly_the_exact_answers_and_nothing_that_was_left_out(kind, made):
    snapshot = state(made, gone=tuple(range(7, ITEMS, 50)))
    wishes = [None, Filter.parse({"even": True}), Filter.parse({"rare": True})]
    queries = [Query(user, k=20, where=wishes[user % 3]) for user in range(USERS)]
    exact = Ranker().rank(snapshot, queries)
    found = Ranker(ApproximateIndex(kind, cell_share=1 / 4)).rank(snapshot, queries)
    hits = 0
    for query, truth, answer in zip(queries, exact, found, strict=True):
        scores = dict(zip(truth.items, truth.scores, strict=True))
        hits += len(scores.keys() & set(answer.items))
        assert len(answer.items) == len(set(answer.items)) == len(truth.items)
        assert answer.scores == sorted(answer.scores, reverse=True)
        assert not any(item % 50 == 7 for item in answer.items)
        assert not set(answer.items) & set(made.liked(query.user))
        if query.where == wishes[1]:
            assert all(item % 2 == 0 for item in answer.items)
        for item, score in zip(answer.items, answer.scores, strict=True):
            assert score == pytest.approx(scores.get(item, score), abs=1e-4)
    assert hits / sum(len(one.items) for one in exact) > 0.93
    assert found[0] == exact[0]  # who has seen most of the catalog is answered exactly …
    assert all(found[user] == exact[user] for user in range(2, USERS, 3))  # … and so is a filter that few items pass


def test_items_that_likes_have_moved_are_scored_where_they_are_now(made):
    index = ApproximateIndex("hnsw")
    ranker, snapshot = Ranker(index), state(made)
    user, row = 5, 4321
    assert row not in made.liked(user) and row not in ranker.rank(snapshot, [Query(user)])[0].items
    scorer = made.scorer
    best = 2 * scorer.user_vectors[user : user + 1]
    grown = copy.copy(made)
    grown.scorer = scorer.with_moved_items(torch.tensor([row]), best)
    answer = ranker.rank(replace(snapshot, recommender=grown), [Query(user)])[0]
    assert answer.items[0] == row
    assert answer.scores[0] == pytest.approx(float(best[0] @ scorer.user_vectors[user]), rel=1e-5)
    assert row not in ranker.rank(snapshot, [Query(user)])[0].items


def test_new_items_join_the_index_and_a_new_run_has_its_own(made):
    index = ApproximateIndex("hnsw")
    ranker, snapshot = Ranker(index), state(made)
    ranker.rank(snapshot, [Query(5)])
    assert index._index.ntotal == ITEMS
    scorer = made.scorer
    ideal = scorer.user_vectors[5:6] * 10
    grown = Recommender(
        VectorScorer(scorer.user_vectors, torch.cat([scorer.item_vectors, ideal])),
        made.users,
        IdMap(np.arange(ITEMS + 1), "item"),
        train=made.train,
    )
    later = replace(state(grown), item_rows=PersistentMap({row: row for row in range(ITEMS + 1)}))
    built = index._index
    assert ranker.rank(later, [Query(5)])[0].items[0] == ITEMS and index._index is built
    assert ITEMS not in ranker.rank(snapshot, [Query(5)])[0].items  # an older state, asked later
    other = VectorScorer(scorer.user_vectors.clone(), -scorer.item_vectors)
    turned = Recommender(other, made.users, made.items, train=made.train)
    exact = Ranker().rank(state(turned), [Query(5)])[0]
    assert len({*ranker.rank(state(turned), [Query(5)])[0].items} & {*exact.items}) >= 8


def test_what_cannot_be_had_is_one_sentence(monkeypatch):
    with assert_error(ConfigError, mentions=["tree", "hnsw", "ivf", "exact"]):
        ApproximateIndex("tree")
    real = builtins.__import__

    def without(name, *arguments):
        if name == "faiss":
            raise ImportError
        return real(name, *arguments)

    monkeypatch.setattr(builtins, "__import__", without)
    with assert_error(ConfigError, mentions=["ivf", "faiss", 'pip install "lirdrec[ann]"']):
        ApproximateIndex("ivf")
    assert ann.MAX_FETCHED >= 1000
