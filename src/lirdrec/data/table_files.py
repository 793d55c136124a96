"""Read tables from text and binary files; every problem of a file raises a one-sentence DataError."""

from __future__ import annotations

import dataclasses
import importlib.util
import io
import logging
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import polars as pl

from lirdrec.available_memory import check_memory
from lirdrec.config import make_config
from lirdrec.data.compression import exists, first_bytes, is_compressed, open_bytes, read_bytes
from lirdrec.data.delimited import COMMA_NUMBER, NUMBER, TextFormat, check_names, read_delimited, typed
from lirdrec.data.file_parts import Part, find_parts, table_suffix
from lirdrec.data.file_signatures import (
    ARROW_STREAM,
    EXCEL,
    HEAD_BYTES,
    ORC,
    PARQUET,
    ZIP,
    check_maybe_table,
    check_not_archive,
    detect_compression,
    detect_table_format,
)
from lirdrec.data.frames import first_line
from lirdrec.data.json_lines import BadLines
from lirdrec.data.json_tables import is_json, read_json
from lirdrec.data.table_with_source import Table, join_tables
from lirdrec.errors import DataError
from lirdrec.wording import pluralize, with_article

if TYPE_CHECKING:
    import pyarrow

logger = logging.getLogger(__name__)

LEADING_ZERO = r"^[+-]?0[0-9]"
ANY_NUMBER = (
    r"^[+-]?([0-9]+([.,][0-9]+)?|[.,][0-9]+|[0-9]{1,3}([.,' \u00a0\u202f][0-9]{3})+([.,][0-9]+)?)([eE][+-]?[0-9]+)?$"
)
NUMBER_SHARE = 0.9  # share of numbers in a column that was probably meant to be numeric
SAMPLE = 1000  # rows that are checked first
SPREADSHEETS = (".xlsx", ".xls", ".xlsm", ".xlsb", ".ods", ".numbers")
SEPARATORS = {".csv": ",", ".tsv": "\t", ".inter": "\t", ".item": "\t", ".user": "\t", ".tab": "\t"}
POLARS_ERRORS = (pl.exceptions.PolarsError, pl.exceptions.PanicException)


def read_table(
    source: str | Path | Sequence[str | Path],
    text: str | None = None,
    keys: Sequence[str] | None = None,
    **layout: Any,
) -> Table:
    """Read a table from files, recognized by their content: separated text (CSV, TSV …), JSON, Parquet, Arrow, ORC.

    Files may be compressed (gzip, bzip2, xz, zstd, lz4, a zip archive of one file). Spreadsheets need the extra
    `excel`.

    Args:
        source: a file; or several files that form one table: a list, a folder of parts (as Spark writes them), or a
            pattern such as "log-*.csv".
        text: by default every column of a text file is kept as strings. With a column's name, only this column is
            kept as strings, and the others get the type that fits all their values.
        keys: the columns to read from JSON files; see `lirdrec.data.json_tables.read_json`.
        layout: the format of text files: fields of `lirdrec.data.delimited.TextFormat`.

    Raises:
        DataError: a file is missing, empty, truncated, of an unknown encoding, or not a table; or the files have
            different columns.
        ConfigError: an invalid option.
    """
    text_format = make_config(TextFormat, layout, "a table")
    parts = find_parts(source)
    if len(parts) == 1 and not parts[0].values:
        table = _read_file(parts[0].path, text_format, text, keys)
    else:
        where = str(source) if isinstance(source, (str, Path)) else ", ".join(map(str, source))
        table = _read_parts(parts, text_format, keys, where)
        if text and table.text:
            separator = ";" if table.decimal_comma else ","
            columns = [typed(column, separator) for column in table.frame.get_columns() if column.name != text]
            table = dataclasses.replace(table, frame=table.frame.with_columns(columns))
    if table.frame.height == 0:
        raise DataError(f"{table.source} has column names but no rows")
    if text and table.text:
        _warn_text_columns(table, text)
    return table


def _read_parts(parts: Sequence[Part], layout: TextFormat, keys: Sequence[str] | None, where: str) -> Table:
    """Read the files of one table as one; files without rows are ignored. Raises a DataError if the columns differ."""
    tables = [_with_folder_columns(_read_file(part.path, layout, None, keys), part, parts) for part in parts]
    tables = [table for table in tables if table.frame.height] or tables[:1]
    columns = tables[0].frame.columns
    for table in tables:
        if other := set(table.frame.columns) ^ set(columns):
            raise DataError(
                f"{where}: {tables[0].source} has the columns {', '.join(columns)}, and {table.source} has"
                f" {', '.join(table.frame.columns)} ({', '.join(sorted(other))} is not in both); parts of one table"
                " must have the same columns"
            )
    return join_tables(tables, columns, where)


def _warn_text_columns(table: Table, id_column: str) -> None:
    """Warn about columns, except ids, that are read as texts because a few values are not numbers."""
    number, mark, example = (COMMA_NUMBER, "comma", "1056,23") if table.decimal_comma else (NUMBER, "point", "1056.23")
    for name, dtype in table.frame.schema.items():
        if name == id_column or dtype != pl.String:
            continue
        values = table.frame[name]
        if not _mostly_numbers(values.head(SAMPLE)) or not _mostly_numbers(values):
            continue
        wrong = (~values.str.contains(number)).fill_null(False)
        if wrong.any():
            logger.warning(
                "%s: column '%s' is read as texts, not numbers, because of %r in %s (%s like that); write numbers with"
                " one decimal %s and nothing between thousands, such as %s, and leave a cell empty if it has no number",
                *(table.source, name, values[int(wrong.arg_true()[0])], table.first_bad_row(wrong)),
                *(pluralize(int(wrong.sum()), "value"), mark, example),
            )


def _mostly_numbers(values: pl.Series) -> bool:
    """Return whether nearly all values are numbers in some notation; False if one begins with a 0, as codes do."""
    known = values.drop_nulls()
    if not len(known) or known.str.contains(LEADING_ZERO).any():
        return False
    return known.str.contains(ANY_NUMBER).sum() / len(known) >= NUMBER_SHARE


def _read_file(path: Path, layout: TextFormat, text: str | None, keys: Sequence[str] | None) -> Table:
    exists(path)
    if is_json(path):
        return read_json(path, keys, BadLines(path, layout.bad_rows, option="bad_rows"))
    if _is_spreadsheet(path):
        return Table(read_spreadsheet(path), str(path))
    with open_bytes(path) as file:
        head = file.read(HEAD_BYTES)
    check_not_archive(path, head)
    check_maybe_table(path, head)
    if is_compressed(path) and detect_compression(head) is not None:
        raise DataError(f"{path} is compressed twice; unpack it and give the unpacked file")
    kind = detect_table_format(head) or (PARQUET if table_suffix(path) in (".parquet", ".pq") else None)
    if kind is not None:
        return Table(read_columnar(path, kind), str(path))
    return read_delimited(path, layout, SEPARATORS.get(table_suffix(path), ","), text)


def _with_folder_columns(table: Table, part: Part, parts: Sequence[Part]) -> Table:
    """Add the columns that the folder names of a part define; integers become numbers unless it is a text file."""
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


def read_columnar(path: Path, kind: str) -> pl.DataFrame:
    """Read a file, possibly compressed, in the format `kind`, such as "Parquet"; raises a DataError if it is damaged.

    Uses pyarrow, since polars aborts the process on some damaged files.
    """
    import pyarrow

    try:
        columns = _read_arrow(io.BytesIO(read_bytes(path)) if is_compressed(path) else path, path, kind)
        check_names(columns.column_names, str(path))
        columns = columns.rename_columns(columns.column_names).replace_schema_metadata(None)
        columns.validate(full=True)
        frame = pl.from_arrow(columns)
    except DataError:
        raise
    except (pyarrow.ArrowException, OSError, ValueError, *POLARS_ERRORS) as error:
        raise DataError(
            f"{path}: damaged or not {with_article(kind)} file ({first_line(error)}); write it again"
        ) from None
    assert isinstance(frame, pl.DataFrame)
    return frame


def _read_arrow(source: Any, path: Path, kind: str) -> pyarrow.Table:
    import pyarrow.feather
    import pyarrow.ipc
    import pyarrow.parquet

    if kind == PARQUET:
        with pyarrow.parquet.ParquetFile(source) as file:
            size = sum(file.metadata.row_group(i).total_byte_size for i in range(file.metadata.num_row_groups))
            check_memory(size, f"{path}: as a table", DataError)
            return file.read()
    check_memory(path.stat().st_size, f"{path}: as a table", DataError)
    if kind == ORC:
        import pyarrow.orc  # not in all builds

        return pyarrow.orc.ORCFile(source).read()
    if kind == ARROW_STREAM:
        with pyarrow.ipc.open_stream(pyarrow.OSFile(str(source)) if isinstance(source, Path) else source) as stream:
            return stream.read_all()
    return pyarrow.feather.read_table(source, memory_map=False)


def read_spreadsheet(path: Path) -> pl.DataFrame:
    """Read the first sheet of a spreadsheet; raises a DataError if it is damaged or its reader is not installed."""
    if importlib.util.find_spec("fastexcel") is None:
        raise DataError(
            f"{path} is a spreadsheet; install its reader (pip install 'lirdrec[excel]'), or save the sheet as CSV"
            " (UTF-8) and give that file"
        )
    content = path.read_bytes()
    check_memory(len(content), f"{path}: as a table", DataError)
    try:
        return pl.read_excel(content, infer_schema_length=None, drop_empty_rows=True, drop_empty_cols=True)
    except Exception as error:  # fastexcel's error types cannot be imported here
        is_known = isinstance(error, (*POLARS_ERRORS, OSError, ValueError, RuntimeError))
        if not is_known and not type(error).__module__.startswith(("fastexcel", "_fastexcel")):
            raise
        raise DataError(f"{path}: damaged or not a spreadsheet ({first_line(error)}); save it as CSV") from None
