"""Interactions as a sparse matrix of users and items: scipy's `.npz` files, and scipy matrices in memory."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from lirdrec.data.compression import exists
from lirdrec.data.dataset import Dataset
from lirdrec.data.feature_files import UNREADABLE, read_features
from lirdrec.data.frames import first_line
from lirdrec.data.ids import count
from lirdrec.data.preprocessing_config import PreprocessingConfig, make_preprocessing_config
from lirdrec.data.schema import RATING, USER
from lirdrec.data.tables import Table, join_tables, read_table
from lirdrec.errors import ConfigError, DataError
from lirdrec.memory import check_memory
from lirdrec.option_names import called

LABEL = "split_file"
PICKLED = (b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")  # how pickles of protocol 2 to 5 begin
DECIDED = ("user", "rating", "timestamp", "only")
PICKLE_NAMES = (".pkl", ".pickle", ".pck")
CONVERT = (
    "holds pickled Python objects, which are never loaded (they could run code); where you trust a pickled matrix, turn"
    " it into scipy's format with:"
    ' python -c "import pickle, scipy.sparse as s;'
    " s.save_npz('{stem}.npz', s.csr_matrix(pickle.load(open('{name}', 'rb'))))\""
    " and then: lirdrec prepare {stem}.npz"
)


def is_pickle(path: Path) -> bool:
    """Whether a file is a pickle by its name, or begins as pickles do."""
    if path.suffix.lower() in PICKLE_NAMES:
        return True
    with path.open("rb") as file:
        return file.read(2) in PICKLED


def refuse_pickle(path: Path) -> None:
    """Raise a DataError that says how to convert a pickled matrix, if a file is a pickle."""
    if path.is_file() and is_pickle(path):
        raise DataError(f"{path}: {CONVERT.format(stem=path.name.partition('.')[0], name=path.name)}")


def looks_like_matrix(path: Path) -> bool:
    """Whether a file is an npz archive with the arrays of a scipy matrix."""
    try:
        if not zipfile.is_zipfile(path):
            return False
        with zipfile.ZipFile(path) as archive:
            names = set(archive.namelist())
    except UNREADABLE:
        return False
    return {"format.npy", "shape.npy"} <= names


def read_matrices(
    train: Any,
    validation: Any = None,
    test: Any = None,
    *,
    items: str | Path | None = None,
    features: Mapping[str, str | Path] | None = None,
    name: str | None = None,
    info: Mapping[str, Any] | None = None,
    **options: Any,
) -> Dataset:
    """Read a sparse matrix of users and items, or one for each split.

    Row and column numbers are the ids. Every column is an item, taken or not, so that row i of a feature matrix is item
    i. Users without an item are left out. Stored zeros mean nothing was taken; a value is a rating only where
    `min_rating` asks for it.

    Args:
        train, validation, test: each a file that `scipy.sparse.save_npz` wrote, or a scipy matrix in memory, all of one
            shape. With `train` alone the pairs are split as `split` says.
        items: a table with a row per item, whose ids are column numbers.
        features: name → feature file, as for `read_interactions`.
        name: of the dataset; by default the name of the file, or of its folder where there are several.
        info: what else to record.
        options: fields of `PreprocessingConfig` but those that a matrix decides: user, rating, timestamp, only.

    Raises:
        DataError: a file is missing, damaged, pickled, or no scipy matrix, or the shapes differ.
        ConfigError: an unknown option, or one out of range.
    """
    for option in DECIDED:
        if option in options:
            raise ConfigError(f"a matrix has no columns to name; leave {called(option)} out")
    given = {split: one for split, one in (("train", train), ("valid", validation), ("test", test)) if one is not None}
    splits = len(given) > 1
    known = {"split": LABEL} if splits else {}
    recipe = make_preprocessing_config({**known, **options, USER: USER, RATING: RATING}, "read_matrices")
    shapes, parts = {}, []
    for split, source in given.items():
        where = str(source) if isinstance(source, (str, Path)) else f"the matrix of {split}"
        matrix = _open(Path(source), where) if isinstance(source, (str, Path)) else source
        parts.append(_table(matrix, where, split, recipe))
        shapes[where] = tuple(matrix.shape)
    _check_shapes(shapes)
    table = join_tables(parts, parts[0].frame.columns, ", ".join(shapes)) if splits else parts[0]
    n_items = next(iter(shapes.values()))[1]
    item_table: Table
    if items is None:
        item_table = Table(pl.DataFrame({recipe.item: np.arange(n_items, dtype=np.int64)}), "the columns of the matrix")
    else:
        item_table = read_table(items, text=recipe.items_column)
    first = Path(train) if isinstance(train, (str, Path)) else None
    default = "matrix" if first is None else first.resolve().parent.name if splits else first.stem
    return Dataset.from_tables(
        table,
        item_table,
        {key: read_features(path, item_column=recipe.item) for key, path in (features or {}).items()},
        recipe,
        name or default,
        {"source": {"format": "matrix", "files": [Path(where).name for where in shapes]}, **(info or {})},
    )


def _check_shapes(shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Raise a DataError unless all matrices have one shape."""
    if len(set(shapes.values())) > 1:
        listed = ", ".join(f"{shape} in {where}" for where, shape in shapes.items())
        raise DataError(
            f"the matrices have different shapes: {listed}; each must have a row per user, a column per item"
        )


def _open(path: Path, where: str) -> Any:
    """A file of `save_npz`; nothing in it is ever unpickled."""
    import scipy.sparse

    exists(path)
    refuse_pickle(path)
    if not looks_like_matrix(path):
        raise DataError(f"{where}: no matrix of scipy.sparse.save_npz (an npz archive with 'format' and 'shape')")
    try:
        with zipfile.ZipFile(path) as archive:
            size = sum(one.file_size for one in archive.infolist())
        check_memory(size, f"{where}: unpacked", DataError)
        matrix = scipy.sparse.load_npz(path)  # reads with allow_pickle=False
        found = matrix.tocoo()
        found.sum_duplicates()
    except DataError:
        raise
    except UNREADABLE as error:
        fault = "holds pickled Python objects, which are never loaded" if "pickle" in str(error) else first_line(error)
        raise DataError(f"{where}: damaged or no sparse matrix ({fault}); write it again with save_npz") from None
    return found


def _table(matrix: Any, where: str, split: str, recipe: PreprocessingConfig) -> Table:
    try:
        found = matrix.tocoo()
    except AttributeError:
        raise DataError(f"{where}: a {type(matrix).__name__} is no scipy matrix") from None
    if found.ndim != 2 or found.data.dtype.kind not in "biuf":
        raise DataError(f"{where}: must be a matrix of users and items that holds numbers, not {found.data.dtype}")
    users, items = (np.asarray(one, dtype=np.int64) for one in (found.row, found.col))
    for what, rows, size in (("row", users, found.shape[0]), ("column", items, found.shape[1])):
        if len(rows) and (rows.min() < 0 or rows.max() >= size):
            raise DataError(f"{where}: names {what} {int(rows.max())}, and there are {count(size, what)}")
    there = found.data != 0
    if not there.any():
        raise DataError(f"{where}: holds no value but zero")
    values = found.data[there].astype(np.float64)
    columns = {USER: users[there], recipe.item: items[there], RATING: values}
    frame = pl.DataFrame(columns).with_columns(pl.lit(split).alias(LABEL)).sort(USER, recipe.item)
    return Table(frame, where)
