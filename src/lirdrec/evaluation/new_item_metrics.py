"""Metrics of a launch: how items that were added after the training are recommended beside the known ones."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from lirdrec.ranking.histories import Histories
from lirdrec.ranking.scorers import Scorer
from lirdrec.ranking.top_k import MEMORY_LIMIT, Quota, block_rows, ranked


@dataclass(frozen=True)
class LaunchMetrics:
    """Recall@k of known and of new items, as means over the users who have such items in the ground truth.

    A mean without users is 0.

    Attributes:
        known: recall of known items, ranked among all items.
        alone: recall of new items, ranked among new items only.
        among: recall of new items, ranked among all items.
        together: recall of known and new items together, ranked among all items.
        share: share of the places of all users' lists that new items get.
        demand: share of the held-out interactions that are with new items.
    """

    known: float
    alone: float
    among: float
    together: float
    share: float
    demand: float


def evaluate_launch(
    scorer: Scorer,
    seen: Histories,
    known: Histories,
    new: Histories,
    first_new: int,
    *,
    k: int = 20,
    quota: Quota | None = None,
) -> LaunchMetrics:
    """Rank all items, new items included, for every user with ground truth, and compute the metrics.

    Args:
        scorer: of a recommender with added items, or of a model that was trained with them.
        seen: training items of each user, which are left out of the lists.
        known: held-out known items of each user.
        new: held-out new items of each user.
        first_new: row of the first new item; all later rows are new items.
        k: length of the lists.
        quota: places of new items in each list; None: all items compete by their scores.

    >>> from lirdrec.ranking.scorers import VectorScorer
    >>> scorer = VectorScorer(torch.ones(1, 1), torch.tensor([[3.0], [2.0], [1.0]]))
    >>> nothing = Histories(torch.empty(0, dtype=torch.int64), torch.empty(0, dtype=torch.int64), 1)
    >>> first, last = (Histories(torch.tensor([0]), torch.tensor([item]), 1) for item in (0, 2))
    >>> metrics = evaluate_launch(scorer, nothing, first, last, 2, k=2)
    >>> metrics.known, metrics.alone, metrics.among, metrics.together
    (1.0, 1.0, 0.0, 0.5)
    """
    n_known, n_new = known.counts(), new.counts()
    users = (n_known + n_new > 0).nonzero().squeeze(1)
    hits: list[Tensor] = []
    places = 0
    new_rows = torch.arange(first_new, scorer.n_items, device=users.device)
    for block in users.split(block_rows(scorer.n_items, 4, MEMORY_LIMIT)):
        scores = scorer.scores(scorer.queries(block))
        owner, items = seen.pairs(block)
        scores[owner, items] = -torch.inf
        top = ranked(scores, k, quota=quota)[1]
        alone = ranked(scores, k, candidates=new_rows)[1]
        counts = [_hits(top, histories, block, scorer.n_items) for histories in (known, new)]
        hits.append(torch.stack([*counts, _hits(alone, new, block, scorer.n_items)]))
        places += int((top >= first_new).sum())
    of_known, of_new, of_alone = torch.cat(hits, dim=1).double()
    a, c = n_known[users].double(), n_new[users].double()
    return LaunchMetrics(
        known=_mean(of_known / a, a > 0),
        alone=_mean(of_alone / c, c > 0),
        among=_mean(of_new / c, c > 0),
        together=_mean((of_known + of_new) / (a + c), a + c > 0),
        share=places / max(1, k * len(users)),
        demand=float(c.sum() / (a + c).sum().clamp(min=1)),
    )


def _hits(lists: Tensor, truth: Histories, users: Tensor, n_items: int) -> Tensor:
    """Return the number of relevant items `(b,)` in each list `(b, k)` of item rows; -1 marks an empty place."""
    owner, items = truth.pairs(users)
    relevant = torch.zeros(len(users), n_items + 1, dtype=torch.bool, device=users.device)
    relevant[owner, items] = True
    return relevant.gather(1, lists.remainder(n_items + 1)).sum(1)  # -1 becomes the last column, which is always False


def _mean(values: Tensor, chosen: Tensor) -> float:
    return float(values[chosen].mean()) if bool(chosen.any()) else 0.0
