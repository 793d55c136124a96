"""Summary statistics of a dataset; the command line displays them."""

from __future__ import annotations

from typing import Any

import numpy as np

from lirdrec.data.column_names import SPLITS
from lirdrec.data.dataset import Dataset
from lirdrec.data.titles import title_column


def summarize(dataset: Dataset) -> dict[str, Any]:
    """Return statistics of a dataset, JSON-able.

    Keys:
        name, info: as of the dataset.
        users, items, interactions, dislikes: their numbers.
        sparsity: share of user-item pairs without an interaction.
        splits: name → number of pairs.
        modalities: name → dims, dtype, present, coverage, bytes.
        title: the column of titles, or None.
        user_degrees, item_degrees: numbers of training pairs, see `degree_histogram`.
        weights: min, median, mean and max of the weights of the training pairs, or None.
        cold_items: number of items with interactions in valid or test and none in train.
        items_without_training, users_without_training: numbers of items and users without a training pair.
        held_users_without_training: how many of these users have pairs in valid or test.
    """
    users, items = dataset.n_users, dataset.n_items
    sizes = {name: len(dataset.split(name)) for name in SPLITS}
    total = sum(sizes.values())
    user_degrees = np.bincount(dataset.train.users, minlength=users)
    item_degrees = np.bincount(dataset.train.items, minlength=items)
    held = np.union1d(dataset.valid.users, dataset.test.users)
    return {
        "name": dataset.name,
        "users": users,
        "items": items,
        "interactions": total,
        "sparsity": 1 - total / (users * items),
        "splits": sizes,
        "modalities": {
            name: {
                "dims": matrix.dims,
                "dtype": str(matrix.values.dtype),
                "present": int(matrix.present.sum()),
                "coverage": float(matrix.present.mean()),
                "bytes": int(matrix.values.nbytes),
            }
            for name, matrix in dataset.features.items()
        },
        "title": title_column(dataset.item_table),
        "user_degrees": degree_histogram(user_degrees),
        "item_degrees": degree_histogram(item_degrees),
        "weights": _weights(dataset.train.weights),
        "dislikes": 0 if dataset.dislikes is None else len(dataset.dislikes),
        "cold_items": int(dataset.cold_items.sum()),
        "items_without_training": int((item_degrees == 0).sum()),
        "users_without_training": int((user_degrees == 0).sum()),
        "held_users_without_training": int((user_degrees[held] == 0).sum()),
        "info": dict(dataset.info),
    }


def _weights(weights: np.ndarray | None) -> dict[str, float] | None:
    if weights is None or not len(weights):
        return None
    return {name: float(getattr(np, name)(weights)) for name in ("min", "median", "mean", "max")}


def degree_histogram(degrees: np.ndarray) -> dict[str, Any]:
    """Count how many users (or items) have 0, 1, 2-3, 4-7, 8-15 … pairs; `degrees` is the number of pairs of each.

    Returns:
        `bins`: list of `{"from": a, "to": b, "count": n}` with both ends included, up to the largest degree;
        `min`, `median`, `mean`, `max`.
    """
    largest = int(degrees.max(initial=0))
    edges = [0, *(2**power for power in range(largest.bit_length() + 1))]
    counts = np.histogram(degrees, bins=edges)[0] if largest else np.array([len(degrees)])
    bins = zip(edges, edges[1:], counts, strict=False)
    return {
        "bins": [{"from": low, "to": high - 1, "count": int(count)} for low, high, count in bins],
        "min": int(degrees.min(initial=largest)),
        "median": float(np.median(degrees)) if len(degrees) else 0.0,
        "mean": float(degrees.mean()) if len(degrees) else 0.0,
        "max": largest,
    }
