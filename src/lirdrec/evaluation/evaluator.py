"""All-ranking evaluation: every item is ranked for every user who has something held out.

The user's training items are masked; validation items are not, in the test neither (ALGORITHM: the released code's
protocol). Users without a training pair are left out. Figures are means over users.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Literal, Protocol

import torch
from torch import Tensor

from lirdrec.data.identifiers import count
from lirdrec.errors import ConfigError, DataError
from lirdrec.evaluation.breakdown import Rows, by_activity, by_popularity
from lirdrec.evaluation.measuring import Truth, measure
from lirdrec.evaluation.metrics import PER_LIST, PER_USER, check_metrics
from lirdrec.ranking.scorers import Scorer
from lirdrec.ranking.top_k import MEMORY_LIMIT

if TYPE_CHECKING:
    import numpy as np
    import polars as pl

    from lirdrec.data.dataset import Dataset
    from lirdrec.data.identifiers import IdMap

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
    truth = Truth.of(train, pairs(split), len(recommender.users), candidates=chosen)
    if split == "train":
        truth = replace(truth, masked=False)  # what is to be found may not be hidden
    if not len(truth.users):
        raise DataError(f"{dataset.name}: the {split} split has no user to rank for")
    if k is None:
        cutoffs = _fitting(cutoffs, recommender.scorer.n_items if chosen is None else len(chosen))
    found = measure(recommender.scorer, truth, names, cutoffs, keep=per_user or breakdown, memory_limit=memory_limit)
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
