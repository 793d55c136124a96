"""The core of evaluation: a scorer against what is held out, in blocks of users."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lirdrec.errors import ConfigError
from lirdrec.evaluation.metrics import PER_LIST, list_metrics, per_user_metrics
from lirdrec.ranking.histories import Histories
from lirdrec.ranking.scorers import Scorer
from lirdrec.ranking.top_k import MEMORY_LIMIT, rank_users


@dataclass(frozen=True)
class Truth:
    """What is held out, as rows of the scorer.

    Attributes:
        users: `(n,)` int64, the users to rank for.
        relevant: their held-out items.
        seen: training items of all users.
        candidates: `(c,)` int64 items to rank, or None for all.
        masked: whether what the user has seen is left out of the ranking.
    """

    users: Tensor
    relevant: Histories
    seen: Histories
    candidates: Tensor | None = None
    masked: bool = True

    @classmethod
    def of(
        cls, train: tuple[Tensor, Tensor], held_out: tuple[Tensor, Tensor], n_users: int, **rest: Tensor | None
    ) -> Truth:
        """From `(users, items)` pairs; users without a training pair are left out."""
        seen, candidates = Histories(*train, n_users), rest.get("candidates")
        if candidates is not None:
            keep = torch.isin(held_out[1], candidates)
            held_out = (held_out[0][keep], held_out[1][keep])
        relevant = Histories(*held_out, n_users)
        return cls(((relevant.counts() > 0) & (seen.counts() > 0)).nonzero().squeeze(1), relevant, seen, candidates)


@dataclass
class Measured:
    """`values`: metric → mean over users; `per_user`: metric → `(n,)` float64 in the order of `Truth.users`, or {}."""

    values: dict[str, float]
    per_user: dict[str, Tensor]


def measure(
    scorer: Scorer,
    truth: Truth,
    names: Sequence[str],
    cutoffs: Sequence[int],
    *,
    keep: bool = False,
    memory_limit: int = MEMORY_LIMIT,
) -> Measured:
    """The metrics of a scorer; the core of `evaluate`, and what training calls after each epoch."""
    n_candidates = scorer.n_items if truth.candidates is None else len(truth.candidates)
    for k in cutoffs:
        if not 1 <= k <= n_candidates:
            raise ConfigError(f"k is {k}; it must be between 1 and the {n_candidates} items that are ranked")
    depth = max(cutoffs)
    hit_keys = _keys(truth.relevant, truth.users, scorer.n_items)
    sizes = truth.relevant.counts()
    collected: dict[str, list[Tensor]] = {}
    counts = {k: torch.zeros(scorer.n_items, dtype=torch.int64, device=truth.users.device) for k in cutoffs}
    on_lists = [name for name in names if name in PER_LIST]
    seen = truth.seen if truth.masked else None
    for users, _, items in rank_users(
        scorer, truth.users, depth, seen=seen, candidates=truth.candidates, memory_limit=memory_limit
    ):
        keys = users[:, None] * scorer.n_items + items
        hits = hit_keys[torch.searchsorted(hit_keys, keys).clamp(max=len(hit_keys) - 1)] == keys
        hits &= items >= 0
        for name, column in per_user_metrics(hits, sizes[users], names, cutoffs).items():
            collected.setdefault(name, []).append(column)
        if on_lists:
            for k in cutoffs:
                shown = items[:, :k]
                counts[k] += torch.bincount(shown[shown >= 0], minlength=scorer.n_items)
    per_user = {name: torch.cat(parts) for name, parts in collected.items()}
    values = {name: float(column.mean()) for name, column in per_user.items()}
    popularity = torch.bincount(truth.seen.items, minlength=scorer.n_items) if on_lists else None
    for name in on_lists:
        for k in cutoffs:
            of = slice(None) if truth.candidates is None else truth.candidates
            assert popularity is not None
            values[f"{name}@{k}"] = list_metrics(counts[k][of], popularity[of], name)
    return Measured(values, per_user if keep else {})


def _keys(relevant: Histories, users: Tensor, n_items: int) -> Tensor:
    owner, items = relevant.pairs(users)
    return (users[owner] * n_items + items).sort().values
