"""Rows of interactions: filters by the values of columns, weights, distinct pairs and the k-core."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import polars as pl

from lirdrec.data.ids import describe_ids, pluralize
from lirdrec.data.preprocessing_config import PreprocessingConfig
from lirdrec.data.table import Table, select_rows
from lirdrec.data.value_parsing import MILLISECONDS, SECONDS, TIME_TEXT, parse_numbers
from lirdrec.errors import DataError
from lirdrec.option_names import option_name, option_text

DAY = 86_400 * 10**6  # microseconds
EARLIEST = 10**8  # seconds since 1970 (March 1973): smaller integers are positions or years
MAX_HALVINGS = 20  # an old interaction keeps a millionth of its weight, so a like never becomes a dislike
LARGEST = 1e9  # of a weight; products and sums of such weights are still float32


def keep_only(table: Table, only: Mapping[str, Any]) -> Table:
    """Keep the rows that have one of the given values in each of the columns (column → a value, or several).

    Values are compared as texts: `1` equals the number 1 of a Parquet file, and `true` its boolean; `007` is not `7`.
    Raises a DataError if there is no such column, or no row has one of the values; lists the existing values.
    """
    table.require_columns(list(only))
    keep = pl.repeat(True, table.frame.height, eager=True)
    for column, wanted in only.items():
        texts = sorted({_value_text(value) for value in as_values(wanted)})
        existing = column_texts(table.frame[column])
        if absent := next((text for text in texts if not (existing == text).any()), None):
            counts = existing.drop_nulls().value_counts(sort=True)
            listed = describe_ids(counts[existing.name].to_list(), 8) or "nothing"
            raise DataError(f"{table.source}: no row has {absent!r} in column '{column}'; it holds {listed}")
        keep &= existing.is_in(texts).fill_null(False)
    if not keep.any():
        raise DataError(f"{table.source}: no row has {in_words(only)}")
    return select_rows(table, keep)


def as_values(wanted: Any) -> list[Any]:
    """One value, or several, as a list."""
    is_single = isinstance(wanted, (str, bytes)) or not isinstance(wanted, Iterable)
    return [wanted] if is_single else list(wanted)


def in_words(only: Mapping[str, Any]) -> str:
    """`event=transaction, addtocart; country=de`."""
    return "; ".join(f"{column}={', '.join(map(_value_text, as_values(wanted)))}" for column, wanted in only.items())


def _value_text(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)


def column_texts(column: pl.Series) -> pl.Series:
    """Values as texts; floats that are integers lose `.0`."""
    if column.dtype.is_nested() or column.dtype in (pl.Binary, pl.Object):
        raise DataError(f"column '{column.name}' holds {column.dtype}, whose values cannot be compared with texts")
    texts = column.cast(pl.String)
    if not column.dtype.is_float():
        return texts
    integers = column.cast(pl.Int64, strict=False).cast(pl.String)
    return pl.select(pl.when(column == column.floor()).then(integers).otherwise(texts).alias(column.name)).to_series()


def has_weights(config: PreprocessingConfig) -> bool:
    """Whether the options give weights to interactions."""
    return config.weight is not None or config.event is not None or config.half_life is not None


def row_weights(
    table: Table, config: PreprocessingConfig, times: np.ndarray | None, keep: np.ndarray, counts: dict[str, Any]
) -> tuple[np.ndarray | None, np.ndarray]:
    """Weights `(N,)` float64 of the rows, None without such options, and the rows `(N,)` bool of `keep` that count.

    The weight is the value of the column `weight`, times the weight of the row's event, times
    `0.5 ** min(age / half_life, 20)`, with the age counted from the last row in `keep`. Rows of events with weight 0
    do not count.

    Args:
        table: the interactions.
        config: the options.
        times: `(N,)` int64 as parsed, or None.
        keep: `(N,)` bool, the rows that remain after other filters.
        counts: gets the options and counts.

    Raises:
        DataError: a weight is missing, not a number or too large; an event has no weight; times are no dates.
    """
    if not has_weights(config):
        return None, keep
    weights = np.ones(table.frame.height)
    if config.weight is not None:
        weights *= _column_weights(table, config.weight)
        counts["weight"] = config.weight
    if config.event is not None and config.event_weights is not None:
        of_event = _event_weights(table, config.event, config.event_weights, keep)
        counts |= {"event": config.event, "event_weights": dict(config.event_weights)}
        if n_ignored := int((keep & (of_event == 0)).sum()):
            counts["rows_of_ignored_events"] = n_ignored
        keep = keep & (of_event != 0)
        weights *= of_event
    if config.half_life is not None and times is not None and keep.any():
        days = times * (_unit(table, config, times[keep]) / DAY)
        age = np.maximum(days[keep].max() - days, 0)
        weights *= 0.5 ** np.minimum(age / config.half_life, MAX_HALVINGS)
        counts["half_life"] = config.half_life
    return weights, keep


def summed_weights(users: np.ndarray, items: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """The sum `(E,)` float64 of the weights of each distinct pair, in the order of `distinct_pairs`."""
    keys = users * (int(items.max(initial=0)) + 1) + items
    _, pair = np.unique(keys, return_inverse=True)
    return np.bincount(pair, weights=weights)


def _column_weights(table: Table, column: str) -> np.ndarray:
    weights = parse_numbers(table, column)
    bad = ~(np.abs(weights) <= LARGEST)
    if bad.any():
        row = int(bad.argmax())
        raise DataError(
            f"{table.source}: column '{column}' has the weight {weights[row]:g} in {table.row_location(row)}; weights"
            f" must be between {-LARGEST:g} and {LARGEST:g}"
        )
    return weights


def _event_weights(table: Table, column: str, weights: Mapping[str, float], keep: np.ndarray) -> np.ndarray:
    """The weight `(N,)` of each row's event; raises a DataError if a row in `keep` has an event without a weight."""
    events = column_texts(table.frame[column])
    known = events.str.strip_chars().replace_strict(dict(weights), default=None, return_dtype=pl.Float64)
    unknown = known.is_null() & pl.Series(keep)
    if not unknown.any():
        return known.fill_null(0.0).to_numpy()
    place = table.first_bad_row(unknown)
    row = int(unknown.arg_true()[0])
    if events[row] is None or not events[row].strip():
        raise DataError(
            f"{table.source}: column '{column}' is empty in {place}; to leave such rows out:"
            f" {option_text('bad_rows', 'skip')}"
        )
    found = events.filter(pl.Series(keep)).drop_nulls().value_counts(sort=True)[events.name].to_list()
    raise DataError(
        f"{table.source}: event {events[row]!r} in {place} has no weight"
        f" ({pluralize(int(unknown.sum()), 'row')} without one); column '{column}' holds {describe_ids(found, 20)}:"
        f" list all of them in {option_name('event_weights')}, those that say nothing with weight 0"
    )


def _unit(table: Table, config: PreprocessingConfig, times: np.ndarray) -> int:
    """Microseconds in a unit of parsed times; dates are microseconds, integers are judged by the largest of them."""
    column = str(config.timestamp)
    values = table.frame[column]
    if values.dtype in (pl.Date, pl.Datetime) or config.time_format is not None:
        return 1
    if values.dtype == pl.String and (values.head(1000).str.strip_chars().str.contains(TIME_TEXT)).any():
        return 1
    largest = int(np.abs(times).max())
    if largest < EARLIEST:
        raise DataError(
            f"{table.source}: column '{column}' holds integers up to {largest:,}, which are no times in seconds since"
            f" 1970, so a half-life in days has no meaning; write dates, or seconds since 1970"
        )
    return 10**6 if largest < SECONDS else 10**3 if largest < MILLISECONDS else 1


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
    """The k-core as a mask of pairs `(E,)` bool: users and items with fewer than `k` pairs are removed repeatedly.

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
