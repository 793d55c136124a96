"""`Dataset`: interactions as rows, features with masks, the item table and the ids; see `Dataset.from_frames`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal

import numpy as np
import polars as pl

from lirdrec.data import preprocessing, storage
from lirdrec.data.column_names import ITEM, SPLITS, TIMESTAMP, USER, WEIGHT
from lirdrec.data.dataset_base import USERS_MAY_LACK_TRAINING, DatasetParts, Interactions
from lirdrec.data.frames import from_polars
from lirdrec.data.storage import verify_features
from lirdrec.wording import pluralize

__all__ = ["USERS_MAY_LACK_TRAINING", "Dataset", "Interactions"]


@dataclass(frozen=True, eq=False, repr=False)
class Dataset(DatasetParts):
    """Users, items, their interactions and features; `DatasetParts` describes the attributes.

    Example:
        >>> dataset = Dataset.from_frames({"user": [1, 1, 2], "item": [7, 8, 7]}, split="none")
        >>> dataset.n_users, len(dataset.train)
        (2, 3)

    Raises:
        DataError: the parts contradict each other; the message names the part and the position.
    """

    @classmethod
    def from_parts(cls, parts: DatasetParts) -> Dataset:
        """Create a dataset from validated parts, without validating them again."""
        dataset = object.__new__(cls)
        dataset.__dict__.update({field.name: getattr(parts, field.name) for field in fields(parts)})
        return dataset

    @property
    def cold_items(self) -> np.ndarray:
        """Mask `(I,)` bool of the items with interactions in valid or test and none in train."""
        cold = np.zeros(self.n_items, dtype=bool)
        cold[self.valid.items] = True
        cold[self.test.items] = True
        cold[self.train.items] = False
        return cold

    def frame(self, split: str = "train") -> Any:
        """Return the interactions of a split with external ids, as a frame of the kind `frame_kind`.

        External ids are the ids of the source. The columns are user, item and, if the dataset has them, timestamp and
        weight. Raises a DataError if `split` is not "train", "valid" or "test".
        """
        interactions = self.split(split)
        columns = {
            USER: self.users.series.gather(interactions.users),
            ITEM: self.items.series.gather(interactions.items),
        }
        if interactions.timestamps is not None:
            columns[TIMESTAMP] = pl.Series(interactions.timestamps)
        if interactions.weights is not None:
            columns[WEIGHT] = pl.Series(interactions.weights)
        return from_polars(pl.DataFrame(columns), self.frame_kind)

    @classmethod
    def from_frames(
        cls,
        interactions: Any,
        *,
        items: Any = None,
        features: Mapping[str, Any] | None = None,
        name: str = "dataset",
        info: Mapping[str, Any] | None = None,
        user: str = USER,
        item: str = ITEM,
        items_id: str | None = None,
        title: str | None = None,
        rating: str | None = None,
        min_rating: float | None = None,
        timestamp: str | None = None,
        order: Literal["file"] | None = None,
        weight: str | None = None,
        event: str | None = None,
        event_weights: Mapping[str, float] | None = None,
        half_life: float | None = None,
        only: Mapping[str, Any] | None = None,
        time_format: str | None = None,
        bad_rows: Literal["error", "skip"] = "error",
        string_ids: bool = False,
        unknown_items: Literal["error", "drop", "keep"] = "error",
        without_features: Literal["raise", "drop"] = "raise",
        unknown_features: Literal["error", "raise", "drop"] = "error",
        k_core: int = 0,
        keep_all_items: bool | None = None,
        split: str | None = "random",
        held_out: float = 0.2,
        seed: int = 0,
    ) -> Dataset:
        """Make a dataset from pandas, polars or Arrow frames; raises a DataError or ConfigError if they are invalid.

        Args:
            interactions, items: frames with one row per interaction, and per item in the order to keep (or None).
            features: name → `(ids, matrix)`, a frame of ids and vectors, a file, or a matrix with the rows of `items`.
            name, info: name and metadata of the dataset; title: column of titles in `items`, by default one named so.
            user, item, items_id: columns of user ids, of item ids, and of item ids in `items` (default: `item`).
            rating, min_rating: column of ratings, and the smallest rating to keep.
            timestamp, time_format: column of times, and the strptime format of times that are texts.
            order: "file": there are no times, and each user's rows are in the order of time.
            weight: column of weights, added up for a repeated pair; a pair with 0 or less is a dislike (docs/data.md).
            event, event_weights: column of the kind of event, and kind → weight for all kinds: `{"view": 1, "buy": 5}`.
            half_life: number of days, back from the last interaction, in which a weight halves; at most 20 times.
            only: column → value or values: keep only rows that have one of them.
            bad_rows: "error", or "skip" to leave out rows without an id, rating or time; string_ids: make ids strings.
            unknown_items: interactions of items that `items` lacks: "error", "drop", or "keep" (with empty columns).
            without_features: "raise" an error if an item has no features, or "drop" such items.
            unknown_features: "error", or "drop" feature rows with an id that no item has.
            k_core: remove users and items with fewer than k interactions until all have k; 0 or 1 keeps all.
            keep_all_items: keep items without interactions; None: keep them if `items` is given and there is no k-core.
            split, seed: one of `splits.METHODS` or a column of labels, and its seed; held_out: share of valid and test.

        >>> Dataset.from_frames(polars.DataFrame({"user": ["ann", "bob"], "item": ["a", "b"]}), split="none").n_items
        2
        """
        options = {key: value for key, value in locals().items() if key not in ("cls", "interactions")}
        return cls.from_parts(preprocessing.from_frames(interactions, **options))

    @classmethod
    def from_tables(cls, *args: Any, **options: Any) -> Dataset:
        """Make a dataset from the tables of a reader; the arguments are those of `preprocessing.build`."""
        return cls.from_parts(preprocessing.build(*args, **options))

    @classmethod
    def from_sparse(
        cls,
        matrix: Any,
        *,
        user_ids: Any = None,
        item_ids: Any = None,
        features: Mapping[str, Any] | None = None,
        items: Any = None,
        min_rating: float | None = None,
        **options: Any,
    ) -> Dataset:
        """Make a dataset from a user-item matrix: SciPy sparse, or a NumPy array in which zeros are no interactions.

        Args:
            matrix: `(U, I)`; entries are ratings or ones.
            user_ids, item_ids: ids of the rows and of the columns; None: the row and column numbers.
            features: as in `from_frames`; a matrix without ids has a row per column of `matrix`, or per row of `items`.
            items: item table with the column `item`; None: all columns of `matrix` are items, in their order.
            min_rating: keep only entries that are at least this large; None: all entries that are not 0 count the same.
            options: other arguments of `from_frames`, except user, item, rating, timestamp and order.

        Raises:
            DataError: `matrix` is not a matrix of finite numbers, or ids are repeated or do not match its shape.
            ConfigError: an option is unknown, of a wrong type, out of range, or needs a column that a matrix lacks.
        """
        options |= {"features": features, "items": items, "min_rating": min_rating}
        return cls.from_parts(preprocessing.from_sparse(matrix, user_ids, item_ids, **options))

    def resplit(self, split: str, seed: int = 0, held_out: float = 0.2) -> Dataset:
        """Return a dataset with the same interactions, items and features, and another split.

        Args:
            split: "random", "cold_items", "temporal", "global_time", "global_time_last", "leave_last_out" or "none".
            seed: seed of "random" and "cold_items".
            held_out: share to hold out, half of it for validation; "leave_last_out" and "none" ignore it.

        Raises:
            DataError: the split is unknown, it needs times that the dataset lacks, or there are too few interactions.
            RunFolderError: a feature file of the folder that the dataset was loaded from is damaged.
        """
        verify_features(self)  # the new dataset has no folder, so its features cannot be verified later
        return Dataset.from_parts(preprocessing.resplit(self, split, seed, held_out))

    def save(self, folder: str | Path, overwrite: bool = False) -> Path:
        """Write the dataset as a prepared folder, which appears when it is complete, and return the path of the folder.

        `lirdrec.data.storage.write` describes the arguments.

        Raises:
            DataError, RunFolderError: as for `write`; or a feature file that the dataset was loaded from is damaged.

        >>> dataset.save(folder / "dataset").name
        'dataset'
        """
        verify_features(self)  # the copy gets new checksums, which would hide the damage
        return storage.write(self, folder, overwrite=overwrite)

    @classmethod
    def load(cls, folder: str | Path, verify: bool = False) -> Dataset:
        """Read the dataset of a prepared folder; features are memory-mapped. See `lirdrec.data.storage.read`.

        >>> Dataset.load(dataset.save(folder / "loaded")).n_items == dataset.n_items
        True
        """
        return cls.from_parts(storage.read(folder, verify=verify))

    def __repr__(self) -> str:
        sizes = " + ".join(f"{len(self.split(name)):,}" for name in SPLITS)
        modalities = ", ".join(f"{name} {m.dims}" for name, m in self.features.items()) or "no features"
        return (
            f"Dataset({self.name!r}, {pluralize(self.n_users, 'user')}, {pluralize(self.n_items, 'item')}, "
            f"{sizes} pairs, {modalities})"
        )
