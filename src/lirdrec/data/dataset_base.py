"""`DatasetParts`: the validated contents of a dataset, as preprocessing and storage return them."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from lirdrec.data.column_names import DISLIKE, ITEM, SPLITS
from lirdrec.data.features import FeatureMatrix, check_name
from lirdrec.data.frames import FrameKind, to_polars
from lirdrec.data.ids import IdMap, describe_ids
from lirdrec.data.splits import split_method
from lirdrec.errors import DataError
from lirdrec.wording import pluralize

logger = logging.getLogger(__name__)

USERS_MAY_LACK_TRAINING = ("label", "cold_items", "global_time", "global_time_last")


@dataclass(frozen=True, eq=False)
class Interactions:
    """Pairs of a user row and an item row, with optional timestamps and weights.

    Attributes:
        users, items: `(E,)` int64 rows.
        timestamps: `(E,)` int64 in the unit of the source (microseconds for dates), or None. If the source has only the
            order of interactions, they are positions in the history of each user.
        weights: `(E,)` float32, how much each pair counts in training, or None: all count 1.

    Raises:
        DataError: a column is of a wrong type or length, or a weight is not a finite number.
    """

    users: np.ndarray
    items: np.ndarray
    timestamps: np.ndarray | None = None
    weights: np.ndarray | None = None

    def __post_init__(self) -> None:
        for name in ("users", "items", "timestamps"):
            values = getattr(self, name)
            if values is None and name == "timestamps":
                continue
            array = np.asarray(values)
            if array.ndim != 1 or (array.size and array.dtype.kind not in "iu"):
                raise DataError(f"interactions: '{name}' must be a list of integers, not {array.dtype} {array.shape}")
            if len(array) != len(self.users):
                raise DataError(
                    f"interactions: 'users' has {len(self.users)} values, but '{name}' has {len(array)}; give one value"
                    " for each interaction"
                )
            object.__setattr__(self, name, array.astype(np.int64, copy=False))
        if self.weights is not None:
            object.__setattr__(self, "weights", _as_weights(self.weights, len(self.users)))

    def __len__(self) -> int:
        return len(self.users)

    def take(self, chosen: np.ndarray) -> Interactions:
        """Return the interactions selected by a mask or by positions."""
        times = None if self.timestamps is None else self.timestamps[chosen]
        weights = None if self.weights is None else self.weights[chosen]
        return Interactions(self.users[chosen], self.items[chosen], times, weights)

    @classmethod
    def concatenate(cls, parts: Sequence[Interactions]) -> Interactions:
        """Return the interactions of all parts, one part after the other.

        The result has timestamps if every part with interactions has timestamps. It has weights if at least one part
        has weights; in parts without weights each pair counts 1.
        """
        timed = [part for part in parts if len(part)] or parts
        times = [part.timestamps for part in timed if part.timestamps is not None]
        weights = None
        if any(part.weights is not None for part in parts):
            weights = np.concatenate([part.known_weights() for part in parts])
        return cls(
            np.concatenate([part.users for part in parts]),
            np.concatenate([part.items for part in parts]),
            np.concatenate(times) if len(times) == len(timed) else None,
            weights,
        )

    def oldest_first(self) -> Interactions:
        """Return the pairs sorted by time. Pairs with equal times keep their order, as do all pairs without times.

        >>> pairs = Interactions(np.array([0, 0, 1]), np.array([7, 8, 9]), np.array([30, 10, 20]))
        >>> pairs.oldest_first().items.tolist()
        [8, 9, 7]
        """
        return self if self.timestamps is None else self.take(np.argsort(self.timestamps, kind="stable"))

    def known_weights(self) -> np.ndarray:
        """Return the weights `(E,)` float32; ones if there are no weights."""
        return np.ones(len(self), dtype=np.float32) if self.weights is None else self.weights

    def with_rows(self, users: np.ndarray, items: np.ndarray) -> Interactions:
        """Return the interactions with other user rows and item rows, and the same timestamps and weights."""
        return Interactions(users, items, self.timestamps, self.weights)

    def by_label(self, labels: np.ndarray) -> tuple[Interactions, Interactions, Interactions]:
        """Return the train, validation and test interactions: those with label 0, 1 and 2 in `labels` `(E,)`."""
        return self.take(labels == 0), self.take(labels == 1), self.take(labels == 2)


def _as_weights(values: Any, n_pairs: int) -> np.ndarray:
    array = np.asarray(values)
    if array.shape != (n_pairs,) or array.dtype.kind not in "iuf":
        raise DataError(
            f"interactions: {n_pairs} users, but the weights are {array.dtype} {array.shape}; give one number per pair"
        )
    with np.errstate(over="ignore"):
        array = array.astype(np.float32, copy=False)
    if not np.isfinite(array).all():
        raise DataError(
            "interactions: a weight is NaN, infinite or too large; weights must be finite numbers of float32"
        )
    return array


NO_TABLE = pl.DataFrame()  # the default item table: ids alone


@dataclass(frozen=True, eq=False)
class DatasetParts:
    """The contents of a dataset; the constructor validates all of it.

    Attributes:
        name: name of the dataset.
        users, items: maps between external ids and rows.
        train, valid, test: the interactions, as rows. No pair occurs twice, within a split or across splits. Users of
            valid and test have a training pair, unless the method of the split in `info` allows others.
        features: name → `FeatureMatrix` with one row per item. If there are features, every item
            has a vector in at least one matrix.
        item_table: one row per item in row order; the first column, `item`, is the id.
        info: JSON-able metadata: source, license, preparation, split, seed …
        folder: the prepared folder that the dataset was loaded from, else None.
        frame_kind: the kind of frame that `Dataset.frame` returns.
        dislikes: pairs with a weight of 0 or less, or None. They are in no split, and recommendations for
            the user leave the item out.

    Raises:
        DataError: the parts contradict each other; the message names the part and the position.
    """

    name: str
    users: IdMap
    items: IdMap
    train: Interactions
    valid: Interactions
    test: Interactions
    features: Mapping[str, FeatureMatrix] = field(default_factory=dict)
    item_table: pl.DataFrame = field(default_factory=lambda: NO_TABLE)
    info: Mapping[str, Any] = field(default_factory=dict)
    folder: Path | None = None
    frame_kind: FrameKind = "polars"
    dislikes: Interactions | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "features", dict(self.features))
        object.__setattr__(self, "info", dict(self.info))
        if self.item_table is NO_TABLE:
            object.__setattr__(self, "item_table", pl.DataFrame({ITEM: self.items.series}))
        if not len(self.train):
            raise DataError(f"dataset '{self.name}': there is no training interaction; put at least one into train")
        self._check_table()
        self._check_pairs()
        self._check_features()
        self._check_users()

    @property
    def n_users(self) -> int:
        """Number of users, including those without an interaction."""
        return len(self.users)

    @property
    def n_items(self) -> int:
        """Number of items, including those without an interaction."""
        return len(self.items)

    def split(self, name: str) -> Interactions:
        """Return the interactions of "train", "valid" or "test"; raises a DataError for another name."""
        if name not in SPLITS:
            raise DataError(f"there is no split '{name}'; choose one of {', '.join(SPLITS)}")
        return getattr(self, name)

    def all_interactions(self) -> Interactions:
        """Return the interactions of train, valid and test, in this order, without dislikes; see `concatenate`."""
        return Interactions.concatenate([self.split(name) for name in SPLITS])

    def _check_table(self) -> None:
        table, _ = to_polars(self.item_table)
        object.__setattr__(self, "item_table", table)
        if table.height != self.n_items:
            rows = pluralize(table.height, "row")
            raise DataError(
                f"the item table has {rows} for {pluralize(self.n_items, 'item')}; there must be one row for each item"
            )
        if table.columns[:1] != [ITEM] or not table[ITEM].equals(self.items.series, check_dtypes=True):
            raise DataError("the first column of the item table must be 'item': the ids of `items`, in the same order")

    def _check_pairs(self) -> None:
        named = {name: self.split(name) for name in SPLITS}
        for name, split in named.items():
            if split.weights is not None and (split.weights <= 0).any():
                position = int((split.weights <= 0).argmax())
                raise DataError(
                    f"{name} pair {position} has the weight {split.weights[position]:g}; pairs with a weight of 0 or"
                    " less are dislikes, which are in no split; give it in dislikes"
                )
        if self.dislikes is not None:
            named[DISLIKE] = self.dislikes
        for name, split in named.items():
            for entity, rows, size in (("user", split.users, self.n_users), ("item", split.items, self.n_items)):
                for position in np.flatnonzero((rows < 0) | (rows >= size))[:1]:
                    raise DataError(
                        f"{name} pair {position} has the {entity} row {rows[position]}, but there are only"
                        f" {pluralize(size, entity)} (rows from 0)"
                    )
        keys = np.concatenate([split.users * self.n_items + split.items for split in named.values()])
        in_order = np.sort(keys)  # much faster than `argsort`
        if (in_order[1:] == in_order[:-1]).any():
            order = np.argsort(keys, kind="stable")
            same = np.flatnonzero(keys[order][1:] == keys[order][:-1])
            bounds = np.cumsum([len(split) for split in named.values()])
            first, second = (
                list(named)[np.searchsorted(bounds, order[index], side="right")] for index in (same[0], same[0] + 1)
            )
            user, item = divmod(int(keys[order[same[0]]]), self.n_items)
            raise DataError(
                f"the pair of user {self.users.ids[user]} and item {self.items.ids[item]} occurs twice"
                f" (in {first} and in {second}); each pair may occur once"
            )

    def _check_features(self) -> None:
        for name, matrix in self.features.items():
            check_name(name)
            if len(matrix) != self.n_items:
                raise DataError(
                    f"features '{name}': {pluralize(len(matrix), 'row')} for {pluralize(self.n_items, 'item')};"
                    " there must be one row per item"
                )
        if self.features:
            without = ~np.any([matrix.present for matrix in self.features.values()], axis=0)
            if without.any():
                listed = describe_ids(self.items.ids[without], 10)
                raise DataError(
                    f"no features in any modality for {int(without.sum())} of {pluralize(self.n_items, 'item')}:"
                    f" {listed}; give them features, or drop them (without_features='drop')"
                )

    def _check_users(self) -> None:
        is_trained = np.zeros(self.n_users, bool)
        is_trained[self.train.users] = True
        held_out = np.concatenate([self.valid.users, self.test.users])
        untrained = np.unique(held_out[~is_trained[held_out]])
        if not len(untrained):
            return
        if split_method(self.info) not in USERS_MAY_LACK_TRAINING:
            listed = describe_ids(self.users.ids[untrained], 10)
            raise DataError(
                f"no training item for {pluralize(len(untrained), 'user')} of valid or test: {listed};"
                " move one of their items to train, leave these users out, or set info['split']['method'] = 'label' if"
                " the split was given like this"
            )
        message = "%s: no training item for %s of valid or test; evaluation leaves out users without a history"
        logger.warning(message, self.name, pluralize(len(untrained), "user"))
