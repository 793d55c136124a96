"""Convert ids of any type from files and frames to integers or texts, with a warning, or raise an error."""

from __future__ import annotations

import logging
from collections.abc import Callable
from decimal import Decimal
from typing import Any

import numpy as np
import polars as pl

from lirdrec.data.frames import describe_row
from lirdrec.data.ids import INTEGER, as_series, big_integers, clean_ids, id_error, is_utf8, text_ids
from lirdrec.errors import DataError
from lirdrec.option_names import option_text
from lirdrec.wording import pluralize

logger = logging.getLogger(__name__)

INTEGER_TEXT = r"^-?(0|[1-9][0-9]*)(\.0*)?$"  # 7, and 7.0 as pandas writes the integers of a column with missing values
DECIMAL = r"^-?(0|[1-9][0-9]*)(\.[0-9]*)?([eE][+-]?[0-9]+)?$"
CONTROL = r"\p{Cc}"
MISSING_VALUES = ("nan", "NaN", "NULL", "null", "None", "NA", "N/A", "<NA>")


def read_ids(
    ids: Any,
    where: str,
    entity: str = "id",
    row_location: Callable[[int], str] = describe_row,
    *,
    text: bool = False,
    string_ids: bool = False,
) -> pl.Series:
    """Convert one-dimensional ids of any type to an Int64 or String series.

    Surrounding blanks are removed, bytes are decoded as UTF-8, and decimal numbers without a fraction become integers;
    a warning counts the changed ids.

    Args:
        ids, where, entity, row_location: as for `clean_ids`.
        text: the ids come from a text file: convert them to integers if all are written as integers.
        string_ids: always return strings.

    Raises a DataError as `clean_ids` does, and for bytes that are not UTF-8 and numbers with a fraction.
    """
    series = as_series(ids, where)
    context = (where, entity, row_location)
    if series.dtype == pl.Object:
        series = _from_objects(series, string_ids, *context)
    if series.dtype in (pl.Categorical, pl.Enum):
        series = series.cast(pl.String)
    if series.dtype == pl.Binary:
        series = _decoded(series, *context)
    if series.dtype.is_float() or series.dtype.is_decimal():
        series = _without_fraction(series, *context)
    if series.dtype == pl.String:
        series = _trimmed(series, *context)
        if (bad := has_control_characters(series)).any():
            raise id_error(series, bad, *context, "has a control character; write the id without it")
    elif string_ids and series.dtype.is_integer():
        series = series.cast(pl.String)
    if text and not string_ids and series.dtype == pl.String:
        series = _integers_of_texts(series, *context)
        if series.dtype == pl.String:
            return text_ids(series, *context)
    return clean_ids(series, *context)


def has_control_characters(ids: pl.Series) -> pl.Series:
    """Return a mask of the texts with a control character inside, which a terminal would execute."""
    if ids.dtype != pl.String:
        return pl.repeat(False, len(ids), eager=True)
    return ids.str.strip_chars().str.contains(CONTROL).fill_null(False)


def whole_texts(texts: pl.Series, where: str = "") -> pl.Series | None:
    """Convert texts to Int64 if all are 64-bit integers, with or without ".0"; else, or if one is null, return None.

    If `where` is given, a warning with this prefix says how many texts had a decimal point.
    """
    if texts.null_count() or not texts.str.contains(INTEGER_TEXT).all():
        return None
    integers = texts.str.replace(r"\.0*$", "").cast(pl.Int64, strict=False)
    if integers.null_count():
        return None
    dotted = texts.str.contains(".", literal=True)
    if where and dotted.any():
        logger.warning(
            "%s: %s written with a decimal point, such as %s, read as integers",
            *(where, pluralize(int(dotted.sum()), "id"), texts[dotted.arg_true()[0]]),
        )
    return integers


def _integers_of_texts(texts: pl.Series, where: str, entity: str, row_location: Callable[[int], str]) -> pl.Series:
    """Convert texts of decimal numbers (`7.0`) to integers; return other texts. Raises a DataError for fractions."""
    if len(texts) == 0 or texts.null_count() or texts.str.contains(INTEGER).all():
        return texts
    gap = texts.is_in(MISSING_VALUES)
    if gap.any() and not gap.all() and texts.filter(~gap).str.contains(DECIMAL).all():
        row = int(gap.arg_true()[0])
        raise DataError(
            f"{where}: no {entity} id in {row_location(row)} ({texts[row]!r}, and all others are numbers);"
            " leave such rows out or give them an id"
        )
    if not (texts.str.contains(".", literal=True).any() and texts.str.contains(DECIMAL).all()):
        return texts
    if (integers := whole_texts(texts, where)) is not None:
        return integers
    wrong = ~texts.str.contains(INTEGER_TEXT)
    wrong = wrong if wrong.any() else texts.str.replace(r"\.0*$", "").cast(pl.Int64, strict=False).is_null()
    problem = f"is a decimal number; ids are integers or texts ({option_text('string_ids', True)} reads them as texts)"
    raise id_error(texts, wrong, where, entity, row_location, problem)


def _trimmed(series: pl.Series, where: str, entity: str, row_location: Callable[[int], str]) -> pl.Series:
    """Strip surrounding blanks; a warning counts the changed texts."""
    around = series.str.contains(r"^\s|\s$").fill_null(False)
    if not around.any():
        return series
    row = int(around.arg_true()[0])
    n_changed = pluralize(int(around.sum()), f"{entity} id")
    logger.warning(
        "%s: blanks around %s removed, for instance %r in %s", where, n_changed, series[row], row_location(row)
    )
    return series.str.strip_chars()


def _decoded(series: pl.Series, where: str, entity: str, row_location: Callable[[int], str]) -> pl.Series:
    """Decode bytes as UTF-8; raises a DataError for other bytes."""
    bad = pl.Series([value is not None and not is_utf8(value) for value in series], dtype=pl.Boolean)
    if bad.any():
        problem = "is not UTF-8 text; write the ids as texts, for instance in hexadecimal"
        raise id_error(series, bad, where, entity, row_location, problem)
    return series.cast(pl.String)


def _without_fraction(series: pl.Series, where: str, entity: str, row_location: Callable[[int], str]) -> pl.Series:
    """Convert numbers without a fraction to integers; a warning counts them. Raises a DataError for other numbers."""
    if series.dtype.is_float():
        series = series.fill_nan(None)  # missing values of pandas and NumPy
        bad = (series != series.floor()) | series.is_infinite() | (series.abs() >= 2.0**53)
    else:
        bad = (series != series.floor()) | (series.cast(pl.Int64, strict=False).is_null() & series.is_not_null())
    bad = bad.fill_null(False)
    if bad.any():
        problem = "is not an integer below 2^53; ids are integers or texts, so write the column as one of these"
        raise id_error(series, bad, where, entity, row_location, problem)
    if len(series) and not series.null_count():  # the caller rejects missing ids
        _warn_decimals(len(series), where, entity)
    return series.cast(pl.Int64)


def _warn_decimals(number: int, where: str, entity: str) -> None:
    logger.warning("%s: %s are decimal numbers, read as integers", where, pluralize(number, f"{entity} id"))


def _from_objects(
    series: pl.Series, string_ids: bool, where: str, entity: str, row_location: Callable[[int], str]
) -> pl.Series:
    """Convert Python objects to a column of one type; raises a DataError for a mix of types."""
    values = [None if value is None or value != value else value for value in series]  # NaN is not equal to itself
    kinds = {bool if isinstance(value, (bool, np.bool_)) else type(value) for value in values if value is not None}

    def all_are(*types: type) -> bool:
        return bool(kinds) and bool not in kinds and all(issubclass(kind, types) for kind in kinds)

    if all_are(str, bytes) and bytes in kinds:
        encoded = [value.encode() if isinstance(value, str) else value for value in values]
        return _decoded(pl.Series(encoded), where, entity, row_location)
    if all_are(int, float, Decimal, np.integer, np.floating):
        if not all_are(int, np.integer):
            bad = pl.Series(
                [value is not None and (not np.isfinite(float(value)) or value != int(value)) for value in values]
            )
            if bad.any():
                problem = "is not an integer; ids are integers or texts"
                raise id_error(pl.Series(values, dtype=pl.Object), bad, where, entity, row_location, problem)
            _warn_decimals(len(values), where, entity)
        integers = [None if value is None else int(value) for value in values]
        if string_ids:
            return pl.Series([None if value is None else str(value) for value in integers], dtype=pl.String)
        if None in integers:  # the caller rejects missing ids
            return pl.Series([None if value is None else 0 for value in integers], dtype=pl.Int64)
        return big_integers(pl.Series(integers, dtype=pl.Object), where, entity, row_location)
    if string_ids and all_are(str, int, np.integer):
        return pl.Series([None if value is None else str(value) for value in values], dtype=pl.String)
    names = ", ".join(sorted(kind.__name__ for kind in kinds))
    remedy = f" (integers and texts together: {option_text('string_ids', True)})" if kinds & {str, int} == kinds else ""
    raise DataError(
        f"{where}: the {entity} ids are a mix of types ({names}); they must be all integers or all strings{remedy}"
    )
