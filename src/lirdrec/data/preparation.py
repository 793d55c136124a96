"""What is done to raw pairs before they are split: repeated pairs, k-core."""

from __future__ import annotations

import numpy as np


def distinct_pairs(
    users: np.ndarray, items: np.ndarray, timestamps: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray, np.ndarray | None, np.ndarray]:
    """The distinct pairs, sorted by user and then item, so that the order of the source does not matter.

    Args:
        users, items: `(N,)` int64.
        timestamps: `(N,)` int64; a repeated pair keeps its earliest.

    Returns:
        users, items, timestamps, and the position in the input of the row kept, each `(E,)`.
    """
    order = np.lexsort((items, users) if timestamps is None else (timestamps, items, users))
    u, i = users[order], items[order]
    first = np.ones(len(u), dtype=bool)
    first[1:] = (u[1:] != u[:-1]) | (i[1:] != i[:-1])
    kept = order[first]
    return users[kept], items[kept], None if timestamps is None else timestamps[kept], kept


def k_core(users: np.ndarray, items: np.ndarray, k: int) -> np.ndarray:
    """Which pairs `(E,)` bool are left when users and items with fewer than `k` pairs are removed again and again.

    The pairs must be distinct. The result is the largest subset in which everyone has at least `k`; it may be empty.
    """
    keep = np.ones(len(users), dtype=bool)
    if k <= 1 or not len(users):
        return keep
    n_users, n_items = int(users.max()) + 1, int(items.max()) + 1
    while True:
        enough_users = np.bincount(users[keep], minlength=n_users) >= k
        enough_items = np.bincount(items[keep], minlength=n_items) >= k
        left = keep & enough_users[users] & enough_items[items]
        if left.sum() == keep.sum():
            return left
        keep = left
