"""What the run adds to a prepared folder: matrices with all that belongs to them, and columns of the item table."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from lirdrec.atomic import write_errors
from lirdrec.data.columns import ITEM
from lirdrec.data.identifiers import count, describe_ids
from lirdrec.data.storage import ITEMS, placed, read_manifest, write_item_table
from lirdrec.data.switching import dataset_lock, settle, switch
from lirdrec.errors import DataError, RunFolderError, reason
from lirdrec.files import check_file

# What may lie in features/ for a matrix NAME, by the ending behind the name.
VALUES, MASK, KEYS, CUT = ".npy", ".mask.npy", ".keys.npy", ".cut.npy"
PROBLEMS, MISSING, STATE = ".problems.csv", ".missing.csv", ".encoder.safetensors"
ENDINGS = (VALUES, MASK, KEYS, CUT, PROBLEMS, MISSING, STATE)


@dataclass(frozen=True)
class NewMatrix:
    """A finished matrix on its way into a prepared folder.

    Attributes:
        files: ending (`VALUES`, `MASK` and, where there are such, the others) → file, on the disk of the folder.
        dims: columns.
        dtype: of the values, such as "float32".
        present: items that have a vector.
    """

    files: Mapping[str, Path]
    dims: int
    dtype: str
    present: int


def file_name(matrix: str, ending: str) -> str:
    """The name of a matrix's file in the manifest."""
    return f"features/{matrix}{ending}"


def read_frame(folder: Path, manifest: Mapping[str, Any], name: str) -> pl.DataFrame:
    """A Parquet table of a prepared folder.

    Raises:
        RunFolderError: the file is missing, may not be read, or is damaged.
    """
    path = placed(folder, manifest, name)
    check_file(path, RunFolderError)
    try:
        return pl.read_parquet(path, glob=False)
    except (OSError, pl.exceptions.PolarsError, pl.exceptions.PanicException) as error:
        raise RunFolderError(f"{path}: is damaged ({reason(error)}); restore it or prepare the dataset again") from None


def add_features(
    folder: str | Path,
    matrices: Mapping[str, NewMatrix],
    encoders: Mapping[str, Any],
    info: Mapping[str, Any] | None = None,
    files: Mapping[str, Path] | None = None,
    counts: Mapping[str, int] | None = None,
) -> None:
    """Add matrices to a prepared folder, or replace those of the same name. A kill at any moment leaves it loadable.

    Args:
        folder: the prepared folder.
        matrices: name → the finished files; they are moved.
        encoders: name → what goes into `info["encoders"]`; a matrix that is not among them loses its entry.
        info: other entries of `info` that change.
        files, counts: of the dataset besides the matrices, changed in the same step: name in the manifest → file.

    Raises:
        RunFolderError: not a prepared folder, or it cannot be written.
    """
    new = {file_name(name, ending): path for name, one in matrices.items() for ending, path in one.files.items()}
    possible = {file_name(name, ending) for name in matrices for ending in ENDINGS}
    features = {name: {"dims": m.dims, "dtype": m.dtype, "present": m.present} for name, m in matrices.items()}

    def entries(manifest: Mapping[str, Any]) -> dict[str, Any]:
        noted = {**manifest["info"], **(info or {})}
        others = {name: one for name, one in noted.get("encoders", {}).items() if name not in matrices}
        noted["encoders"] = {**others, **encoders}
        changed = {"features": {**manifest["features"], **features}, "info": noted}
        return changed if counts is None else changed | {"counts": counts}

    switch(folder, {**new, **(files or {})}, entries, gone=possible - set(new))


def set_item_columns(folder: str | Path, frame: pl.DataFrame) -> None:
    """Add columns to the item table of a prepared folder, or replace those of the same name.

    Args:
        folder: the prepared folder.
        frame: `item` and the columns; items that it lacks get null, or, in a column that was there, keep what they had.

    Raises:
        DataError: an id that is no item, or that occurs twice.
        RunFolderError: not a prepared folder, or it cannot be written.
    """
    folder = Path(folder)
    read_manifest(folder)
    with dataset_lock(folder):  # from reading the table to writing it, so that no change of another process is lost
        settle(folder)
        manifest = read_manifest(folder)
        table = read_frame(folder, manifest, ITEMS)
        path = folder / f".{ITEMS}"
        try:
            with write_errors(folder):
                write_item_table(_with_columns(table, frame, folder), path)
            switch(folder, {ITEMS: path})
        finally:
            path.unlink(missing_ok=True)


def _with_columns(table: pl.DataFrame, frame: pl.DataFrame, folder: Path) -> pl.DataFrame:
    if ITEM not in frame.columns:
        raise DataError(f"{folder}: new columns of the item table need the column '{ITEM}' beside them")
    ids = frame[ITEM].cast(table.schema[ITEM], strict=False)
    if (unknown := ~ids.is_in(table[ITEM].implode()).fill_null(False)).any():
        raise DataError(
            f"{folder}: {count(int(unknown.sum()), 'id')} not among the items:"
            f" {describe_ids(frame[ITEM].filter(unknown))}"
        )
    if (twice := ids.is_duplicated()).any():
        raise DataError(f"{folder}: the item {ids.filter(twice)[0]} has more than one row among the new columns")
    new = frame.with_columns(ids.alias(ITEM))
    joined = table.select(ITEM).join(new, on=ITEM, how="left", maintain_order="left")
    given = table[ITEM].is_in(ids.implode())
    for name in joined.columns[1:]:
        column = joined[name]
        if name in table.columns:
            column = joined.select(pl.when(given).then(pl.col(name)).otherwise(table[name])).to_series()
        table = table.with_columns(column.alias(name))
    return table
