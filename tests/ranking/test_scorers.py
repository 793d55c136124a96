"""Scorers, histories and top-k against dense matrices."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lirdrec.errors import DataError
from lirdrec.ranking.histories import Histories
from lirdrec.ranking.item_weight_scorer import ItemWeightScorer
from lirdrec.ranking.scorer_from_tensors import scorer_from_tensors
from lirdrec.ranking.scorers import VectorScorer
from lirdrec.ranking.top_k import block_rows, rank_users, top_k, top_k_dense

from ..helpers import assert_error

N_USERS, N_ITEMS = 6, 8


def item_weights(dense: bool = False) -> tuple[ItemWeightScorer, torch.Tensor, torch.Tensor]:
    """A scorer, its dense history (user 4 has none, item 7 has nobody) and its dense, unsymmetric weights."""
    rng = np.random.default_rng(0)
    history = torch.from_numpy((rng.random((N_USERS, N_ITEMS)) < 0.4).astype(np.float32))
    history[4], history[:, 7] = 0, 0
    weights = torch.from_numpy(rng.normal(size=(N_ITEMS, N_ITEMS)) * (rng.random((N_ITEMS, N_ITEMS)) < 0.5))
    weights = weights.float()
    scorer = ItemWeightScorer(history.to_sparse_csr(), weights if dense else weights.to_sparse_csr())
    return scorer, history, weights


USERS = torch.tensor([5, 0, 4, 4, 2])


@pytest.mark.parametrize("dense", [False, True], ids=["sparse", "dense"])
def test_item_weights_equal_the_dense_product(dense):
    scorer, history, weights = item_weights(dense)
    queries = scorer.queries(USERS)
    assert torch.equal(queries, history[USERS])
    torch.testing.assert_close(scorer.scores(queries), (history @ weights)[USERS])
    anyone = torch.rand(3, N_ITEMS)
    torch.testing.assert_close(scorer.scores(anyone), anyone @ weights)
    items = torch.tensor([0, 7, 3, 3, 1])
    torch.testing.assert_close(scorer.parts(queries, items), (history @ weights)[USERS, items][:, None])
    assert torch.equal(scorer.similar_items(items), weights[items])
    assert scorer.user_weights(USERS) is None
    assert (scorer.n_users, scorer.n_items) == (N_USERS, N_ITEMS)


def test_similar_users_by_overlap():
    scorer, history, _ = item_weights()
    sizes = history.sum(1)
    expected = (history @ history.T) / (sizes[:, None] * sizes).sqrt().clamp(min=1)
    torch.testing.assert_close(scorer.similar_users(USERS), expected[USERS])


def vectors() -> VectorScorer:
    rng = np.random.default_rng(1)
    users, items = (torch.from_numpy(rng.normal(size=(n, 6)).astype(np.float32)) for n in (N_USERS, N_ITEMS))
    items[3] = 0  # the similarity of a zero vector is 0, not NaN
    memory = {"item_states": torch.randn(N_ITEMS, 2), "mean_theta": torch.randn(1, 3)}
    return VectorScorer(users, items, ("image", "text", "shared"), torch.rand(N_USERS, 3), memory)


def test_vectors_equal_the_formulas():
    scorer = vectors()
    u, v = scorer.user_vectors.double().numpy(), scorer.item_vectors.double().numpy()
    queries = scorer.queries(USERS)
    np.testing.assert_allclose(scorer.scores(queries), (u @ v.T)[USERS], rtol=1e-5, atol=1e-6)
    items = torch.tensor([0, 7, 3, 3, 1])
    parts = scorer.parts(queries, items)
    expected = [
        [u[a][s] @ v[b][s] for s in (slice(0, 2), slice(2, 4), slice(4, 6))] for a, b in zip(USERS, items, strict=True)
    ]
    np.testing.assert_allclose(parts, expected, rtol=1e-5, atol=1e-6)
    norms = np.maximum(np.linalg.norm(v, axis=1), 1e-12)
    np.testing.assert_allclose(scorer.similar_items(items), (v @ v.T / norms / norms[:, None])[items], atol=1e-6)
    norms = np.linalg.norm(u, axis=1)
    np.testing.assert_allclose(scorer.similar_users(USERS), (u @ u.T / norms / norms[:, None])[USERS], atol=1e-6)
    assert torch.equal(scorer.user_weights(USERS), scorer.weights[USERS])


def unequal() -> VectorScorer:
    """Parts of 1, 1 and 4 columns; the similarity of items compares the first two."""
    scorer = vectors()
    return scorer.replaced(widths=(1, 1, 4), n_similarity_parts=2)


def test_parts_may_have_different_widths():
    scorer = unequal()
    u, v = scorer.user_vectors.numpy(), scorer.item_vectors.numpy()
    expected = [u[2, 0] * v[7, 0], u[2, 1] * v[7, 1], u[2, 2:] @ v[7, 2:]]
    np.testing.assert_allclose(
        scorer.parts(scorer.queries(torch.tensor([2])), torch.tensor([7]))[0], expected, rtol=1e-5
    )
    norms = np.maximum(np.linalg.norm(v[:, :2], axis=1), 1e-12)
    np.testing.assert_allclose(
        scorer.similar_items(torch.tensor([7]))[0], v[:, :2] @ v[7, :2] / norms / norms[7], atol=1e-6
    )
    v = v.copy()
    v[[0, 3], 2:] = 0  # only some items have the other columns
    some = scorer.replaced(items=torch.from_numpy(v))
    np.testing.assert_allclose(some.scores(some.queries(USERS)), u[USERS] @ v.T, rtol=1e-5, atol=1e-6)
    again = scorer_from_tensors(scorer.tensors(), json.loads(json.dumps(scorer.settings())))
    assert torch.equal(again.similar_items(torch.tensor([7])), scorer.similar_items(torch.tensor([7])))
    with assert_error(DataError, mentions=["'items'", 6, 1, 2]):
        scorer_from_tensors(scorer.tensors(), scorer.settings() | {"widths": [1, 1, 2]})


SCORERS = [unequal, vectors, lambda: item_weights()[0], lambda: item_weights(dense=True)[0]]


@pytest.mark.parametrize("make", SCORERS, ids=["unequal parts", "vectors", "item weights", "dense item weights"])
def test_a_scorer_rebuilt_from_its_tensors_has_the_same_bits(make):
    scorer = make()
    settings = json.loads(json.dumps(scorer.settings()))
    dense = {name: tensor.clone() for name, tensor in scorer.tensors().items()}
    assert all(tensor.layout == torch.strided for tensor in dense.values())
    for again in (scorer_from_tensors(dense, settings), scorer.to("cpu")):
        assert type(again) is type(scorer)
        assert again.part_names == scorer.part_names
        assert again.tensors().keys() == dense.keys()
        assert all(torch.equal(tensor, dense[name]) for name, tensor in again.tensors().items())
        assert torch.equal(again.scores(again.queries(USERS)), scorer.scores(scorer.queries(USERS)))


@pytest.mark.parametrize("make", SCORERS, ids=["unequal parts", "vectors", "item weights", "dense item weights"])
def test_scores_may_be_overwritten_by_the_caller(make):
    scorer = make()
    first = scorer.scores(scorer.queries(USERS))
    expected = first.clone()
    first.fill_(-1)
    assert torch.equal(scorer.scores(scorer.queries(USERS)), expected)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 9)), max_size=30), st.lists(st.integers(0, 5), max_size=8))
def test_histories_are_lists_of_items_in_the_order_given(pairs, asked):
    table = torch.tensor(pairs, dtype=torch.int64).reshape(-1, 2)
    histories = Histories(table[:, 0], table[:, 1], 6)
    lists = [[item for user, item in pairs if user == u] for u in range(6)]
    assert [histories.of(u).tolist() for u in range(6)] == lists
    assert histories.counts().tolist() == [len(one) for one in lists]
    owner, items = histories.pairs(torch.tensor(asked, dtype=torch.int64))
    assert owner.tolist() == [index for index, user in enumerate(asked) for _ in lists[user]]
    assert items.tolist() == [item for user in asked for item in lists[user]]
    moved = histories.to("cpu")
    assert [moved.of(u).tolist() for u in range(6)] == lists


def test_sparse_parts_that_do_not_fit_are_refused_instead_of_crashing_later():
    scorer, _, _ = item_weights()
    tensors = scorer.tensors()
    broken = tensors | {"weights.col": tensors["weights.col"] + 5}
    with assert_error(DataError, mentions=["'weights'", "8×8"]):
        scorer_from_tensors(broken, scorer.settings())
    dense = item_weights(dense=True)[0]
    with assert_error(DataError, mentions=["'weights'", "8 × 7", "8 × 8"]):
        scorer_from_tensors(dense.tensors() | {"weights": dense.weights[:, 1:]}, dense.settings())


def test_nearest_items_become_columns_and_new_items_more_of_them():
    _, history, _ = item_weights()
    neighbors = torch.tensor([[1, 3], [-1, -1], [0, -1]])
    similarity = torch.tensor([[0.5, 0.25], [9.0, 9.0], [2.0, 9.0]])
    scorer = ItemWeightScorer.of_nearest(history[:, :3].to_sparse_csr(), neighbors.clamp(max=2), similarity)
    expected = torch.tensor([[0, 0, 2.0], [0.5, 0, 0], [0.25, 0, 0]])
    assert torch.equal(scorer.weights.to_dense(), expected)
    grown = scorer.with_items(torch.tensor([[2], [0]]), torch.tensor([[0.75], [4.0]]))
    assert scorer.has_sparse_products and not grown.has_sparse_products
    first = grown.scores(grown.queries(USERS))  # before the weights are asked for
    assert torch.equal(
        grown.weights.to_dense()[:3], torch.cat([expected, torch.tensor([[0, 4], [0, 0], [0.75, 0]])], 1)
    )
    assert not grown.weights.to_dense()[3:].any()
    torch.testing.assert_close(first, history[USERS, :3] @ grown.weights.to_dense()[:3])
    assert torch.equal(grown.scores(grown.queries(USERS)), first) and not grown.has_sparse_products
    assert torch.equal(grown.queries_of([torch.tensor([4, 0])]), torch.tensor([[1.0, 0, 0, 0, 1]]))


def scorer_of(table: np.ndarray) -> VectorScorer:
    """A scorer whose scores are `table` exactly, with user vectors as the rows of the unit matrix."""
    return VectorScorer(torch.eye(len(table)), torch.tensor(table.T, dtype=torch.float32))


def by_hand(table: np.ndarray, k: int, seen: set[tuple[int, int]], candidates: list[int] | None):
    """Sort items by (-score, row), one user at a time."""
    scores = np.full((len(table), k), -np.inf)
    items = np.full((len(table), k), -1)
    for user, row in enumerate(table):
        allowed = [i for i in range(len(row)) if (user, i) not in seen and (candidates is None or i in candidates)]
        ranked = sorted(allowed, key=lambda i: (-row[i], i))[:k]
        scores[user, : len(ranked)], items[user, : len(ranked)] = row[ranked], ranked
    return scores, items


@st.composite
def problems(draw):
    n_users, n_items = draw(st.integers(1, 6)), draw(st.integers(1, 12))
    levels = draw(st.integers(1, 4))  # few distinct scores: ties everywhere, straddling the cut
    rng = np.random.default_rng(draw(st.integers(0, 10_000)))
    table = rng.integers(-levels, levels, (n_users, n_items)).astype(float)
    share = draw(st.sampled_from([0.0, 0.3, 1.0]))
    seen = {(int(u), int(i)) for u, i in np.argwhere(rng.random(table.shape) < share)}
    candidates = None
    if draw(st.booleans()):
        candidates = rng.permutation(n_items)[: draw(st.integers(0, n_items))].tolist()
    return table, draw(st.integers(1, 15)), seen, candidates, draw(st.sampled_from([1, 100, 2**28]))


@settings(max_examples=150, deadline=None)
@given(problems())
def test_top_k_is_a_stable_sort(problem):
    table, k, seen, candidates, memory_limit = problem
    scorer = scorer_of(table)
    pairs = torch.tensor(sorted(seen, reverse=True), dtype=torch.int64).reshape(-1, 2)
    scores, items = top_k(
        scorer,
        scorer.queries(torch.arange(len(table))),
        k,
        seen=(pairs[:, 0], pairs[:, 1]) if seen else None,
        candidates=None if candidates is None else torch.tensor(candidates, dtype=torch.int64),
        memory_limit=memory_limit,
    )
    expected_scores, expected_items = by_hand(table, k, seen, candidates)
    np.testing.assert_array_equal(items, expected_items)
    np.testing.assert_array_equal(scores, expected_scores)


@pytest.mark.parametrize("memory_limit", [1, 4 * 300 * 7, 2**28])
def test_many_users_and_ties_in_blocks(memory_limit):
    rng = np.random.default_rng(1)
    table = rng.integers(0, 5, (40, 300)).astype(float)
    seen = {(int(u), int(i)) for u, i in np.argwhere(rng.random(table.shape) < 0.1)}
    expected_scores, expected_items = by_hand(table, 20, seen, None)
    pairs = torch.tensor(sorted(seen))[torch.randperm(len(seen))]
    history = Histories(pairs[:, 0], pairs[:, 1], 40)
    asked = torch.tensor([39, 0, 3, 3, 17, 22])
    found = list(rank_users(scorer_of(table), asked, 20, seen=history, memory_limit=memory_limit))
    users, scores, items = (torch.cat(parts) for parts in zip(*found, strict=True))
    assert users.tolist() == asked.tolist()
    np.testing.assert_array_equal(items, expected_items[asked])
    np.testing.assert_array_equal(scores, expected_scores[asked])
    assert all(len(block[0]) <= block_rows(300, 4, memory_limit) for block in found)


def test_all_scores_equal_gives_the_first_rows():
    scores, items = top_k_dense(torch.zeros(3, 1000), 5)
    assert items.tolist() == [[0, 1, 2, 3, 4]] * 3
    assert scores.tolist() == [[0.0] * 5] * 3


def test_ranking_does_not_change_what_it_was_given():
    scorer = scorer_of(np.arange(12.0).reshape(3, 4))
    queries, before = scorer.queries(torch.arange(3)), scorer.item_vectors.clone()
    seen = (torch.tensor([2, 0]), torch.tensor([3, 3]))
    candidates = torch.tensor([3, 1])
    top_k(scorer, queries, 2, seen=seen, candidates=candidates)
    assert torch.equal(scorer.item_vectors, before)
    assert torch.equal(queries, torch.eye(3))
    assert candidates.tolist() == [3, 1]
    assert seen[0].tolist() == [2, 0]


@pytest.mark.parametrize("limit, rows", [(1, 1), (39, 1), (40, 1), (80, 2), (10**6, 25_000)])
def test_a_block_stays_under_the_limit(limit, rows):
    assert block_rows(10, 4, limit) == rows


def test_a_tiny_limit_never_asks_for_more_rows_than_fit():
    class Watched(VectorScorer):
        widest = 0

        def scores(self, queries):
            Watched.widest = max(Watched.widest, len(queries))
            return super().scores(queries)

    scorer = Watched(torch.randn(50, 4), torch.randn(30, 4))
    list(rank_users(scorer, torch.arange(50), 3, memory_limit=4 * 30 * 8))
    assert Watched.widest == 8
