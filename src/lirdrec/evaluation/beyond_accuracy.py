"""Metrics of recommended lists beyond accuracy: diversity, novelty, popularity, long tail, calibration; and AUC.

Each metric has one value per user. Items are sorted by their number of training users and cut into three groups: head,
the most popular items, which have 20 % of the training interactions; tail, the least popular items, which have 20 %;
and middle, all other items (Abdollahpouri et al., "User-centered Evaluation of Popularity Bias in Recommender Systems",
UMAP 2021).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import Tensor

from lirdrec.errors import ConfigError
from lirdrec.ranking.histories import Histories
from lirdrec.ranking.scorers import Scorer
from lirdrec.ranking.top_k import MEMORY_LIMIT, block_rows, cleaned

BEYOND = ("diversity", "novelty", "arp", "aplt", "calibration")  # name@k
AUC = "auc"  # of the complete ranking: it has no cut-off
GROUP_SHARE = 0.2  # share of the interactions that the head has, and that the tail has
SMOOTHING = 0.01  # share of the history's distribution that is mixed into the list's (Steck 2018)
HEAD, MIDDLE, TAIL = 0, 1, 2

Vectors = Callable[[Tensor], tuple[Tensor, Tensor]]  # item rows (n,) → vectors (n, d) and whether present (n,)


@dataclass(frozen=True)
class Catalog:
    """Facts about the items that the metrics beyond accuracy need.

    Attributes:
        popularity: `(I,)` int64, number of training users of each item.
        n_users: number of users with a training interaction.
        vectors: modality → function from item rows `(n,)` to features `(n, d)` and whether the items have them, `(n,)`
            bool; for diversity.
    """

    popularity: Tensor
    n_users: int
    vectors: Mapping[str, Vectors] = field(default_factory=dict)

    @classmethod
    def of(cls, seen: Histories, n_items: int, vectors: Mapping[str, Vectors] | None = None) -> Catalog:
        """Make the catalog from `seen`, the training items of each user.

        >>> histories = Histories(torch.tensor([0, 1, 1]), torch.tensor([2, 2, 0]), n_users=3)
        >>> catalog = Catalog.of(histories, n_items=4)
        >>> catalog.popularity.tolist(), catalog.n_users
        ([1, 0, 2, 0], 2)
        """
        popularity = torch.bincount(seen.items, minlength=n_items)
        return cls(popularity, int((seen.counts() > 0).sum()), dict(vectors or {}))

    @cached_property
    def groups(self) -> Tensor:
        """The group `(I,)` int64 of each item: 0 head, 1 middle, 2 tail (see the top of the file).

        Items of equal popularity are taken in the order of their rows, so they can be in different groups.
        """
        order = self.popularity.argsort(descending=True, stable=True)
        ordered = self.popularity[order].double()
        before = (ordered.cumsum(0) - ordered) / ordered.sum().clamp(min=1)
        groups = torch.empty_like(order)
        groups[order] = torch.where(before < GROUP_SHARE, HEAD, torch.where(before < 1 - GROUP_SHARE, MIDDLE, TAIL))
        return groups


def check_catalog(names: Sequence[str], catalog: Catalog | None) -> None:
    """Raise a ConfigError if the metric names contain "diversity" and the catalog has no features of items."""
    if "diversity" in names and (catalog is None or not catalog.vectors):
        raise ConfigError(
            "metric 'diversity' compares the features of items, but the dataset has no features; leave it out"
        )


def list_values(
    items: Tensor, users: Tensor, seen: Histories, catalog: Catalog, names: Sequence[str], cutoffs: Sequence[int]
) -> dict[str, Tensor]:
    """Compute metrics beyond accuracy of recommendation lists.

    Returns `name@k` → values `(B,)` float64, one for each user; NaN for users without a value, such as an empty list.

    Args:
        items: `(B, K)` int64 recommended item rows, best first; -1 where a list is shorter. `K ≥ max(cutoffs)`.
        users: `(B,)` int64, the users of the lists.
        seen: training items of all users.
        catalog: popularity and features of the items.
        names: among `BEYOND`. L is a list of k items, U the number of users with training interactions, and n_i the
            number of training users of item i:
            diversity: mean of 1 - cosine over the pairs of items in L and the modalities that both items have; needs
            two such items (Smyth and McClave, 2001; Ziegler et al., 2005: intra-list diversity).
            novelty: mean of log2(U / n_i) with n_i at least 1 (Zhou et al., 2010: self-information).
            arp: mean of n_i (Yin et al., 2012: average recommendation popularity).
            aplt: share of L in the tail (Abdollahpouri et al., 2019: average percentage of long-tail items).
            calibration: KL(p ‖ q) in nats. p is the distribution of the user's training items over head, middle and
            tail; q is the distribution of L, mixed with 1 % of p (Steck, 2018). 0 is best: L is as popular as the
            training items.
        cutoffs: the values of k.

    >>> catalog = Catalog(torch.tensor([8, 4, 2, 1]), 8)
    >>> nothing = Histories(torch.tensor([0]), torch.tensor([3]), 1)
    >>> list_values(torch.tensor([[0, 1, 2]]), torch.tensor([0]), nothing, catalog, ("novelty", "arp"), (1, 3))
    {'novelty@1': tensor([0.], dtype=torch.float64), 'novelty@3': tensor([1.], dtype=torch.float64), \
'arp@1': tensor([8.], dtype=torch.float64), 'arp@3': tensor([4.6667], dtype=torch.float64)}
    """
    filled = items >= 0
    rows = items.clamp(min=0)
    popularity, groups = catalog.popularity[rows].double(), catalog.groups
    per_item = {
        "novelty": (catalog.n_users / popularity.clamp(min=1)).log2(),
        "arp": popularity,
        "aplt": (groups[rows] == TAIL).double(),
    }
    values: dict[str, Tensor] = {}
    for name in names:
        for k in cutoffs:
            if name == "diversity":
                values[f"{name}@{k}"] = _diversity(rows[:, :k], filled[:, :k], catalog)
            elif name == "calibration":
                values[f"{name}@{k}"] = _calibration(groups[rows[:, :k]], filled[:, :k], users, seen, groups)
            else:
                kept = filled[:, :k]
                values[f"{name}@{k}"] = (per_item[name][:, :k] * kept).sum(1) / kept.sum(1)  # 0 / 0 is NaN
    return values


def _diversity(items: Tensor, filled: Tensor, catalog: Catalog) -> Tensor:
    """Return the mean `(B,)` of 1 - cosine over all pairs of a list's items and the modalities that both items have.

    It is NaN for a list without such a pair.
    """
    unique, position = items.unique(return_inverse=True)
    cosines = torch.zeros(len(items), dtype=torch.float64, device=items.device)
    n_pairs = torch.zeros_like(cosines)
    for vectors_of in catalog.vectors.values():
        vectors, present = vectors_of(unique)
        vectors = torch.nn.functional.normalize(vectors.double(), dim=1)
        has = filled & present[position]
        for start in range(0, len(items), 256):  # a block of (256, k, d)
            block = slice(start, start + 256)
            listed = vectors[position[block]] * has[block, :, None]
            # the sum over ordered pairs of distinct places: all pairs without each place with itself
            cosines[block] += listed.sum(1).square().sum(1) - listed.square().sum((1, 2))
        n = has.sum(1).double()
        n_pairs += n * (n - 1)
    return 1 - cosines / n_pairs


def _calibration(listed: Tensor, filled: Tensor, users: Tensor, seen: Histories, groups: Tensor) -> Tensor:
    """Return KL(p ‖ q) `(B,)` float64: p are the shares of the three groups among the user's training items.

    q are their shares in the list, whose groups are `listed` `(B, k)`, mixed with 1 % of p.
    """
    owner, items = seen.pairs(users)
    p = torch.zeros(len(users), 3, dtype=torch.float64, device=users.device)
    p.index_put_((owner, groups[items]), torch.ones(len(owner), dtype=p.dtype, device=p.device), accumulate=True)
    p /= p.sum(1, keepdim=True)
    q = torch.stack([((listed == group) & filled).sum(1) for group in (HEAD, MIDDLE, TAIL)], dim=1).double()
    q /= q.sum(1, keepdim=True)
    ratio = torch.where(p > 0, p / ((1 - SMOOTHING) * q + SMOOTHING * p), 1)
    return torch.special.xlogy(p, ratio).sum(1)  # NaN for an empty list, and without training items


def auc(
    scorer: Scorer,
    users: Tensor,
    relevant: Histories,
    *,
    seen: Histories | None = None,
    candidates: Tensor | None = None,
    memory_limit: int = MEMORY_LIMIT,
) -> Tensor:
    """Return the area under the ROC curve of each user, `(B,)` float64.

    This is the share of pairs (relevant item, other item) in which the relevant item has the higher score. Equal scores
    count one half. It is NaN if all ranked items, or none, are relevant.

    Args:
        scorer: gives the scores.
        users: `(B,)` int64, the users to rank for.
        relevant: the held-out items of each user.
        seen: items of each user that are not ranked.
        candidates: items to rank; None: all.
        memory_limit: bytes for one block of scores.
    """
    parts = []
    excluded = torch.ones(scorer.n_items, dtype=torch.bool, device=users.device)
    excluded[slice(None) if candidates is None else candidates] = False
    for block in users.split(block_rows(scorer.n_items, 4, memory_limit)):
        scores = cleaned(scorer.scores(scorer.queries(block)))
        scores[:, excluded] = -torch.inf
        if seen is not None:
            scores[seen.pairs(block)] = -torch.inf
        owner, items = relevant.pairs(block)
        ordered = scores.sort(dim=1).values
        wanted = torch.full((len(block), int(relevant.counts()[block].max())), torch.inf, device=scores.device)
        column = torch.arange(len(owner), device=owner.device) - torch.searchsorted(owner, owner)
        wanted = wanted.to(scores.dtype).index_put((owner, column), scores[owner, items])
        below, up_to = torch.searchsorted(ordered, wanted), torch.searchsorted(ordered, wanted, right=True)
        counted = torch.isfinite(wanted)
        unranked = (scores == -torch.inf).sum(1).double()
        middle_rank = (below + up_to + 1).double() / 2 - unranked[:, None]
        n_relevant = counted.sum(1).double()
        n_others = scorer.n_items - unranked - n_relevant
        ranks = (middle_rank * counted).sum(1)
        parts.append((ranks - n_relevant * (n_relevant + 1) / 2) / (n_relevant * n_others))
    return torch.cat(parts)
