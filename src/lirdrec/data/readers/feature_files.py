"""Feature files: .npy, .npz with ids, .safetensors, or a Parquet column of vectors; never anything pickled."""

from __future__ import annotations

import tokenize
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from lirdrec.data.compressed import exists
from lirdrec.data.frames import first_line
from lirdrec.data.identifiers import clean_ids, count
from lirdrec.data.matrices import as_floats, open_array
from lirdrec.data.tables import Table, read_table
from lirdrec.errors import DataError
from lirdrec.memory import check_memory

ID_NAMES = ("ids", "id", "item", "items", "item_id", "itemID", "item_ids", "movieId", "asin")


# All that NumPy and zipfile raise on damaged files; found by damaging every byte of one.
UNREADABLE = (
    ValueError,
    TypeError,
    KeyError,
    IndexError,
    AttributeError,
    SyntaxError,
    EOFError,
    OSError,
    OverflowError,
    MemoryError,
    SyntaxError,
    RuntimeError,  # NotImplementedError included
    tokenize.TokenError,
    zipfile.BadZipFile,
    zlib.error,
)


@dataclass(frozen=True)
class FeatureFile:
    """What a feature file holds: `values` `(n, d)` float32 or float16, and the id of each row, if it says."""

    values: np.ndarray
    ids: pl.Series | None
    where: str


def read_features(path: str | Path, id_column: str | None = None, vector_column: str | None = None) -> FeatureFile:
    """Read a feature file.

    Args:
        path: .npy (rows in the order of the items; memory-mapped), .npz or .safetensors (one matrix, and one list of
            ids unless the rows are in the order of the items), .parquet (a column of ids, a column of vectors).
        id_column, vector_column: names of the arrays or columns, where they cannot be guessed.

    Raises:
        DataError: the file is missing, damaged, pickled, or does not hold one matrix.
    """
    path = Path(path)
    exists(path)
    kind = path.suffix.lower()
    if kind == ".npy":
        return FeatureFile(as_floats(read_npy(path), str(path)), None, str(path))
    if kind in (".npz", ".safetensors"):
        arrays = _read_npz(path) if kind == ".npz" else _read_safetensors(path)
        return _choose(arrays, path, id_column, vector_column)
    if kind in (".parquet", ".pq"):
        return vectors_of_frame(read_table(path), id_column, vector_column)
    raise DataError(
        f"{path}: features come as .npy, .npz, .safetensors or .parquet, not as {kind or 'a file without ending'}"
    )


def read_npy(path: Path) -> np.ndarray:
    """A memory-mapped .npy; raises a DataError if it is damaged or holds Python objects."""
    try:
        return open_array(path)
    except UNREADABLE as error:
        raise _npy_error(path, error) from None


def vectors_of_frame(table: Table, id_column: str | None = None, vector_column: str | None = None) -> FeatureFile:
    """Ids and vectors of a frame with a column of each; a row without a vector is left out.

    Raises:
        DataError: no such columns, vectors of different lengths, missing numbers in a vector.
    """
    frame, where = table.frame, table.where
    vectors = [name for name, kind in frame.schema.items() if isinstance(kind, (pl.List, pl.Array))]
    if vector_column is None:
        if len(vectors) != 1:
            held = f"{len(vectors)} columns of vectors" if vectors else "no column of vectors"
            raise DataError(f"{where}: {held} among {', '.join(frame.columns)}; name the right one")
        vector_column = vectors[0]
    others = [name for name in frame.columns if name not in vectors]
    if id_column is None:
        named = [name for name in ID_NAMES if name in others] or others
        if not named or (len(others) > 1 and named is others):
            raise DataError(f"{where}: cannot tell which of {', '.join(frame.columns)} holds the ids; name it")
        id_column = named[0]
    table.need([id_column, vector_column])
    if vector_column not in vectors:
        raise DataError(f"{where}: column '{vector_column}' holds {frame[vector_column].dtype}, not vectors")
    frame = frame.filter(pl.col(vector_column).is_not_null())
    column = frame[vector_column]
    if isinstance(column.dtype, pl.Array):
        column = column.arr.to_list()
    lengths = column.list.len()
    if not len(lengths) or lengths[0] == 0:
        raise DataError(f"{where}: column '{vector_column}' has no numbers in its vectors")
    if (wrong := lengths != lengths[0]).any():
        row = wrong.arg_true()[0]
        raise DataError(
            f"{where}: the vector of {frame[id_column][row]!r} has {lengths[row]} numbers, the first one {lengths[0]};"
            " all must have the same length"
        )
    flat = column.explode()
    if not flat.dtype.is_numeric() or flat.null_count():
        fault = "missing numbers" if flat.dtype.is_numeric() else f"values of type {flat.dtype}"
        raise DataError(f"{where}: column '{vector_column}' has {fault} in its vectors")
    values = flat.to_numpy().reshape(len(column), -1)
    return FeatureFile(as_floats(values, where), clean_ids(frame[id_column], f"{where}, column '{id_column}'"), where)


def _choose(arrays: dict[str, Any], path: Path, id_name: str | None, matrix_name: str | None) -> FeatureFile:
    held = ", ".join(f"{name} {array.dtype}{list(array.shape)}" for name, array in arrays.items())
    for name in (id_name, matrix_name):
        if name is not None and name not in arrays:
            raise DataError(f"{path}: no array '{name}'; it has {held}")
    matrices = [name for name, array in arrays.items() if array.ndim == 2 and array.dtype.kind in "fiu"]
    lists = [name for name, array in arrays.items() if array.ndim == 1 and array.dtype.kind in "iuUS"]
    if matrix_name is None:
        if len(matrices) != 1:
            raise DataError(f"{path}: it must hold one matrix of features, and holds {held}; name it")
        matrix_name = matrices[0]
    if id_name is None:
        named = [name for name in ID_NAMES if name in lists] or lists
        if len(named) > 1 and named is lists:
            raise DataError(f"{path}: cannot tell which array holds the ids: {held}; name it")
        id_name = named[0] if named else None
    values = as_floats(arrays[matrix_name], f"{path}, array '{matrix_name}'")
    if id_name is None:
        return FeatureFile(values, None, str(path))
    ids = clean_ids(arrays[id_name], f"{path}, array '{id_name}'")
    if len(ids) != len(values):
        raise DataError(f"{path}: {count(len(ids), 'id')} for {count(len(values), 'row')} of features")
    return FeatureFile(values, ids, str(path))


def _read_npz(path: Path) -> dict[str, np.ndarray]:
    try:
        with np.load(path, allow_pickle=False) as archive:
            if not isinstance(archive, np.lib.npyio.NpzFile):
                raise DataError(f"{path}: not an npz archive; name it .npy")
            if archive.zip is not None:
                size = sum(one.file_size for one in archive.zip.infolist())
                check_memory(size, f"{path}: unpacked", DataError)
            return {name: archive[name] for name in archive.files}
    except DataError:
        raise
    except UNREADABLE as error:
        raise _npy_error(path, error) from None


def _read_safetensors(path: Path) -> dict[str, np.ndarray]:
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    try:
        return load_file(path)
    except (TypeError, KeyError, AttributeError):
        raise DataError(
            f"{path}: holds a number type that NumPy lacks (bfloat16?); save it as float16 or float32"
        ) from None
    except (SafetensorError, OSError, ValueError) as error:
        raise DataError(f"{path}: damaged or not a safetensors file ({first_line(error)})") from None


def _npy_error(path: Path, error: Exception) -> DataError:
    text = str(error).lower()
    if "pickle" in text or "object array" in text or "python objects" in text:
        return DataError(
            f"{path}: holds pickled Python objects, which are never loaded (they could run code);"
            " save a plain array of numbers with numpy.save"
        )
    return DataError(f"{path}: damaged or cut short ({first_line(error)}); write it again")
