"""Maximal marginal relevance against its definition, written out."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from lirdrec.ranking.scorers import ItemWeightScorer, VectorScorer
from lirdrec.server.engine.ranker import maximal_marginal_relevance, n_candidates


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
