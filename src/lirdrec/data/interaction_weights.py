"""Compute weights of interactions from a column, kinds of events and age; sum the weights of a repeated pair."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import polars as pl

from lirdrec.data.ids import describe_ids
from lirdrec.data.interaction_filters import column_texts
from lirdrec.data.preprocessing_config import PreprocessingConfig
from lirdrec.data.table_with_source import Table
from lirdrec.data.value_parsing import MILLISECONDS, SECONDS, TIME_TEXT, parse_numbers
from lirdrec.errors import DataError
from lirdrec.option_names import option_name, option_text
from lirdrec.wording import pluralize

DAY = 86_400 * 10**6  # microseconds
EARLIEST = 10**8  # seconds since 1970 (March 1973): smaller integers are positions or years
MAX_HALVINGS = 20  # an old interaction keeps a millionth of its weight, so a like never becomes a dislike
LARGEST = 1e9  # largest weight; products and sums of such weights still fit into float32


def has_weights(config: PreprocessingConfig) -> bool:
    """Return whether the options give weights to interactions."""
    return config.weight is not None or config.event is not None or config.half_life is not None


def row_weights(
    table: Table, config: PreprocessingConfig, times: np.ndarray | None, keep: np.ndarray, counts: dict[str, Any]
) -> tuple[np.ndarray | None, np.ndarray]:
    """Compute the weight of each row, `(N,)` float64 or None, and which rows of `keep` count, `(N,)` bool.

    The weight is a product of three factors; a factor whose option is not given is 1:

        (value of the column `weight`) · (weight of the row's event) · 0.5 ** min(age / half_life, 20)

    The age of a row is the number of days between its time and the latest time in `keep`. Rows of events with weight 0
    do not count. If no option gives weights, the weights are None.

    Args:
        table: the interactions.
        config: the options.
        times: `(N,)` int64 as parsed, or None.
        keep: `(N,)` bool, the rows that remain after other filters.
        counts: the mapping to which the options and counts are added.

    Raises:
        DataError: a weight is missing, not a number or too large; an event has no weight; times are not dates.
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
    """Sum the weights of each distinct pair, `(E,)` float64, in the order of `distinct_pairs`."""
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
    """Return the weight `(N,)` of each row's event; raises a DataError if a row in `keep` has no event or no weight."""
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
        f" list all of them in {option_name('event_weights')}, with weight 0 for events that should not count"
    )


def _unit(table: Table, config: PreprocessingConfig, times: np.ndarray) -> int:
    """Return how many microseconds one unit of the parsed times is.

    Dates are parsed to microseconds. The unit of integers is inferred from the largest of them. Raises a DataError if
    it is too small to be a time.
    """
    column = str(config.timestamp)
    values = table.frame[column]
    if values.dtype in (pl.Date, pl.Datetime) or config.time_format is not None:
        return 1
    if values.dtype == pl.String and (values.head(1000).str.strip_chars().str.contains(TIME_TEXT)).any():
        return 1
    largest = int(np.abs(times).max())
    if largest < EARLIEST:
        raise DataError(
            f"{table.source}: column '{column}' holds integers up to {largest:,}, which are not times in seconds since"
            f" 1970, so a half-life in days cannot be used; write dates, or seconds since 1970"
        )
    return 10**6 if largest < SECONDS else 10**3 if largest < MILLISECONDS else 1
