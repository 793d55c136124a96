"""Diversity: a list whose items suit the user and differ from each other."""

from __future__ import annotations

import torch
from torch import Tensor

from lirdrec.ranking.scorers import Scorer, VectorScorer, all_finite

CANDIDATES = 10  # best items that are considered for each place of the list …
MOST_CANDIDATES = 1000  # … in all


def depth(k: int, diversity: float) -> int:
    """Best items that have to be known for a list of `k`."""
    return k if diversity == 0 else max(k, min(k * CANDIDATES, MOST_CANDIDATES))


def maximal_marginal_relevance(scorer: Scorer, items: Tensor, scores: Tensor, k: int, diversity: float) -> Tensor:
    r"""Choose one item after another, each the largest `(1-δ)·rel_i - δ·max_j sim(i, j)` over those chosen, j.

    Relevance is the score brought into [0, 1] over the candidates. Carbonell and Goldstein (SIGIR 1998).

    Args:
        scorer: tells how similar items are.
        items: `(c,)` int64 candidates, best first.
        scores: `(c,)` their scores.
        k: how many to choose.
        diversity: δ in [0, 1]; 0 keeps the order.

    Returns:
        Places `(min(k, c),)` int64 in `items`, in the order chosen; of equals the better-ranked one.
    """
    k = min(k, len(items))
    if k == 0 or diversity == 0:
        return torch.arange(k)
    span = (scores[0] - scores[-1]).clamp(min=1e-12, max=torch.finfo(scores.dtype).max)
    relevance = (1 - diversity) * (scores - scores[-1]).clamp(max=torch.finfo(scores.dtype).max) / span
    similarity = diversity * _similarity(scorer, items)  # (c, c)
    chosen = [0]
    nearest = similarity[:, 0].clone()
    relevance[0] = -torch.inf
    while len(chosen) < k:
        place = int((relevance - nearest).argmax())
        chosen.append(place)
        relevance[place] = -torch.inf
        nearest = torch.maximum(nearest, similarity[:, place])
    return torch.tensor(chosen)


def _similarity(scorer: Scorer, items: Tensor) -> Tensor:
    """`(c, c)` among the candidates, as `Scorer.similar_items` has it."""
    if not isinstance(scorer, VectorScorer):
        return scorer.similar_items(items)[:, items].nan_to_num()
    vectors = scorer.item_vectors[items]  # not the whole catalogue
    lengths = vectors.norm(dim=1, keepdim=True)
    if not all_finite(lengths):  # squares of numbers that are large, but finite
        vectors = vectors / vectors.abs().amax(1, keepdim=True).clamp(min=1e-12)
        lengths = vectors.norm(dim=1, keepdim=True)
    vectors = vectors / lengths.clamp(min=1e-12)
    return vectors @ vectors.T
