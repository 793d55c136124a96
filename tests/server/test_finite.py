"""A finite vector that would give infinite ones spoils neither an item nor a user of the server."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from lirdrec.errors import DataError
from lirdrec.ranking.scorers import VectorScorer
from lirdrec.server.engine.query import Query, RankingResult
from lirdrec.server.engine.ranker import Ranker, maximal_marginal_relevance, top_k_blocked
from lirdrec.server.state import LiveState
from lirdrec.server.store import Event, NewItem, Store

from .runs import DIMS, growing, new_item
from .shop import asked, vectors


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
