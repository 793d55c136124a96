"""Data preparation for charts: means over runs, and ordered names of a tidy frame.

Rows that agree in all keys of a chart (x, series, panel …) are runs: charts show their mean and, for two or more runs,
their standard deviation.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from lirdrec.errors import ConfigError

if TYPE_CHECKING:
    import polars as pl

MEAN, SD, RUNS = "mean", "sd", "runs"


def summarize(frame: pl.DataFrame, keys: Sequence[str | None], value: str, also: Sequence[str] = ()) -> pl.DataFrame:
    """Mean, sd and number of the runs for each combination of the keys, in order of appearance.

    Raises:
        ConfigError: the frame lacks a column, or has no values.
    """
    import polars as pl

    names = list(dict.fromkeys(key for key in keys if key is not None))
    for name in [*names, value, *also]:
        if name not in frame.columns:
            raise ConfigError(f"nothing to draw: the frame has no column '{name}'; it has {', '.join(frame.columns)}")
    kept = frame.filter(pl.col(value).is_not_null() & pl.col(value).cast(pl.Float64).is_finite())
    if not kept.height:
        raise ConfigError(f"nothing to draw: the column '{value}' has no values")
    number = pl.col(value).cast(pl.Float64)
    return kept.group_by(names, maintain_order=True).agg(
        number.mean().alias(MEAN), number.std().alias(SD), pl.len().alias(RUNS), *(pl.col(name).mean() for name in also)
    )


def names_of(data: pl.DataFrame, column: str | None, order: Sequence[Any] = ()) -> list[Any]:
    """Values of a column: those of `order` first, then in order of appearance."""
    if column is None:
        return [None]
    values = data[column].unique(maintain_order=True).to_list()
    return sorted(values, key=lambda value: rank_in(value, order))


def rank_in(name: Any, order: Sequence[Any]) -> int:
    """Position of a name in `order`; `len(order)` where it is missing."""
    return list(order).index(name) if name in order else len(order)


def equals(column: str, value: Any) -> pl.Expr:
    """Filter for the rows with this value in a column; None: the rows with null."""
    import polars as pl

    return pl.col(column).is_null() if value is None else pl.col(column) == value
