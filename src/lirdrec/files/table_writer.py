"""Write tables frame by frame, so that a file may be larger than memory."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path

import polars as pl

from lirdrec.errors import ConfigError

WriteFrame = Callable[[pl.DataFrame], None]
ENDINGS = (".parquet", ".csv", ".tsv", ".json")
FORMULA = r"^[=+\-@\t\r]"
_FIRST = tuple("=+-@\t\r")


def spreadsheet_safe(frame: pl.DataFrame) -> pl.DataFrame:
    """Return the frame with an apostrophe before texts and column names that begin with = + - @, a tab or a return.

    Spreadsheet programs treat such texts as formulas, and titles of items are untrusted. Numbers stay numbers.
    """
    columns = []
    for name, kind in frame.schema.items():
        column = frame[name]
        if kind.base_type() in (pl.String, pl.Categorical, pl.Enum):
            column = column.cast(pl.String).str.replace(FORMULA, "'${0}")
        columns.append(column.alias(f"'{name}" if name[:1] in _FIRST else name))
    return pl.DataFrame(columns)


@contextlib.contextmanager
def table_writer(path: Path, ending: str, empty: pl.DataFrame, csv_safe: bool = False) -> Iterator[WriteFrame]:
    """Open a new table file, and yield the function that appends a frame to it.

    Args:
        path: the file to write.
        ending: suffix, one of `ENDINGS`. A frame becomes one row group of a Parquet file.
        empty: a frame without rows, for the columns and their types.
        csv_safe: make .csv and .tsv files `spreadsheet_safe`.

    Raises:
        ConfigError: `ending` is not one of `ENDINGS`.
    """
    if ending == ".parquet":
        from pyarrow.parquet import ParquetWriter

        with ParquetWriter(path, empty.to_arrow().schema, compression="zstd") as writer:
            yield lambda frame: writer.write_table(frame.to_arrow(), row_group_size=max(1, frame.height))
    elif ending in (".csv", ".tsv"):
        with path.open("wb") as file:

            def write_csv(frame: pl.DataFrame, include_header: bool = False) -> None:
                frame = spreadsheet_safe(frame) if csv_safe else frame
                frame.write_csv(file, separator="\t" if ending == ".tsv" else ",", include_header=include_header)

            write_csv(empty, include_header=True)
            yield write_csv
    elif ending == ".json":
        with path.open("w", encoding="utf-8", newline="\n") as stream:  # the same bytes as if written in one piece
            before = "["

            def write_json(frame: pl.DataFrame) -> None:
                nonlocal before
                if frame.height:
                    stream.write(before + json.dumps(frame.to_dicts(), ensure_ascii=False, indent=1)[1:-2])
                    before = ","

            yield write_json
            stream.write("[]\n" if before == "[" else "\n]\n")
    else:
        raise ConfigError(f"'{ending}' is not a known format; choose {', '.join(ENDINGS)}")
