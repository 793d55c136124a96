"""Convert pandas, polars and Arrow frames to polars, and back to the kind of the input."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, get_args

import polars as pl

from lirdrec.errors import DataError

FrameKind = Literal["polars", "pandas", "arrow"]


def to_polars(frame: Any) -> tuple[pl.DataFrame, FrameKind]:
    """Convert a frame to polars; also returns its original kind.

    Accepts a polars DataFrame or LazyFrame, a pandas DataFrame (its index is ignored), an Arrow Table or RecordBatch,
    or a mapping of column name to values (which counts as polars). Raises a DataError for other objects or types.
    """
    if isinstance(frame, pl.DataFrame):
        return frame, "polars"
    if isinstance(frame, pl.LazyFrame):
        return frame.collect(), "polars"
    library, name = type(frame).__module__.partition(".")[0], type(frame).__name__
    kind = "mapping" if isinstance(frame, Mapping) else f"{library} frame"
    try:
        if library == "pandas" and name == "DataFrame":
            return _from_pandas(frame), "pandas"
        if library == "pyarrow" and name in ("Table", "RecordBatch"):
            converted = pl.from_arrow(frame)
            assert isinstance(converted, pl.DataFrame)
            return converted, "arrow"
        if isinstance(frame, Mapping):
            return pl.DataFrame(dict(frame)), "polars"
    except Exception as error:
        is_known = isinstance(error, (TypeError, ValueError, pl.exceptions.PolarsError))
        if not is_known and not type(error).__module__.startswith("pyarrow"):
            raise
        raise DataError(f"the {kind} cannot be read as a table: {first_line(error)}") from error
    raise DataError(f"a frame of type {type(frame).__name__} is not known: give a pandas, polars or Arrow frame")


def _from_pandas(frame: Any) -> pl.DataFrame:
    """Convert a pandas frame to polars; a column of mixed types stays Object, so that its reader can report it."""
    try:
        return pl.from_pandas(frame)
    except Exception as error:
        columns, is_mixed = [], False
        for name in frame.columns if frame.columns.is_unique else []:
            try:
                columns.append(pl.from_pandas(frame[[name]]).to_series())
            except Exception:
                if frame[name].dtype != object:
                    raise error from None
                columns.append(pl.Series(str(name), frame[name].tolist(), dtype=pl.Object))
                is_mixed = True
        if not is_mixed:
            raise
    return pl.DataFrame(columns)


def from_polars(frame: pl.DataFrame, kind: FrameKind) -> Any:
    """Convert a frame to `kind`: "polars" unchanged, "pandas" a DataFrame with a plain index, "arrow" a Table."""
    if kind not in get_args(FrameKind):
        raise ValueError(f"unknown kind of frame {kind!r}")
    return frame if kind == "polars" else frame.to_pandas() if kind == "pandas" else frame.to_arrow()


def append_frame(frame: pl.DataFrame, rows: pl.DataFrame) -> pl.DataFrame:
    """Return a frame with rows added at its end; missing columns become null. The given frame does not change.

    Small chunks at the end are merged into larger ones, so that thousands of single appends leave few chunks and copy
    each row only a few times.
    """
    if frame.height == 0 or set(frame.columns) != set(rows.columns):
        return pl.concat([frame, rows], how="diagonal").rechunk()
    chunk_sizes = [len(chunk) for chunk in frame.to_series(0).get_chunks()]
    n_merged = rows.height
    while chunk_sizes and chunk_sizes[-1] < 2 * n_merged:
        n_merged += chunk_sizes.pop()
    n_kept = sum(chunk_sizes)
    return frame.slice(0, n_kept).vstack(pl.concat([frame.slice(n_kept), rows.select(frame.columns)]).rechunk())


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message without its period; the type of the error if the message is empty."""
    text = str(error).strip()
    return text.splitlines()[0].rstrip(".") if text else type(error).__name__


def describe_row(row: int) -> str:
    """Return the position of a row for messages about data in memory."""
    return f"row {row} (counted from 0)"
