r"""A weighted mix of several models' scores.

Scores of different models have different scales. So the scores s of each model m (a member of the mix) are first
normalized for each user u over all items i: to `(s - mean) / sd` of the scores, or of their ranks. The score of the mix
is the sum with weights w_m, which are 0 or more and sum to 1:

    score(u, i) = Σ_m w_m · normalized_m(u, i)
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from lirdrec.errors import CapabilityError, ConfigError
from lirdrec.evaluation.metrics import per_user_metrics
from lirdrec.evaluation.scorer_evaluation import GroundTruth
from lirdrec.ranking.scorers import Scorer
from lirdrec.ranking.top_k import MEMORY_LIMIT, block_rows, top_k_dense

Normalization = Literal["z-score", "rank"]
NORMALIZATIONS: tuple[Normalization, ...] = get_args(Normalization)


def normalized(scores: Tensor, how: Normalization) -> Tensor:
    """Return the scores `(B, I)` of one model with mean 0 and sd 1 in each row; a row of equal scores becomes 0.

    With "rank", scores are first replaced by their ranks; equal scores share the mean of their ranks.
    """
    if how == "rank":
        ordered = scores.sort(dim=1).values
        below = torch.searchsorted(ordered, scores.contiguous())
        upto = torch.searchsorted(ordered, scores.contiguous(), right=True)
        scores = (below + upto).to(scores.dtype)
    centered = scores - scores.mean(1, keepdim=True)
    deviation = centered.square().mean(1, keepdim=True).sqrt()
    return torch.where(deviation > 0, centered / deviation.clamp(min=1e-30), 0)


class FusedScorer(Scorer):
    """The mix as a scorer: a query is the members' queries side by side, and each member is a part of the score.

    Args:
        members: scorers over the same users and items.
        names: a different name for each member, which is also the name of its part.
        weights: a weight for each member.
        how: normalization of the scores, "z-score" or "rank".

    Raises:
        ConfigError: the normalization is unknown; the members differ in their users or items; or there is not one name
            and one weight for each member.
    """

    kind = "fused"

    def __init__(self, members: Sequence[Scorer], names: Sequence[str], weights: Sequence[float], how: Normalization):
        if how not in NORMALIZATIONS:
            raise ConfigError(f"how, the normalization, is {how!r}; choose one of {', '.join(NORMALIZATIONS)}")
        if len({(m.n_users, m.n_items) for m in members}) != 1 or not len(members) == len(names) == len(weights):
            raise ConfigError(
                "a mix needs models with the same users and items, and a name and a weight for each model"
            )
        self.members, self.part_names, self.weights, self.how = list(members), tuple(names), list(weights), how
        self.n_users, self.n_items = members[0].n_users, members[0].n_items
        user = torch.zeros(1, dtype=torch.int64, device=next(iter(members[0].tensors().values())).device)
        self.widths = [int(m.queries(user).shape[1]) for m in members]

    def queries(self, users: Tensor) -> Tensor:
        return torch.cat([m.queries(users) for m in self.members], dim=1)

    def each(self, queries: Tensor) -> Tensor:
        """Return the normalized scores of each of the M models in the mix, for B users and all I items: `(M, B, I)`."""
        pieces = queries.split(self.widths, dim=1)
        return torch.stack([normalized(m.scores(q), self.how) for m, q in zip(self.members, pieces, strict=True)])

    def scores(self, queries: Tensor) -> Tensor:
        total = queries.new_zeros(len(queries), self.n_items)
        for weight, member, piece in zip(self.weights, self.members, queries.split(self.widths, dim=1), strict=True):
            total.add_(normalized(member.scores(piece), self.how), alpha=weight)
        return total

    def parts(self, queries: Tensor, items: Tensor) -> Tensor:
        chosen = self.each(queries)[:, torch.arange(len(items), device=items.device), items].T
        return chosen * chosen.new_tensor(self.weights)

    def similar_items(self, items: Tensor) -> Tensor:
        raise CapabilityError("a mix of models ranks items for users; it has no similar items")

    def similar_users(self, users: Tensor) -> Tensor:
        raise CapabilityError("a mix of models ranks items for users; it has no similar users")

    def tensors(self) -> dict[str, Tensor]:
        named = zip(self.part_names, self.members, strict=True)
        return {f"{name}.{key}": tensor for name, member in named for key, tensor in member.tensors().items()}

    def to(self, device: torch.device | str) -> FusedScorer:
        return FusedScorer([m.to(device) for m in self.members], self.part_names, self.weights, self.how)


def simplex(n: int, steps: int) -> list[tuple[float, ...]]:
    """Return all tuples of `n` weights that are multiples of `1 / steps` and sum to 1."""
    counts = itertools.product(range(steps + 1), repeat=n)
    return [tuple(c / steps for c in each) for each in counts if sum(each) == steps]


def grid_figures(
    members: Sequence[Scorer],
    truth: GroundTruth,
    weights: Sequence[Sequence[float]],
    how: Normalization,
    names: Sequence[str] = ("recall", "ndcg"),
    cutoffs: Sequence[int] = (20,),
    memory_limit: int = MEMORY_LIMIT,
) -> list[dict[str, float]]:
    """Return the metrics of every mix of a grid, in the order of `weights`.

    Each member scores each user once, for any number of mixes.

    Args:
        members, how: as in `FusedScorer`.
        truth: the held-out interactions.
        weights: for each mix, the weight of each member.
        names: metrics to compute, without cut-off.
        cutoffs: the cut-offs of these metrics.
        memory_limit: as in `ranking.top_k`.
    """
    fused = FusedScorer(members, [str(n) for n in range(len(members))], [1.0] * len(members), how)
    n_rows = block_rows(fused.n_items * (len(members) + 2), 4, memory_limit)
    totals: list[dict[str, float]] = [{} for _ in weights]
    for users in truth.users.split(n_rows):
        member_scores = fused.each(fused.queries(users))  # (M, b, I)
        hidden = truth.seen.pairs(users) if truth.masked else None
        owner, relevant = truth.relevant.pairs(users)
        is_relevant = torch.zeros(len(users), fused.n_items, dtype=torch.bool, device=users.device)
        is_relevant[owner, relevant] = True
        sizes = torch.bincount(owner, minlength=len(users))
        for mix, total in zip(weights, totals, strict=True):
            scores = torch.tensordot(member_scores.new_tensor(list(mix)), member_scores, dims=1)
            if hidden is not None:
                scores[hidden] = -torch.inf
            items = top_k_dense(scores, max(cutoffs), truth.candidates)[1]
            hits = is_relevant.gather(1, items.clamp(min=0)) & (items >= 0)
            for key, column in per_user_metrics(hits, sizes, names, cutoffs).items():
                total[key] = total.get(key, 0.0) + float(column.sum())
    return [{key: value / len(truth.users) for key, value in total.items()} for total in totals]


def try_mixes(
    members: Sequence[Scorer],
    truth: GroundTruth,
    *,
    steps: int = 10,
    names: Sequence[str] = ("recall", "ndcg"),
    cutoffs: Sequence[int] = (20,),
    hows: Sequence[Normalization] = NORMALIZATIONS,
) -> list[dict[str, Any]]:
    """Evaluate every mix with the weights of `simplex`, with each normalization; return one entry for each.

    An entry has the `weights` of the members, `how` their scores are normalized, and the metrics as `figures`. The
    entries are in the order of `hows`, then of `simplex`.

    Args:
        members, truth, names, cutoffs: as in `grid_figures`.
        steps: as in `simplex`.
        hows: the normalizations.
    """
    grid = simplex(len(members), steps)
    return [
        {"weights": weights, "how": how, "figures": metrics}
        for how in hows
        for weights, metrics in zip(grid, grid_figures(members, truth, grid, how, names, cutoffs), strict=True)
    ]
