"""Tables in binary formats: Parquet, Arrow (Feather), ORC and spreadsheets."""

from __future__ import annotations

import importlib.util
import io
from pathlib import Path
from typing import TYPE_CHECKING, Any

import polars as pl

from lirdrec.available_memory import check_memory
from lirdrec.data.compression import is_compressed, read_bytes
from lirdrec.data.delimited import check_names
from lirdrec.data.file_signatures import ARROW_STREAM, ORC, PARQUET
from lirdrec.data.frames import first_line
from lirdrec.data.ids import with_article
from lirdrec.errors import DataError

if TYPE_CHECKING:
    import pyarrow

POLARS_ERRORS = (pl.exceptions.PolarsError, pl.exceptions.PanicException)


def read_columnar(path: Path, kind: str) -> pl.DataFrame:
    """Read a file, possibly compressed, of a format of `detect_table_format`; raises a DataError if it is damaged.

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
            f"{path}: is a spreadsheet; install its reader (pip install 'lirdrec[excel]'), or save the sheet as CSV"
            " (UTF-8) and name that"
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
