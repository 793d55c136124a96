"""The title of an item, and any column of an item table as texts."""

from __future__ import annotations

import polars as pl

TITLES = ("title", "name", "item_name")  # columns of the item table that a person would read


def title_column(columns: list[str]) -> str | None:
    """Which of these columns is the title; None without one."""
    return next((name for name in TITLES if name in columns), None)


def as_texts(column: pl.Series) -> pl.Series:
    """A column as texts, null where there is none.

    Words of a list are joined by blanks (RecBole's `token_seq`), categories, numbers and times are written out, and
    bytes that are no UTF-8 text become null.
    """
    kind = column.dtype
    if isinstance(kind, pl.Array):
        column = column.arr.to_list()
        kind = column.dtype
    if kind == pl.Binary:
        texts = [_decoded(one) for one in column]
    elif isinstance(kind, pl.List):
        texts = [None if words is None else _joined(as_texts(words)) for words in column]
    elif kind == pl.Duration:
        return column.dt.to_string("iso")
    elif isinstance(kind, pl.Struct) or kind == pl.Object:
        texts = [None if one is None else str(one) for one in column]
    else:
        return column.cast(pl.String, strict=False)
    return pl.Series(column.name, texts, dtype=pl.String)


def _joined(words: pl.Series) -> str:
    return " ".join(words.drop_nulls())


def _decoded(content: bytes | None) -> str | None:
    try:
        return None if content is None else content.decode()
    except UnicodeDecodeError:
        return None
