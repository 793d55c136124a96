"""Hold items out of a dataset, simulate a launch of new items, and move pairs that a run was trained on to train."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import polars as pl

from lirdrec.data.column_names import ITEM, SPLITS
from lirdrec.data.dataset import Dataset, Interactions
from lirdrec.data.features import FeatureMatrix
from lirdrec.data.ids import IdMap, as_list, known_rows
from lirdrec.data.positions_or_times import timestamps_are_times
from lirdrec.data.splits import TIMED, split_labels, split_method
from lirdrec.errors import DataError


def hold_out_items(dataset: Dataset, items: Any) -> tuple[Dataset, pl.DataFrame, dict[str, FeatureMatrix]]:
    """Remove items with their interactions and features from a dataset.

    Args:
        dataset: the dataset; it is not changed.
        items: one item id or many.

    Returns:
        The remaining dataset, in memory; the removed rows of the item table; and their features. The last two are
        arguments for `Recommender.add_items`.

    Raises:
        UnknownIdError: an item is not in the dataset.
        DataError: the remaining data are not a valid dataset. For instance, a user has only validation and test pairs.
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
    """Move interactions of valid and test to train if an earlier run was trained on them.

    A training that starts from this run has seen these interactions. So metrics on them would not show how well it
    predicts unseen interactions.

    Args:
        dataset: the dataset; it is not changed.
        users, items: the ids of the run's user rows and item rows.
        trained: the run's training interactions, as rows.

    Returns:
        The new dataset (`dataset` itself if nothing moves), and the numbers of moved interactions by split: "valid",
        "test".
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
    """Launched items: new items that are added after the training, with the interactions of users with them.

    Attributes:
        table: the rows of the item table, an argument for `Recommender.add_items`.
        features: name → matrix, likewise.
        users: `(n,)` int64, the user row of each interaction, in `Launch.dataset`.
        items: `(n,)` int64, the item row of each interaction, in `table`.
        timestamps, weights: `(n,)` int64 and `(n,)` float32, or None, as in `Interactions`.
    """

    table: pl.DataFrame
    features: dict[str, FeatureMatrix]
    users: np.ndarray
    items: np.ndarray
    timestamps: np.ndarray | None = None
    weights: np.ndarray | None = None

    def take(self, chosen: np.ndarray) -> LaunchedItems:
        """Return the same items with a part of the interactions, selected by a mask or by positions."""
        taken = Interactions(self.users, self.items, self.timestamps, self.weights).take(chosen)
        return replace(self, users=taken.users, items=taken.items, timestamps=taken.timestamps, weights=taken.weights)


@dataclass(frozen=True)
class Launch:
    """A simulated launch of new items: a dataset without some of its items, and these items in two groups.

    Attributes:
        dataset: the other (known) items with their interactions, split again (see `draw_launch`).
        valid: the launched items by which settings are chosen.
        test: the launched items for the test.
    """

    dataset: Dataset
    valid: LaunchedItems
    test: LaunchedItems


def draw_launch(
    dataset: Dataset, seed: int = 0, share: float = 0.1, by: Literal["random", "time"] = "random"
) -> Launch:
    """Simulate a launch: remove two groups of items with their interactions, one for validation and one for the test.

    The interactions of the other items are split again: by the method of the dataset's own split if that is a split by
    time, else per user 8:1:1, at random or, with `by="time"`, by time. Users who then have no training interaction are
    left out, also with their interactions with the removed items.

    Args:
        dataset: the dataset; it is not changed.
        seed: seed of the random choice of items and of the random split.
        share: share of the items in each of the two groups.
        by: "random": choose the items at random; "time": choose the items whose first interactions are the latest, the
            very latest for the test. Items without interactions count as the latest.

    Raises:
        DataError: `by` is "time" and there are no times; the share is not between 0 and 0.5, or selects no items; or
            too few interactions are left for the split.
    """
    if not 0 < share < 0.5 or round(share * dataset.n_items) < 1:
        raise DataError(
            f"the share of launched items is {share}; it must be between 0 and 0.5, and select at least one item"
        )
    everything = Interactions.concatenate([dataset.split(name) for name in SPLITS if len(dataset.split(name))])
    users, items, times = everything.users, everything.items, everything.timestamps
    n = round(share * dataset.n_items)
    if by == "time":
        if times is None or not timestamps_are_times(dataset.info):
            lacking = "timestamps of" if times is None else "times, instead of positions in each user's history, of"
            raise DataError(f"{dataset.name}: a launch by time needs {lacking} the interactions; launch at random")
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
    """Return the method of the dataset's split if it is a split by time and there are timestamps, else `default`."""
    method = split_method(dataset.info)
    return method if method in TIMED and dataset.train.timestamps is not None else default


def _launch(
    dataset: Dataset, launched: np.ndarray, everything: Interactions, labels: np.ndarray, split: dict[str, Any]
) -> Launch:
    """Make the `Launch` from the group of each item and the new split of each interaction.

    Users without a training interaction are left out.

    Args:
        dataset: the original dataset.
        launched: `(I,)`, the group of each item: 0 known, 1 validation, 2 test.
        everything: all interactions of the dataset.
        labels: `(E,)`, the new split of each interaction: 0 train, 1 validation, 2 test, -1 of a launched item.
        split: the entry `split` of the new dataset's info.
    """
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
        return LaunchedItems(table, features(number), taken.users, taken.items, taken.timestamps, taken.weights)

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
    """Append launched items to a dataset, and add their interactions to train.

    Args:
        dataset: the dataset of the launch; it is not changed.
        items: the launched items, with the interactions to train on.
    """
    n = dataset.n_items
    features = {}
    for name, matrix in dataset.features.items():
        new = items.features[name]
        values = np.concatenate([np.asarray(matrix.values), new.values])
        features[name] = FeatureMatrix(values, np.concatenate([matrix.present, new.present]))
    added = Interactions(items.users, items.items + n, items.timestamps, items.weights)
    return replace(
        dataset,
        items=dataset.items.extended(items.table[ITEM]),
        item_table=pl.concat([dataset.item_table, items.table], how="vertical_relaxed"),
        features=features,
        train=Interactions.concatenate([dataset.train, added]),
    )
