"""All-ranking evaluation: rank all items for every user with held-out items, and average the metrics over the users.

The items of the user's history are left out of the ranking (masked), unless `mask_seen` is off. The history has the
training items. If the dataset was split by time, the history of the test has the validation items, too, because they
are earlier than the test (`test_history`). After other methods of splitting it has only the training items, even in
the test (ALGORITHM: the protocol of the released code). Users without a history are left out.

`evaluate` takes a recommender and a dataset; `scorer_evaluation.py` evaluates a scorer against a `GroundTruth`.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, Protocol

import numpy as np
import polars as pl
import torch
from torch import Tensor

from lirdrec.data.cold_start import move_to_train
from lirdrec.data.dataset import Dataset, Interactions
from lirdrec.data.features import FeatureMatrix
from lirdrec.data.ids import IdMap
from lirdrec.errors import ConfigError, DataError
from lirdrec.evaluation.beyond_accuracy import BEYOND, Catalog, Vectors
from lirdrec.evaluation.evaluation_protocol import (
    EvaluationProtocol,
    TestHistory,
    TestTarget,
    protocol_of,
    with_histories,
    with_last_target,
)
from lirdrec.evaluation.metrics import (
    PER_LIST,
    PER_USER,
    canonical_metric,
    check_metrics,
)
from lirdrec.evaluation.scorer_evaluation import (
    EvaluationResult,
    GroundTruth,
    Rows,
    by_activity,
    by_popularity,
    evaluate_scorer,
)
from lirdrec.ranking.histories import Histories
from lirdrec.ranking.scorers import Scorer
from lirdrec.reporting.statistics import bootstrap_intervals
from lirdrec.wording import pluralize

log = logging.getLogger(__name__)
DEFAULT_METRICS = PER_USER + PER_LIST
DEFAULT_CUTOFFS = (10, 20)


class HasScorer(Protocol):
    """The attributes of a recommender that `evaluate` needs."""

    scorer: Scorer
    users: IdMap
    items: IdMap


@dataclass(frozen=True)
class Metrics:
    """Metrics of one evaluation.

    Attributes:
        values: "recall@20" → mean over the users.
        n_users: number of users that items were ranked for.
        per_user: a polars frame with a row per user (user, one column per metric), if requested; else None.
        intervals: "recall@20" → 95 % bootstrap interval of the mean over the users, if requested; else {}.
        breakdown: "popularity" and "activity" → rows {"group", "n", metric …}, if requested; else {}. "popularity" has
            five groups of items by their number of training users, "activity" five groups of users by their number of
            training items. The groups have about equal sizes. The metrics of an item group count only its own items as
            relevant.
        protocol: by which history users were known, and whether the items of the history were left out.

    >>> evaluate(recommender, dataset, k=5)["recall@5"] <= 1
    True
    """

    values: dict[str, float]
    n_users: int
    per_user: pl.DataFrame | None = None
    breakdown: dict[str, Rows] = field(default_factory=dict)
    protocol: EvaluationProtocol = field(default_factory=EvaluationProtocol)
    intervals: dict[str, tuple[float, float]] = field(default_factory=dict)

    def __getitem__(self, name: str) -> float:
        return self.values[name]

    def __str__(self) -> str:
        width = max(map(len, self.values), default=0)
        lines = "\n".join(f"{name:{width}}  {value:.4f}" for name, value in self.values.items())
        return f"{pluralize(self.n_users, 'user')}\n{lines}"


def evaluate(
    recommender: HasScorer,
    dataset: Dataset,
    split: Literal["train", "valid", "test"] = "test",
    *,
    k: int | Sequence[int] | None = None,
    metrics: Sequence[str] = DEFAULT_METRICS,
    candidates: Literal["all", "cold"] = "all",
    test_history: TestHistory | None = None,
    test_target: TestTarget | None = None,
    mask_seen: bool = True,
    per_user: bool = False,
    breakdown: bool = False,
    intervals: bool = False,
    memory_limit: int | None = None,
) -> Metrics:
    """Rank all items for every user with a history and interactions in a split; return metrics, averaged over users.

    Args:
        recommender: its ids may be in another order than the dataset's; ids that it does not know are left out. Items
            added after training are ranked only if the dataset has them, so that metrics stay comparable.
        dataset, split: give the held-out pairs, and the training pairs to leave out (not for split="train").
        k: cut-offs; None: 10 and 20, or a smaller one if fewer items are ranked.
        metrics: names without cut-off, among recall, ndcg, precision, map, mrr, hit (or hit_rate), coverage,
            popularity, gini, the names of `beyond_accuracy.list_values`, and auc.
        candidates: "cold" ranks only the items without a training pair.
        test_history: interactions by which users are known in the test: "train", "train+valid", or None: by the split.
        test_target: relevant test interactions: "all", each user's "last", or None: by the split (docs/sequential.md).
        mask_seen: leave the items of the history out of the ranking.
        per_user, breakdown, intervals: also return each user's values, metrics by item popularity and user activity,
            and a bootstrap interval of every mean over the users.
        memory_limit: bytes for a block of scores; None: 64 MiB, on a GPU 1 GiB.

    Raises:
        ConfigError: a bad option or metric, a cut-off below 1 or beyond the candidates, diversity without features.
        DataError: nothing is held out, no item is cold, or test_target="last" without timestamps.

    >>> metrics = evaluate(recommender, dataset, "test", k=10)
    >>> 0 <= metrics["recall@10"] <= 1
    True
    """
    check_metrics(names := tuple(dict.fromkeys(map(canonical_metric, metrics))))
    dataset = _only_unseen(recommender, dataset, split)
    cutoffs = _cutoffs(k)
    protocol = protocol_of(recommender, dataset.info, split, test_history, test_target, mask_seen)
    if protocol.test_target == "last":
        dataset = with_last_target(dataset)
    scorer, truth = _ground_truth(recommender, dataset, split, candidates, protocol)
    if k is None:
        cutoffs = _fitting(cutoffs, scorer.n_items if truth.candidates is None else len(truth.candidates))
    catalog = make_catalog(recommender.items, dataset, truth.training) if set(names) & set(BEYOND) else None
    keep = per_user or breakdown or intervals
    options: dict[str, Any] = {"keep": keep, "memory_limit": memory_limit, "catalog": catalog}
    result = evaluate_scorer(scorer, truth, names, cutoffs, **options)
    frame = per_user_frame(recommender.users, truth.users, result) if per_user else None
    groups = {}
    if breakdown:
        groups["popularity"] = by_popularity(scorer, truth, names, cutoffs, memory_limit)
        groups["activity"] = by_activity(truth, result.per_user)
    return Metrics(result.values, len(truth.users), frame, groups, protocol, intervals_of(result) if intervals else {})


def _cutoffs(k: int | Sequence[int] | None) -> tuple[int, ...]:
    cutoffs = DEFAULT_CUTOFFS if k is None else tuple(k) if isinstance(k, Iterable) else (k,)
    if not cutoffs:
        raise ConfigError("k is empty; give at least one cut-off")
    return cutoffs


def per_user_frame(ids: IdMap, users: Tensor, result: EvaluationResult) -> pl.DataFrame:
    """Return a frame with a row per user: "user" and one column per metric; null if a user has no value."""
    columns = {name: values.cpu().numpy() for name, values in result.per_user.items()}
    frame = pl.DataFrame({"user": ids.series.gather(users.cpu().numpy())} | columns)
    return frame.with_columns(pl.col(name).fill_nan(None) for name in columns)


def intervals_of(result: EvaluationResult) -> dict[str, tuple[float, float]]:
    """Return metric → the 95 % bootstrap interval of its mean over the users, from the values of each user."""
    return bootstrap_intervals({name: values.cpu().numpy() for name, values in result.per_user.items()})


def make_catalog(items: IdMap, dataset: Dataset, seen: Histories) -> Catalog:
    """Make the catalog (popularity and features) of a recommender's items, in the order of their ids `items`.

    `seen` has the training items of each user. An item that the dataset does not have has no features.
    """
    rows, device = torch.from_numpy(dataset.items.rows(items.series)), seen.items.device

    def vectors_of(matrix: FeatureMatrix) -> Vectors:
        def read(wanted: Tensor) -> tuple[Tensor, Tensor]:
            own = rows[wanted.cpu()]
            stored = own.clamp(min=0).numpy()
            present = torch.from_numpy(np.array(matrix.present[stored])) & (own >= 0)
            return torch.from_numpy(np.array(matrix.values[stored], np.float32)).to(device), present.to(device)

        return read

    return Catalog.of(seen, len(items), {name: vectors_of(matrix) for name, matrix in dataset.features.items()})


def _only_unseen(recommender: HasScorer, dataset: Dataset, split: str) -> Dataset:
    """Return the dataset of `unseen_part`; warn if the run was trained on interactions that are held out in `split`."""
    if getattr(recommender, "info", {}).get("refit"):
        log.warning("the run was trained on all interactions, %s included, so these metrics are not valid", split)
    dataset, n_moved = unseen_part(recommender, dataset)
    if n_moved.get(split):
        log.warning(
            "%d of the %s interactions are left out of the evaluation, since the run, or the run that it continued, was"
            " trained on them",
            *(n_moved[split], split),
        )
    return dataset


def unseen_part(recommender: HasScorer, dataset: Dataset) -> tuple[Dataset, dict[str, int]]:
    """Move the held-out interactions that a continued run was trained on to the training interactions.

    A run that continued an earlier one (`fit(..., warm_start=...)`) may have been trained on interactions that are held
    out now. For other runs and for refits the dataset is returned as it is.

    Returns:
        The dataset, and the numbers of interactions that were moved from "valid" and from "test", or {}.
    """
    train, info = getattr(recommender, "train", None), getattr(recommender, "info", {})
    if train is None or not info.get("warm_start") or info.get("refit"):
        return dataset, {}
    return move_to_train(dataset, recommender.users, recommender.items, train)


def _ground_truth(
    recommender: HasScorer, dataset: Dataset, split: str, candidates: str, protocol: EvaluationProtocol
) -> tuple[Scorer, GroundTruth]:
    """Return the scorer that represents users as the protocol requires, and the ground truth in the scorer's rows."""
    scorer = recommender.scorer
    stored_on = next(iter(scorer.tensors().values())).device
    device = scorer.queries(torch.zeros(1, dtype=torch.int64, device=stored_on)).device
    user_rows, item_rows = recommender.users.rows(dataset.users.ids), recommender.items.rows(dataset.items.ids)

    def pairs(*names: str) -> tuple[Tensor, Tensor]:
        parts = [dataset.split(name).oldest_first() for name in names]
        interactions = Interactions.concatenate(parts).oldest_first()
        users, items = user_rows[interactions.users], item_rows[interactions.items]
        is_known = (users >= 0) & (items >= 0)
        if not is_known.all():
            lost = pluralize(int((~is_known).sum()), "pair")
            message = "%s of %s left out: the model does not know the user or the item"
            log.warning(message, lost, " and ".join(names))
        return torch.from_numpy(users[is_known]).to(device), torch.from_numpy(items[is_known]).to(device)

    if candidates not in ("all", "cold"):
        raise ConfigError(f"candidates is {candidates!r}; choose 'all' or 'cold'")
    ranked = _without_added(recommender, dataset, item_rows)
    if candidates == "cold":
        cold = item_rows[np.setdiff1d(np.arange(dataset.n_items), dataset.train.items)]
        ranked = torch.from_numpy(cold[cold >= 0])
        if not len(ranked):
            raise DataError(f"{dataset.name}: there are no cold items: every item has a training pair; rank all items")
    ranked = None if ranked is None else ranked.to(device)
    n_users = len(recommender.users)
    truth = GroundTruth.from_pairs(pairs(*protocol.splits), pairs(split), n_users, candidates=ranked)
    if not len(truth.users):
        raise DataError(
            f"{dataset.name}: the {split} split has no user to rank for: no user has interactions in it and a history"
        )
    # for split="train", training items are the relevant ones
    truth = replace(truth, masked=protocol.mask_seen and split != "train")
    if protocol.test_history == "train":
        return scorer, truth
    truth = replace(truth, trained=Histories(*pairs("train"), n_users))
    if protocol.queries == "trained":
        n_untrained = int((truth.training.counts()[truth.users] == 0).sum())
        log.warning(
            "this model cannot use histories that are longer than in the training: in the test, users are known by"
            " their training interactions only%s",
            f"; {n_untrained:,} users have none, so their vectors are not trained" if n_untrained else "",
        )
        return scorer, truth
    added = Histories(*pairs("valid"), n_users)
    return with_histories(recommender, scorer, truth.seen, added), truth


def _without_added(recommender: HasScorer, dataset: Dataset, item_rows: np.ndarray) -> Tensor | None:
    """Return the item rows to rank if some items were added after training and are not in the dataset: all others.

    Logs a warning in this case. Returns None if there are no such items.
    """
    n_items = len(recommender.items)
    n_trained = getattr(recommender, "n_trained_items", n_items)
    added = np.setdiff1d(np.arange(n_trained, n_items), item_rows)
    if not len(added):
        return None
    log.warning(
        "%d of the %d items of the catalog were added after training and are not in %s; they are not ranked here, so"
        " that metrics stay comparable",
        *(len(added), n_items, dataset.name),
    )
    return torch.from_numpy(np.setdiff1d(np.arange(n_items), added))


def _fitting(cutoffs: tuple[int, ...], n_ranked: int) -> tuple[int, ...]:
    """Return the default cut-offs that are below the number of ranked items; if there are none, half of this number.

    A list of all ranked items would always have all relevant items. Only the largest cut-off may equal the number.
    """
    fitting = tuple(k for k in cutoffs if k < n_ranked or k == n_ranked == max(cutoffs))
    return fitting or (max(1, n_ranked // 2),)
