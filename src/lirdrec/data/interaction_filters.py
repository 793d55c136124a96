"""Filters of interactions: by values of columns (for instance purchases only), distinct pairs, and the k-core."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import polars as pl

from lirdrec.data.ids import describe_ids
from lirdrec.data.table_with_source import Table, select_rows
from lirdrec.errors import DataError


def keep_only(table: Table, only: Mapping[str, Any]) -> Table:
    """Keep the rows that have one of the given values in each of the columns (column → a value, or several).

    Values are compared as texts: `1` equals the number 1 in a Parquet file, `true` equals a boolean, and `007` is not
    `7`. Raises a DataError if there is no such column, if no row has one of the values (the message lists the values
    that exist), or if no row remains.
    """
    table.require_columns(list(only))
    keep = pl.repeat(True, table.frame.height, eager=True)
    for column, wanted in only.items():
        texts = sorted({_value_text(value) for value in as_values(wanted)})
        existing = column_texts(table.frame[column])
        if absent := next((text for text in texts if not (existing == text).any()), None):
            counts = existing.drop_nulls().value_counts(sort=True)
            listed = describe_ids(counts[existing.name].to_list(), 8) or "nothing"
            raise DataError(f"{table.source}: no row has {absent!r} in column '{column}'; the column holds {listed}")
        keep &= existing.is_in(texts).fill_null(False)
    if not keep.any():
        raise DataError(f"{table.source}: no row has {in_words(only)} at once")
    return select_rows(table, keep)


def as_values(wanted: Any) -> list[Any]:
    """Convert one value or several values to a list."""
    is_single = isinstance(wanted, (str, bytes)) or not isinstance(wanted, Iterable)
    return [wanted] if is_single else list(wanted)


def in_words(only: Mapping[str, Any]) -> str:
    """Return the filters in words, for messages: `event=transaction, addtocart; country=de`."""
    return "; ".join(f"{column}={', '.join(map(_value_text, as_values(wanted)))}" for column, wanted in only.items())


def _value_text(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)


def column_texts(column: pl.Series) -> pl.Series:
    """Convert the values of a column to texts (`7.0` to "7"); raises a DataError for lists, records and bytes."""
    if column.dtype.is_nested() or column.dtype in (pl.Binary, pl.Object):
        raise DataError(f"column '{column.name}' holds {column.dtype}, whose values cannot be compared with texts")
    texts = column.cast(pl.String)
    if not column.dtype.is_float():
        return texts
    integers = column.cast(pl.Int64, strict=False).cast(pl.String)
    return pl.select(pl.when(column == column.floor()).then(integers).otherwise(texts).alias(column.name)).to_series()


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
