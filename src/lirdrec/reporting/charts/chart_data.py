"""What charts draw of a tidy frame: means over its runs, and the names in its columns in the order to show them.

Rows that agree in all that is drawn (x, series, panel …) are runs: their mean is drawn, with a band or whisker of one
standard deviation where there are two or more.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from lirdrec.errors import ConfigError

if TYPE_CHECKING:
    import polars as pl

MEAN, SD, RUNS = "mean", "sd", "runs"


def summarised(frame: pl.DataFrame, keys: Sequence[str | None], value: str, also: Sequence[str] = ()) -> pl.DataFrame:
    """Mean, sd and number of the runs for each combination of the keys, in order of appearance.

    Raises:
        ConfigError: the frame lacks a column, or has no figure at all.
    """
    import polars as pl

    names = list(dict.fromkeys(key for key in keys if key is not None))
    for name in [*names, value, *also]:
        if name not in frame.columns:
            raise ConfigError(f"nothing to draw: the frame has no column '{name}'; it has {', '.join(frame.columns)}")
    kept = frame.filter(pl.col(value).is_not_null() & pl.col(value).cast(pl.Float64).is_finite())
    if not kept.height:
        raise ConfigError(f"nothing to draw: the column '{value}' holds no figures")
    one = pl.col(value).cast(pl.Float64)
    return kept.group_by(names, maintain_order=True).agg(
        one.mean().alias(MEAN), one.std().alias(SD), pl.len().alias(RUNS), *(pl.col(name).mean() for name in also)
    )


def names_of(data: pl.DataFrame, column: str | None, order: Sequence[Any] = ()) -> list[Any]:
    """Values of a column: those of `order` first, then as they appear."""
    if column is None:
        return [None]
    found = data[column].unique(maintain_order=True).to_list()
    listed = list(order)
    return sorted(found, key=lambda one: place_of(one, listed))


def place_of(name: Any, order: Sequence[Any]) -> int:
    """Where a name stands in `order`; behind all where it does not."""
    return list(order).index(name) if name in order else len(order)


def where(column: str, value: Any) -> pl.Expr:
    """The rows with this value in a column; None: the rows with none."""
    import polars as pl

    return pl.col(column).is_null() if value is None else pl.col(column) == value
