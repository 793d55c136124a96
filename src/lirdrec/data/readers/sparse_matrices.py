"""Read interactions from a sparse user-item matrix: scipy's `.npz` files, and scipy matrices in memory."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from lirdrec.available_memory import check_memory
from lirdrec.data.column_names import RATING, USER
from lirdrec.data.compression import exists
from lirdrec.data.dataset import Dataset
from lirdrec.data.feature_files import UNREADABLE
from lirdrec.data.frames import first_line
from lirdrec.data.preprocessing_config import PreprocessingConfig, make_preprocessing_config
from lirdrec.data.readers.shared import LABEL, build_dataset, reject_options
from lirdrec.data.table_files import read_table
from lirdrec.data.table_with_source import Table, join_tables
from lirdrec.errors import DataError
from lirdrec.wording import pluralize

PICKLED = (b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")  # how pickles of protocol 2 to 5 begin
FIXED_OPTIONS = ("user", "rating", "timestamp", "order", "only")
PICKLE_NAMES = (".pkl", ".pickle", ".pck")
CONVERT = (
    "holds pickled Python objects, which are never loaded (they could run code); if you trust this matrix, convert it"
    " to scipy's format with:"
    ' python -c "import pickle, scipy.sparse as s;'
    " s.save_npz('{stem}.npz', s.csr_matrix(pickle.load(open('{name}', 'rb'))))\""
    " and then: lirdrec prepare {stem}.npz"
)


def check_not_pickle(path: Path) -> None:
    """Raise a DataError if a file is a pickle by its suffix or first bytes; the message explains how to convert it."""
    if not path.is_file():
        return
    with path.open("rb") as file:
        is_pickle = path.suffix.lower() in PICKLE_NAMES or file.read(2) in PICKLED
    if is_pickle:
        raise DataError(f"{path}: {CONVERT.format(stem=path.name.partition('.')[0], name=path.name)}")


def is_matrix(path: Path) -> bool:
    """Return whether a file is an npz archive with the arrays of a scipy matrix."""
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
    """Read a dataset from a sparse matrix of users and items, or from one for each split.

    Row and column numbers are the ids. Every column is an item, even without interactions, so that row i of a
    feature matrix is item i. Users without an item are dropped. Stored zeros do not count as interactions; values are
    used as ratings only with `min_rating`.

    Args:
        train, validation, test: each a file that `scipy.sparse.save_npz` wrote, or a scipy matrix in memory, all of the
            same shape. `train` alone is split by the method `split`; else the split of the matrices is kept.
        items: a table with a row per item, whose ids are column numbers.
        features, name, info: as for `read_interactions`; the default name is the name of the file, or of the folder if
            there are several.
        options: fields of `PreprocessingConfig` except user, rating, timestamp, order and only, which a matrix lacks.

    Raises:
        DataError, ConfigError: as for `read_interactions`; or a file is pickled, or the shapes differ.
    """
    reject_options(options, FIXED_OPTIONS, "a matrix of users and items has no named columns")
    sources = {"train": train, "valid": validation, "test": test}
    sources = {split: source for split, source in sources.items() if source is not None}
    is_split = len(sources) > 1
    defaults = {"split": LABEL} if is_split else {}
    config = make_preprocessing_config({**defaults, **options, USER: USER, RATING: RATING}, "read_matrices")
    shapes, tables = {}, []
    for split, source in sources.items():
        where = str(source) if isinstance(source, (str, Path)) else f"the matrix of {split}"
        matrix = _open(Path(source), where) if isinstance(source, (str, Path)) else source
        tables.append(_table(matrix, where, split, config))
        shapes[where] = tuple(matrix.shape)
    if len(set(shapes.values())) > 1:
        listed = ", ".join(f"{shape} in {where}" for where, shape in shapes.items())
        raise DataError(
            f"the matrices have different shapes: {listed}; each must have a row per user, a column per item"
        )
    table = join_tables(tables, tables[0].frame.columns, ", ".join(shapes)) if is_split else tables[0]
    if items is None:
        column_numbers = np.arange(next(iter(shapes.values()))[1], dtype=np.int64)
        item_table = Table(pl.DataFrame({config.item: column_numbers}), "the columns of the matrix")
    else:
        item_table = read_table(items, text=config.items_column)
    if name is None and isinstance(train, (str, Path)):
        name = Path(train).resolve().parent.name if is_split else Path(train).stem
    info_source = {"format": "matrix", "files": [Path(where).name for where in shapes]}
    return build_dataset(table, item_table, config, name or "matrix", info_source, info, features)


def _open(path: Path, where: str) -> Any:
    """Load the matrix of a file of `save_npz`, with repeated entries summed; nothing is unpickled."""
    import scipy.sparse

    exists(path)
    check_not_pickle(path)
    if not is_matrix(path):
        raise DataError(f"{where}: not a matrix of scipy.sparse.save_npz (an npz archive with 'format' and 'shape')")
    try:
        with zipfile.ZipFile(path) as archive:
            size = sum(member.file_size for member in archive.infolist())
        check_memory(size, f"{where}: unpacked", DataError)
        matrix = scipy.sparse.load_npz(path).tocoo()  # reads with allow_pickle=False
        matrix.sum_duplicates()
    except DataError:
        raise
    except UNREADABLE as error:
        fault = "holds pickled Python objects, which are never loaded" if "pickle" in str(error) else first_line(error)
        raise DataError(f"{where}: damaged or not a sparse matrix ({fault}); write it again with save_npz") from None
    return matrix


def _table(matrix: Any, where: str, split: str, config: PreprocessingConfig) -> Table:
    try:
        coo = matrix.tocoo()
    except AttributeError:
        raise DataError(f"{where}: a {type(matrix).__name__} is not a scipy matrix") from None
    if coo.ndim != 2:
        raise DataError(f"{where} must be a matrix of users and items; its shape is {tuple(coo.shape)}")
    if coo.data.dtype.kind not in "biuf":
        raise DataError(f"{where} must be a matrix of users and items that holds numbers, not {coo.data.dtype}")
    users, items = (np.asarray(indices, dtype=np.int64) for indices in (coo.row, coo.col))
    for axis, indices, size in (("row", users, coo.shape[0]), ("column", items, coo.shape[1])):
        if len(indices) and (indices.min() < 0 or indices.max() >= size):
            raise DataError(f"{where} has an entry in {axis} {int(indices.max())}, but only {pluralize(size, axis)}")
    nonzero = coo.data != 0
    if not nonzero.any():
        raise DataError(f"{where} contains only zeros")
    values = coo.data[nonzero].astype(np.float64)
    columns = {USER: users[nonzero], config.item: items[nonzero], RATING: values}
    frame = pl.DataFrame(columns).with_columns(pl.lit(split).alias(LABEL)).sort(USER, config.item)
    return Table(frame, where)
