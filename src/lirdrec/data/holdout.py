"""Change what a dataset holds out: remove items, to add them later; move interactions to train."""

from __future__ import annotations

from dataclasses import replace
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
        numbers[name], parts[name] = int(leaked.sum()), _taken(pairs, ~leaked)
        moved.append(_taken(pairs, leaked))
    if not any(numbers.values()):
        return dataset, numbers
    times = [part.timestamps for part in moved if part.timestamps is not None]
    train = Interactions(
        np.concatenate([part.users for part in moved]),
        np.concatenate([part.items for part in moved]),
        np.concatenate(times) if len(times) == len(moved) else None,
    )
    return replace(dataset, train=train, valid=parts["valid"], test=parts["test"]), numbers


def _taken(pairs: Interactions, mask: np.ndarray) -> Interactions:
    times = None if pairs.timestamps is None else pairs.timestamps[mask]
    return Interactions(pairs.users[mask], pairs.items[mask], times)
