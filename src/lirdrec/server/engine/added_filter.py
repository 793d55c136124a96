"""Filters with the pseudo column `added`: whether, or when, an item was added after the training."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import polars as pl
from torch import Tensor

from lirdrec.errors import ConfigError
from lirdrec.ranking.filters import Filter
from lirdrec.server.snapshot import Snapshot
from lirdrec.server.timestamps import unix_seconds

ADDED = "added"  # name of the column


def filter_mask(snapshot: Snapshot, where: Filter) -> Tensor:
    """The items that satisfy a filter, `(I,)` bool.

    Unless the item table has a column `added`, conditions on this name compare true or false with whether the item was
    added after the training, and times with when it was: texts in ISO 8601, or numbers, Unix seconds. The time of items
    that were added before the run was saved is not known; conditions on the time do not hold for them.

    Raises:
        ConfigError: a column is unknown, or a value does not suit it.
    """
    table = snapshot.recommender.item_table
    if ADDED not in where.conditions or ADDED in table.columns:
        return where.mask(table)
    condition = where.conditions[ADDED]
    comparisons = condition if isinstance(condition, Mapping) else {"eq": condition}
    values = [one for value in comparisons.values() for one in (value if isinstance(value, list) else [value])]
    if all(isinstance(value, bool) for value in values):
        column: np.ndarray = np.arange(table.height) >= snapshot.recommender.n_trained_items
    else:
        column = np.full(table.height, np.nan)
        for row, seconds in snapshot.added_at.items():
            column[row] = seconds
        comparisons = {name: _seconds(value) for name, value in comparisons.items()}
    own = Filter.parse({ADDED: comparisons}).mask(pl.DataFrame({ADDED: column}))
    rest = {name: condition for name, condition in where.conditions.items() if name != ADDED}
    return Filter(rest, b"").mask(table) & own


def _seconds(value: Any) -> Any:
    """The operand of a comparison with times replaced by Unix seconds."""
    if isinstance(value, list):
        return [_seconds(one) for one in value]
    try:
        return unix_seconds(value)
    except ValueError as error:
        raise ConfigError(f"filter on '{ADDED}': {error}; or give true or false") from None
