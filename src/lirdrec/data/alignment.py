"""Align feature rows to the order of the items, by id or by position."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from lirdrec.data.feature_files import FeatureFile, read_features, vectors_of_frame
from lirdrec.data.features import FeatureMatrix, as_floats, check_rows
from lirdrec.data.frames import to_polars
from lirdrec.data.ids import IdMap, count, describe_ids
from lirdrec.data.raw_ids import read_ids, whole_texts
from lirdrec.data.tables import Table
from lirdrec.errors import DataError
from lirdrec.option_names import argument

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Aligned:
    """A source of features, checked, and the source row of each item (-1: the item has none)."""

    values: np.ndarray
    source: np.ndarray
    present: np.ndarray

    def take(self, items: np.ndarray) -> FeatureMatrix:
        """The matrix of the items `(I,)` bool; the source itself, memory map and all, where nothing moves."""
        source, present = self.source[items], self.present[items]
        if np.array_equal(source, np.arange(len(self.values))):
            return FeatureMatrix.known_good(self.values, present)
        values = np.zeros((len(source), self.values.shape[1]), dtype=self.values.dtype)
        for start in range(0, len(source), 4096):  # a memory map is read in pieces
            some = slice(start, start + 4096)
            values[some][present[some]] = self.values[source[some][present[some]]]
        return FeatureMatrix.known_good(values, present)


def as_feature_file(source: Any, where: str, item_column: str) -> FeatureFile:
    """Features in any of the forms that `from_frames` takes, as a matrix with ids or without.

    Raises:
        DataError: it is none of these forms, or damaged.
    """
    if isinstance(source, (str, Path)):
        return read_features(source, item_column=item_column)
    if isinstance(source, FeatureFile):
        return source
    if isinstance(source, FeatureMatrix):
        return FeatureFile(source.values, None, where)
    if isinstance(source, tuple):
        if len(source) != 2:
            raise DataError(f"{where}: a tuple must be (ids, matrix), and this one has {len(source)} parts")
        ids, values = read_ids(source[0], f"{where}, ids", "item"), as_floats(source[1], where)
        if len(ids) != len(values):
            raise DataError(f"{where}: {count(len(ids), 'id')} for {count(len(values), 'row')} of features")
        return FeatureFile(values, ids, where)
    if isinstance(source, (pl.DataFrame, pl.LazyFrame)) or hasattr(source, "columns") or hasattr(source, "schema"):
        table = Table(to_polars(source)[0], where)
        return vectors_of_frame(table, item_column=item_column)
    return FeatureFile(as_floats(source, where), None, where)


def align(
    file: FeatureFile,
    items: IdMap,
    where: str,
    drop_unknown: bool = False,
    order: str = "the item table",
    listed: int | None = None,
) -> Aligned:
    """Find each item's row; rows whose id is no item are an error unless `drop_unknown`.

    Args:
        file: the features; without ids its row i is that of the item in row i.
        items: the catalog.
        where: what messages begin with.
        drop_unknown: leave out, and count in a warning, rows whose id is no item.
        order: what the rows of features without ids are in the order of, for the line that says so.
        listed: the number of items that `order` lists, the first of the catalog; by default all.

    Raises:
        DataError: NaN or infinite values, ids that are repeated or not among the items, or, without ids, a number of
            rows that is not the number of items.
    """
    where = file.where if file.where == where else f"{where} ({file.where})"
    nonzero = check_rows(file.values, where, file.ids)
    if file.ids is None:
        return _in_order(file.values, nonzero, items, where, order, len(items) if listed is None else listed)
    ids = same_type(file.ids, items.series.dtype, where)
    if (repeated := ids.is_duplicated()).any():
        raise DataError(
            f"{where}: item id {ids[repeated.arg_true()[0]]!r} occurs more than once; keep one row per item"
        )
    rows = items.rows(ids)
    if (rows < 0).any():
        unknown = file.ids.filter(pl.Series(rows < 0))
        told = f"{where}: {count(len(unknown), 'id')} not among the items: {describe_ids(unknown)}"
        if not drop_unknown:
            raise DataError(
                f"{told}; add them to the item table, or leave them out ({argument('unknown_features', 'drop')})"
            )
        logger.warning("%s; their features are left out", told)
    source = np.full(len(items), -1, dtype=np.int64)
    known = np.flatnonzero(rows >= 0)
    source[rows[known]] = known
    present = np.zeros(len(items), dtype=bool)
    present[rows[known]] = nonzero[known]
    return Aligned(file.values, source, present)


def _in_order(values: np.ndarray, nonzero: np.ndarray, items: IdMap, where: str, order: str, listed: int) -> Aligned:
    """Rows without ids, of which row i belongs to the item in row i of the first `listed`."""
    if len(values) != listed:
        raise DataError(
            f"{where}: {count(len(values), 'row')} for {count(listed, 'item')} of {order};"
            " give one row per item in their order, or features with ids"
        )
    ends = f": the first is {items.series[0]}, the last {items.series[listed - 1]}" if listed else ""
    logger.warning("%s: no ids, so its rows are taken in the order of %s%s", where, order, ends)
    source, present = np.full(len(items), -1, dtype=np.int64), np.zeros(len(items), dtype=bool)
    source[:listed], present[:listed] = np.arange(listed), nonzero
    return Aligned(values, source, present)


def same_type(ids: pl.Series, dtype: pl.DataType, where: str = "") -> pl.Series:
    """Integer ids as strings, or strings that are all integers as integers, where the other side has that type.

    A warning begins with `where`, if it is given, and counts integers that are written with a decimal point.
    """
    if ids.dtype == dtype or ids.dtype == pl.Null:
        return ids
    if dtype == pl.String:
        return ids.cast(pl.String)
    whole = whole_texts(ids, where) if ids.dtype == pl.String else None
    return ids if whole is None else whole
