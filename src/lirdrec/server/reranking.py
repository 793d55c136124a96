"""Diversity: a list whose items suit the user and differ from each other."""

from __future__ import annotations

import torch
from torch import Tensor

from lirdrec.ranking.scorers import Scorer

CANDIDATES = 10  # best items that are considered for each place of the list


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
        Places `(min(k, c),)` int64 in `items`, in the order chosen.
    """
    k = min(k, len(items))
    if k == 0 or diversity == 0:
        return torch.arange(k)
    span = (scores[0] - scores[-1]).clamp(min=1e-12)
    relevance = (scores - scores[-1]) / span
    similarity = scorer.similar_items(items)[:, items]  # (c, c)
    chosen = [0]
    nearest = similarity[:, 0].clone()
    while len(chosen) < k:
        value = (1 - diversity) * relevance - diversity * nearest
        value[chosen] = -torch.inf
        place = int(value.argmax())
        chosen.append(place)
        nearest = torch.maximum(nearest, similarity[:, place])
    return torch.tensor(chosen)
