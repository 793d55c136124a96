"""The ranker against a stable sort by hand: many ties, seen items, candidates, and blocks of any size."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lirdrec.ranking.histories import Histories
from lirdrec.ranking.scorers import VectorScorer
from lirdrec.ranking.top_k import block_rows, rank_users, top_k, top_k_dense


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
