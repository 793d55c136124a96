"""Tables from text and binary files, with every fault of a file turned into one sentence."""

from __future__ import annotations

import difflib
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from lirdrec.configuration import make
from lirdrec.data.columnar import read_columnar, read_spreadsheet
from lirdrec.data.compressed import exists, first_bytes, is_packed, open_bytes
from lirdrec.data.delimited import TextFormat, read_delimited
from lirdrec.data.frames import row_place
from lirdrec.data.signatures import EXCEL, LONGEST, PARQUET, ZIP, packing, refuse_archive, refuse_other, table_format
from lirdrec.errors import DataError

SPREADSHEETS = (".xlsx", ".xls", ".xlsm", ".xlsb", ".ods", ".numbers")
SEPARATORS = {".csv": ",", ".tsv": "\t", ".inter": "\t", ".item": "\t", ".user": "\t", ".tab": "\t"}
PACKED_ENDINGS = (".gz", ".bz2", ".xz", ".zst", ".lz4", ".zip")


@dataclass(frozen=True)
class Table:
    """A table and how to speak of its rows.

    Attributes:
        frame: the columns.
        where: what messages begin with: a path, or "the interactions".
        text: whether the values were text: then ids that are all digits become integers.
        lines: whether rows are lines of a file (the header is line 1); else they are counted from 0.
        skipped: bad rows that were left out when the file was read.
        decimal_comma: whether numbers may be written with a decimal comma.
    """

    frame: pl.DataFrame
    where: str
    text: bool = False
    lines: bool = False
    skipped: int = 0
    decimal_comma: bool = False

    def place(self, row: int) -> str:
        """Where a row of the frame is, in words."""
        return f"line {row + 2}" if self.lines else row_place(row)

    def at(self, bad: pl.Series) -> str:
        """Where the first true row of a mask is, in words."""
        return self.place(int(bad.arg_true()[0]))

    def need(self, columns: Sequence[str]) -> None:
        """Raise a DataError if a column is missing; offers the nearest name."""
        for column in columns:
            if column not in self.frame.columns:
                near = difflib.get_close_matches(column, self.frame.columns, n=1)
                hint = f"; did you mean '{near[0]}'?" if near else ""
                if all(name.strip("-").replace(".", "", 1).isdigit() for name in self.frame.columns):
                    hint = (
                        "; its first line seems to be data: name its columns (--no-header --columns user,item,…, in"
                        " Python header=False, columns=[…])"
                    )
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
        """Where a row of the frame is, in words."""
        return f"line {row + self.first if self.numbers is None else self.numbers[row]}"


@dataclass(frozen=True)
class SelectedTable(Table):
    """Some rows of another table; messages speak of the rows as that table does.

    Attributes:
        source: the other table.
        rows: `(N,)` the rows of it that are left.
    """

    source: Table = None  # type: ignore[assignment]  # always given; fields of the base class have defaults
    rows: np.ndarray = field(default_factory=lambda: np.zeros(0, dtype=np.int64))

    def place(self, row: int) -> str:
        """Where a row of the frame is, in words."""
        return self.source.place(int(self.rows[row]))


def select(table: Table, keep: pl.Series) -> Table:
    """The rows of a table for which a mask is true."""
    if keep.all():
        return table
    return SelectedTable(
        table.frame.filter(keep),
        table.where,
        table.text,
        table.lines,
        table.skipped,
        table.decimal_comma,
        source=table,
        rows=keep.arg_true().to_numpy(),
    )


def read_table(path: str | Path, text: str | None = None, **layout: Any) -> Table:
    """Read a table from a file, recognized by its content: CSV, TSV and other separated text, Parquet, Arrow, ORC.

    Any of them may be compressed (gzip, bzip2, xz, zstd, lz4, a zip archive of one file). Spreadsheets are read where
    the extra `excel` is installed.

    Args:
        path: the file.
        text: by default every column of a text file is kept as strings (the caller turns them into what they are);
            with a column's name here only this column is, and the others get the type that all of their values have.
        layout: fields of `lirdrec.data.delimited.TextFormat`, of a text file: separator, encoding, header, columns,
            bad_rows.

    Raises:
        DataError: the file is missing, empty, truncated, of an unknown encoding, or not a table.
        ConfigError: an option that cannot be.
    """
    path = Path(path)
    known = make(TextFormat, layout, "a table")
    exists(path)
    if _is_spreadsheet(path):
        table = Table(read_spreadsheet(path), str(path))
    else:
        with open_bytes(path) as file:
            head = file.read(LONGEST)
        refuse_archive(path, head)
        refuse_other(path, head)
        if is_packed(path) and packing(head) is not None:
            raise DataError(f"{path}: is compressed twice; unpack it and name the file in it")
        ending = _ending(path)
        kind = table_format(head) or (PARQUET if ending in (".parquet", ".pq") else None)
        if kind is not None:
            table = Table(read_columnar(path, kind), str(path))
        else:
            read = read_delimited(path, known, SEPARATORS.get(ending, ","), text)
            table = TextTable(
                read.frame,
                str(path),
                text=True,
                lines=True,
                skipped=read.skipped,
                decimal_comma=read.separator == ";",
                numbers=read.numbers,
                first=read.first,
            )
    if table.frame.height == 0:
        raise DataError(f"{path}: has column names but no rows")
    return table


def _ending(path: Path) -> str:
    """The ending of a name in small letters, without that of a compression."""
    return Path(path.stem if path.suffix.lower() in PACKED_ENDINGS else path.name).suffix.lower()


def _is_spreadsheet(path: Path) -> bool:
    head = first_bytes(path)
    if path.suffix.lower() in SPREADSHEETS or table_format(head) == EXCEL:
        return True
    if packing(head) != ZIP:
        return False
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except (zipfile.BadZipFile, OSError, ValueError):
        return False
    return any(name.startswith("xl/") for name in names) or {"mimetype", "content.xml"} <= set(names)
