"""Read Amazon's reviews of 2014, 2018 and 2023 into the columns user, item and optionally rating and time."""

from __future__ import annotations

import dataclasses
import datetime
import re
from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import polars as pl

from lirdrec.data.column_names import ITEM, RATING, TIMESTAMP, USER
from lirdrec.data.compression import open_bytes
from lirdrec.data.ids import is_utf8
from lirdrec.data.json_lines import BadLines, decode_line, finite_float, parse_lines, parse_record, read_blocks
from lirdrec.errors import DataError

HEAD_BYTES = 1 << 20
HEAD_LINES = 200
ASIN = re.compile(r"B[0-9A-Z]{9}|[0-9]{9}[0-9X]")
NUMBER = re.compile(r"-?[0-9]{1,40}(\.[0-9]*)?([eE][+-]?[0-9]{1,4})?")
BLANK = r"^\s*$"
TYPES = {USER: pl.String, ITEM: pl.String, RATING: pl.Float64, TIMESTAMP: pl.Int64}
EXPECTED = (
    "JSON lines with reviewerID and asin (2014, 2018) or user_id and parent_asin (2023), or lines of user, item, rating"
    " and time separated by commas"
)


@dataclass(frozen=True)
class ReviewFormat:
    """The layout of a file of reviews.

    Attributes:
        year: year of the collection ("2014", "2018", "2023").
        names: our column → key of the JSON record, or name of the CSV column in messages.
        positions: our column → position of the value in a CSV line; None for JSON.
        width: number of values in a CSV line.
        header: whether the first line holds names of columns.
        day: the key of the date as text, used if a record has no numeric time.
    """

    year: str
    names: dict[str, str]
    positions: dict[str, int] | None = None
    width: int = 0
    header: bool = False
    day: str | None = None


def detect_review_format(path: Path) -> ReviewFormat:
    """Detect the format of Amazon's reviews by the first lines; raises a DataError if it is unknown or unreadable."""
    lines = first_lines(path)
    if not lines:
        raise DataError(f"{path}: there are no rows")
    if lines[0].lstrip().startswith(b"["):
        raise DataError(f"{path} begins with '[': write one record per line instead of one list of all records")
    result = _json_format(lines) if lines[0].lstrip().startswith(b"{") else _csv_format(lines)
    if isinstance(result, str):
        raise DataError(f"{path}: not Amazon's reviews: {result}; expected {EXPECTED}")
    return result


def first_lines(path: Path) -> list[bytes]:
    """Return the first lines of a file, perhaps gzipped, that are not blank; raises a DataError if it is unreadable."""
    with open_bytes(path) as file:
        head = file.read(HEAD_BYTES).removeprefix(b"\xef\xbb\xbf")
    return [line for line in head.splitlines()[:HEAD_LINES] if line.strip()]


def read_reviews(path: Path, form: ReviewFormat, columns: Sequence[str], bad: BadLines) -> pl.DataFrame:
    """Read the reviews as a frame, in the order of the file.

    Args:
        path: plain or gzipped.
        form: the result of `detect_review_format`.
        columns: which of user, item, rating and timestamp to read; a line that lacks one of them is bad.
        bad: handles unusable lines.

    Returns:
        the columns, user and item as strings, rating float64, timestamp int64 in the unit of the file (seconds; in
        2023 milliseconds).

    Raises:
        DataError: the file is damaged or without a usable line; or a line is unusable, and `bad` does not skip it.
    """
    form = dataclasses.replace(form, names={column: form.names[column] for column in columns})
    read_block = _json_block if form.positions is None else _csv_block
    schema = {column: TYPES[column] for column in columns}

    def parse(line: bytes) -> tuple[Any, ...]:
        return _review(parse_record(line) if form.positions is None else _fields(decode_line(line), form), form)

    frames = [pl.DataFrame(schema=schema)]
    in_header = form.header
    for number, block in read_blocks(path):
        while in_header and block:
            line, _, block = block.partition(b"\n")
            number += 1
            in_header = not line.strip()
        n_lines = block.count(b"\n") + (not block.endswith(b"\n"))
        frame = read_block(block, form, n_lines) if b"\r" not in block and is_utf8(block) else None
        if frame is None or frame.height != n_lines or not _is_complete(frame):  # parse each line
            frame = pl.DataFrame(list(parse_lines(number, block, bad, parse)), schema=schema, orient="row")
        frames.append(frame)
    reviews = pl.concat(frames)
    if reviews.height == 0:
        raise DataError(f"{path}: there is no row that can be used" + (f" ({bad.example})" if bad.count else ""))
    return reviews


def _json_format(lines: list[bytes]) -> ReviewFormat | str:
    """Detect the format of JSON lines by the first readable record; returns the reason if the format is unknown."""
    record: dict[str, Any] = {}
    reason = ""
    for line in lines:
        try:
            record = parse_record(line)
            break
        except ValueError as error:
            reason = reason or f"line 1 is {error}"
    if "reviewerID" in record and "asin" in record:
        year = "2018" if {"verified", "vote", "style"} & record.keys() else "2014"
        names = {USER: "reviewerID", ITEM: "asin", RATING: "overall", TIMESTAMP: "unixReviewTime"}
        return ReviewFormat(year, names, day="reviewTime")
    item = "parent_asin" if "parent_asin" in record else "asin"
    if "user_id" in record and item in record:
        time = "sort_timestamp" if "sort_timestamp" in record and "timestamp" not in record else "timestamp"
        return ReviewFormat("2023", {USER: "user_id", ITEM: item, RATING: "rating", TIMESTAMP: time})
    if item in record and {"title", "categories", "category", "imUrl", "price"} & record.keys():
        return "it contains item metadata, which is read together with a file of reviews"
    return reason or f"the first record has the keys {', '.join(map(str, list(record)[:8])) or '(none)'}"


def _csv_format(lines: list[bytes]) -> ReviewFormat | str:
    """Detect the format of a table of ratings by its header or its column of ASINs (the item ids of Amazon).

    Returns the reason if the format is unknown.
    """
    try:
        rows = [decode_line(line).split(",") for line in lines]
    except ValueError as error:
        return str(error)
    first = [name.strip() for name in rows[0]]
    item = "parent_asin" if "parent_asin" in first else "asin"
    if "user_id" in first and item in first:
        names = {USER: "user_id", ITEM: item, RATING: "rating", TIMESTAMP: "timestamp"}
        if lacking := [name for name in names.values() if name not in first]:
            return f"its header lacks {', '.join(lacking)}"
        positions = {column: first.index(name) for column, name in names.items()}
        return ReviewFormat("2023", names, positions, len(first), header=True)
    if len(first) != 4:
        return f"line 1 has {len(first)} values"
    shares = [sum(bool(ASIN.fullmatch(row[index])) for row in rows if len(row) == 4) for index in (0, 1)]
    if max(shares) * 2 <= len(rows):
        return "neither its first nor its second column looks like ASINs"
    user, item_at = (0, 1) if shares[1] >= shares[0] else (1, 0)
    # any table of four columns may contain numbers of ten digits
    if not (ASIN.fullmatch(first[item_at]) and NUMBER.fullmatch(first[2]) and NUMBER.fullmatch(first[3])):
        return "line 1 does not hold user, item, rating and time"
    names = {USER: "user", ITEM: "item", RATING: "rating", TIMESTAMP: "time"}
    # 2014 has the user first, 2018 the item
    positions = {USER: user, ITEM: item_at, RATING: 2, TIMESTAMP: 3}
    return ReviewFormat("2014" if user == 0 else "2018", names, positions, len(first))


def _json_block(block: bytes, form: ReviewFormat, n_lines: int) -> pl.DataFrame | None:
    """Parse a block of JSON lines at once with Arrow; None if that is not possible.

    Every line must begin with a brace: Arrow aborts the process on a line that is only `null`.
    """
    import pyarrow
    from pyarrow import json

    if not block.startswith(b"{") or block.count(b"\n{") != n_lines - 1:
        return None
    types = {pl.String: pyarrow.string(), pl.Float64: pyarrow.float64(), pl.Int64: pyarrow.int64()}
    schema = pyarrow.schema([(name, types[TYPES[column]]) for column, name in form.names.items()])
    options = json.ParseOptions(explicit_schema=schema, unexpected_field_behavior="ignore")
    try:
        table = json.read_json(BytesIO(block), json.ReadOptions(block_size=4 << 20), options)
        frame = pl.from_arrow(table.select(list(form.names.values())).rename_columns(list(form.names)))
    except (pyarrow.ArrowException, UnicodeDecodeError, pl.exceptions.PolarsError):
        return None
    assert isinstance(frame, pl.DataFrame)
    return frame


def _csv_block(block: bytes, form: ReviewFormat, n_lines: int) -> pl.DataFrame | None:
    """Parse a block of CSV lines at once with polars; None if that is not possible."""
    assert form.positions is not None
    if not block or b'"' in block:
        return None
    names = {position: column for column, position in form.positions.items() if column in form.names}
    columns = [names.get(position, f"column {position}") for position in range(form.width)]
    schema = {column: TYPES.get(column, pl.String) for column in columns}
    try:
        return pl.read_csv(block, has_header=False, schema=schema, quote_char=None).select(list(form.names))
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException):
        return None


def _is_complete(frame: pl.DataFrame) -> bool:
    """Return whether no value is missing, no id is blank, and no rating is NaN or infinite."""
    if any(frame.null_count().row(0)) or any(frame[column].str.contains(BLANK).any() for column in (USER, ITEM)):
        return False
    return RATING not in frame.columns or bool(frame[RATING].is_finite().all())


def _fields(line: str, form: ReviewFormat) -> dict[str, Any]:
    """Parse a CSV line to a record with the names of the format and numeric values."""
    assert form.positions is not None
    values = line.split(",")
    if len(values) != form.width:
        raise ValueError(f"{len(values)} values, and there must be {form.width}")
    record: dict[str, Any] = {}
    for column, name in form.names.items():
        value = values[form.positions[column]].removesuffix("\r")
        number = NUMBER.fullmatch(value) if column in (RATING, TIMESTAMP) else None
        record[name] = value if number is None else int(value) if value.lstrip("-").isdigit() else float(value)
    return record


def _review(record: dict[str, Any], form: ReviewFormat) -> tuple[Any, ...]:
    """Return the values of a record for the columns of `form`; raises a ValueError if one is missing or wrong."""
    if TIMESTAMP in form.names and form.day is not None and record.get(form.names[TIMESTAMP]) is None:
        record = {**record, form.names[TIMESTAMP]: _day(record.get(form.day))}
    converters = {USER: _id, ITEM: _id, RATING: _rating, TIMESTAMP: _time}
    for name in form.names.values():
        if record.get(name) is None:
            raise ValueError(f"there is no {name}")
    return tuple(converters[column](record[name], name) for column, name in form.names.items())


def _id(value: Any, name: str) -> str:
    if not isinstance(value, str) or not value.strip():
        raise ValueError(f"{name} is {value!r:.60}, not a text")
    if not value.isascii() and any("\ud800" <= letter <= "\udfff" for letter in value):
        raise ValueError(f"{name} is {value!r:.60}, which is half of a character")
    return value


def _rating(value: Any, name: str) -> float:
    number = finite_float(value)
    if number is None:
        raise ValueError(f"the rating ({name}) is {value!r:.60}, not a number")
    return number


def _time(value: Any, name: str) -> int:
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int) or abs(value) >= 2**63:
        raise ValueError(f"{name} is {value!r:.60}, not an integer")
    return value


def _day(text: Any) -> int | None:
    """Return the seconds since 1970 of a date such as "09 3, 2013"; None for another text."""
    try:
        moment = datetime.datetime.strptime(str(text), "%m %d, %Y")
    except ValueError:
        return None
    return int(moment.replace(tzinfo=datetime.UTC).timestamp())
