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
from lirdrec.data.ids import IdMap, describe_ids
from lirdrec.data.raw_ids import read_ids, whole_texts
from lirdrec.data.table_with_source import Table
from lirdrec.errors import DataError
from lirdrec.option_names import option_text
from lirdrec.wording import pluralize

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Aligned:
    """A validated feature matrix, and the row of each item in this matrix.

    Attributes:
        values: `(n, d)`, the feature matrix.
        rows: `(I,)` int64, the row of each item in `values`; -1: the item has no row.
        present: `(I,)` bool, whether the item has a row that is not all zero.
    """

    values: np.ndarray
    rows: np.ndarray
    present: np.ndarray

    def take(self, items: np.ndarray) -> FeatureMatrix:
        """Return the features of the items in the mask `items` `(I,)` bool, one row per item; zeros if it has no row.

        If this is the whole matrix in the same order, `values` (possibly a memory map) is used without a copy.
        """
        rows, present = self.rows[items], self.present[items]
        if np.array_equal(rows, np.arange(len(self.values))):
            return FeatureMatrix.known_good(self.values, present)
        values = np.zeros((len(rows), self.values.shape[1]), dtype=self.values.dtype)
        for start in range(0, len(rows), 4096):  # a memory map is read in pieces
            block = slice(start, start + 4096)
            values[block][present[block]] = self.values[rows[block][present[block]]]
        return FeatureMatrix.known_good(values, present)


def as_feature_file(source: Any, where: str, item_column: str) -> FeatureFile:
    """Convert features in any form that `from_frames` accepts to a `FeatureFile`: a matrix, with ids or without.

    Args:
        source: a path, a pair `(ids, matrix)`, a frame with ids, a matrix without ids, or a `FeatureFile`.
        where: prefix of messages.
        item_column: name of the column of item ids in the interactions; in a file or frame, it is preferred as ids.

    Raises a DataError if `source` has another form or is invalid.
    """
    if isinstance(source, (str, Path)):
        return read_features(source, item_column=item_column)
    if isinstance(source, FeatureFile):
        return source
    if isinstance(source, FeatureMatrix):
        return FeatureFile(source.values, None, where)
    if isinstance(source, tuple):
        if len(source) != 2:
            raise DataError(f"{where}: a tuple must be (ids, matrix), but this one has {len(source)} parts")
        ids, values = read_ids(source[0], f"{where}, ids", "item"), as_floats(source[1], where)
        if len(ids) != len(values):
            raise DataError(f"{where}: {pluralize(len(ids), 'id')} for {pluralize(len(values), 'row')} of features")
        return FeatureFile(values, ids, where)
    if isinstance(source, (pl.DataFrame, pl.LazyFrame)) or hasattr(source, "columns") or hasattr(source, "schema"):
        return vectors_of_frame(Table(to_polars(source)[0], where), item_column=item_column)
    return FeatureFile(as_floats(source, where), None, where)


def align(
    file: FeatureFile,
    items: IdMap,
    where: str,
    drop_unknown: bool = False,
    order: str = "the item table",
    listed: int | None = None,
) -> Aligned:
    """Find the feature row of each item. Features without ids must have the order of the items: row i is item i.

    Args:
        file: the features, with or without ids.
        items: all items in row order.
        where: prefix of messages.
        drop_unknown: drop rows with an unknown item id and log their number, instead of raising an error.
        order: name of the item table in messages; it defines the order of features without ids.
        listed: how many rows features without ids must have. They belong to the first `listed` items; later items have
            no features. By default all items are listed.

    Raises:
        DataError: NaN or infinite values, repeated or unknown ids, or, without ids, a wrong number of rows.
    """
    where = file.source if file.source == where else f"{where} ({file.source})"
    nonzero = check_rows(file.values, where, file.ids)
    if file.ids is None:
        return _in_order(file.values, nonzero, items, where, order, len(items) if listed is None else listed)
    ids = same_type(file.ids, items.series.dtype, where)
    if (repeated := ids.is_duplicated()).any():
        raise DataError(
            f"{where}: item id {ids[repeated.arg_true()[0]]!r} occurs more than once; keep one row of features per item"
        )
    rows = items.rows(ids)
    if (rows < 0).any():
        unknown = file.ids.filter(pl.Series(rows < 0))
        problem = f"{where}: {pluralize(len(unknown), 'id')} not among the items: {describe_ids(unknown)}"
        if not drop_unknown:
            raise DataError(
                f"{problem}; add them to the item table, or leave them out ({option_text('unknown_features', 'drop')})"
            )
        logger.warning("%s; their features are left out", problem)
    return _aligned(file.values, nonzero, np.flatnonzero(rows >= 0), rows[rows >= 0], len(items))


def _in_order(values: np.ndarray, nonzero: np.ndarray, items: IdMap, where: str, order: str, listed: int) -> Aligned:
    """Align rows without ids: row i belongs to item i, and there must be `listed` rows; later items have no row."""
    if len(values) != listed:
        raise DataError(
            f"{where}: {pluralize(len(values), 'row')} for {pluralize(listed, 'item')} of {order};"
            " give one row per item in their order, or features with ids"
        )
    ends = f": the first is {items.series[0]}, the last is {items.series[listed - 1]}" if listed else ""
    logger.warning(
        "%s: the features have no ids, so their rows are assumed to be in the order of %s%s", where, order, ends
    )
    rows = np.arange(listed)
    return _aligned(values, nonzero, rows, rows, len(items))


def _aligned(values: np.ndarray, nonzero: np.ndarray, rows: np.ndarray, items: np.ndarray, n_items: int) -> Aligned:
    """Make the `Aligned` in which the item `items[k]` has the feature row `rows[k]`; other items have no row."""
    sources, present = np.full(n_items, -1, dtype=np.int64), np.zeros(n_items, dtype=bool)
    sources[items], present[items] = rows, nonzero[rows]
    return Aligned(values, sources, present)


def same_type(ids: pl.Series, dtype: pl.DataType, where: str = "") -> pl.Series:
    """Convert ids to `dtype`: integers to strings, or strings to integers if all of them are; else return them as is.

    If `where` is given, a warning with this prefix says how many integers were written with a decimal point.
    """
    if ids.dtype == dtype or ids.dtype == pl.Null:
        return ids
    if dtype == pl.String:
        return ids.cast(pl.String)
    integers = whole_texts(ids, where) if ids.dtype == pl.String else None
    return ids if integers is None else integers
