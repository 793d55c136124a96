"""Split methods: each maps interactions to labels 0 (train), 1 (validation) or 2 (test).

Pairs come sorted by user and item (see `distinct_pairs`), so a random split depends on the set of interactions and on
the seed, never on the order of lines in a file. For a split by time they come sorted by user, time and line, so equal
times are in the order of the file.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import polars as pl

from lirdrec.data.frames import describe_row
from lirdrec.errors import DataError
from lirdrec.option_names import option_text

METHODS = ("random", "cold_items", "temporal", "global_time", "global_time_last", "leave_last_out", "none")
TIMED = ("temporal", "global_time", "global_time_last", "leave_last_out")
ONE_CLOCK = ("global_time", "global_time_last")  # they compare the times of different users
LABELS = {"train": 0, "valid": 1, "validation": 1, "val": 1, "dev": 1, "test": 2, "0": 0, "1": 1, "2": 2}


def is_split_by_time(info: Mapping[str, Any]) -> bool:
    """Return whether a dataset with this `info` was split by time, with the latest interactions in the test.

    >>> is_split_by_time({"split": {"method": "leave_last_out"}}), is_split_by_time({"split": {"method": "random"}})
    (True, False)
    """
    return split_method(info) in TIMED


def split_method(info: Mapping[str, Any]) -> str | None:
    """Return the method by which a dataset with this `info` was split ("label": a given split); None if not recorded.

    >>> split_method({"split": {"method": "temporal", "seed": 0}})
    'temporal'
    """
    split = info.get("split")
    return split.get("method") if isinstance(split, Mapping) else None


def split_labels(
    method: str,
    users: np.ndarray,
    items: np.ndarray,
    timestamps: np.ndarray | None,
    seed: int = 0,
    held_out: float = 0.2,
) -> np.ndarray:
    """Split pairs by one of the `METHODS`; returns labels `(E,)` int8: 0 train, 1 valid, 2 test.

    Args:
        method: one of
            "random": random pairs of each user are held out; `held_counts` says how many;
            "temporal": the latest pairs of each user are held out; `held_counts` says how many;
            "leave_last_out": each user's last pair is test, the one before valid (users with 3 pairs and more);
            "global_time": one cut in time for everyone: the last `held_out` share of the pairs, first half valid;
            "global_time_last": one cut in time, with the same test as "global_time"; valid is each user's last pair
                before it (users with 2 pairs and more before it);
            "cold_items": `held_out` of the items, half of them valid and half test; pairs follow their item;
            "none": everything is train.
        users, items: `(E,)` int64.
        timestamps: `(E,)` int64, or None if the method needs none. Pairs of a user with equal timestamps are in the
            order given, except in "global_time" and at the cut of "global_time_last", where they stay together.
        seed: seed of "random" and "cold_items".
        held_out: the share to hold out, half of it valid.

    Raises:
        DataError: the method is unknown, `held_out` is not between 0 and 1, timestamps are missing, or there are too
            few data to split.
    """
    if not 0 < held_out < 1:
        raise DataError(f"the share held out is {held_out}; it must be between 0 and 1")
    if method in TIMED and timestamps is None:
        text = f"split '{method}' needs timestamps: give their column ({option_text('timestamp', 'COLUMN')})"
        if method not in ONE_CLOCK:
            text += f", or say that the rows of each user are in the order of time ({option_text('order', 'file')})"
        raise DataError(text)
    rng = np.random.default_rng(seed)
    if method == "none":
        return np.zeros(len(users), dtype=np.int8)
    if method == "random":
        return _hold_last(users, rng.random(len(users)), held_out)
    if method == "cold_items":
        return _cold_items(items, rng, held_out)
    if timestamps is not None and method in TIMED:
        if method == "global_time":
            return _global_time(timestamps, held_out)
        if method == "global_time_last":
            return _global_time_last(users, timestamps, held_out)
        return _hold_last(users, timestamps, None if method == "leave_last_out" else held_out)
    raise DataError(f"there is no split '{method}'; choose one of {', '.join(METHODS)}, or give a column of labels")


def held_counts(n: np.ndarray, held_out: float | None) -> tuple[np.ndarray, np.ndarray]:
    """Return how many pairs of users with `n` `(U,)` pairs become validation pairs, and how many test pairs.

    For users with three pairs or more:

        held = min(n - 1, max(2, ⌊held_out·n⌋))
        valid = ⌊held/2⌋
        test = held - valid

    With `held_out` = 0.2 this equals the public Baby and Sports splits for every user. Users with one or two pairs keep
    them in train, so every user has a training item. If `held_out` is None, `held` is 2 (leave-last-out).
    """
    share = np.zeros_like(n) if held_out is None else np.floor(held_out * n + 1e-9).astype(np.int64)
    held = np.where(n < 3, 0, np.minimum(np.maximum(2, share), n - 1))
    return held // 2, held - held // 2


def given_labels(column: pl.Series, where: str, row_location: Callable[[int], str] = describe_row) -> np.ndarray:
    """Read labels `(E,)` int8 from a column of 0, 1, 2 or of the words train, valid (validation, val, dev) and test.

    Raises a DataError that names the first row with another value.
    """
    labels = label_values(column)
    if labels.null_count():
        row = int(labels.is_null().arg_true()[0])
        label = "no split label" if column[row] is None else f"split label {column[row]!r}"
        raise DataError(f"{where}: {label} in {row_location(row)}; use 0, 1, 2 or train, valid, test")
    return labels.to_numpy()


def label_values(column: pl.Series) -> pl.Series:
    """Convert a column to labels as Int8; null where a value is missing or not a label."""
    words = column.cast(pl.String).str.strip_chars().str.to_lowercase()
    return words.replace_strict(LABELS, default=None, return_dtype=pl.Int8)


def _hold_last(users: np.ndarray, key: np.ndarray, held_out: float | None) -> np.ndarray:
    """Label the pairs of each user in the order of `key`: the first are train, the next valid, the last test."""
    counts = np.bincount(users)
    valid, test = held_counts(counts, held_out)
    order = np.lexsort((key, users))
    starts = np.cumsum(counts) - counts
    position = np.empty(len(users), dtype=np.int64)
    position[order] = np.arange(len(users)) - starts[users[order]]
    from_end = counts[users] - 1 - position  # 0 for the last
    return np.where(from_end < test[users], 2, np.where(from_end < (test + valid)[users], 1, 0)).astype(np.int8)


def _global_time(timestamps: np.ndarray, held_out: float) -> np.ndarray:
    held, test = (timestamps >= _cut(timestamps, share) for share in (held_out, held_out / 2))
    return _nonempty((held.astype(np.int8) + test).astype(np.int8), "global_time")


def _global_time_last(users: np.ndarray, timestamps: np.ndarray, held_out: float) -> np.ndarray:
    labels = np.where(timestamps >= _cut(timestamps, held_out / 2), 2, 0).astype(np.int8)
    early = np.flatnonzero(labels == 0)
    order = early[np.lexsort((timestamps[early], users[early]))]
    is_first, is_last = np.diff(users[order], prepend=-1) != 0, np.diff(users[order], append=-1) != 0
    labels[order[is_last & ~is_first]] = 1
    return _nonempty(labels, "global_time_last")


def _cut(timestamps: np.ndarray, share: float) -> np.integer:
    """Return the time at which the latest `share` of the pairs begins."""
    return np.sort(timestamps)[min(len(timestamps) - 1, int(len(timestamps) * (1 - share)))]


def _nonempty(labels: np.ndarray, method: str) -> np.ndarray:
    """Return `labels`; raise a DataError if a split by one cut in time leaves train, valid or test without a pair."""
    sizes = np.bincount(labels, minlength=3)
    if not sizes.all():
        raise DataError(
            f"split '{method}' would leave {sizes[0]} train, {sizes[1]} valid and {sizes[2]} test pairs: there are too"
            " few pairs, or too many have the same timestamp; use 'temporal' or 'random'"
        )
    return labels


def _cold_items(items: np.ndarray, rng: np.random.Generator, held_out: float) -> np.ndarray:
    distinct = np.unique(items)
    n_held = max(2, int(np.floor(held_out * len(distinct) + 1e-9)))
    if n_held >= len(distinct):
        raise DataError(
            f"split 'cold_items' holds out {n_held} of {len(distinct)} items: none is left for training;"
            " use another split"
        )
    labels = np.zeros(int(items.max()) + 1, dtype=np.int8)
    held = rng.permutation(distinct)[:n_held]
    labels[held[: n_held // 2]] = 1
    labels[held[n_held // 2 :]] = 2
    return labels[items]
