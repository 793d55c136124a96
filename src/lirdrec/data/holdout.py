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
    stays = np.ones(dataset.n_items, dtype=bool)
    stays[rows] = False
    new_row = np.cumsum(stays) - 1

    def kept(pairs: Interactions) -> Interactions:
        keep = stays[pairs.items]
        times = None if pairs.timestamps is None else pairs.timestamps[keep]
        return Interactions(pairs.users[keep], new_row[pairs.items[keep]], times)

    def taken(at: np.ndarray) -> dict[str, FeatureMatrix]:
        return {name: FeatureMatrix(np.array(m.values[at]), m.present[at]) for name, m in dataset.features.items()}

    rest = Dataset(
        dataset.name,
        dataset.users,
        IdMap(dataset.items.series.filter(pl.Series(stays)), dataset.items.entity),
        kept(dataset.train),
        kept(dataset.valid),
        kept(dataset.test),
        features=taken(np.flatnonzero(stays)),
        item_table=dataset.item_table.filter(pl.Series(stays)),
        info={**dataset.info, "left_out_items": dataset.items.series.gather(rows).to_list()},
        frame_kind=dataset.frame_kind,
    )
    return rest, dataset.item_table[rows], taken(rows)
