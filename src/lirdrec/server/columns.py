"""Columns of the item table for a person: which are there, what values they hold, how they colour a map."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import polars as pl

from lirdrec.data.columns import ITEM
from lirdrec.data.pictures import IMAGE
from lirdrec.recommender.explanation import TITLES

N_COLOURS = 7  # of categories; what is left is "other"
N_STEPS = 5  # of numbers
MAX_CHOICES = 40  # a column of texts with more values than these is one to search in
_BETWEEN = (", ", "|", "; ", " > ")  # what parts the values of one cell


@dataclass(frozen=True)
class Column:
    """What a filter or a legend has to know.

    Attributes:
        name: of the column.
        kind: "number", "yes_no", "choice" (few texts) or "text".
        values: the texts of a choice, most frequent first; lowest and highest of a number; else nothing.
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
        column = table[name]
        if name in (ITEM, IMAGE) or column.null_count() == len(column):
            continue
        if kind == pl.Boolean:
            found.append(Column(name, "yes_no"))
        elif kind.is_numeric():
            found.append(Column(name, "number", (column.min(), column.max())))
        elif kind == pl.String:
            found.append(_texts(name, column))
    return found


def colouring(table: pl.DataFrame, name: str) -> Colouring:
    """Colours by a column of `described`: the most frequent values, or five ranges with equally many items each.

    Of a cell that lists several values, such as "Comedy, Romance", the first counts.
    """
    column = table[name]
    if column.dtype.is_numeric():
        return _ranges(column.cast(pl.Float64).fill_nan(None))
    if column.dtype == pl.Boolean:
        column = column.replace_strict({True: "yes", False: "no"}, return_dtype=pl.String)
    column = _first_values(column)
    counts = column.drop_nulls().value_counts(sort=True).sort("count", name, descending=[True, False])
    labels = counts[name].head(N_COLOURS).to_list()
    places: Mapping[str, int] = {label: place for place, label in enumerate(labels)}
    if counts.height > N_COLOURS:
        labels.append("other")
    codes = [-1 if value is None else places.get(value, N_COLOURS) for value in column]
    return Colouring("category", labels, np.array(codes, dtype=np.int16))


def _texts(name: str, column: pl.Series) -> Column:
    is_title = name in TITLES
    whole = column.drop_nulls().n_unique()
    first = _first_values(column).drop_nulls()
    repeats = not is_title and first.n_unique() * 2 <= len(first)
    if is_title or whole > MAX_CHOICES:
        return Column(name, "text", colours=repeats)
    counts = column.drop_nulls().value_counts(sort=True).sort("count", name, descending=[True, False])
    return Column(name, "choice", counts[name].to_list(), colours=repeats)


def _first_values(column: pl.Series) -> pl.Series:
    """Texts without blanks around them, cut at the separator that most of the cells have; blank ones are null."""
    texts = column.str.strip_chars()
    texts = texts.set(texts == "", None)
    there = max(1, len(texts) - texts.null_count())
    shares = {mark: texts.str.contains(mark, literal=True).sum() / there for mark in _BETWEEN}
    mark = max(shares, key=lambda one: shares[one])
    if shares[mark] < 0.25:
        return texts
    return texts.str.split(mark).list.first().str.strip_chars()


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
