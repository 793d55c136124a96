"""Read tables from text and binary files; every problem of a file raises a one-sentence DataError."""

from __future__ import annotations

import dataclasses
import logging
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from lirdrec.config import make_config
from lirdrec.data.binary_tables import read_columnar, read_spreadsheet
from lirdrec.data.column_matching import likely_column
from lirdrec.data.compression import exists, first_bytes, is_compressed, open_bytes
from lirdrec.data.delimited import COMMA_NUMBER, NO_HEADER, NUMBER, NUMERIC, TextFormat, read_delimited, typed
from lirdrec.data.file_parts import Part, find_parts, table_suffix
from lirdrec.data.file_signatures import (
    EXCEL,
    HEAD_BYTES,
    PARQUET,
    ZIP,
    check_maybe_table,
    check_not_archive,
    detect_compression,
    detect_table_format,
)
from lirdrec.data.frames import row_place
from lirdrec.data.ids import pluralize
from lirdrec.data.json_lines import BadLines
from lirdrec.data.json_tables import is_json, read_json
from lirdrec.data.schema import ITEM, USER
from lirdrec.errors import DataError
from lirdrec.option_names import option_text

logger = logging.getLogger(__name__)

LEADING_ZERO = r"^[+-]?0[0-9]"
ANY_NUMBER = (
    r"^[+-]?([0-9]+([.,][0-9]+)?|[.,][0-9]+|[0-9]{1,3}([.,' \u00a0\u202f][0-9]{3})+([.,][0-9]+)?)([eE][+-]?[0-9]+)?$"
)
NUMBER_SHARE = 0.9  # of the values of a column
SAMPLE = 1000  # rows that are looked at first
SPREADSHEETS = (".xlsx", ".xls", ".xlsm", ".xlsb", ".ods", ".numbers")
SEPARATORS = {".csv": ",", ".tsv": "\t", ".inter": "\t", ".item": "\t", ".user": "\t", ".tab": "\t"}


@dataclass(frozen=True)
class Table:
    """A frame with the facts needed to name its rows in messages.

    Attributes:
        frame: the columns.
        where: prefix of messages: a path, or "the interactions".
        text: whether the source is a text file, so that ids of digits become integers.
        lines: whether rows are lines of a file (the header is line 1); else rows are counted from 0.
        skipped: bad rows that were left out when the file was read.
        decimal_comma: whether numbers may be written with a decimal comma.
        ordered: whether the rows have the order of the source, so that features without ids can be aligned with them.
    """

    frame: pl.DataFrame
    where: str
    text: bool = False
    lines: bool = False
    skipped: int = 0
    decimal_comma: bool = False
    ordered: bool = True

    def place(self, row: int) -> str:
        """The position of a row, for messages."""
        return f"line {row + 2}" if self.lines else row_place(row)

    def at(self, bad: pl.Series) -> str:
        """The position of the first true row of a mask, for messages."""
        return self.place(int(bad.arg_true()[0]))

    def need(self, columns: Sequence[str]) -> None:
        """Raise a DataError if a column is missing; suggests a similar name."""
        for column in columns:
            if column not in self.frame.columns:
                near = likely_column(column, self.frame.columns)
                hint = f"; did you mean '{near}'?" if near else ""
                if near and column in (USER, ITEM):
                    hint += f" then name it ({option_text(column, near)})"
                if any(NUMERIC.fullmatch(name) for name in self.frame.columns):
                    hint = f"; if its first line holds values, name the columns: {NO_HEADER}"
                raise DataError(f"{self.where}: no column '{column}'; it has {', '.join(self.frame.columns)}{hint}")


@dataclass(frozen=True)
class TextTable(Table):
    """A table whose rows are lines of a text file.

    Attributes:
        numbers: `(N,)` line number of each row, from 1; None: row 0 is the line `first`, and each row is a line.
        first: see `numbers`.
    """

    numbers: np.ndarray | None = None
    first: int = 2

    def place(self, row: int) -> str:
        """The position of a row, for messages."""
        return f"line {row + self.first if self.numbers is None else self.numbers[row]}"


@dataclass(frozen=True)
class RecordTable(Table):
    """A table whose rows are records of a JSON file.

    Attributes:
        numbers: `(N,)` line number, or position in the list, of each row's record.
        word: "line" or "record", what `numbers` counts.
    """

    numbers: np.ndarray = field(default_factory=lambda: np.zeros(0, dtype=np.int64))
    word: str = "line"

    def place(self, row: int) -> str:
        """The position of a row, for messages."""
        return f"{self.word} {self.numbers[row]}"


@dataclass(frozen=True)
class SelectedTable(Table):
    """Some rows of another table; messages give the row positions of that table.

    Attributes:
        source: the other table.
        rows: `(N,)` the rows kept.
    """

    source: Table = None  # type: ignore[assignment]  # always given; fields of the base class have defaults
    rows: np.ndarray = field(default_factory=lambda: np.zeros(0, dtype=np.int64))

    def place(self, row: int) -> str:
        """The position of a row, for messages."""
        return self.source.place(int(self.rows[row]))


def select_rows(table: Table, keep: pl.Series) -> Table:
    """Select the rows of a table by a mask."""
    if keep.all():
        return table
    return SelectedTable(
        table.frame.filter(keep),
        table.where,
        table.text,
        table.lines,
        table.skipped,
        table.decimal_comma,
        table.ordered,
        source=table,
        rows=keep.arg_true().to_numpy(),
    )


@dataclass(frozen=True)
class JoinedTable(Table):
    """Concatenated tables with the same columns; messages name the file of a row.

    Attributes:
        parts: the tables, in order.
    """

    parts: tuple[Table, ...] = ()

    def place(self, row: int) -> str:
        """The position of a row, for messages."""
        for part in self.parts:
            if row < part.frame.height:
                return f"{part.place(row)} of {Path(part.where).name}"
            row -= part.frame.height
        raise IndexError(row)


def join_tables(parts: Sequence[Table], columns: Sequence[str], where: str) -> Table:
    """Concatenate tables.

    Args:
        parts: tables with these columns.
        columns: which to keep.
        where: prefix of messages.

    Raises:
        DataError: a column is missing in one of them, or has another type than in the others.
    """
    for part in parts:
        part.need(columns)
    frames = [part.frame.select(columns) for part in parts]
    for name in columns:
        kinds = {frame[name].dtype for frame in frames} - {pl.Null}
        numbers = all(kind.is_numeric() for kind in kinds)
        if len(kinds) > 1 and not numbers:
            each = ", ".join(f"{frame[name].dtype} in {part.where}" for frame, part in zip(frames, parts, strict=True))
            raise DataError(f"{where}: column '{name}' holds {each}; write it with one type in all")
    frame = pl.concat(frames, how="vertical_relaxed")
    return JoinedTable(
        frame,
        where,
        all(part.text for part in parts),
        skipped=sum(part.skipped for part in parts),
        decimal_comma=all(part.decimal_comma for part in parts),
        parts=tuple(parts),
    )


def read_table(
    source: str | Path | Sequence[str | Path],
    text: str | None = None,
    keys: Sequence[str] | None = None,
    **layout: Any,
) -> Table:
    """Read a table from files, recognized by their content: separated text (CSV, TSV …), JSON, Parquet, Arrow, ORC.

    Any of them may be compressed (gzip, bzip2, xz, zstd, lz4, a zip archive of one file). Spreadsheets are read where
    the extra `excel` is installed.

    Args:
        source: a file; or several files that form one table: a list, a folder of parts (as Spark writes them), or a
            pattern such as "log-*.csv".
        text: by default every column of a text file is kept as strings (the caller converts them);
            with a column's name, only this column is, and the other columns get the type that fits all their values.
        keys: of JSON files, the columns to read, `a.b` for a key of a nested record; by default all. See
            `lirdrec.data.json_tables.read_json`.
        layout: fields of `lirdrec.data.delimited.TextFormat`, of text files: separator, encoding, header, columns,
            bad_rows.

    Raises:
        DataError: a file is missing, empty, truncated, of an unknown encoding, or not a table; or the files have
            different columns.
        ConfigError: an invalid option.
    """
    known = make_config(TextFormat, layout, "a table")
    parts = find_parts(source)
    if len(parts) == 1 and not parts[0].values:
        table = _read_file(parts[0].path, known, text, keys)
        if table.frame.height == 0:
            raise DataError(f"{table.where}: has column names but no rows")
        if text and table.text:
            warn_text_columns(table, text)
        return table
    tables = [_with_folder_columns(_read_file(part.path, known, None, keys), part, parts) for part in parts]
    tables = [table for table in tables if table.frame.height] or tables[:1]
    where = str(source) if isinstance(source, (str, Path)) else ", ".join(map(str, source))
    columns = tables[0].frame.columns
    for table in tables:
        if other := set(table.frame.columns) ^ set(columns):
            raise DataError(
                f"{where}: {tables[0].where} has the columns {', '.join(columns)}, and {table.where} has"
                f" {', '.join(table.frame.columns)} ({', '.join(sorted(other))} is not in both); parts of one table"
                " have the same columns"
            )
    joined = join_tables(tables, columns, where)
    if joined.frame.height == 0:
        raise DataError(f"{where}: has column names but no rows")
    if text and joined.text:
        mark = ";" if joined.decimal_comma else ","
        values = [typed(joined.frame[name], mark) for name in columns if name != text]
        joined = dataclasses.replace(joined, frame=joined.frame.with_columns(values))
        warn_text_columns(joined, text)
    return joined


def warn_text_columns(table: Table, known: str) -> None:
    """Warn about columns that are read as texts because a few values are not numbers.

    Args:
        table: with the types found.
        known: the id column, which is not checked.
    """
    for name, kind in table.frame.schema.items():
        if name == known or kind != pl.String:
            continue
        values = table.frame[name]
        if not _mostly_numbers(values.head(SAMPLE)) or not _mostly_numbers(values):
            continue
        plain, mark, example = (
            (COMMA_NUMBER, "comma", "1056,23") if table.decimal_comma else (NUMBER, "point", "1056.23")
        )
        wrong = (~values.str.contains(plain)).fill_null(False)
        if wrong.any():
            logger.warning(
                "%s: column '%s' is read as texts, not numbers, because of %r in %s (%s like that); write numbers with"
                " one decimal %s and nothing between thousands, such as %s, and leave a cell empty where there is none",
                *(table.where, name, values[int(wrong.arg_true()[0])], table.at(wrong)),
                *(pluralize(int(wrong.sum()), "value"), mark, example),
            )


def _mostly_numbers(values: pl.Series) -> bool:
    """Whether nearly all values are numbers in some notation; codes with a leading 0 do not count."""
    known = values.drop_nulls()
    if not len(known) or known.str.contains(LEADING_ZERO).any():
        return False
    return float(known.str.contains(ANY_NUMBER).mean() or 0) >= NUMBER_SHARE  # type: ignore[arg-type]  # of truth values


def _read_file(path: Path, layout: TextFormat, text: str | None, keys: Sequence[str] | None) -> Table:
    exists(path)
    if is_json(path):
        bad = BadLines(path, "skip" if layout.bad_rows == "skip" else "raise", option="bad_rows")
        found = read_json(path, keys, bad)
        return RecordTable(found.frame, str(path), skipped=bad.count, numbers=found.numbers, word=found.word)
    if _is_spreadsheet(path):
        return Table(read_spreadsheet(path), str(path))
    with open_bytes(path) as file:
        head = file.read(HEAD_BYTES)
    check_not_archive(path, head)
    check_maybe_table(path, head)
    if is_compressed(path) and detect_compression(head) is not None:
        raise DataError(f"{path}: is compressed twice; unpack it and name the file in it")
    kind = detect_table_format(head) or (PARQUET if table_suffix(path) in (".parquet", ".pq") else None)
    if kind is not None:
        return Table(read_columnar(path, kind), str(path))
    read = read_delimited(path, layout, SEPARATORS.get(table_suffix(path), ","), text)
    return TextTable(
        read.frame,
        str(path),
        text=True,
        lines=True,
        skipped=read.skipped,
        decimal_comma=read.separator == ";",
        numbers=read.numbers,
        first=read.first,
    )


def _with_folder_columns(table: Table, part: Part, parts: Sequence[Part]) -> Table:
    """Add the columns given by the folder names of a part; integers if the table is not text."""
    frame = table.frame
    for name, value in part.values.items():
        every = pl.Series([other.values.get(name) for other in parts], dtype=pl.String)
        whole = not table.text and typed(every).dtype == pl.Int64
        if name not in frame.columns:
            column = pl.lit(value, pl.String)
            frame = frame.with_columns((column.cast(pl.Int64) if whole else column).alias(name))
    return dataclasses.replace(table, frame=frame)


def _is_spreadsheet(path: Path) -> bool:
    head = first_bytes(path)
    if detect_table_format(head) == EXCEL:
        return True
    if detect_compression(head) != ZIP:  # many websites name text files .xls; read those as text
        return False
    if path.suffix.lower() in SPREADSHEETS:
        return True
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except (zipfile.BadZipFile, OSError, ValueError):
        return False
    return any(name.startswith("xl/") for name in names) or {"mimetype", "content.xml"} <= set(names)
