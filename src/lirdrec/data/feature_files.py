"""Feature files: .npy, .npz with ids, .safetensors, or a table of ids and vectors; pickles are refused."""

from __future__ import annotations

import re
import tokenize
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from lirdrec.available_memory import check_memory
from lirdrec.data.compression import exists
from lirdrec.data.features import as_floats, open_array
from lirdrec.data.frames import first_line
from lirdrec.data.raw_ids import read_ids
from lirdrec.data.table_files import Table, read_table
from lirdrec.errors import DataError
from lirdrec.wording import pluralize

ID_NAMES = ("ids", "id", "item", "items", "item_id", "itemID", "item_ids", "movieId", "asin", "sku", "product_id")
TABLES = (".parquet", ".pq", ".csv", ".tsv")
COUNTED = re.compile(r"^(.*?)[0-9]+$")  # v0, v1, … or 0, 1, …: one column for each number of a vector

# All exceptions of NumPy and zipfile on damaged files; found by damaging each byte of a file in turn.
UNREADABLE = (
    *(ValueError, TypeError, KeyError, IndexError, AttributeError, SyntaxError, EOFError, OSError, OverflowError),
    *(MemoryError, RuntimeError, tokenize.TokenError, zipfile.BadZipFile, zlib.error),
)


@dataclass(frozen=True)
class FeatureFile:
    """The contents of a feature file.

    Attributes:
        values: `(n, d)` float32 or float16.
        ids: the item id of each row; None: the file has no ids.
        source: the path, or other words for messages.
    """

    values: np.ndarray
    ids: pl.Series | None
    source: str


def read_features(path: str | Path, item_column: str | None = None) -> FeatureFile:
    """Read the feature matrix of a file, and the item id of each row if the file has ids.

    Args:
        path: .npy (rows in the order of the items; memory-mapped), .npz or .safetensors (one matrix, and one list of
            ids unless the rows are in the order of the items), .parquet, .csv or .tsv (a column of ids, and a column of
            vectors or one column for each number of the vectors).
        item_column: name of the column of item ids in the interactions. If the feature file has a column or array of
            this name, it is taken as the ids.

    Raises:
        DataError: the file is missing, damaged, pickled, or does not contain exactly one matrix.
    """
    path = Path(path)
    exists(path)
    kind = path.suffix.lower()
    if kind == ".npy":
        return FeatureFile(as_floats(read_npy(path), str(path)), None, str(path))
    if kind in (".npz", ".safetensors"):
        arrays = _read_npz(path) if kind == ".npz" else _read_safetensors(path)
        return _choose(arrays, path, item_column)
    if (Path(path.stem).suffix.lower() if kind == ".gz" else kind) in TABLES:
        return vectors_of_frame(read_table(path), item_column=item_column)
    raise DataError(
        f"{path}: a feature file must be .npy, .npz, .safetensors, .parquet, .csv or .tsv, not"
        f" {kind or 'a file without ending'}"
    )


def read_npy(path: Path) -> np.ndarray:
    """Open the array of a .npy file memory-mapped; raises a DataError if it is damaged or holds Python objects."""
    try:
        return open_array(path)
    except UNREADABLE as error:
        raise _npy_error(path, error) from None


def vectors_of_frame(
    table: Table, id_column: str | None = None, vector_column: str | None = None, *, item_column: str | None = None
) -> FeatureFile:
    """Read item ids and vectors from a table with a column of vectors, or with a column for each number of them.

    Rows without a vector are dropped. `id_column` and `vector_column` are detected by default; a column called
    `item_column` (the item id column of the other tables) is preferred as column of ids. Raises a DataError if it
    is unclear which columns these are, or for vectors of different lengths or with missing numbers.
    """
    frame, where = table.frame, table.source
    vectors = [name for name, kind in frame.schema.items() if isinstance(kind, (pl.List, pl.Array))]
    if vector_column is None and not vectors:
        return _wide(table, item_column)
    if vector_column is None:
        if len(vectors) != 1:
            raise DataError(f"{where}: {len(vectors)} columns of vectors among {', '.join(frame.columns)}; keep one")
        vector_column = vectors[0]
    others = [name for name in frame.columns if name not in vectors]
    if id_column is None:
        named = [name for name in (item_column, *ID_NAMES) if name in others] or others
        if not named or (len(others) > 1 and named is others):
            raise DataError(f"{where}: it is unclear which of {', '.join(frame.columns)} holds the ids; call it 'item'")
        id_column = named[0]
    table.require_columns([id_column, vector_column])
    subject = f"{where}: column '{vector_column}'"
    if vector_column not in vectors:
        raise DataError(f"{subject} holds {frame[vector_column].dtype}, not vectors")
    frame = frame.filter(pl.col(vector_column).is_not_null())
    column = frame[vector_column]
    if isinstance(column.dtype, pl.Array):
        column = column.arr.to_list()
    lengths = column.list.len()
    if not len(lengths) or lengths[0] == 0:
        raise DataError(f"{subject} has no numbers in its vectors: there is no vector, or the first one is empty")
    if (wrong := lengths != lengths[0]).any():
        row = wrong.arg_true()[0]
        raise DataError(
            f"{where}: the vector of {frame[id_column][row]!r} has {lengths[row]} numbers, the first one {lengths[0]};"
            " all must have the same length"
        )
    flat = column.explode()
    if not flat.dtype.is_numeric() or flat.null_count():
        fault = "missing numbers" if flat.dtype.is_numeric() else f"values of type {flat.dtype}"
        raise DataError(f"{subject} has {fault} in its vectors")
    ids = read_ids(frame[id_column], f"{where}, column '{id_column}'", "item")
    return FeatureFile(as_floats(flat.to_numpy().reshape(len(column), -1), where), ids, where)


def _wide(table: Table, item_column: str | None) -> FeatureFile:
    """Read ids and vectors of a table with an id column and one column for each number of the vectors."""
    frame, where = table.frame, table.source
    shown = ", ".join(frame.columns[:8]) + (f" and {frame.width - 8} more" if frame.width > 8 else "")
    named = [name for name in (item_column, *ID_NAMES) if name in frame.columns]
    first = frame.columns[0]
    counted = {match[1] for name in frame.columns[1:] if (match := COUNTED.match(name))}
    alone = (match := COUNTED.match(first)) is None or match[1] not in counted
    if not named and not (alone and (len(counted) == 1 or not frame[first].dtype.is_numeric())):
        raise DataError(f"{where}: it is unclear which of {shown} holds the item ids; call that column 'item'")
    id_column = named[0] if named else first
    numbers = frame.drop(id_column)
    if not numbers.width:
        raise DataError(f"{where} has ids in '{id_column}', but no column of numbers")
    columns = {}
    for name in numbers.columns:
        values = numbers[name]
        if not (values.dtype.is_numeric() or values.dtype == pl.String):
            raise DataError(f"{where}: column '{name}' holds {values.dtype}, not numbers or vectors")
        columns[name] = values.cast(pl.Float64, strict=False)
        if (bad := columns[name].is_null() & values.is_not_null()).any():
            raise DataError(
                f"{where}: column '{name}' has {values[bad.arg_true()[0]]!r} in {table.first_bad_row(bad)}, not a"
                f" number; besides the ids in '{id_column}', a table of features must hold only numbers: one column for"
                " each number of the vectors"
            )
    matrix = pl.DataFrame(columns)
    present = matrix.select(pl.any_horizontal(pl.all().is_not_null())).to_series()
    for name in matrix.columns:
        if (bad := matrix[name].is_null() & present).any():
            raise DataError(f"{where}: column '{name}' has no number in {table.first_bad_row(bad)}")
    ids = read_ids(frame[id_column], f"{where}, column '{id_column}'", "item", table.row_location)
    return FeatureFile(as_floats(matrix.filter(present).to_numpy(), where), ids.filter(present), where)


def _choose(arrays: dict[str, Any], path: Path, item_name: str | None) -> FeatureFile:
    held = ", ".join(f"{name} {array.dtype}{list(array.shape)}" for name, array in arrays.items())
    known = [name for name in (item_name, *ID_NAMES) if name in arrays]
    for name in known:
        if arrays[name].ndim == 2 and 1 in arrays[name].shape:
            arrays[name] = arrays[name].ravel()
    matrices = [name for name, array in arrays.items() if array.ndim == 2 and array.dtype.kind in "fiu"]
    lists = [name for name, array in arrays.items() if array.ndim == 1]
    if len(matrices) != 1:
        raise DataError(f"{path}: it must hold exactly one matrix of features, but it holds {held}")
    named = [name for name in known if name in lists] or lists
    if len(named) > 1 and named is lists:
        raise DataError(f"{path}: it is unclear which array holds the ids: {held}; call it 'ids'")
    values = as_floats(arrays[matrices[0]], f"{path}, array '{matrices[0]}'")
    if not named:
        return FeatureFile(values, None, str(path))
    ids = read_ids(arrays[named[0]], f"{path}, array '{named[0]}'", "item")
    if len(ids) != len(values):
        raise DataError(f"{path}: {pluralize(len(ids), 'id')} for {pluralize(len(values), 'row')} of features")
    return FeatureFile(values, ids, str(path))


def _read_npz(path: Path) -> dict[str, np.ndarray]:
    try:
        with np.load(path, allow_pickle=False) as archive:
            if not isinstance(archive, np.lib.npyio.NpzFile):
                raise DataError(f"{path}: not an npz archive; rename it to .npy")
            if archive.zip is not None:
                size = sum(member.file_size for member in archive.zip.infolist())
                check_memory(size, f"{path}: unpacked", DataError)
            arrays = {}
            for name in archive.files:
                try:
                    arrays[name] = archive[name]
                except ValueError as error:
                    if not _is_pickled(error):
                        raise
                    raise DataError(
                        f"{path}: the array '{name}' holds pickled Python objects, which are never loaded (they could"
                        " run code); if these are the ids, save them as texts: numpy.savez(FILE,"
                        f" {name}=numpy.asarray(ids, dtype=str), …)"
                    ) from None
            return arrays
    except DataError:
        raise
    except UNREADABLE as error:
        raise _npy_error(path, error) from None


def _is_pickled(error: Exception) -> bool:
    return any(text in str(error).lower() for text in ("pickle", "object array", "python objects"))


def _read_safetensors(path: Path) -> dict[str, np.ndarray]:
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    try:
        return load_file(path)
    except (TypeError, KeyError, AttributeError):
        raise DataError(
            f"{path} holds a number type that NumPy lacks (bfloat16?); save it as float16 or float32"
        ) from None
    except (SafetensorError, OSError, ValueError) as error:
        raise DataError(f"{path}: damaged or not a safetensors file ({first_line(error)})") from None


def _npy_error(path: Path, error: Exception) -> DataError:
    if _is_pickled(error):
        return DataError(
            f"{path} holds pickled Python objects, which are never loaded (they could run code);"
            " save a plain array of numbers with numpy.save"
        )
    return DataError(f"{path}: damaged or cut short ({first_line(error)}); write it again")
