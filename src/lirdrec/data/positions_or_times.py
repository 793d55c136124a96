"""Order of each user's interactions: positions in the rows of a table, and whether a column holds positions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

POSITIONS = "positions"  # `DatasetParts.info["timestamps"]`, if the timestamps are positions and not times


def row_positions(users: np.ndarray) -> np.ndarray:
    """Count for each row of a table the earlier rows of the same user: `(N,)` int64 of the user rows `users` `(N,)`.

    >>> row_positions(np.array([4, 4, 1, 4])).tolist()
    [0, 1, 0, 2]
    """
    order = np.argsort(users, kind="stable")
    starts = np.flatnonzero(np.r_[True, np.diff(users[order]) != 0])[: len(users)]
    lengths = np.diff(np.r_[starts, len(users)])
    positions = np.empty(len(users), dtype=np.int64)
    positions[order] = np.arange(len(users)) - np.repeat(starts, lengths)
    return positions


def last_positions(keys: np.ndarray) -> np.ndarray:
    """Return the position of the last occurrence of each distinct key in `keys` `(N,)`: `(n,)` int64, ascending.

    >>> last_positions(np.array([4, 2, 4])).tolist()
    [1, 2]
    """
    return np.sort(len(keys) - 1 - np.unique(keys[::-1], return_index=True)[1])


def are_positions(users: np.ndarray, timestamps: np.ndarray) -> bool:
    """Return whether the timestamps `(N,)` number the rows of every user, without a gap: 0, 1, 2 … or 1, 2, 3 …

    Real times do not look like this: every user would have to start at the same moment, and to act at every time step.
    The result is also False if fewer than two users have two rows or more, which is too little to decide.
    """
    if not len(users) or timestamps.min() not in (0, 1):
        return False
    order = np.lexsort((timestamps, users))
    ranks = row_positions(users[order]) + timestamps.min()
    n_long = int((ranks == timestamps.min() + 1).sum())  # users with two rows or more
    return n_long >= 2 and bool((ranks == timestamps[order]).all())


def timestamps_are_times(info: Mapping[str, Any]) -> bool:
    """Return False if the timestamps of a dataset with this `info` are only positions in each user's history.

    Else return True: the timestamps are times, or there are none.
    """
    return info.get("timestamps") != POSITIONS
