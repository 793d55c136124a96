"""Item titles: find their column in an item table and convert it to strings."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import Any

import polars as pl

from lirdrec.data.column_names import TITLE

# Names of title columns; the first match is used. Case does not matter; blanks and hyphens count as underscores.
TITLES = (
    *("title", "name", "item_name", "product_name", "product_title", "movie_title", "book_title", "titel"),
    *("prod_name", "app_name"),
)


def title_column(table: pl.DataFrame) -> str | None:
    """Return the name of the column of an item table that holds the titles, or None if there is none."""
    return named_title(table.columns)


def named_title(columns: Iterable[str]) -> str | None:
    """Return which of the columns holds titles, by its name (title, name, product_name …); None if none does.

    A nested key `product.name` counts as `product_name`. If no name matches, a nested key `….title` is used if there is
    only one.
    """
    listed = list(columns)
    plain = {_plain(name): name for name in reversed(listed)}
    if (title := next((plain[name] for name in TITLES if name in plain), None)) is not None:
        return title
    nested = [name for name in listed if "." in name and _plain(name.rpartition(".")[2]) in ("title", "titel")]
    return nested[0] if len(nested) == 1 else None


def column_named(name: str, table: pl.DataFrame) -> str | None:
    """Return the name of a column; for the name "title", also of a title column with another name. None: no such one.

    >>> column_named("title", pl.DataFrame({"product_name": ["cup"]}))
    'product_name'
    """
    if name in table.columns:
        return name
    return title_column(table) if name == TITLE else None


def is_title(name: str) -> bool:
    """Return whether a column with this name can contain titles."""
    return named_title([name]) is not None


def _plain(name: str) -> str:
    return re.sub(r"[\s.\-]+", "_", name.strip().lower())


def titles(table: pl.DataFrame) -> pl.Series | None:
    """Return the titles `(I,)` as strings, null for items without a title; None if there is no title column."""
    name = title_column(table)
    return None if name is None else as_title(table[name])


def as_title(column: pl.Series) -> pl.Series:
    """Convert a column to strings. Words of a list are joined by blanks; records and bytes become null."""
    if isinstance(column.dtype, pl.Array):
        column = column.arr.to_list()
    dtype = column.dtype
    element = dtype.inner if isinstance(dtype, pl.List) else dtype
    if element.is_nested() or element in (pl.Binary, pl.Object):
        return pl.Series(column.name, [None] * len(column), dtype=pl.String)
    if element is dtype:
        return column.cast(pl.String, strict=False)
    words = column.list.eval(pl.element().cast(pl.String, strict=False))
    return words.list.join(" ", ignore_nulls=True).replace("", None)


def as_texts(column: pl.Series) -> pl.Series:
    """Convert a column to texts; null for missing texts.

    Words of a list are joined by blanks (RecBole's `token_seq`), categories, numbers and times are formatted, and
    bytes that are not UTF-8 become null.
    """
    if isinstance(column.dtype, pl.Array):
        column = column.arr.to_list()
    if column.dtype == pl.Duration:
        return column.dt.to_string("iso")
    convert: Callable[[Any], str | None] = str
    if column.dtype == pl.Binary:
        convert = _decoded
    elif isinstance(column.dtype, pl.List):
        convert = _joined
    elif not isinstance(column.dtype, pl.Struct) and column.dtype != pl.Object:
        return column.cast(pl.String, strict=False)
    texts = [None if value is None else convert(value) for value in column]
    return pl.Series(column.name, texts, dtype=pl.String)


def _joined(words: pl.Series) -> str:
    return " ".join(as_texts(words).drop_nulls())


def _decoded(content: bytes) -> str | None:
    try:
        return content.decode()
    except UnicodeDecodeError:
        return None
