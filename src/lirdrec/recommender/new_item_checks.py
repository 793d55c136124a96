"""Check the ids, table rows and features of items that are added without retraining."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

import numpy as np
import polars as pl

from lirdrec.data.alignment import align, as_feature_file
from lirdrec.data.column_names import ITEM, TITLE
from lirdrec.data.feature_files import FeatureFile
from lirdrec.data.features import FeatureMatrix
from lirdrec.data.frames import first_line, to_polars
from lirdrec.data.ids import IdMap, as_list, describe_ids
from lirdrec.data.raw_ids import read_ids
from lirdrec.data.titles import column_named
from lirdrec.errors import DataError
from lirdrec.option_names import option_text
from lirdrec.ranking.scorers import Scorer
from lirdrec.wording import pluralize

log = logging.getLogger(__name__)

CODE = r"^[+-]?0[0-9]"  # digits that begin with 0: an article number, a postal code


def new_table(items: Any, catalog: IdMap, table: pl.DataFrame) -> pl.DataFrame:
    """Check the ids of new items, and return their rows of the item table, in the given order.

    Columns that are not given are null; columns that the item table does not have are kept.

    Args:
        items: one id, ids, or a frame with a column "item" and any columns of the item table; a column `title` also
            stands for the title column if that has another name.
        catalog: the ids of the existing items.
        table: the item table of the existing items.

    Raises:
        DataError: no ids, an id that is repeated or already in the run, ids of another type, a value that does not fit
            the type of its column.
    """
    rows = _frame(items)
    if ITEM not in rows.columns:
        raise DataError(f"the new items have no column {ITEM!r}; their columns are {', '.join(rows.columns)}")
    if rows.height == 0:
        raise DataError("there are no new items to add: the list is empty")
    given = rows[ITEM]
    if given.dtype != pl.String:  # strings are kept: a server answers with exactly the id that was sent
        given = read_ids(given, f"the {catalog.entity} ids", catalog.entity)
    ids = IdMap(given, catalog.entity)  # refuses ids that are missing, negative, repeated
    if ids.is_integer is not catalog.is_integer:
        kinds = ("integers", "strings") if catalog.is_integer else ("strings", "integers")
        raise DataError(f"the ids of the catalog are {kinds[0]}, but the ids of the new items are {kinds[1]}")
    exists = catalog.rows(ids.series) >= 0
    if exists.any():
        raise DataError(
            f"{pluralize(int(exists.sum()), 'new item')} in the catalog already: "
            f"{describe_ids(ids.series.filter(pl.Series(exists)).to_list())}; add only items that are new"
        )
    _warn_of_zeros(ids, catalog)
    title = column_named(TITLE, table)
    if title not in (None, TITLE, *rows.columns) and TITLE in rows.columns:
        rows = rows.rename({TITLE: str(title)})
    columns = {ITEM: ids.series.alias(ITEM)}
    for name in [*table.columns, *(c for c in rows.columns if c not in table.columns)]:
        if name == ITEM:
            continue
        kind = table.schema[name] if name in table.columns else rows.schema[name]
        if name not in rows.columns:
            columns[name] = pl.Series(name, [None] * rows.height, dtype=kind)
            continue
        columns[name] = _cast(rows[name], kind, name)
    return pl.DataFrame(columns)


def _warn_of_zeros(new: IdMap, catalog: IdMap) -> None:
    """Warn of new ids that differ from ids of the catalog only by leading zeros."""
    if catalog.is_integer:
        return
    digits = new.series.filter(new.series.str.contains(r"^[0-9]+$"))
    if not len(digits):
        return
    existing = pl.DataFrame({"old": catalog.series, "plain": catalog.series.str.strip_chars_start("0")})
    added = pl.DataFrame({"new": digits, "plain": digits.str.strip_chars_start("0")})
    twins = added.join(existing, on="plain", maintain_order="left")
    if twins.height:
        pairs = ", ".join(f"{new!r} and {old!r}" for new, _, old in twins.head(3).iter_rows())
        more = f" and {twins.height - 3} more" if twins.height > 3 else ""
        log.warning(
            "ids of new items differ from ids of the catalog only by leading zeros: %s%s; each of these ids is an item"
            " of its own",
            *(pairs, more),
        )


def _cast(values: pl.Series, kind: pl.DataType, name: str) -> pl.Series:
    """Return a column in its type of the item table, without loss.

    Raises:
        DataError: the values do not fit: words among numbers, digits that begin with 0, fractions among integers.
    """
    where = f"the new items' column {name!r} does not fit the item table"
    if kind.is_numeric() and values.dtype == pl.String and (codes := values.str.contains(CODE)).any():
        code = values.filter(codes.fill_null(False))[0]
        raise DataError(
            f"{where}: the column has numbers there, and as a number {code!r} would lose its first zeros; give"
            " numbers, or give these codes in a column of another name"
        )
    if kind.is_integer() and values.dtype.is_float() and ((values != values.floor()) & values.is_finite()).any():
        raise DataError(f"{where}: it has fractions, but the item table has integers")
    if kind == pl.Boolean and values.dtype == pl.String and values.is_in(["true", "false"]).all():
        return values == "true"
    try:
        return values.cast(kind)
    except pl.exceptions.PolarsError as error:
        raise DataError(f"{where}: {first_line(error)}") from None


def new_features(
    ids: IdMap, features: Mapping[str, Any] | None, trained: Mapping[str, FeatureMatrix]
) -> dict[str, FeatureMatrix]:
    """Check the features of new items, and return a matrix with a row per new item for each modality of the model.

    A row of an item that lacks the modality is zero, and False in the matrix's mask `present`.

    Args:
        ids: the new items, in the order of the rows.
        features: name → `(n, d)` matrix, a list of rows with None for an item that lacks the modality, any input of
            `Dataset.from_frames` (`(ids, matrix)`, a frame, a file), or None where all items lack it.
        trained: the matrices that the model was trained with, for their names and widths.

    Raises:
        DataError: an unknown modality, a wrong shape, NaN or infinite values, an item without any modality.
    """
    if features is not None and not isinstance(features, Mapping):
        raise DataError(
            f"the features are of type {type(features).__name__}; give name → matrix, such as {{'text': matrix}}"
        )
    given = dict(features or {})
    for name in given:
        if name not in trained:
            raise DataError(f"the model knows no modality {name!r}; it was trained with {', '.join(trained)}")
    matrices = {name: _matrix(name, given.get(name), ids, matrix.dims) for name, matrix in trained.items()}
    is_empty = ~np.any([matrix.present for matrix in matrices.values()], axis=0)
    if is_empty.any():
        raise DataError(
            f"no features in any modality ({', '.join(trained)}) for {pluralize(int(is_empty.sum()), 'new item')}: "
            f"{describe_ids(ids.ids[is_empty])}; give each at least one ({option_text('features', 'NAME=FILE')}), or"
            " let a server make them from texts and images (lirdrec serve --encoders)"
        )
    return matrices


def check_added_items(scorer: Scorer, first: int, ids: pl.Series) -> None:
    """Check that the vectors of the new items `ids`, in rows from `first` on, are finite and not too large.

    Raises:
        DataError: the features of an item give a vector that is not finite, or too large.
    """
    is_finite = scorer.rankable_items(first).cpu().numpy()
    if not is_finite.all():
        bad = ids.filter(pl.Series(~is_finite)).to_list()
        raise DataError(f"{_items(bad)}: the features give no finite item vector; look for values that are too large")


def _items(ids: list[Any]) -> str:
    return f"item {describe_ids(ids)}" if len(ids) == 1 else f"{len(ids)} items ({describe_ids(ids)})"


def _matrix(name: str, given: Any, ids: IdMap, width: int) -> FeatureMatrix:
    where = f"features {name!r}"
    if given is None:
        return FeatureMatrix(np.zeros((len(ids), width), np.float32))
    if isinstance(given, list):
        given = [np.zeros(width) if row is None else row for row in given]
    file = as_feature_file(given.cpu() if hasattr(given, "cpu") else given, where, ITEM)
    if file.values.shape[1] != width or (file.ids is None and len(file.values) != len(ids)):
        rows, columns = file.values.shape
        raise DataError(
            f"{where}: the matrix of the new items is {rows} × {columns}, not {len(ids)} × {width} "
            "(a row per new item, as wide as in training)"
        )
    if file.ids is None:  # so that messages can name the item
        file = FeatureFile(file.values, ids.series, where)
    return align(file, ids, where).take(np.ones(len(ids), dtype=bool))


def _frame(items: Any) -> pl.DataFrame:
    if isinstance(items, Mapping) or hasattr(items, "columns") or hasattr(items, "column_names"):
        return to_polars(items)[0]
    return pl.DataFrame({ITEM: pl.Series(ITEM, as_list(items), strict=True)})
