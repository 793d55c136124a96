"""Columns of the item table for a person: which are there, what values they hold, how they colour a map."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import polars as pl

from lirdrec.data.images import IMAGE
from lirdrec.data.schema import ITEM
from lirdrec.data.titles import as_texts, is_title

N_COLOURS = 7  # of categories; what is left is "other"
N_STEPS = 5  # of numbers
MAX_CHOICES = 40  # a column of texts with more values than these is one to search in
_BETWEEN = (", ", "|", "; ", " > ")  # what parts the values of one cell


@dataclass(frozen=True)
class Column:
    """What a filter or a legend has to know.

    Attributes:
        name: of the column.
        kind: "number", "yes_no", "choice" (few texts), "list" (cells that list a few known texts) or "text".
        values: the texts of a choice or list, most frequent first; lowest and highest of a number; else nothing.
        colours: whether a map can be coloured by it.
    """

    name: str
    kind: str
    values: Sequence[Any] = ()
    colours: bool = True


@dataclass(frozen=True, eq=False)
class Colouring:
    """A colour for each item.

    Attributes:
        kind: "category" or "number".
        labels: of the colours, in order.
        codes: `(I,)` int16 places in `labels`; -1 where the item has no value.
    """

    kind: str
    labels: Sequence[str]
    codes: np.ndarray


def described(table: pl.DataFrame) -> list[Column]:
    """The columns that a person would filter by: numbers, yes or no, texts; neither ids, nor pictures, nor lists."""
    found = []
    for name, kind in table.schema.items():
        if name in (ITEM, IMAGE):
            continue
        column = _plain(as_texts(table[name]) if is_title(name) else table[name])
        if column.null_count() == len(column):
            continue
        if kind == pl.Boolean:
            found.append(Column(name, "yes_no"))
        elif column.dtype.is_numeric():
            found.append(Column(name, "number", (column.min(), column.max())))
        elif column.dtype == pl.String:
            found.append(_texts(name, column))
    return found


def colouring(table: pl.DataFrame, name: str) -> Colouring:
    """Colours by a column of `described`: the most frequent values, or five ranges with equally many items each.

    Of a cell that lists several values, such as "Comedy, Romance", the first counts.
    """
    column = _plain(table[name])
    if column.dtype.is_numeric():
        return _ranges(column.cast(pl.Float64))
    if column.dtype == pl.Boolean:
        column = column.replace_strict({True: "yes", False: "no"}, return_dtype=pl.String)
    column = _cut(column, _separator(column)).list.first()
    counts = column.drop_nulls().value_counts(sort=True).sort("count", name, descending=[True, False])
    labels = counts[name].head(N_COLOURS).to_list()
    places: Mapping[str, int] = {label: place for place, label in enumerate(labels)}
    if counts.height > N_COLOURS:
        labels.append("other")
    codes = [-1 if value is None else places.get(value, N_COLOURS) for value in column]
    return Colouring("category", labels, np.array(codes, dtype=np.int16))


def _plain(column: pl.Series) -> pl.Series:
    """Categories as texts, durations as seconds, decimals as floats, and null for a number that is not finite."""
    kind = column.dtype
    if kind in (pl.Categorical, pl.Enum):
        return column.cast(pl.String)
    if kind == pl.Duration:
        return column.dt.total_microseconds() / 1e6
    if kind.is_decimal():
        return column.cast(pl.Float64)
    if kind.is_float():
        column = column.cast(pl.Float64)
        return column.set(~column.is_finite(), None)
    return column


def _texts(name: str, column: pl.Series) -> Column:
    mark = _separator(column)
    values = _cut(column, mark)
    cells = values.drop_nulls()
    if is_title(name) or cells.list.len().max() is None:
        return Column(name, "text", colours=False)
    repeats = cells.list.first().n_unique() * 2 <= len(cells)
    counts = cells.list.explode().value_counts(sort=True).sort("count", name, descending=[True, False])
    if counts.height > MAX_CHOICES:
        return Column(name, "text", colours=repeats)
    return Column(name, "choice" if mark is None else "list", counts[name].to_list(), colours=repeats)


def _separator(column: pl.Series) -> str | None:
    """What parts the values of a cell, if a quarter of the cells hold several."""
    there = max(1, len(column) - column.null_count())
    shares = {mark: (column.str.contains(mark, literal=True).sum() or 0) / there for mark in _BETWEEN}
    mark = max(shares, key=lambda one: shares[one])
    return mark if shares[mark] >= 0.25 else None


def _cut(column: pl.Series, mark: str | None) -> pl.Series:
    """Cells as lists of texts without blanks around them; null where there is none."""
    lists = column.str.split("\0" if mark is None else mark).list.eval(pl.element().str.strip_chars())
    lists = lists.list.eval(pl.element().filter(pl.element() != ""))
    return lists.set(lists.list.len() == 0, None)


def _ranges(column: pl.Series) -> Colouring:
    there = column.drop_nulls().to_numpy()
    edges = np.unique(np.quantile(there, np.linspace(0, 1, N_STEPS + 1)))
    if len(edges) < 2:
        return Colouring("number", [_said(edges[0])], np.where(column.is_null().to_numpy(), -1, 0).astype(np.int16))
    values = column.fill_null(edges[0]).to_numpy()
    codes = np.clip(np.searchsorted(edges, values, side="right") - 1, 0, len(edges) - 2)
    labels = [f"{_said(low)} – {_said(high)}" for low, high in pairwise(edges)]
    return Colouring("number", labels, np.where(column.is_null().to_numpy(), -1, codes).astype(np.int16))


def _said(number: float) -> str:
    return f"{number:.0f}" if float(number).is_integer() else f"{number:.4g}"
