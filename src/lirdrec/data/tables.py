"""Tables from CSV, TSV and Parquet files, with every fault of a file turned into one sentence."""

from __future__ import annotations

import contextlib
import difflib
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from lirdrec.data.compressed import exists, is_gzip, read_bytes
from lirdrec.data.frames import first_line, row_place
from lirdrec.errors import DataError
from lirdrec.memory import check_memory

SPREADSHEETS = (".xlsx", ".xls", ".xlsm", ".xlsb", ".ods", ".numbers")
SEPARATORS = {".csv": ",", ".tsv": "\t", ".inter": "\t", ".item": "\t", ".user": "\t", ".tab": "\t"}


@dataclass(frozen=True)
class Table:
    """A table and how to speak of its rows.

    Attributes:
        frame: the columns.
        where: what messages begin with: a path, or "the interactions".
        text: whether the values were text: then ids that are all digits become integers.
        lines: whether rows are lines of a file (the header is line 1); else they are counted from 0.
    """

    frame: pl.DataFrame
    where: str
    text: bool = False
    lines: bool = False

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
                raise DataError(f"{self.where}: no column '{column}'; it has {', '.join(self.frame.columns)}{hint}")


def read_table(path: str | Path, text: str | None = None, separator: str | None = None) -> Table:
    """Read a CSV, TSV or Parquet file, chosen by its ending (any other ending is read as text with `separator`).

    A text file may be gzipped: `sales.csv.gz`.

    Args:
        path: the file.
        text: by default every column of a text file is kept as strings (the caller turns them into what they are);
            with a column's name here only this column is, and the types of the others are inferred from all rows.
        separator: of a text file; by default a comma for .csv and a tab for .tsv, .inter and .item.

    Raises:
        DataError: the file is missing, empty, truncated, not UTF-8, or not a table.
    """
    path = Path(path)
    exists(path)
    ending = Path(path.stem if path.suffix.lower() == ".gz" else path.name).suffix.lower()
    if ending in SPREADSHEETS:
        raise DataError(f"{path}: spreadsheets are not read; save its sheet as CSV (UTF-8, with commas) and name that")
    if ending in (".parquet", ".pq"):
        table = Table(_read_parquet(path), str(path))
    else:
        separator = separator or SEPARATORS.get(ending, ",")
        table = Table(_read_text(path, separator, text), str(path), text=True, lines=True)
    if table.frame.height == 0:
        raise DataError(f"{path}: has column names but no rows")
    return table


def _read_parquet(path: Path) -> pl.DataFrame:
    """Through pyarrow: on some damaged files polars aborts the whole process."""
    import pyarrow.parquet

    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            facts = file.metadata
            size = sum(facts.row_group(at).total_byte_size for at in range(facts.num_row_groups))
            check_memory(size, f"{path}: as a table", DataError)
            columns = file.read()
        columns = columns.rename_columns(columns.column_names).replace_schema_metadata(None)
        columns.validate(full=True)
        frame = pl.from_arrow(columns)
    except DataError:
        raise
    except (
        pyarrow.ArrowException,
        OSError,
        ValueError,
        pl.exceptions.PolarsError,
        pl.exceptions.PanicException,
    ) as error:
        raise DataError(f"{path}: damaged or not a Parquet file ({first_line(error)}); write it again") from None
    assert isinstance(frame, pl.DataFrame)
    return frame


def _read_text(path: Path, separator: str, text: str | None) -> pl.DataFrame:
    content = _check_utf8(path)
    source = io.BytesIO(content) if is_gzip(path) else path
    del content
    try:
        return pl.read_csv(
            source,
            separator=separator,
            infer_schema=text is not None,
            schema_overrides=None if text is None else {text: pl.String},
            infer_schema_length=None,
            glob=False,
            # a quote inside a TSV value is a quote, not the start of a quoted field that swallows lines
            quote_char=None if separator == "\t" else '"',
        )
    except pl.exceptions.NoDataError:
        raise DataError(f"{path}: the file is empty") from None
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException, OSError) as error:
        reason = _ragged_line(path, separator) or first_line(error)
        if separator != "\t" and read_bytes(path).count(b'"') % 2:
            reason = "a quote is opened and never closed"
        raise DataError(f"{path}: cannot be read as a table: {reason}") from None


def _ragged_line(path: Path, separator: str) -> str | None:
    """Where a text file has more or fewer values than column names; polars does not say where."""
    from pyarrow import ArrowInvalid, csv

    found: list[str] = []

    def look(row: csv.InvalidRow) -> str:
        if not found:
            found.append(
                f"line {row.number} has {row.actual_columns} values for {row.expected_columns} columns"
                " (a separator inside a value must stand in quotes)"
            )
        return "skip"

    quote = False if separator == "\t" else '"'
    options = csv.ParseOptions(delimiter=separator, quote_char=quote, invalid_row_handler=look)
    with contextlib.suppress(ArrowInvalid):
        csv.read_csv(io.BytesIO(read_bytes(path)), csv.ReadOptions(use_threads=False), options)
    return found[0] if found else None


def _check_utf8(path: Path) -> bytes:
    """polars only looks at columns that it parses; a wrong encoding must be found wherever it is, with its line."""
    content = read_bytes(path)
    try:
        content.decode("utf-8")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise DataError(
            f"{path}: not UTF-8 text (byte 0x{content[error.start]:02x} in line {line}); save it as UTF-8"
        ) from None
    return content
