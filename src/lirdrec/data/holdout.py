"""Remove items from a dataset, to demonstrate `add_items` with them later."""

from __future__ import annotations

from typing import Any

import numpy as np
import polars as pl

from lirdrec.data.dataset import Dataset, Interactions
from lirdrec.data.features import FeatureMatrix
from lirdrec.data.ids import IdMap, as_list, known_rows


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
        return Interactions(kept.users, new_rows[kept.items], kept.timestamps)

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
    )
    return rest, dataset.item_table[rows], features(rows)
