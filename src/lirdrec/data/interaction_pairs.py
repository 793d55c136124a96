"""Sets of user-item pairs as arrays of rows: deduplication and the k-core."""

from __future__ import annotations

import numpy as np


def distinct_pairs(
    users: np.ndarray, items: np.ndarray, timestamps: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray, np.ndarray | None, np.ndarray]:
    """Deduplicate pairs and sort them by user, then item, so that the order of the source does not matter.

    Takes arrays `(N,)` int64. Returns users, items, timestamps (the earliest of a repeated pair), and the input
    position of each kept row, each `(E,)`.
    """
    order = np.lexsort((items, users) if timestamps is None else (timestamps, items, users))
    u, i = users[order], items[order]
    first = np.ones(len(u), dtype=bool)
    first[1:] = (u[1:] != u[:-1]) | (i[1:] != i[:-1])
    kept = order[first]
    return users[kept], items[kept], None if timestamps is None else timestamps[kept], kept


def k_core(users: np.ndarray, items: np.ndarray, k: int) -> np.ndarray:
    """Return which pairs are in the k-core, `(E,)` bool: repeatedly remove users and items with fewer than `k` pairs.

    The pairs must be distinct. The result is the largest subset in which all users and items have at least `k` pairs;
    it may be empty.
    """
    keep = np.ones(len(users), dtype=bool)
    if k <= 1 or not len(users):
        return keep
    while True:
        enough_users = np.bincount(users[keep], minlength=int(users.max()) + 1) >= k
        enough_items = np.bincount(items[keep], minlength=int(items.max()) + 1) >= k
        remaining = keep & enough_users[users] & enough_items[items]
        if remaining.sum() == keep.sum():
            return remaining
        keep = remaining
