"""All-ranking evaluation: every item is ranked for every user who has something held out.

The user's training items are masked; validation items are not, in the test neither (ALGORITHM: the released code's
protocol). Users without a training pair are left out. Figures are means over users.

The core of evaluation: a scorer against what is held out, in blocks of users.

Where the figures come from: popular or rare items, active or quiet users.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Literal, Protocol

import torch
from torch import Tensor

from lirdrec.data.ids import count
from lirdrec.errors import ConfigError, DataError
from lirdrec.evaluation.metrics import PER_LIST, PER_USER, check_metrics, list_metrics, per_user_metrics
from lirdrec.ranking.histories import Histories
from lirdrec.ranking.scorers import Scorer
from lirdrec.ranking.top_k import MEMORY_LIMIT, rank_users

GROUPS = 5
Row = dict[str, float | str | int]
Rows = list[Row]


def by_popularity(
    scorer: Scorer, truth: GroundTruth, names: Sequence[str], cutoffs: Sequence[int], memory_limit: int
) -> Rows:
    """Metrics of each fifth of the items by training users: all items are ranked, only the group's are relevant."""
    degree = torch.bincount(truth.seen.items, minlength=scorer.n_items)
    group = _fifths(degree)
    owner, items = truth.relevant.pairs(truth.users)
    users = truth.users[owner]
    rows: Rows = []
    for number in range(GROUPS):
        inside = group == number
        mine = inside[items]
        if not bool(mine.any()):
            continue
        relevant = Histories(users[mine], items[mine], len(truth.relevant.start) - 1)
        part = replace(truth, users=users[mine].unique(), relevant=relevant)
        found = evaluate_scorer(scorer, part, [n for n in names if n in PER_USER], cutoffs, memory_limit=memory_limit)
        row: Row = {"group": _label("training users", degree[inside]), "n": int(inside.sum()), "pairs": int(mine.sum())}
        rows.append({**row, **found.values})
    return rows


def by_activity(truth: GroundTruth, per_user: Mapping[str, Tensor]) -> Rows:
    """Means over each fifth of the evaluated users by number of training items."""
    degree = truth.seen.counts()[truth.users]
    group = _fifths(degree)
    rows: Rows = []
    for number in range(GROUPS):
        inside = group == number
        if bool(inside.any()):
            means = {name: float(values[inside].mean()) for name, values in per_user.items()}
            row: Row = {"group": _label("training items", degree[inside]), "n": int(inside.sum())}
            rows.append({**row, **means})
    return rows


def _fifths(degree: Tensor) -> Tensor:
    """Group 0 … 4 of each entry by rank; equal degrees stay together."""
    ordered = degree.sort().values
    place = torch.searchsorted(ordered, degree)  # entries strictly below
    return (place * GROUPS // max(1, len(degree))).clamp(max=GROUPS - 1)


def _label(what: str, degree: Tensor) -> str:
    low, high = int(degree.min()), int(degree.max())
    return f"{low} {what}" if low == high else f"{low}–{high} {what}"


@dataclass(frozen=True)
class GroundTruth:
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
    ) -> GroundTruth:
        """From `(users, items)` pairs; users without a training pair are left out."""
        seen, candidates = Histories(*train, n_users), rest.get("candidates")
        if candidates is not None:
            keep = torch.isin(held_out[1], candidates)
            held_out = (held_out[0][keep], held_out[1][keep])
        relevant = Histories(*held_out, n_users)
        return cls(((relevant.counts() > 0) & (seen.counts() > 0)).nonzero().squeeze(1), relevant, seen, candidates)


@dataclass
class EvaluationResult:
    """Mean of each metric (`values`), and its `(n,)` float64 for each of `GroundTruth.users`, or {} (`per_user`)."""

    values: dict[str, float]
    per_user: dict[str, Tensor]


def evaluate_scorer(
    scorer: Scorer,
    truth: GroundTruth,
    names: Sequence[str],
    cutoffs: Sequence[int],
    *,
    keep: bool = False,
    memory_limit: int = MEMORY_LIMIT,
) -> EvaluationResult:
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
    return EvaluationResult(values, per_user if keep else {})


def _keys(relevant: Histories, users: Tensor, n_items: int) -> Tensor:
    owner, items = relevant.pairs(users)
    return (users[owner] * n_items + items).sort().values


if TYPE_CHECKING:
    import numpy as np
    import polars as pl

    from lirdrec.data.dataset import Dataset
    from lirdrec.data.ids import IdMap

log = logging.getLogger(__name__)
DEFAULT_METRICS = PER_USER + PER_LIST
DEFAULT_CUTOFFS = (10, 20)


class HasScorer(Protocol):
    """What `evaluate` needs of a recommender."""

    scorer: Scorer
    users: IdMap
    items: IdMap


@dataclass(frozen=True)
class Metrics:
    """Figures of one evaluation.

    Attributes:
        values: "recall@20" → mean over the users.
        n_users: users that were ranked for.
        per_user: a polars frame with a row per user (user, one column per metric), if asked for.
        breakdown: "popularity" and "activity" → rows {"group", "n", metric …}, if asked for. Items in five groups of
            equal size by training users, and users in five groups by training items; the metrics of an item group count
            only its own relevant items.
    """

    values: dict[str, float]
    n_users: int
    per_user: pl.DataFrame | None = None
    breakdown: dict[str, Rows] = field(default_factory=dict)

    def __getitem__(self, name: str) -> float:
        return self.values[name]

    def __str__(self) -> str:
        width = max(map(len, self.values), default=0)
        figures = "\n".join(f"{name:{width}}  {value:.4f}" for name, value in self.values.items())
        return f"{count(self.n_users, 'user')}\n{figures}"


def evaluate(
    recommender: HasScorer,
    dataset: Dataset,
    split: Literal["train", "valid", "test"] = "test",
    *,
    k: int | Sequence[int] | None = None,
    metrics: Sequence[str] = DEFAULT_METRICS,
    candidates: Literal["all", "cold"] = "all",
    per_user: bool = False,
    breakdown: bool = False,
    memory_limit: int = MEMORY_LIMIT,
) -> Metrics:
    """Rank all items for every user of a split of the dataset.

    Args:
        recommender: its ids may be in another order than the dataset's; those it does not know are left out. Items
            that were added after training are ranked only if the dataset has them, so that the figures can be compared
            with those from before.
        dataset: gives the held-out pairs, and the training pairs to mask (not masked for split="train").
        split: which pairs are held out.
        k: cut-offs; None: 10 and 20, or, where fewer items are ranked, one that fits.
        metrics: names without cut-off, among recall, ndcg, precision, map, mrr, hit, coverage, popularity, gini.
        candidates: "cold" ranks only the items without a training pair.
        per_user, breakdown: give also each user's values, and figures by item popularity and user activity.
        memory_limit: bytes for a block of scores.

    Raises:
        ConfigError: an unknown metric, a cut-off below 1 or beyond the candidates.
        DataError: nothing is held out.
    """
    import numpy as np

    names = tuple(metrics)
    check_metrics(names)
    if getattr(recommender, "info", {}).get("refit"):
        log.warning(
            "the run was trained on all interactions, %s included: figures of what it saw are no measure", split
        )
    cutoffs = DEFAULT_CUTOFFS if k is None else tuple(k) if isinstance(k, Iterable) else (k,)
    if not cutoffs:
        raise ConfigError("k is empty; give at least one cut-off")
    device = recommender.scorer.queries(torch.zeros(1, dtype=torch.int64, device=_device(recommender.scorer))).device
    user_rows, item_rows = recommender.users.rows(dataset.users.ids), recommender.items.rows(dataset.items.ids)

    def pairs(name: str) -> tuple[Tensor, Tensor]:
        part = dataset.split(name)
        users, items = user_rows[part.users], item_rows[part.items]
        known = (users >= 0) & (items >= 0)
        if not known.all():
            lost = count(int((~known).sum()), "pair")
            log.warning("%s of %s left out: the model does not know the user or the item", lost, name)
        return torch.from_numpy(users[known]).to(device), torch.from_numpy(items[known]).to(device)

    if candidates not in ("all", "cold"):
        raise ConfigError(f"candidates is {candidates!r}; choose 'all' or 'cold'")
    chosen = _without_added(recommender, dataset, item_rows)
    chosen = None if chosen is None else chosen.to(device)
    if candidates == "cold":
        cold = np.setdiff1d(np.arange(dataset.n_items), dataset.train.items)
        chosen = torch.from_numpy(item_rows[cold][item_rows[cold] >= 0]).to(device)
        if not len(chosen):
            raise DataError(f"{dataset.name}: there are no cold items: every item has a training pair")
    train = pairs("train")
    truth = GroundTruth.of(train, pairs(split), len(recommender.users), candidates=chosen)
    if split == "train":
        truth = replace(truth, masked=False)  # what is to be found may not be hidden
    if not len(truth.users):
        raise DataError(f"{dataset.name}: the {split} split has no user to rank for")
    if k is None:
        cutoffs = _fitting(cutoffs, recommender.scorer.n_items if chosen is None else len(chosen))
    found = evaluate_scorer(
        recommender.scorer, truth, names, cutoffs, keep=per_user or breakdown, memory_limit=memory_limit
    )
    frame: pl.DataFrame | None = None
    groups: dict[str, Rows] = {}
    if per_user:
        import polars as pl

        ids = recommender.users.series.gather(truth.users.cpu().numpy())
        frame = pl.DataFrame({"user": ids} | {name: v.cpu().numpy() for name, v in found.per_user.items()})
    if breakdown:
        groups = {
            "popularity": by_popularity(recommender.scorer, truth, names, cutoffs, memory_limit),
            "activity": by_activity(truth, found.per_user),
        }
    return Metrics(found.values, len(truth.users), frame, groups)


def _without_added(recommender: HasScorer, dataset: Dataset, item_rows: np.ndarray) -> Tensor | None:
    """Rows of all items but those added after training that the dataset does not have; None where that is all."""
    import numpy as np

    n_items = len(recommender.items)
    n_trained = getattr(recommender, "n_trained_items", n_items)
    added = np.setdiff1d(np.arange(n_trained, n_items), item_rows)
    if not len(added):
        return None
    log.warning(
        "the catalogue has grown: %d of its %d items were added after training and are not in %s; they are not ranked"
        " here, so that the figures can be compared with those from before",
        *(len(added), n_items, dataset.name),
    )
    return torch.from_numpy(np.setdiff1d(np.arange(n_items), added))


def _fitting(cutoffs: tuple[int, ...], n_ranked: int) -> tuple[int, ...]:
    """Those cut-offs that are within the items that are ranked, or half of these: all of them would say nothing."""
    fitting = tuple(k for k in cutoffs if k < n_ranked or k == n_ranked == max(cutoffs))
    return fitting or (max(1, n_ranked // 2),)


def _device(scorer: Scorer) -> torch.device:
    return next(iter(scorer.tensors().values())).device
