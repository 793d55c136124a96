"""Change what a dataset holds out: items that are added or launched later, and interactions of an earlier training."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import polars as pl

from lirdrec.data.dataset import Dataset, Interactions
from lirdrec.data.features import FeatureMatrix
from lirdrec.data.history_order import has_clock
from lirdrec.data.ids import IdMap, as_list, known_rows
from lirdrec.data.schema import ITEM, SPLITS
from lirdrec.data.splits import TIMED, split_labels, split_method
from lirdrec.errors import DataError


def hold_out_items(dataset: Dataset, items: Any) -> tuple[Dataset, pl.DataFrame, dict[str, FeatureMatrix]]:
    """Remove items with their interactions and features from a dataset.

    Args:
        dataset: is not changed.
        items: one item id or many.

    Returns:
        The remaining dataset in memory; the removed rows of the item table and their features, as arguments for
        `Recommender.add_items`.

    Raises:
        UnknownIdError: an item is not in the dataset.
        DataError: the remaining data are no valid dataset (for instance, a user without a training pair).
    """
    rows = known_rows(as_list(items), dataset.items)
    keep = np.ones(dataset.n_items, dtype=bool)
    keep[rows] = False
    new_rows = np.cumsum(keep) - 1

    def remaining(pairs: Interactions) -> Interactions:
        kept = pairs.take(keep[pairs.items])
        return kept.with_rows(kept.users, new_rows[kept.items])

    def features(rows: np.ndarray) -> dict[str, FeatureMatrix]:
        matrices = dataset.features.items()
        return {name: FeatureMatrix(np.array(matrix.values[rows]), matrix.present[rows]) for name, matrix in matrices}

    rest = Dataset(
        dataset.name,
        dataset.users,
        IdMap(dataset.items.series.filter(pl.Series(keep)), dataset.items.entity),
        remaining(dataset.train),
        remaining(dataset.valid),
        remaining(dataset.test),
        features=features(np.flatnonzero(keep)),
        item_table=dataset.item_table.filter(pl.Series(keep)),
        info={**dataset.info, "left_out_items": dataset.items.series.gather(rows).to_list()},
        frame_kind=dataset.frame_kind,
        dislikes=None if dataset.dislikes is None else remaining(dataset.dislikes),
    )
    return rest, dataset.item_table[rows], features(rows)


def move_to_train(
    dataset: Dataset, users: IdMap, items: IdMap, trained: Interactions
) -> tuple[Dataset, dict[str, int]]:
    """Move the held-out interactions that an earlier run was trained on to train.

    They cannot tell how well that run, or a training that started from it, does on interactions that it has not seen.

    Args:
        dataset: is not changed.
        users, items: the ids of the run's rows; trained: its training interactions, as rows.

    Returns:
        The dataset, and the number of interactions moved from "valid" and from "test".
    """
    user_rows, item_rows = users.rows(dataset.users.series), items.rows(dataset.items.series)
    known = np.unique(trained.users * len(items) + trained.items)
    parts: dict[str, Interactions] = {}
    moved, numbers = [dataset.train], {}
    for name in ("valid", "test"):
        pairs = dataset.split(name)
        rows, columns = user_rows[pairs.users], item_rows[pairs.items]
        leaked = (rows >= 0) & (columns >= 0) & np.isin(rows * len(items) + columns, known)
        numbers[name], parts[name] = int(leaked.sum()), pairs.take(~leaked)
        moved.append(pairs.take(leaked))
    if not any(numbers.values()):
        return dataset, numbers
    return replace(dataset, train=Interactions.concatenate(moved), valid=parts["valid"], test=parts["test"]), numbers


@dataclass(frozen=True)
class LaunchedItems:
    """Items that are launched after the training, and what users take of them.

    Attributes:
        table, features: arguments for `Recommender.add_items`.
        users: `(n,)` int64 rows of the users, in the dataset of the launch.
        items: `(n,)` int64 rows of the items, in `table`.
        timestamps: `(n,)` int64, or None, as in `Interactions`.
    """

    table: pl.DataFrame
    features: dict[str, FeatureMatrix]
    users: np.ndarray
    items: np.ndarray
    timestamps: np.ndarray | None = None

    def take(self, chosen: np.ndarray) -> LaunchedItems:
        """The same items, with some of the interactions, chosen by a mask or by positions."""
        times = None if self.timestamps is None else self.timestamps[chosen]
        return replace(self, users=self.users[chosen], items=self.items[chosen], timestamps=times)


@dataclass(frozen=True)
class Launch:
    """A dataset without some of its items, and these items: one part to choose settings by, one for the test.

    Attributes:
        dataset: the known items with their interactions, split by time if that of the original was, else 8:1:1.
        valid, test: the launched items.
    """

    dataset: Dataset
    valid: LaunchedItems
    test: LaunchedItems


def draw_launch(
    dataset: Dataset, seed: int = 0, share: float = 0.1, by: Literal["random", "time"] = "random"
) -> Launch:
    """Remove two shares of the items with their interactions: items of the validation launch and of the test launch.

    Args:
        dataset: is not changed; of its own split only the method counts.
        seed: of the random choice of items and of the random split of the other interactions.
        share: share of the items of each of the two launches.
        by: "random": random items, and the interactions of the others split as the dataset is where that is by time,
            else at random per user; "time": the items whose first interactions are the latest, and of the others each
            user's latest interactions held out, or those that the split by time of the dataset holds out.

    Raises:
        DataError: "time" without times, or a share that leaves no items.
    """
    if not 0 < share < 0.5 or round(share * dataset.n_items) < 1:
        raise DataError(f"the share of launched items is {share}; it must be between 0 and 0.5, and give an item")
    everything = Interactions.concatenate([dataset.split(name) for name in SPLITS if len(dataset.split(name))])
    users, items, times = everything.users, everything.items, everything.timestamps
    n = round(share * dataset.n_items)
    if by == "time":
        if times is None or not has_clock(dataset.info):
            lacking = "timestamps of" if times is None else "times, and has positions in each user's history, of"
            raise DataError(f"{dataset.name}: a launch by time needs {lacking} the interactions")
        first = np.full(dataset.n_items, np.iinfo(np.int64).max)
        np.minimum.at(first, items, times)
        order = np.argsort(-first, kind="stable")
    else:
        order = np.random.default_rng(seed).permutation(dataset.n_items)
    launched = np.zeros(dataset.n_items, np.int8)  # 1: validation, 2: test
    launched[order[:n]], launched[order[n : 2 * n]] = 2, 1
    known = launched[items] == 0
    labels = np.full(len(users), -1, np.int8)
    known_times = None if times is None else times[known]
    method = _split_method(dataset, "temporal" if by == "time" else "random")
    labels[known] = split_labels(method, users[known], items[known], known_times, seed=seed)
    return _launch(dataset, launched, everything, labels, {"method": method, "seed": seed, "held_out": 0.2})


def _split_method(dataset: Dataset, default: str) -> str:
    """The method of the dataset's split where it is by time and there are timestamps, else `default`."""
    method = split_method(dataset.info)
    return method if method in TIMED and dataset.train.timestamps is not None else default


def _launch(
    dataset: Dataset, launched: np.ndarray, everything: Interactions, labels: np.ndarray, split: dict[str, Any]
) -> Launch:
    """The launch of given items; users without a training interaction are left out."""
    trained = np.bincount(everything.users[labels == 0], minlength=dataset.n_users) > 0
    new_user, position = np.cumsum(trained) - 1, np.zeros(dataset.n_items, np.int64)
    for part in range(3):
        position[launched == part] = np.arange((launched == part).sum())

    def features(part: int) -> dict[str, FeatureMatrix]:
        rows = np.flatnonzero(launched == part)
        return {name: FeatureMatrix(np.array(m.values[rows]), m.present[rows]) for name, m in dataset.features.items()}

    def pairs(chosen: np.ndarray, of: Interactions = everything) -> Interactions:
        kept = of.take(chosen & trained[of.users])
        return kept.with_rows(new_user[kept.users], position[kept.items])

    def launched_items(number: int) -> LaunchedItems:
        taken = pairs(launched[everything.items] == number)
        table = dataset.item_table.filter(pl.Series(launched == number))
        return LaunchedItems(table, features(number), taken.users, taken.items, taken.timestamps)

    disliked = dataset.dislikes
    rest = Dataset(
        dataset.name,
        IdMap(dataset.users.series.filter(pl.Series(trained)), dataset.users.entity),
        IdMap(dataset.items.series.filter(pl.Series(launched == 0)), dataset.items.entity),
        pairs(labels == 0),
        pairs(labels == 1),
        pairs(labels == 2),
        features=features(0),
        item_table=dataset.item_table.filter(pl.Series(launched == 0)),
        info={**dataset.info, "split": split},
        frame_kind=dataset.frame_kind,
        dislikes=None if disliked is None else pairs(launched[disliked.items] == 0, disliked),
    )
    return Launch(rest, launched_items(1), launched_items(2))


def with_launched_items(dataset: Dataset, items: LaunchedItems) -> Dataset:
    """The dataset with launched items after its own items, and their interactions in train.

    Args:
        dataset: that of the launch; is not changed.
        items: the launched items, with the interactions to train on.
    """
    n = dataset.n_items
    features = {}
    for name, matrix in dataset.features.items():
        new = items.features[name]
        values = np.concatenate([np.asarray(matrix.values), new.values])
        features[name] = FeatureMatrix(values, np.concatenate([matrix.present, new.present]))
    added = Interactions(items.users, items.items + n, items.timestamps)
    return replace(
        dataset,
        items=dataset.items.extended(items.table[ITEM]),
        item_table=pl.concat([dataset.item_table, items.table], how="vertical_relaxed"),
        features=features,
        train=Interactions.concatenate([dataset.train, added]),
    )
