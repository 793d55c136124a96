"""Evaluate a scorer or lists against a `GroundTruth`: metrics of each user, and of groups of items and users."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from lirdrec.errors import ConfigError
from lirdrec.evaluation.beyond_accuracy import AUC, BEYOND, Catalog, auc, check_catalog, list_values
from lirdrec.evaluation.metrics import (
    PER_LIST,
    PER_USER,
    list_metrics,
    per_user_metrics,
)
from lirdrec.ranking.histories import Histories
from lirdrec.ranking.scorers import Scorer
from lirdrec.ranking.sharded_scorer import Rankable
from lirdrec.ranking.top_k import default_limit, rank_users

GROUPS = 5
Row = dict[str, float | str | int]
Rows = list[Row]


@dataclass(frozen=True)
class GroundTruth:
    """The held-out interactions that lists are compared with, as rows of the scorer.

    Attributes:
        users: `(n,)` int64, the users to rank for.
        relevant: the held-out items of all users.
        seen: the items of the history of all users.
        candidates: `(c,)` int64 items to rank, or None for all.
        masked: whether the user's `seen` items are left out of the ranking.
        trained: the training items of all users if `seen` has more items than these, else None; for the popularity of
            items.
    """

    users: Tensor
    relevant: Histories
    seen: Histories
    candidates: Tensor | None = None
    masked: bool = True
    trained: Histories | None = None

    @property
    def training(self) -> Histories:
        """The training items of all users."""
        return self.seen if self.trained is None else self.trained

    @classmethod
    def from_pairs(
        cls, train: tuple[Tensor, Tensor], held_out: tuple[Tensor, Tensor], n_users: int, **rest: Tensor | None
    ) -> GroundTruth:
        """Make the ground truth from `(users, items)` pairs of the histories (`train`) and of the held-out part.

        Users without a pair in one of the two are left out. With `candidates`, so are held-out pairs of other items.
        """
        seen, candidates = Histories(*train, n_users), rest.get("candidates")
        if candidates is not None:
            keep = torch.isin(held_out[1], candidates)
            held_out = (held_out[0][keep], held_out[1][keep])
        relevant = Histories(*held_out, n_users)
        return cls(((relevant.counts() > 0) & (seen.counts() > 0)).nonzero().squeeze(1), relevant, seen, candidates)

    def to(self, device: torch.device) -> GroundTruth:
        candidates = None if self.candidates is None else self.candidates.to(device)
        relevant, seen = self.relevant.to(device), self.seen.to(device)
        trained = None if self.trained is None else self.trained.to(device)
        return GroundTruth(self.users.to(device), relevant, seen, candidates, self.masked, trained)


@dataclass
class EvaluationResult:
    """The result of `evaluate_scorer` or `evaluate_lists`.

    Attributes:
        values: metric → mean over the users.
        per_user: metric → `(n,)` float64, a value for each of `GroundTruth.users`; {} unless requested with `keep`.
    """

    values: dict[str, float]
    per_user: dict[str, Tensor]


def evaluate_scorer(
    scorer: Rankable,
    truth: GroundTruth,
    names: Sequence[str],
    cutoffs: Sequence[int],
    *,
    keep: bool = False,
    memory_limit: int | None = None,
    catalog: Catalog | None = None,
) -> EvaluationResult:
    """Rank items with a scorer and compute the metrics, by rows instead of ids.

    `evaluate` calls this function, and so does the validation after each epoch.

    Args:
        scorer: ranks the users of `truth`.
        truth: held-out items.
        names: names of metrics without a cut-off.
        cutoffs: the cut-offs of these metrics.
        keep: also return each user's values.
        memory_limit: bytes for a block of scores; None: 64 MiB, on a GPU 1 GiB.
        catalog: popularity and features of the items; None: no features, which diversity needs.

    Raises:
        ConfigError: a cut-off below 1 or beyond the ranked items; diversity without features.
    """
    n_candidates = scorer.n_items if truth.candidates is None else len(truth.candidates)
    for k in cutoffs:
        if not 1 <= k <= n_candidates:
            raise ConfigError(f"k is {k}; it must be between 1 and the {n_candidates} items that are ranked")
    seen = truth.seen if truth.masked else None
    memory_limit = default_limit(truth.users.device) if memory_limit is None else memory_limit
    options: dict[str, Any] = {"seen": seen, "candidates": truth.candidates, "memory_limit": memory_limit}
    ranked = rank_users(scorer, truth.users, max(cutoffs), **options)
    lists = ((users, items) for users, _, items in ranked)
    result = evaluate_lists(lists, scorer.n_items, truth, names, cutoffs, keep=keep, catalog=catalog)
    if AUC in names:
        assert isinstance(scorer, Scorer)  # the validation on several devices has metrics with a cut-off only
        per_user = auc(scorer, truth.users, truth.relevant, **options)
        result.values[AUC] = float(per_user.nanmean())
        result.per_user |= {AUC: per_user} if keep else {}
    return result


def evaluate_lists(
    lists: Iterable[tuple[Tensor, Tensor]],
    n_items: int,
    truth: GroundTruth,
    names: Sequence[str],
    cutoffs: Sequence[int],
    *,
    keep: bool = False,
    catalog: Catalog | None = None,
) -> EvaluationResult:
    """Compute metrics of ranked lists of item rows. The name "auc" is ignored, since AUC needs the scores of all items.

    Args:
        lists: blocks of users `(b,)` int64 and their items `(b, K)` int64, best first, -1 if a list is shorter; `K ≥
            max(cutoffs)`. The users of all blocks are `truth.users`, in this order.
        n_items: number of items.
        truth, names, cutoffs, keep, catalog: as for `evaluate_scorer`.

    Raises:
        ConfigError: diversity without features.
    """
    beyond = [name for name in names if name in BEYOND]
    check_catalog(beyond, catalog)
    if beyond and catalog is None:
        catalog = Catalog.of(truth.training, n_items)
    relevant_keys = _keys(truth.relevant, truth.users, n_items)
    sizes = truth.relevant.counts()
    collected: dict[str, list[Tensor]] = {}
    counts = {k: torch.zeros(n_items, dtype=torch.int64, device=truth.users.device) for k in cutoffs}
    on_lists = [name for name in names if name in PER_LIST]
    for users, items in lists:
        keys = users[:, None] * n_items + items
        hits = relevant_keys[torch.searchsorted(relevant_keys, keys).clamp(max=len(relevant_keys) - 1)] == keys
        hits &= items >= 0
        columns = per_user_metrics(hits, sizes[users], names, cutoffs)
        if catalog is not None and beyond:
            columns |= list_values(items, users, truth.seen, catalog, beyond, cutoffs)
        for name, column in columns.items():
            collected.setdefault(name, []).append(column)
        if on_lists:
            for k in cutoffs:
                shown = items[:, :k]
                counts[k] += torch.bincount(shown[shown >= 0], minlength=n_items)
    per_user = {name: torch.cat(parts) for name, parts in collected.items()}
    values = {name: float(column.nanmean()) for name, column in per_user.items()}
    if on_lists:
        popularity = torch.bincount(truth.training.items, minlength=n_items)
        ranked = slice(None) if truth.candidates is None else truth.candidates
        for name in on_lists:
            for k in cutoffs:
                values[f"{name}@{k}"] = list_metrics(counts[k][ranked], popularity[ranked], name)
    return EvaluationResult(values, per_user if keep else {})


def _keys(relevant: Histories, users: Tensor, n_items: int) -> Tensor:
    """Return the key user · `n_items` + item of each pair of a user and a relevant item, int64, sorted."""
    owner, items = relevant.pairs(users)
    return (users[owner] * n_items + items).sort().values


def by_popularity(
    scorer: Scorer, truth: GroundTruth, names: Sequence[str], cutoffs: Sequence[int], memory_limit: int | None = None
) -> Rows:
    """Return a row of metrics for each fifth of the items, in the order of their number of training users.

    All items are ranked, but only the items of the fifth are relevant. A fifth without relevant items has no row.
    """
    degree = torch.bincount(truth.training.items, minlength=scorer.n_items)
    group = _fifths(degree)
    owner, items = truth.relevant.pairs(truth.users)
    users = truth.users[owner]
    names = [name for name in names if name in PER_USER]
    rows: Rows = []
    for number in range(GROUPS):
        in_group = group == number
        kept = in_group[items]
        if not bool(kept.any()):
            continue
        relevant = Histories(users[kept], items[kept], len(truth.relevant.start) - 1)
        group_truth = replace(truth, users=users[kept].unique(), relevant=relevant)
        result = evaluate_scorer(scorer, group_truth, names, cutoffs, memory_limit=memory_limit)
        label = _label("training users", degree[in_group])
        rows.append({"group": label, "n": int(in_group.sum()), "pairs": int(kept.sum()), **result.values})
    return rows


def by_activity(truth: GroundTruth, per_user: Mapping[str, Tensor]) -> Rows:
    """Return a row of mean metrics for each fifth of the evaluated users, in the order of their training items' number.

    `per_user` has the metrics of each user (`EvaluationResult.per_user`).
    """
    degree = truth.training.counts()[truth.users]
    group = _fifths(degree)
    rows: Rows = []
    for number in range(GROUPS):
        in_group = group == number
        if bool(in_group.any()):
            means = {name: float(values[in_group].nanmean()) for name, values in per_user.items()}
            rows.append({"group": _label("training items", degree[in_group]), "n": int(in_group.sum()), **means})
    return rows


def _fifths(degree: Tensor) -> Tensor:
    """Return the group 0 … 4 of each entry, by the rank of its degree; entries of equal degree are in one group."""
    rank = torch.searchsorted(degree.sort().values, degree)  # entries strictly below
    return (rank * GROUPS // max(1, len(degree))).clamp(max=GROUPS - 1)


def _label(entity: str, degree: Tensor) -> str:
    low, high = int(degree.min()), int(degree.max())
    return f"{low} {entity}" if low == high else f"{low}–{high} {entity}"
