"""Evaluate recommendation lists that were made by another program, as rows of a dataset."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import polars as pl
import torch

from lirdrec.data.column_names import ITEM, USER
from lirdrec.data.dataset import Dataset, Interactions
from lirdrec.data.positions_or_times import row_positions
from lirdrec.data.raw_ids import read_ids
from lirdrec.data.table_files import read_table
from lirdrec.data.table_with_source import Table
from lirdrec.errors import ConfigError, DataError
from lirdrec.evaluation.beyond_accuracy import AUC, BEYOND
from lirdrec.evaluation.evaluation_protocol import TestHistory, TestTarget, protocol_of, with_last_target
from lirdrec.evaluation.evaluator import (
    DEFAULT_CUTOFFS,
    DEFAULT_METRICS,
    Metrics,
    intervals_of,
    make_catalog,
    per_user_frame,
)
from lirdrec.evaluation.metrics import canonical_metric, check_metrics
from lirdrec.evaluation.scorer_evaluation import GroundTruth, evaluate_lists
from lirdrec.ranking.histories import Histories
from lirdrec.wording import pluralize

log = logging.getLogger(__name__)
RANK, SCORE = "rank", "score"


@dataclass(frozen=True)
class ExternalLists:
    """Recommendation lists of users, in the row numbers of a dataset.

    Attributes:
        items: `(U, K)` int64 item rows, best first, a list for each user of the dataset; -1: no item, or one that the
            dataset does not know.
        source: where they were read, for messages.
    """

    items: np.ndarray
    source: str

    @property
    def lengths(self) -> np.ndarray:
        """The number of places of each user's list up to its last item, `(U,)` int64."""
        filled = self.items >= 0
        return np.where(filled.any(1), self.items.shape[1] - filled[:, ::-1].argmax(1), 0)


def read_lists(path: str | Path, dataset: Dataset) -> ExternalLists:
    """Read lists from a table with the columns user, item, and rank (1 is best) or score (the highest is best).

    Users that the dataset does not know are left out; an item that it does not know keeps its place and counts as a
    miss. Items that a user has in training are removed, as they are for every model, and the items after them move up.
    Warnings give the numbers of such rows.

    Args:
        path: CSV, TSV, Parquet or any other table that `lirdrec.data.table_files.read_table` reads.
        dataset: gives the ids and the training interactions.

    Raises:
        DataError: a column is missing; a rank or score is missing or is not a number; an item occurs twice in a list;
            no user is known.
    """
    table = read_table(path)
    by = RANK if RANK in table.frame.columns or SCORE not in table.frame.columns else SCORE
    if by not in table.frame.columns:
        columns = ", ".join(table.frame.columns)
        raise DataError(f"{table.source} needs a column 'rank' or 'score', which gives the order; it has {columns}")
    table.require_columns((USER, ITEM))
    order = _numbers(table, by)
    ids = {
        name: read_ids(table.frame[name], table.source, name, table.row_location, text=table.text, string_ids=strings)
        for name, strings in ((USER, not dataset.users.is_integer), (ITEM, not dataset.items.is_integer))
    }
    frame = pl.DataFrame({**ids, "by": order if by == RANK else -order})
    if (twice := frame.select(USER, ITEM).is_duplicated()).any():
        row = int(twice.arg_true()[0])
        user, item, location = ids[USER][row], ids[ITEM][row], table.row_location(row)
        raise DataError(f"{table.source}: user {user} has item {item} twice, first in {location}; list it once")
    users, items = dataset.users.rows(frame[USER]), dataset.items.rows(frame[ITEM])
    _warn_unknown(table.source, dataset, users, items)
    return _matrix(users, items, frame["by"].to_numpy(), dataset, table.source)


def _numbers(table: Table, name: str) -> pl.Series:
    """Return a column as float64 numbers.

    Raises:
        DataError: a value is missing, or not a finite number.
    """
    numbers = table.frame[name].cast(pl.Float64, strict=False)
    bad = numbers.is_null() | ~numbers.is_finite()
    if bad.any():
        row = int(bad.arg_true()[0])
        value, location = table.frame[name][row], table.row_location(row)
        raise DataError(f"{table.source}: column '{name}' has {value!r} in {location}; write a number in every row")
    return numbers


def _warn_unknown(source: str, dataset: Dataset, users: np.ndarray, items: np.ndarray) -> None:
    if not (users >= 0).any():
        raise DataError(
            f"{source}: none of its users is in {dataset.name}; check that the ids are written in the same way"
        )
    if (lost := int((users < 0).sum())) > 0:
        log.warning("%s: %s left out, since the user is not in %s", source, pluralize(lost, "row"), dataset.name)
    if (missed := int(((users >= 0) & (items < 0)).sum())) > 0:
        rows = pluralize(missed, "row")
        log.warning("%s: %s with an item that is not in %s; they count as misses", source, rows, dataset.name)


def _matrix(users: np.ndarray, items: np.ndarray, by: np.ndarray, dataset: Dataset, source: str) -> ExternalLists:
    """Make the lists from rows of the table: user rows, item rows, and keys `by` in ascending order.

    Training items of the user are removed, with a warning.
    """
    train = dataset.train.users.astype(np.int64) * dataset.n_items + dataset.train.items
    seen = (items >= 0) & np.isin(users * dataset.n_items + items, train) & (users >= 0)
    if seen.any():
        count = pluralize(int(seen.sum()), "row")
        log.warning("%s: %s removed, since the user has the item in training; as for every model", source, count)
    keep = (users >= 0) & ~seen
    users, items, by = users[keep], items[keep], by[keep]
    order = np.lexsort((items, by, users))
    users, items = users[order], items[order]
    ranks = row_positions(users)
    matrix = np.full((dataset.n_users, int(ranks.max(initial=0)) + 1), -1, dtype=np.int64)
    matrix[users, ranks] = items
    return ExternalLists(matrix, source)


def evaluate_external(
    lists: ExternalLists,
    dataset: Dataset,
    split: str = "test",
    *,
    k: Sequence[int] | None = None,
    metrics: Sequence[str] | None = None,
    test_history: TestHistory | None = None,
    test_target: TestTarget | None = None,
    per_user: bool = False,
    intervals: bool = False,
) -> Metrics:
    """Compute the metrics of recommendation lists, as `evaluate` does for a model that recommends these lists.

    For a user without a list, all relevant items count as misses. Items of the history by which the protocol knows a
    user are removed from the lists, as for every model.

    Args:
        lists: from `read_lists` with this dataset.
        split: "valid" or "test".
        k: cut-offs; None: 10 and 20, as far as the lists are long enough.
        metrics: as for `evaluate`, without auc; None: all, diversity only if the dataset has features.
        test_history, test_target, per_user, intervals: as for `evaluate`.

    Raises:
        ConfigError: auc, which needs the scores of all items; a cut-off beyond the longest list; another split.
        DataError: nothing is held out, or test_target="last" without timestamps.
    """
    names = default_metrics(dataset) if metrics is None else metrics_of_lists(metrics)
    if split not in ("valid", "test"):
        raise ConfigError(f"split is {split!r}; lists are evaluated on 'valid' or 'test'")
    cutoffs = fitting_cutoffs(lists, k)
    protocol = protocol_of(None, dataset.info, split, test_history, test_target)
    if protocol.test_target == "last":
        dataset = with_last_target(dataset)
    known = Interactions.concatenate([dataset.split(name) for name in protocol.splits])
    lists = _without_history(lists, known, dataset.n_items)
    train, history, held_out = (_pairs(part) for part in (dataset.train, known, dataset.split(split)))
    truth = GroundTruth.from_pairs(history, held_out, dataset.n_users)
    if protocol.test_history != "train":
        truth = replace(truth, trained=Histories(*train, dataset.n_users))
    if not len(truth.users):
        raise DataError(
            f"{dataset.name}: the {split} split has no user to rank for: no user has interactions in it and a history"
        )
    _warn_missing(lists, truth, cutoffs)
    blocks = ((users, torch.from_numpy(lists.items[users.numpy()])) for users in truth.users.split(4096))
    catalog = make_catalog(dataset.items, dataset, truth.training) if set(names) & set(BEYOND) else None
    keep = per_user or intervals
    result = evaluate_lists(blocks, dataset.n_items, truth, names, cutoffs, keep=keep, catalog=catalog)
    frame = per_user_frame(dataset.users, truth.users, result) if per_user else None
    return Metrics(result.values, len(truth.users), frame, {}, protocol, intervals_of(result) if intervals else {})


def _pairs(part: Interactions) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.from_numpy(np.array(part.users)), torch.from_numpy(np.array(part.items))


def _without_history(lists: ExternalLists, history: Interactions, n_items: int) -> ExternalLists:
    """Remove the items of each user's history from the lists, with a warning; the items after them move up."""
    rows = np.arange(len(lists.items))[:, None]
    keys = history.users.astype(np.int64) * n_items + history.items
    seen = (lists.items >= 0) & np.isin(rows * n_items + lists.items, keys)
    if not seen.any():
        return lists
    count = pluralize(int(seen.sum()), "row")
    log.warning(
        "%s: %s removed, since the item is in the user's history; lists of models have no such items either",
        lists.source,
        count,
    )
    order = np.argsort(seen, axis=1, kind="stable")
    return ExternalLists(np.take_along_axis(np.where(seen, -1, lists.items), order, axis=1), lists.source)


def metrics_of_lists(metrics: Sequence[str]) -> tuple[str, ...]:
    """Check the names of metrics for lists, and return each once, by the name under which it is stored.

    Raises:
        ConfigError: an unknown metric; auc, which needs the scores of all items.
    """
    names = tuple(dict.fromkeys(map(canonical_metric, metrics)))
    check_metrics(names)
    if AUC in names:
        raise ConfigError("metric 'auc' needs the scores of all items, which lists do not have; leave it out")
    return names


def default_metrics(dataset: Dataset) -> tuple[str, ...]:
    """Return the names of all metrics that lists can have; diversity only if the dataset has features."""
    return DEFAULT_METRICS + tuple(name for name in BEYOND if name != "diversity" or dataset.features)


def fitting_cutoffs(lists: ExternalLists, k: Sequence[int] | None) -> tuple[int, ...]:
    """Return the cut-offs `k`; by default 10 and 20, without those beyond the longest list, or the length of this list.

    Raises:
        ConfigError: a cut-off below 1 or beyond the longest list.
    """
    longest = lists.items.shape[1]
    if k is None:
        return tuple(cutoff for cutoff in DEFAULT_CUTOFFS if cutoff <= longest) or (longest,)
    for cutoff in k:
        if not 1 <= cutoff <= longest:
            raise ConfigError(f"k is {cutoff}; it must be between 1 and {longest}, the length of the longest list")
    return tuple(dict.fromkeys(k))


def _warn_missing(lists: ExternalLists, truth: GroundTruth, cutoffs: Sequence[int]) -> None:
    lengths = lists.lengths[truth.users.numpy()]
    n, absent, short = len(lengths), int((lengths == 0).sum()), int(((lengths > 0) & (lengths < max(cutoffs))).sum())
    if absent:
        log.warning(
            "%s: %d of %d users have no list; all their held-out items count as misses", lists.source, absent, n
        )
    if short:
        log.warning(
            "%s: %d of %d users have lists of fewer than %d items; the missing places count as misses",
            *(lists.source, short, n, max(cutoffs)),
        )
