"""`Dataset`: users, items, their interactions and features; made from frames, saved and loaded."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from lirdrec.data import preprocessing, storage
from lirdrec.data.alignment import FeatureFile
from lirdrec.data.dataset_parts import DatasetParts, Interactions
from lirdrec.data.frames import FrameKind
from lirdrec.data.preprocessing_config import PreprocessingConfig
from lirdrec.data.schema import ITEM, USER
from lirdrec.data.tables import Table
from lirdrec.data.verification import verify_features

__all__ = ["Dataset", "Interactions", "build"]


@dataclass(frozen=True, eq=False)
class Dataset(DatasetParts):
    """Everything that is known about users, items and their interactions; attributes: see `DatasetParts`.

    Raises:
        DataError: the parts contradict each other; names the part and the position.
    """

    @classmethod
    def from_parts(cls, parts: DatasetParts) -> Dataset:
        """The dataset of these parts, which are checked already."""
        dataset = object.__new__(cls)
        dataset.__dict__.update(parts.__dict__)
        return dataset

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
        """A dataset from frames in memory: pandas, polars or Arrow.

        Args:
            interactions: a frame with a row per interaction.
            items: a frame with a row per item, in the order of rows to be. None: the items of the interactions, sorted.
            features: name → `(ids, matrix)`, a frame of ids and vectors (or a column per number), the path of a feature
                file or, with `items`, a matrix with a row per row of `items`.
            name, info: of the dataset; `info` is JSON-able (source, license …).
            user, item, rating, timestamp: columns of the interactions; `item` is also the one of frames of features.
            items_id, title: columns of the item table, if called otherwise. The title is looked for under usual names.
            min_rating: keep only rows with at least this rating.
            only: column → value or values: keep only rows with one of them.
            time_format: how times are written, if not as integers, dates or ISO texts: "%d/%m/%Y %H:%M".
            bad_rows: "error", or "skip" rows without an id, a rating or a time.
            string_ids: make all ids strings, integers too.
            unknown_items: "error" for interactions of items that `items` lacks, "drop" them, or "keep" the items.
            without_features: "raise" for items without any features, or "drop" them.
            unknown_features: "error" for feature rows of unknown items, or "drop" them.
            k_core: remove users and items with fewer than k interactions repeatedly; 0 or 1 keeps all.
            keep_all_items: keep items without an interaction; None: if there is an item table and no k-core.
            split, held_out, seed: "random", "cold_items", "temporal", "global_time", "leave_last_out", "none", or a
                column of labels; the share held out, half of it for validation; the seed of the split.

        Raises:
            DataError: something is wrong with the data; says what, where and what to do.
            ConfigError: an argument of a wrong type or out of range.
        """
        given = {key: value for key, value in locals().items() if key not in ("cls", "interactions")}
        return cls.from_parts(preprocessing.from_frames(interactions, **given))

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
        """A dataset from a user-item matrix: SciPy sparse, or a NumPy array whose zeros are no interactions.

        Args:
            matrix: `(U, I)`; entries are ratings or ones.
            user_ids, item_ids: ids of the rows and of the columns; None: their numbers.
            features: as in `from_frames`; a matrix without ids has a row per column of `matrix`.
            items: item table with the column `item`; None: all columns of `matrix` are items, in their order.
            min_rating: keep only entries of at least this.
            options: other arguments of `from_frames`.

        Raises:
            DataError: not a matrix, or ids do not fit its shape.
            ConfigError: an option is unknown, or of a wrong type or out of range.
        """
        parts = preprocessing.from_sparse(
            matrix, user_ids, item_ids, features=features, items=items, min_rating=min_rating, **options
        )
        return cls.from_parts(parts)

    def resplit(self, split: str, seed: int = 0, held_out: float = 0.2) -> Dataset:
        """The same interactions, items and features under another split.

        Args:
            split: "random", "cold_items", "temporal", "global_time", "leave_last_out" or "none".
            seed: seed of the split.
            held_out: share held out, half of it for validation.

        Raises:
            DataError: an unknown split, or one that needs times that the dataset lacks.
            RunFolderError: a feature file of the folder that the dataset was loaded from is damaged.
        """
        verify_features(self)  # the new dataset does not know the folder, and so not the checksums
        return Dataset.from_parts(preprocessing.resplit(self, split, seed, held_out))

    def save(self, folder: str | Path, overwrite: bool = False) -> Path:
        """Write a prepared folder, completely or not at all; see `lirdrec.data.storage.save`.

        Raises:
            RunFolderError: also where a feature file of the folder that the dataset was loaded from is damaged.
        """
        verify_features(self)  # the copy gets checksums of its own, which would hide the damage
        return storage.save(self, folder, overwrite=overwrite)

    @classmethod
    def load(cls, folder: str | Path, verify: bool = False) -> Dataset:
        """Read a prepared folder, features memory-mapped; see `lirdrec.data.storage.load`."""
        return cls.from_parts(storage.load(folder, verify=verify))


def build(
    table: Table,
    items: Table | None,
    features: Mapping[str, FeatureFile],
    config: PreprocessingConfig,
    name: str,
    info: Mapping[str, Any],
    kind: FrameKind = "polars",
) -> Dataset:
    """The dataset of tables that were read; see `lirdrec.data.preprocessing.build`."""
    return Dataset.from_parts(preprocessing.build(table, items, features, config, name, info, kind))
