"""Feature rows put into the order of the items, by id or by position."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from lirdrec.data.frames import to_polars
from lirdrec.data.identifiers import IdMap, clean_ids, count, describe_ids
from lirdrec.data.matrices import FeatureMatrix, as_floats, check_rows
from lirdrec.data.readers.feature_files import FeatureFile, read_features, vectors_of_frame
from lirdrec.data.tables import Table
from lirdrec.errors import DataError


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
        return read_features(source)
    if isinstance(source, FeatureFile):
        return source
    if isinstance(source, FeatureMatrix):
        return FeatureFile(source.values, None, where)
    if isinstance(source, tuple):
        if len(source) != 2:
            raise DataError(f"{where}: a tuple must be (ids, matrix), and this one has {len(source)} parts")
        ids, values = clean_ids(source[0], f"{where}, ids", "item"), as_floats(source[1], where)
        if len(ids) != len(values):
            raise DataError(f"{where}: {count(len(ids), 'id')} for {count(len(values), 'row')} of features")
        return FeatureFile(values, ids, where)
    if isinstance(source, (pl.DataFrame, pl.LazyFrame)) or hasattr(source, "columns") or hasattr(source, "schema"):
        table = Table(to_polars(source)[0], where)
        return vectors_of_frame(table, item_column if item_column in table.frame.columns else None)
    return FeatureFile(as_floats(source, where), None, where)


def align(file: FeatureFile, items: IdMap, where: str, drop_unknown: bool = False) -> Aligned:
    """Find each item's row; rows whose id is no item are an error unless `drop_unknown`.

    Raises:
        DataError: NaN or infinite values, ids that are repeated or not among the items, or, without ids, a number of
            rows that is not the number of items.
    """
    where = file.where if file.where == where else f"{where} ({file.where})"
    nonzero = check_rows(file.values, where, file.ids)
    if file.ids is None:
        if len(file.values) != len(items):
            raise DataError(
                f"{where}: {count(len(file.values), 'row')} for {count(len(items), 'item')};"
                " give one row per item in their order, or features with ids"
            )
        return Aligned(file.values, np.arange(len(items)), nonzero)
    ids = same_type(file.ids, items.series.dtype)
    if (repeated := ids.is_duplicated()).any():
        raise DataError(
            f"{where}: item id {ids[repeated.arg_true()[0]]!r} occurs more than once; keep one row per item"
        )
    rows = items.rows(ids)
    if (rows < 0).any() and not drop_unknown:
        unknown = file.ids.filter(pl.Series(rows < 0))
        raise DataError(
            f"{where}: {count(len(unknown), 'id')} not among the items: {describe_ids(unknown)};"
            " add them to the item table, or leave them out (unknown_features='drop')"
        )
    source = np.full(len(items), -1, dtype=np.int64)
    known = np.flatnonzero(rows >= 0)
    source[rows[known]] = known
    present = np.zeros(len(items), dtype=bool)
    present[rows[known]] = nonzero[known]
    return Aligned(file.values, source, present)


def same_type(ids: pl.Series, dtype: pl.DataType) -> pl.Series:
    """Integer ids as strings, or strings that are all integers as integers, where the other side has that type."""
    if ids.dtype == dtype or ids.dtype == pl.Null:
        return ids
    if dtype == pl.String:
        return ids.cast(pl.String)
    if ids.dtype == pl.String and ids.str.contains(r"^(0|[1-9][0-9]{0,17})$").all():
        return ids.cast(pl.Int64)
    return ids
