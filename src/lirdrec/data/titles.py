"""The title of each item: which column of an item table a person reads as one, and its values as texts."""

from __future__ import annotations

import polars as pl

# Names of columns that hold titles, in any case; of several the first is taken.
TITLES = (
    "title",
    "name",
    "item_name",
    "product_name",
    "product_title",
    "movie_title",
    "book_title",
    "book-title",
    "prod_name",
    "app_name",
)


def title_column(table: pl.DataFrame) -> str | None:
    """The name of the column with the titles, or None."""
    found = {name.lower(): name for name in reversed(table.columns)}
    return next((found[name] for name in TITLES if name in found), None)


def titles(table: pl.DataFrame) -> pl.Series | None:
    """The titles `(I,)` as strings, null where an item has none; None where there is no such column."""
    name = title_column(table)
    return None if name is None else as_title(table[name])


def as_title(column: pl.Series) -> pl.Series:
    """A column as strings. Lists are words in order, joined by blanks; records and bytes have no title: null."""
    kind = column.dtype
    if isinstance(kind, pl.Array):
        column, kind = column.arr.to_list(), pl.List(kind.inner)
    if isinstance(kind, pl.List):
        if kind.inner.is_nested() or kind.inner in (pl.Binary, pl.Object):
            return pl.Series(column.name, [None] * len(column), dtype=pl.String)
        words = column.list.eval(pl.element().cast(pl.String, strict=False))
        return words.list.join(" ", ignore_nulls=True).replace("", None)
    if kind.is_nested() or kind in (pl.Binary, pl.Object):
        return pl.Series(column.name, [None] * len(column), dtype=pl.String)
    return column.cast(pl.String, strict=False)
