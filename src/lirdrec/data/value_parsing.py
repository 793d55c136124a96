"""Parse columns of numbers and times, and drop rows with missing or unreadable values."""

from __future__ import annotations

import logging
import re

import numpy as np
import polars as pl

from lirdrec.config import option_named
from lirdrec.data.column_names import ITEM, USER
from lirdrec.data.delimited import COMMA_NUMBER, NUMBER
from lirdrec.data.preprocessing_config import PreprocessingConfig
from lirdrec.data.raw_ids import has_control_characters, read_ids
from lirdrec.data.table_with_source import Table, select_rows
from lirdrec.errors import DataError
from lirdrec.wording import pluralize

logger = logging.getLogger(__name__)

INTEGER = r"^[+-]?[0-9]{1,18}$"
OFFSET = r"([+-])([0-9]{2}):?([0-9]{2})$"
YEAR_FIRST = r"^([0-9]{4})[-/.]([0-9]{1,2})[-/.]([0-9]{1,2})"
DAY_OR_MONTH_FIRST = r"^[0-9]{1,2}[-/.][0-9]{1,2}[-/.]([0-9]{4}|[0-9]{2})([^0-9]|$)"
CLOCKS = ("%Y-%m-%d %H:%M:%S%.f", "%Y-%m-%d %H:%M", "%Y-%m-%d")
TIME_TEXT = r"[0-9][-/.: T][0-9]+[-/.:]"  # a date or a time of day, not a number
SECONDS, MILLISECONDS = 10**11, 10**14  # a time with a fraction is in seconds or milliseconds if it is below this limit


def parse_ids(table: Table, column: str, entity: str, string_ids: bool = False) -> pl.Series:
    """Parse a column of ids to Int64 or String; see `read_ids`. Raises a DataError that names the first bad row."""
    where = f"{table.source}, column '{column}'"
    return read_ids(table.frame[column], where, entity, table.row_location, text=table.text, string_ids=string_ids)


def parse_numbers(table: Table, column: str) -> np.ndarray:
    """Parse a column of numbers to `(N,)` float64; raises a DataError that names the first bad row."""
    values = parse_number_values(table, column)
    if values.null_count():
        raise _value_error(table, column, values.is_null(), ", not a number")
    return values.to_numpy()


def parse_number_values(table: Table, column: str) -> pl.Series:
    """Parse a column of numbers to Float64, null where a value is not a number; raises a DataError for other types."""
    series = table.frame[column]
    if not (series.dtype.is_numeric() or series.dtype in (pl.String, pl.Null)):
        raise DataError(f"{table.source}: column '{column}' holds {series.dtype}, not numbers")
    if series.dtype == pl.String:
        series = series.str.strip_chars()
        if table.decimal_comma:
            points = series.str.replace(",", ".", literal=True)
            series = pl.select(pl.when(series.str.contains(COMMA_NUMBER)).then(points).otherwise(series)).to_series()
        series = pl.select(pl.when(series.str.contains(NUMBER)).then(series)).to_series()
    return series.cast(pl.Float64, strict=False).fill_nan(None)


def _candidate_formats(text: str) -> tuple[str, str]:
    """Return the two possible formats, day first and month first, of a text such as `15.04.2024 16:32`."""
    match = re.match(r"([0-9]+[-/.][0-9]+[-/.][0-9]+)(.*)", text, re.DOTALL)
    assert match is not None  # the callers have found such a date
    date, clock = match.groups()
    separator = "".join(letter for letter in date if not letter.isdigit())[0]
    year = "%Y" if len(date.rpartition(separator)[2]) == 4 else "%y"
    clock = re.sub(r"[0-9]{1,2}:[0-9]{2}:[0-9]{2}", "%H:%M:%S", clock)
    clock = re.sub(r"[0-9]{1,2}:[0-9]{2}", "%H:%M", clock)
    day, month = (separator.join([*pair, year]) + clock for pair in (("%d", "%m"), ("%m", "%d")))
    return day, month


def parse_times(table: Table, column: str, time_format: str | None = None) -> np.ndarray:
    """Parse times to `(N,)` int64, see `parse_time_values`; raises a DataError that names the first bad row."""
    values = parse_time_values(table, column, time_format)
    if not values.null_count():
        return values.to_numpy()
    bad = values.is_null()
    first = table.frame[column][int(bad.arg_true()[0])]
    if time_format is not None:
        expected = f"; times must be written as {time_format!r}"
    elif isinstance(first, str) and pl.Series([first.strip()]).str.contains(DAY_OR_MONTH_FIRST)[0]:
        formats = option_named("time_format", *_candidate_formats(first.strip()))
        raise DataError(
            f"{table.source}: column '{column}' has {first!r} in {table.first_bad_row(bad)}, and it is unclear whether"
            f" the day or the month is first; give the format: {formats}"
        )
    else:
        expected = (
            "; times must be integers or dates like 2024-05-31T12:00:00, or have the format that you give:"
            f" {option_named('time_format', 'FORMAT')}"
        )
    raise _value_error(table, column, bad, expected)


def parse_time_values(table: Table, column: str, time_format: str | None = None) -> pl.Series:
    """Parse a column of times to Int64; null where a value is missing or not a time.

    A `time_format` of `datetime.strptime`, such as "%d/%m/%Y %H:%M", reads texts and integers. Without it, integers are
    kept, also if they are texts. Numbers with fractions are seconds or, if they are large, milliseconds. Other texts
    must be dates with the year first, optionally with a time of day. Dates and numbers with fractions become
    microseconds since 1970 (UTC unless the text has a time zone). Raises a DataError if the column does not contain
    times.
    """
    series = table.frame[column]
    if time_format is not None and (series.dtype == pl.String or series.dtype.is_integer()):
        return _times_in_format(series.cast(pl.String).str.strip_chars(), time_format)
    if series.dtype == pl.Date:
        series = series.cast(pl.Datetime("us"))
    if series.dtype == pl.Datetime:
        return series.dt.cast_time_unit("us").cast(pl.Int64)
    if series.dtype == pl.String:
        return _text_times(series.str.strip_chars())
    if series.dtype.is_float() or series.dtype.is_decimal():
        return _fractional_times(series.cast(pl.Float64))
    if series.dtype.is_integer() or series.dtype == pl.Null:
        return series.cast(pl.Int64, strict=False)
    raise DataError(f"{table.source}: column '{column}' holds {series.dtype}, not times")


def drop_bad_rows(table: Table, config: PreprocessingConfig) -> tuple[Table, int]:
    """Return the table without rows that lack a user, item or needed rating, time, weight or event; and their number.

    If the config does not skip bad rows, only the ids are checked, and a bad id raises a DataError that names its row.
    Also raises a DataError if no row is left.
    """
    problems = _bad_ids(table, config.user, USER, config) | _bad_ids(table, config.item, ITEM, config)
    if config.bad_rows == "error":
        return table, 0
    if config.min_rating is not None and config.rating is not None:
        problems["no rating"] = parse_number_values(table, config.rating).is_null()
    if config.timestamp is not None:
        problems["no time"] = parse_time_values(table, config.timestamp, config.time_format).is_null()
    if config.weight is not None:
        problems["no weight"] = parse_number_values(table, config.weight).is_null()
    if config.event is not None:
        problems["no event"] = is_missing_id(table.frame[config.event])
    return _drop_bad_rows(table, problems)


def drop_bad_items(items: Table, config: PreprocessingConfig) -> tuple[Table, int]:
    """Return the item table without rows that lack an id, and their number. Raises errors as `drop_bad_rows` does."""
    return _drop_bad_rows(items, _bad_ids(items, config.items_column, ITEM, config))


def _bad_ids(table: Table, column: str, entity: str, config: PreprocessingConfig) -> dict[str, pl.Series]:
    """Find bad ids of a column: problem → mask of rows. Raises a DataError for one unless they are to be skipped."""
    ids = table.frame[column]
    missing, control = is_missing_id(ids), has_control_characters(ids)
    problems = {f"no {entity} id": missing, f"a control character in the {entity} id": control}
    for (problem, bad), remedy in zip(problems.items(), ("give it one", "write the id without it"), strict=True):
        if config.bad_rows == "error" and bad.any():
            value = "" if bad is missing else f" ({ids[int(bad.arg_true()[0])]!r})"
            raise DataError(
                f"{table.source}, column '{column}': {problem} in {table.first_bad_row(bad)}{value}; {remedy}, or leave"
                f" such rows out: {option_named('bad_rows', 'skip')}"
            )
    return problems


def is_missing_id(ids: pl.Series) -> pl.Series:
    """Return a mask of missing ids: nulls, empty texts, NaN."""
    if ids.dtype == pl.String:
        return (ids.str.strip_chars() == "").fill_null(True)
    return (ids.is_null() | ids.is_nan()) if ids.dtype.is_float() else ids.is_null()


def _drop_bad_rows(table: Table, problems: dict[str, pl.Series]) -> tuple[Table, int]:
    bad = pl.select(pl.any_horizontal(*problems.values())).to_series()
    skipped = int(bad.sum())
    if not skipped:
        return table, 0
    row = int(bad.arg_true()[0])
    first = f"{next(problem for problem, mask in problems.items() if mask[row])} in {table.row_location(row)}"
    if skipped == table.frame.height:
        raise DataError(
            f"{table.source}: there is no good row among {pluralize(skipped, 'row')}; the first problem: {first}"
        )
    logger.warning("%s: %s left out; the first problem: %s", table.source, pluralize(skipped, "bad row"), first)
    return select_rows(table, ~bad), skipped


def _value_error(table: Table, column: str, bad: pl.Series, expected: str) -> DataError:
    """Return the error for the first bad value of a column."""
    value = table.frame[column][int(bad.arg_true()[0])]
    is_empty = value is None or (isinstance(value, str) and not value.strip()) or value != value
    location = table.first_bad_row(bad)
    problem = f"is empty in {location}" if is_empty else f"has {value!r} in {location}{expected}"
    return DataError(
        f"{table.source}: column '{column}' {problem}; to leave such rows out: {option_named('bad_rows', 'skip')}"
    )


def _fractional_times(values: pl.Series) -> pl.Series:
    values = pl.select(pl.when(values.is_finite()).then(values)).to_series()
    known = values.drop_nulls()
    if len(known) and not (known == known.floor()).all():
        largest = float(known.abs().to_numpy().max())
        scale = 10**6 if largest < SECONDS else 10**3 if largest < MILLISECONDS else 1
        values = (values * scale).round()
    return values.cast(pl.Int64, strict=False)


def _text_times(texts: pl.Series) -> pl.Series:
    integers, fractions = (
        pl.select(pl.when(texts.str.contains(pattern)).then(texts)).to_series() for pattern in (INTEGER, NUMBER)
    )
    dates = _date_times(texts)
    fewest = min(fractions.null_count(), dates.null_count())
    if integers.null_count() == fewest:
        return integers.cast(pl.Int64)
    return _fractional_times(fractions.cast(pl.Float64)) if fractions.null_count() == fewest else dates


def _date_times(texts: pl.Series) -> pl.Series:
    """Parse dates with the year first to microseconds since 1970; null for other texts."""
    text = (
        pl.lit(texts)
        .str.replace(r"(?i)\s*(Z|UTC|GMT)$", "")
        .str.replace(YEAR_FIRST, "${1}-${2}-${3}")
        .str.replace(r"^(\d{4}-\d{1,2}-\d{1,2})[T ]\s*", "${1} ")
    )
    has_offset = text.str.contains(":") & text.str.contains(OFFSET)
    sign, hours, minutes = (text.str.extract(OFFSET, group) for group in (1, 2, 3))
    offset = pl.when(sign == "-").then(-1).otherwise(1) * (hours.cast(pl.Int64) * 60 + minutes.cast(pl.Int64))
    text = pl.when(has_offset).then(text.str.replace(r"\s*" + OFFSET, "")).otherwise(text)
    times = [text.str.to_datetime(form, strict=False, time_unit="us") for form in CLOCKS]
    microseconds = pl.when(has_offset).then(offset).fill_null(0).cast(pl.Int64) * 60_000_000
    return pl.select(pl.coalesce(times).cast(pl.Int64) - microseconds).to_series()


def _times_in_format(texts: pl.Series, time_format: str) -> pl.Series:
    try:
        return texts.str.to_datetime(time_format, strict=False, time_unit="us").cast(pl.Int64)
    except pl.exceptions.PolarsError:
        raise DataError(
            f"{option_named('time_format', time_format)}: this is not a time format; give one such as"
            " '%d/%m/%Y %H:%M:%S' (day, month, year, hour, minute, second)"
        ) from None
