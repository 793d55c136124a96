"""Convert ids of any type from files and frames to integers or texts, with a warning, or raise an error."""

from __future__ import annotations

import logging
from collections.abc import Callable
from decimal import Decimal
from typing import Any

import numpy as np
import polars as pl

from lirdrec.data.frames import row_place
from lirdrec.data.ids import INTEGER, as_series, big_integers, clean_ids, pluralize, text_ids
from lirdrec.errors import DataError
from lirdrec.option_names import option_text

logger = logging.getLogger(__name__)

INTEGER_TEXT = r"^-?(0|[1-9][0-9]*)(\.0*)?$"  # 7, and 7.0 as pandas writes the integers of a column with gaps
DECIMAL = r"^-?(0|[1-9][0-9]*)(\.[0-9]*)?([eE][+-]?[0-9]+)?$"
CONTROL = r"\p{Cc}"
MISSING_VALUES = ("nan", "NaN", "NULL", "null", "None", "NA", "N/A", "<NA>")


def read_ids(
    ids: Any,
    where: str,
    what: str = "id",
    place: Callable[[int], str] = row_place,
    *,
    text: bool = False,
    string_ids: bool = False,
) -> pl.Series:
    """Convert ids of any type to an Int64 or String series.

    Surrounding blanks are removed, bytes are decoded as UTF-8, and decimal numbers without a fraction become integers;
    a warning counts the changed ids.

    Args:
        ids: anything one-dimensional.
        where, what, place: for messages, as in `clean_ids`.
        text: the ids come from a text file: convert them to integers if all are written as integers.
        string_ids: always return strings.

    Raises:
        DataError: as `clean_ids`, and for bytes that are not UTF-8 and numbers with a fraction.
    """
    series = as_series(ids, where)

    def at(bad: pl.Series) -> str:
        return place(int(bad.arg_true()[0]))

    if series.dtype == pl.Object:
        series = _from_objects(series, where, what, string_ids, at)
    if series.dtype in (pl.Categorical, pl.Enum):
        series = series.cast(pl.String)
    if series.dtype == pl.Binary:
        series = _decoded(series, where, what, at)
    if series.dtype.is_float() or series.dtype.is_decimal():
        series = _without_fraction(series, where, what, at)
    if series.dtype == pl.String:
        series = _trimmed(series, where, what, at)
        if (bad := has_control_characters(series)).any():
            raise DataError(
                f"{where}: {what} id {series[bad.arg_true()[0]]!r} in {at(bad)} has a control character; write the id"
                " without it"
            )
    elif string_ids and series.dtype.is_integer():
        series = series.cast(pl.String)
    if text and not string_ids and series.dtype == pl.String:
        series = _integers_of_texts(series, where, what, at)
        if series.dtype == pl.String:
            return text_ids(series, where, what, place)
    return clean_ids(series, where, what, place)


def has_control_characters(ids: pl.Series) -> pl.Series:
    """Mask of texts with a control character inside, which a terminal would execute."""
    if ids.dtype != pl.String:
        return pl.repeat(False, len(ids), eager=True)
    return ids.str.strip_chars().str.contains(CONTROL).fill_null(False)


def whole_texts(texts: pl.Series, where: str = "") -> pl.Series | None:
    """Texts as Int64 if all are 64-bit integers, optionally with ".0"; else None."""
    if texts.null_count() or not texts.str.contains(INTEGER_TEXT).all():
        return None
    whole = texts.str.replace(r"\.0*$", "").cast(pl.Int64, strict=False)
    if whole.null_count():
        return None
    dotted = texts.str.contains(".", literal=True)
    if where and dotted.any():
        logger.warning(
            "%s: %s written with a decimal point, such as %s, read as integers",
            *(where, pluralize(int(dotted.sum()), "id"), texts[dotted.arg_true()[0]]),
        )
    return whole


def _integers_of_texts(texts: pl.Series, where: str, what: str, at: Callable[[pl.Series], str]) -> pl.Series:
    """Convert texts to integers if all are decimal numbers without a fraction; else return them unchanged.

    Raises:
        DataError: all are numbers, but some have a fraction or denote a missing value.
    """
    if len(texts) == 0 or texts.null_count() or texts.str.contains(INTEGER).all():
        return texts
    gap = texts.is_in(MISSING_VALUES)
    if gap.any() and not gap.all() and texts.filter(~gap).str.contains(DECIMAL).all():
        raise DataError(
            f"{where}: no {what} id in {at(gap)} ({texts[gap.arg_true()[0]]!r}, and all others are numbers);"
            " leave such rows out or give them an id"
        )
    if not (texts.str.contains(".", literal=True).any() and texts.str.contains(DECIMAL).all()):
        return texts
    if (whole := whole_texts(texts, where)) is not None:
        return whole
    wrong = ~texts.str.contains(INTEGER_TEXT)
    wrong = wrong if wrong.any() else texts.str.replace(r"\.0*$", "").cast(pl.Int64, strict=False).is_null()
    raise DataError(
        f"{where}: {what} id {texts[wrong.arg_true()[0]]} in {at(wrong)} is a decimal number; ids are integers or"
        f" texts ({option_text('string_ids', True)} takes them as texts)"
    )


def _trimmed(series: pl.Series, where: str, what: str, at: Callable[[pl.Series], str]) -> pl.Series:
    """Strip surrounding blanks; a warning counts the changed texts."""
    around = series.str.contains(r"^\s|\s$").fill_null(False)
    if not around.any():
        return series
    logger.warning(
        "%s: blanks around %s removed, for instance %r in %s",
        *(where, pluralize(int(around.sum()), f"{what} id"), series[around.arg_true()[0]], at(around)),
    )
    return series.str.strip_chars()


def _decoded(series: pl.Series, where: str, what: str, at: Callable[[pl.Series], str]) -> pl.Series:
    """Decode bytes as UTF-8."""
    try:
        return series.cast(pl.String)
    except pl.exceptions.PolarsError:
        bad = pl.Series([value is not None and not _is_utf8(value) for value in series])
        raise DataError(
            f"{where}: {what} id {series[bad.arg_true()[0]]!r} in {at(bad)} is not UTF-8 text; write the ids as texts,"
            " for instance in hexadecimal"
        ) from None


def _is_utf8(value: bytes) -> bool:
    try:
        value.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True


def _without_fraction(series: pl.Series, where: str, what: str, at: Callable[[pl.Series], str]) -> pl.Series:
    """Convert decimal numbers to integers; a warning counts them."""
    if series.dtype.is_float():
        series = series.fill_nan(None)  # missing values of pandas and NumPy
        bad = (series != series.floor()) | series.is_infinite() | (series.abs() >= 2.0**53)
    else:
        bad = (series != series.floor()) | (series.cast(pl.Int64, strict=False).is_null() & series.is_not_null())
    bad = bad.fill_null(False)
    if bad.any():
        raise DataError(
            f"{where}: {what} id {series[bad.arg_true()[0]]} in {at(bad)} is not an integer below 2^53; ids are"
            " integers or texts, so write the column as one of these"
        )
    if len(series) and not series.null_count():  # the caller rejects missing ids
        logger.warning("%s: %s are decimal numbers, read as integers", where, pluralize(len(series), f"{what} id"))
    return series.cast(pl.Int64)


def _from_objects(
    series: pl.Series, where: str, what: str, string_ids: bool, at: Callable[[pl.Series], str]
) -> pl.Series:
    """Convert Python objects to a column of one type."""
    values = [None if value is None or value != value else value for value in series]  # NaN is not equal to itself
    kinds = {bool if isinstance(value, (bool, np.bool_)) else type(value) for value in values if value is not None}
    texts = (str, bytes)
    if kinds and all(issubclass(kind, texts) for kind in kinds) and bytes in kinds:
        return _decoded(
            pl.Series([value.encode() if isinstance(value, str) else value for value in values]), where, what, at
        )
    numbers = (int, float, Decimal, np.integer, np.floating)
    if kinds and all(issubclass(kind, numbers) for kind in kinds) and not any(kind is bool for kind in kinds):
        if any(not issubclass(kind, (int, np.integer)) for kind in kinds):
            bad = pl.Series(
                [value is not None and (not np.isfinite(float(value)) or value != int(value)) for value in values]
            )
            if bad.any():
                raise DataError(
                    f"{where}: {what} id {values[bad.arg_true()[0]]} in {at(bad)} is not an integer; ids are"
                    " integers or texts"
                )
            logger.warning("%s: %s are decimal numbers, read as integers", where, pluralize(len(values), f"{what} id"))
        whole = [None if value is None else int(value) for value in values]
        if string_ids:
            return pl.Series([None if value is None else str(value) for value in whole], dtype=pl.String)
        if any(value is None for value in whole):  # the caller rejects missing ids
            return pl.Series([None if value is None else 0 for value in whole], dtype=pl.Int64)
        return big_integers(pl.Series(values=whole, dtype=pl.Object), where, what, at)
    if string_ids and kinds and all(issubclass(kind, (str, int, np.integer)) and kind is not bool for kind in kinds):
        return pl.Series([None if value is None else str(value) for value in values], dtype=pl.String)
    names = ", ".join(sorted(kind.__name__ for kind in kinds))
    remedy = f" (integers and texts together: {option_text('string_ids', True)})" if kinds & {str, int} == kinds else ""
    raise DataError(
        f"{where}: {what} ids of type a mix of types ({names}); they must be all integers or all strings{remedy}"
    )
