"""`Table`: a frame with its source and the location of each row there, for messages."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from lirdrec.data.column_matching import likely_column
from lirdrec.data.frames import row_place
from lirdrec.data.schema import ITEM, USER
from lirdrec.errors import DataError
from lirdrec.option_names import option_text

NUMERIC = re.compile(r"-?[0-9]+(\.[0-9]*)?")
NO_HEADER = "--no-header --columns user,item,… (in Python header=False, columns=[…])"


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
    row_location: Callable[[int], str] = row_place

    def first_bad_row(self, bad: pl.Series) -> str:
        """The location of the first true row of a mask."""
        return self.row_location(int(bad.arg_true()[0]))

    def require_columns(self, columns: Sequence[str]) -> None:
        """Raise a DataError if a column is missing; suggests a similar name."""
        for column in columns:
            if column not in self.frame.columns:
                similar = likely_column(column, self.frame.columns)
                hint = f"; did you mean '{similar}'?" if similar else ""
                if similar and column in (USER, ITEM):
                    hint += f" then name it ({option_text(column, similar)})"
                elif column in (USER, ITEM):
                    hint = f"; name the column of {column} ids ({option_text(column, 'COLUMN')})"
                if any(NUMERIC.fullmatch(name) for name in self.frame.columns):
                    hint = f"; if its first line holds values, name the columns: {NO_HEADER}"
                raise DataError(f"{self.source}: no column '{column}'; it has {', '.join(self.frame.columns)}{hint}")


def select_rows(table: Table, keep: pl.Series, skipped: int = 0) -> Table:
    """Select the rows of a table by a mask, and add a number to the skipped rows."""
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
    """Concatenate the `columns` of tables; locations of rows name the file.

    Raises a DataError if a column is missing in one of them, or has another type than in the others.
    """
    for part in parts:
        part.require_columns(columns)
    frames = [part.frame.select(columns) for part in parts]
    for name in columns:
        types = {frame[name].dtype for frame in frames} - {pl.Null}
        if len(types) > 1 and not all(dtype.is_numeric() for dtype in types):
            each = ", ".join(f"{frame[name].dtype} in {part.source}" for frame, part in zip(frames, parts, strict=True))
            raise DataError(f"{source}: column '{name}' holds {each}; write it with one type in all")

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
