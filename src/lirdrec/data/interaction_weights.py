"""Weights of interactions: a column, kinds of events, and decay with time; sums over the rows of a repeated pair."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import polars as pl

from lirdrec.data.ids import describe_ids
from lirdrec.data.interaction_filters import column_texts
from lirdrec.data.preprocessing_config import PreprocessingConfig
from lirdrec.data.table import Table
from lirdrec.data.value_parsing import MILLISECONDS, SECONDS, TIME_TEXT, parse_numbers
from lirdrec.errors import DataError
from lirdrec.option_names import option_name, option_text
from lirdrec.wording import pluralize

DAY = 86_400 * 10**6  # microseconds
EARLIEST = 10**8  # seconds since 1970 (March 1973): smaller integers are positions or years
MAX_HALVINGS = 20  # an old interaction keeps a millionth of its weight, so a like never becomes a dislike
LARGEST = 1e9  # of a weight; products and sums of such weights are still float32


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
    location = table.first_bad_row(unknown)
    row = int(unknown.arg_true()[0])
    if events[row] is None or not events[row].strip():
        raise DataError(
            f"{table.source}: column '{column}' is empty in {location}; to leave such rows out:"
            f" {option_text('bad_rows', 'skip')}"
        )
    found = events.filter(pl.Series(keep)).drop_nulls().value_counts(sort=True)[events.name].to_list()
    raise DataError(
        f"{table.source}: event {events[row]!r} in {location} has no weight"
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
