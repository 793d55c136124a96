"""`Table`: a frame with its source and the location of each row there, for messages."""

from __future__ import annotations

import dataclasses
import difflib
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from lirdrec.data.column_names import ITEM, RATING, TIMESTAMP, USER
from lirdrec.data.frames import describe_row
from lirdrec.errors import DataError
from lirdrec.option_names import option_text

NUMERIC = re.compile(r"-?[0-9]+(\.[0-9]*)?")
NO_HEADER = "--no-header --columns user,item,… (in Python header=False, columns=[…])"
OTHER_NAMES = {  # names used in practice and in public data sets, in lower case without blanks and underscores
    USER: (
        "user userid username uid userhash customer customerid custid client clientid visitor visitorid reviewer"
        " reviewerid member memberid account accountid session sessionid reader readerid player steamid person personid"
    ),
    ITEM: (
        "item itemid iid sku asin parentasin product productid article articleid movie movieid film filmid book bookid"
        " isbn track trackid song songid artist artistid artistname video videoid business businessid game gameid appid"
        " recipe recipeid news newsid ad adid listing listingid gmapid aid"
    ),
    RATING: "rating rate score stars star overall value bookrating",
    TIMESTAMP: "timestamp time ts date datetime when unixtime unixreviewtime reviewtime createdat eventtime tdat",
}


@dataclass(frozen=True)
class Table:
    """A frame with the facts needed to name its rows in messages.

    Attributes:
        frame: the columns.
        source: prefix of messages: a path, or "the interactions".
        text: whether the source is a text file, so that ids of digits become integers.
        skipped: bad rows that were left out when the file was read.
        decimal_comma: whether numbers may be written with a decimal comma.
        ordered: whether the rows have the order of the source, so that features without ids can be aligned with them.
        row_location: describes the location of a row in the source, such as "line 7".
    """

    frame: pl.DataFrame
    source: str
    text: bool = False
    skipped: int = 0
    decimal_comma: bool = False
    ordered: bool = True
    row_location: Callable[[int], str] = describe_row

    def first_bad_row(self, bad: pl.Series) -> str:
        """Return the location of the first row in the mask `bad`, such as "line 7"."""
        return self.row_location(int(bad.arg_true()[0]))

    def require_columns(self, columns: Sequence[str]) -> None:
        """Raise a DataError if a column is missing; the message suggests a similar name."""
        for column in columns:
            if column not in self.frame.columns:
                similar = likely_column(column, self.frame.columns)
                hint = f"; did you mean '{similar}'?" if similar else ""
                if similar and column in (USER, ITEM):
                    hint += f" then use it ({option_text(column, similar)})"
                elif column in (USER, ITEM):
                    hint = f"; give the column of {column} ids ({option_text(column, 'COLUMN')})"
                if any(NUMERIC.fullmatch(name) for name in self.frame.columns):
                    hint = f"; if its first line holds values, give the names of the columns: {NO_HEADER}"
                raise DataError(f"{self.source}: no column '{column}'; it has {', '.join(self.frame.columns)}{hint}")


def select_rows(table: Table, keep: pl.Series, skipped: int = 0) -> Table:
    """Return the table with the rows in the mask `keep`, and with `skipped` added to its number of skipped rows."""
    if keep.all():
        return table
    rows = keep.arg_true()
    return dataclasses.replace(
        table,
        frame=table.frame.filter(keep),
        skipped=table.skipped + skipped,
        row_location=lambda row: table.row_location(rows[row]),
    )


def join_tables(parts: Sequence[Table], columns: Sequence[str], source: str) -> Table:
    """Return one table with the `columns` and rows of all tables; locations of rows then include the name of the file.

    Raises a DataError if a column is missing in one of them, or has different types that are not all numbers.
    """
    for part in parts:
        part.require_columns(columns)
    frames = [part.frame.select(columns) for part in parts]
    for name in columns:
        types = {frame[name].dtype for frame in frames} - {pl.Null}
        if len(types) > 1 and not all(dtype.is_numeric() for dtype in types):
            each = ", ".join(f"{frame[name].dtype} in {part.source}" for frame, part in zip(frames, parts, strict=True))
            raise DataError(f"{source}: column '{name}' holds {each}; write it with the same type in all files")

    def row_location(row: int) -> str:
        for part in parts:
            if row < part.frame.height:
                return f"{part.row_location(row)} of {Path(part.source).name}"
            row -= part.frame.height
        raise IndexError(row)

    return Table(
        pl.concat(frames, how="vertical_relaxed"),
        source,
        all(part.text for part in parts),
        skipped=sum(part.skipped for part in parts),
        decimal_comma=all(part.decimal_comma for part in parts),
        row_location=row_location,
    )


def likely_column(requested: str, columns: Sequence[str]) -> str | None:
    """Return the column most like `requested`: equal but for case, blanks and `_`, a synonym, or similar; or None."""
    plain = {column: _normalize(column) for column in columns}
    wanted = _normalize(requested)
    synonyms = next((names for text in OTHER_NAMES.values() if wanted in (names := text.split())), [])
    for name in (wanted, *synonyms):
        for column in columns:
            if plain[column] == name:
                return column
    similar = difflib.get_close_matches(requested, columns, n=1, cutoff=0.75)
    return similar[0] if similar else None


def column_of_ids(frame: pl.DataFrame, ids: pl.Series) -> tuple[str, int] | None:
    """Return the column with the most of the distinct ids, and their number; None if no column has half of them."""
    wanted = ids.cast(pl.String).unique()
    counts = {
        column.name: int(wanted.is_in(column.cast(pl.String).unique().implode()).sum())
        for column in frame.get_columns()
        if column.dtype == pl.String or column.dtype.is_integer()
    }
    best = max(counts, key=counts.__getitem__, default=None)
    return None if best is None or counts[best] * 2 < len(wanted) else (best, counts[best])


def _normalize(name: str) -> str:
    return re.sub(r"[\W_]", "", name).lower()
