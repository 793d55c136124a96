"""What the server keeps between requests is bounded by bytes, whatever requests ask for."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from lirdrec.data.dataset import Dataset
from lirdrec.data.synthetic import make_synthetic_dataset
from lirdrec.models.content_knn import ContentKNN, ContentKNNConfig
from lirdrec.ranking.filters import Filter
from lirdrec.recommender.inputs import make_model_inputs
from lirdrec.recommender.recommender import Recommender
from lirdrec.server.cache import ENTRY_BYTES, ByteCache
from lirdrec.server.engine.query import Query
from lirdrec.server.engine.ranker import Ranker
from lirdrec.server.state import LiveState
from lirdrec.server.store import Event, Store

from .runs import DIMS, growing, new_item


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
