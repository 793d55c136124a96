"""Describe the columns of the item table that items can be filtered by, and color items by the values of a column."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import numpy as np
import polars as pl

from lirdrec.data.column_names import ITEM
from lirdrec.data.images import IMAGE
from lirdrec.data.titles import as_texts, is_title
from lirdrec.server.response_models import ColumnAnswer

N_COLORS = 7  # categories that have a color; all others are "other"
N_RANGES = 5  # ranges into which numbers are divided
MAX_CHOICES = 40  # most values of a choice; a column with more values is a text to search in
_SEPARATORS = (", ", "|", "; ", " > ")  # possible separators between the values of one cell


@dataclass(frozen=True, eq=False)
class ItemColors:
    """The colors of the items: a number for each item, and the meaning of each number. The UI chooses the colors."""

    kind: str  # "category" or "number"
    labels: Sequence[str]  # labels of the colors, in order
    codes: np.ndarray  # (I,) int16 indices into `labels`; -1 if the item has no value


def describe_columns(table: pl.DataFrame) -> list[ColumnAnswer]:
    """Describe the columns of the item table to filter by: numbers (also durations), booleans and texts.

    Ids, images, dates, nested values and columns without any value are left out.
    """
    columns = []
    for name, kind in table.schema.items():
        if name in (ITEM, IMAGE):
            continue
        column = _plain(as_texts(table[name]) if is_title(name) else table[name])
        if column.null_count() == len(column):
            continue
        if kind == pl.Boolean:
            columns.append(ColumnAnswer(name=name, kind="yes_no", values=[], colors=True))
        elif column.dtype.is_numeric():
            columns.append(ColumnAnswer(name=name, kind="number", values=[column.min(), column.max()], colors=True))
        elif column.dtype == pl.String:
            columns.append(_text_column(name, column))
    return columns


def color_items(table: pl.DataFrame, name: str) -> ItemColors:
    """Return the color of each item by its value in the column `name`, one of those of `describe_columns`.

    Each of the `N_COLORS` most frequent values gets a color, and all other values one color together. Numbers are
    divided into `N_RANGES` ranges by quantiles. If a cell has several values, such as "Comedy, Romance", the first
    counts.
    """
    column = _plain(table[name])
    if column.dtype.is_numeric():
        return _ranges(column.cast(pl.Float64))
    if column.dtype == pl.Boolean:
        column = column.replace_strict({True: "yes", False: "no"}, return_dtype=pl.String)
    column = _split(column, _separator(column)).list.first()
    counts = column.drop_nulls().value_counts(sort=True).sort("count", name, descending=[True, False])
    labels = counts[name].head(N_COLORS).to_list()
    codes_of: dict[str | None, int] = {None: -1, **{label: code for code, label in enumerate(labels)}}
    if counts.height > N_COLORS:
        labels.append("other")
    return ItemColors("category", labels, np.array([codes_of.get(value, N_COLORS) for value in column], np.int16))


def _plain(column: pl.Series) -> pl.Series:
    """Convert a column: categories to texts, durations to seconds, decimals to floats, and NaN and infinity to null."""
    kind = column.dtype
    if kind in (pl.Categorical, pl.Enum):
        return column.cast(pl.String)
    if kind == pl.Duration:
        return column.dt.total_microseconds() / 1e6
    if kind.is_decimal() or kind.is_float():
        column = column.cast(pl.Float64)
        return column.set(~column.is_finite(), None)
    return column


def _text_column(name: str, column: pl.Series) -> ColumnAnswer:
    separator = _separator(column)
    cells = _split(column, separator).drop_nulls()
    if is_title(name) or cells.list.len().max() is None:
        return ColumnAnswer(name=name, kind="text", values=[], colors=False)
    repeats = cells.list.first().n_unique() * 2 <= len(cells)
    counts = cells.list.explode().value_counts(sort=True).sort("count", name, descending=[True, False])
    if counts.height > MAX_CHOICES:
        return ColumnAnswer(name=name, kind="text", values=[], colors=repeats)
    kind: Literal["choice", "list"] = "choice" if separator is None else "list"
    return ColumnAnswer(name=name, kind=kind, values=counts[name].to_list(), colors=repeats)


def _separator(column: pl.Series) -> str | None:
    """Return the separator between values in a cell, such as ", "; None unless a quarter of the cells have it."""
    n = max(1, len(column) - column.null_count())
    shares = {text: (column.str.contains(text, literal=True).sum() or 0) / n for text in _SEPARATORS}
    separator = max(shares, key=lambda text: shares[text])
    return separator if shares[separator] >= 0.25 else None


def _split(column: pl.Series, separator: str | None) -> pl.Series:
    """Split each cell into a list of texts without spaces around them; a cell without any text becomes null."""
    lists = column.str.split("\0" if separator is None else separator).list.eval(pl.element().str.strip_chars())
    lists = lists.list.eval(pl.element().filter(pl.element() != ""))
    return lists.set(lists.list.len() == 0, None)


def _ranges(column: pl.Series) -> ItemColors:
    edges = np.unique(np.quantile(column.drop_nulls().to_numpy(), np.linspace(0, 1, N_RANGES + 1)))
    bounds = [f"{edge:.0f}" if float(edge).is_integer() else f"{edge:.4g}" for edge in edges]
    labels = [f"{low} – {high}" for low, high in pairwise(bounds)] or bounds
    values = column.fill_null(edges[0]).to_numpy()
    codes = np.clip(np.searchsorted(edges, values, side="right") - 1, 0, len(labels) - 1)
    return ItemColors("number", labels, np.where(column.is_null().to_numpy(), -1, codes).astype(np.int16))
