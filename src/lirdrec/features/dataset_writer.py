"""Write matrices and item columns into a prepared folder: join shards, add features, drop items without features.

A shard has the vectors of a range of item rows. Shards are joined one after the other, so that memory never holds the
whole matrix, only a few bytes for each item.
"""

from __future__ import annotations

import csv
import shutil
from collections.abc import Collection, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, TextIO

import numpy as np
import polars as pl
from safetensors.numpy import save_file

from lirdrec.data.column_names import ITEM, SPLIT, SPLITS, USER
from lirdrec.data.dataset_base import USERS_MAY_LACK_TRAINING
from lirdrec.data.features import open_array
from lirdrec.data.ids import describe_ids
from lirdrec.data.splits import split_method
from lirdrec.data.storage import (
    INTERACTIONS,
    ITEMS,
    check_files,
    matrix_header,
    read_manifest,
    resolve_path,
    write_item_table,
    write_matrix,
)
from lirdrec.data.transaction import commit, dataset_lock, recover
from lirdrec.errors import DataError, RunFolderError, describe_error
from lirdrec.features.sources import KEY_BYTES, ItemRows
from lirdrec.files.atomic import share, write_errors
from lirdrec.files.input_file_checks import check_file
from lirdrec.files.shards import Shard, Shards
from lirdrec.wording import pluralize

# Possible files of a matrix NAME: features/NAME plus one of these endings.
VALUES, MASK, KEYS, CUT = ".npy", ".mask.npy", ".keys.npy", ".cut.npy"
PROBLEMS, MISSING, STATE = ".problems.csv", ".missing.csv", ".encoder.safetensors"
ENDINGS = (VALUES, MASK, KEYS, CUT, PROBLEMS, MISSING, STATE)
SHOWN = 10  # problems kept in memory to report


@dataclass(frozen=True)
class Dropped:
    """The changes that remove items from a dataset; they are committed later.

    Attributes:
        files: name in the manifest → the new file.
        counts: the new `counts` of the manifest.
        info: the new entries of the manifest's `info`.
        removed: numbers of removed `items`, and of their interactions (`pairs`); number of `users` who lose their last
            training interaction; and number of these users' validation and test interactions that are removed, too
            (`held_out_pairs`; 0 if the split allows users without training interactions).
    """

    files: dict[str, Path]
    counts: dict[str, int]
    info: dict[str, Any]
    removed: dict[str, int]


def drop_items(
    folder: Path,
    manifest: Mapping[str, Any],
    table: pl.DataFrame,
    keep: np.ndarray,
    to: Path,
    without: Collection[str] = (),
) -> Dropped:
    """Write the files of a dataset without some of its items to another folder; the dataset itself is not changed.

    The files are the item table, the interactions and the matrices. All users stay, even users without an interaction,
    so that the row numbers of users stay the same.

    Args:
        folder, manifest: the prepared dataset.
        table: the new item table, before items are removed.
        keep: `(I,)` bool, the items that stay.
        to: the folder for the new files.
        without: names of matrices that are not written, because the caller replaces them.

    Raises:
        DataError: no training interaction would be left.
        RunFolderError: a file of the dataset is damaged, or a file cannot be written.
    """
    pairs = read_frame(folder, manifest, INTERACTIONS)
    rows = np.where(keep, np.cumsum(keep) - 1, -1)
    left = pairs.with_columns(pl.Series(ITEM, rows[pairs[ITEM].to_numpy()])).filter(pl.col(ITEM) >= 0)
    trained = left.filter(pl.col(SPLIT) == "train")[USER].unique()
    if trained.is_empty():
        raise DataError(
            f"{folder}: without the items that lack features, no training interaction would be left;"
            " give these items features instead"
        )
    trained_before = pairs.filter(pl.col(SPLIT) == "train")[USER].unique()
    lost = trained_before.filter(~trained_before.is_in(trained.implode()))
    removed = {"items": int((~keep).sum()), "pairs": pairs.height - left.height, "users": len(lost)}
    n_left = left.height
    if split_method(manifest["info"]) not in USERS_MAY_LACK_TRAINING:
        left = left.filter(~pl.col(USER).is_in(lost.implode()))
    removed["held_out_pairs"] = n_left - left.height
    files = {ITEMS: to / ITEMS, INTERACTIONS: to / INTERACTIONS}
    with write_errors(to):
        to.mkdir(parents=True, exist_ok=True)
        write_item_table(table.filter(pl.Series(keep)), files[ITEMS])
        left.write_parquet(files[INTERACTIONS])
        for matrix in set(manifest["features"]) - set(without):
            for ending in (VALUES, MASK, KEYS, CUT):
                name = file_name(matrix, ending)
                if name in manifest["files"]:
                    files[name] = to / f"{matrix}{ending}"
                    # verify first: the copy gets a new checksum, which would hide damage
                    check_files(folder, {**manifest, "files": {name: manifest["files"][name]}}, verify=True)
                    write_matrix(open_array(resolve_path(folder, manifest, name)), files[name], keep)
    counts = manifest["counts"] | {"items": int(keep.sum())}
    counts |= {name: left.filter(pl.col(SPLIT) == name).height for name in SPLITS}
    before = manifest["info"].get("dropped_without_features", {})  # by earlier calls
    total = {key: number + before.get(key, 0) for key, number in removed.items()}
    return Dropped(files, counts, {"dropped_without_features": total}, removed)


@dataclass(frozen=True)
class FeatureResult:
    """A finished feature matrix, and how it was made.

    The counts in the results of `make_features` are of all items, also of those that it then removes from the dataset
    (see `dropped`). Their masks are of the items that remain.

    Attributes:
        files: file ending (`VALUES`, `MASK` and optional others) → file, on the disk of the prepared folder.
        dims, dtype: number of columns, and NumPy type of the values.
        mask: `(I,)` bool, the items with a vector.
        missing: number of items without an input (listed in `features/NAME.missing.csv`).
        cut: number of items whose input was longer than the encoder's limit.
        n_problems: number of items whose input cannot be used.
        problems: the first ten of these items, as (item, source of the input, sentence that says what is wrong); all
            of them are in `features/NAME.problems.csv`.
        encoded: number of inputs that this call encoded; it took `seconds`.
        copied: number of items whose vector was copied from an existing matrix, or from unfinished work.
        resumed: number of items that an earlier, interrupted call had finished.
        entry: the manifest entry `info["encoders"][NAME]`.
        dropped: `Dropped.removed` if items without features were removed from the dataset, else None.
    """

    files: Mapping[str, Path]
    dims: int
    dtype: str
    mask: np.ndarray
    missing: int = 0
    cut: int = 0
    n_problems: int = 0
    problems: Sequence[tuple[str, str, str]] = ()
    name: str = ""
    encoded: int = 0
    copied: int = 0
    resumed: int = 0
    seconds: float = 0.0
    entry: Mapping[str, Any] = field(default_factory=dict)
    dropped: Mapping[str, int] | None = None

    def summary(self) -> dict[str, Any]:
        """Return all fields except `files`, `dtype` and `mask`, together with the properties `items` and `present`."""
        names = [entry.name for entry in fields(self) if entry.name not in ("files", "dtype", "mask")]
        return {name: getattr(self, name) for name in (*names, "items", "present")}

    @property
    def items(self) -> int:
        """Number of items, with or without a vector: the length of `mask`."""
        return len(self.mask)

    @property
    def present(self) -> int:
        """Number of items that have a vector."""
        return int(self.mask.sum())


def file_name(matrix: str, ending: str) -> str:
    """Return the name that a file of a matrix has in the manifest, such as `features/text.mask.npy`."""
    return f"features/{matrix}{ending}"


def read_frame(folder: Path, manifest: Mapping[str, Any], name: str) -> pl.DataFrame:
    """Read a Parquet table of a prepared folder; raises a RunFolderError if it is missing, unreadable or damaged."""
    path = resolve_path(folder, manifest, name)
    check_file(path, RunFolderError)
    try:
        return pl.read_parquet(path, glob=False)
    except (OSError, pl.exceptions.PolarsError, pl.exceptions.PanicException) as error:
        raise RunFolderError(
            f"{path} is damaged ({describe_error(error)}); restore it or prepare the dataset again"
        ) from None


def add_features(
    folder: str | Path,
    matrices: Mapping[str, FeatureResult],
    encoders: Mapping[str, Any],
    info: Mapping[str, Any] | None = None,
    files: Mapping[str, Path] | None = None,
    counts: Mapping[str, int] | None = None,
) -> None:
    """Add matrices to a prepared folder, or replace those of the same name; a kill at any moment leaves it loadable.

    Args:
        matrices: name → the finished matrix; its files are moved into the folder.
        encoders: name → entry of `info["encoders"]`, how the matrix was made. A matrix without an entry here loses its
            old entry.
        info: other entries of the manifest's `info` that change.
        files: name in the manifest → other files of the dataset to replace in the same step.
        counts: the new `counts` of the manifest, if they change.

    Raises:
        RunFolderError: `folder` is not a prepared dataset, or cannot be written.
    """
    new = {file_name(name, ending): path for name, matrix in matrices.items() for ending, path in matrix.files.items()}
    possible = {file_name(name, ending) for name in matrices for ending in ENDINGS}
    features = {name: {"dims": m.dims, "dtype": m.dtype, "present": m.present} for name, m in matrices.items()}

    def entries(manifest: Mapping[str, Any]) -> dict[str, Any]:
        new_info = {**manifest["info"], **(info or {})}
        others = {name: entry for name, entry in new_info.get("encoders", {}).items() if name not in matrices}
        new_info["encoders"] = {**others, **encoders}
        changed = {"features": {**manifest["features"], **features}, "info": new_info}
        return changed if counts is None else changed | {"counts": counts}

    commit(folder, {**new, **(files or {})}, entries, gone=possible - set(new))


def copy_encoders(source: str | Path, folder: str | Path) -> None:
    """Copy the record of how matrices were made to a second prepared dataset with matrices of the same names.

    The fitted states of the encoders are copied, too. Afterwards `load_encoder` finds the encoders in both folders. The
    former record of the second dataset is lost.

    Args:
        source: the prepared dataset that has the record.
        folder: the prepared dataset that gets it.

    Raises:
        RunFolderError: a folder is not a prepared dataset, a fitted state is damaged, or `folder` cannot be written.
    """
    source, folder = Path(source), Path(folder)
    manifest, names = read_manifest(source), read_manifest(folder)["features"]
    entries = {name: e for name, e in manifest["info"].get("encoders", {}).items() if name in names}
    states = [file for name in entries if (file := file_name(name, STATE)) in manifest["files"]]
    check_files(source, {**manifest, "files": {file: manifest["files"][file] for file in states}}, verify=True)
    files = {file: folder / f".{Path(file).name}" for file in states}
    with write_errors(folder):
        for file, copy in files.items():
            shutil.copyfile(resolve_path(source, manifest, file), copy)
    commit(folder, files, lambda current: {"info": {**current["info"], "encoders": entries}})


def set_item_columns(folder: str | Path, frame: pl.DataFrame) -> None:
    """Add the columns of `frame` to the item table of a prepared folder, or replace those of the same name.

    `frame` has the column `item`. An item without a row in `frame` gets null in a new column, and keeps its value in a
    column that exists.

    Raises:
        DataError: `frame` has no column `item`, has an id that no item has, or has an id twice.
        RunFolderError: `folder` is not a prepared dataset, or cannot be written.
    """
    folder = Path(folder)
    read_manifest(folder)
    with dataset_lock(folder):  # from reading the table to writing it, so that no change of another process is lost
        recover(folder)
        manifest = read_manifest(folder)
        table = read_frame(folder, manifest, ITEMS)
        path = folder / f".{ITEMS}"
        try:
            with write_errors(folder):
                write_item_table(_with_columns(table, frame, folder), path)
            commit(folder, {ITEMS: path})
        finally:
            path.unlink(missing_ok=True)


def _with_columns(table: pl.DataFrame, frame: pl.DataFrame, folder: Path) -> pl.DataFrame:
    if ITEM not in frame.columns:
        raise DataError(
            f"{folder}: the table with new columns for items has no column '{ITEM}'; add it with the item ids"
        )
    ids = frame[ITEM].cast(table.schema[ITEM], strict=False)
    if (unknown := ~ids.is_in(table[ITEM].implode()).fill_null(False)).any():
        raise DataError(
            f"{folder}: the table with new columns for items has {pluralize(int(unknown.sum()), 'id')} that no item"
            f" has: {describe_ids(frame[ITEM].filter(unknown))}; correct or remove them"
        )
    if (twice := ids.is_duplicated()).any():
        raise DataError(
            f"{folder}: the item {ids.filter(twice)[0]} has more than one row in the table with new columns for items;"
            " keep one of them"
        )
    new = frame.with_columns(ids.alias(ITEM))
    joined = table.select(ITEM).join(new, on=ITEM, how="left", maintain_order="left")
    given = table[ITEM].is_in(ids.implode())
    for name in joined.columns[1:]:
        column = joined[name]
        if name in table.columns:
            column = joined.select(pl.when(given).then(pl.col(name)).otherwise(table[name])).to_series()
        table = table.with_columns(column.alias(name))
    return table


def join(
    shards: Shards, folder: Path, rows: ItemRows, state: Mapping[str, np.ndarray], keep: np.ndarray | None = None
) -> FeatureResult:
    """Join the vectors of finished shards to the files of one matrix, and return the matrix.

    With `keep`, the files and the `mask` lack the other items; the counts of the result are those of all items.

    Args:
        shards: the shards of all items; all of them are finished.
        folder: the folder for the files.
        rows: the item table, for the ids of items with problems.
        state: the fitted state of the encoder; empty if it has none.
        keep: `(I,)` bool, the items to write; by default all.

    Raises:
        RunFolderError: a file cannot be written.
    """
    keep = np.ones(shards.n_rows, dtype=bool) if keep is None else keep
    n, dims, missing = int(keep.sum()), 0, 0
    mask, cut = np.zeros(len(keep), dtype=bool), np.zeros(len(keep), dtype=bool)
    paths = {ending: folder / f"matrix{ending}" for ending in ENDINGS}
    with write_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        with ExitStack() as stack:
            values, keys = (stack.enter_context(paths[ending].open("wb")) for ending in (VALUES, KEYS))
            texts = [paths[ending].open("w", encoding="utf-8", newline="") for ending in (PROBLEMS, MISSING)]
            lists = _ProblemLists(rows, *map(stack.enter_context, texts))
            keys.write(matrix_header(np.dtype(np.uint8), (n, KEY_BYTES)))
            for index in range(len(shards)):
                shard_rows, shard = shards.rows(index), shards.read(index)
                block = slice(shard_rows.start, shard_rows.stop)
                vectors, kept = shard.arrays["vectors"], keep[block]
                if index == 0:
                    dims = vectors.shape[1]
                    values.write(matrix_header(vectors.dtype, (n, dims)))
                values.write(np.ascontiguousarray(vectors[kept]).data)
                keys.write(np.ascontiguousarray(shard.arrays["keys"][kept]).data)
                mask[block], cut[block] = shard.arrays["present"], shard.arrays["cut"]
                missing += shard.facts["missing"]
                lists.add(shard_rows, shard)
        np.save(paths[MASK], mask[keep])
        if cut.any():
            np.save(paths[CUT], cut[keep])
        if state:
            save_file(dict(sorted(state.items())), paths[STATE])
            share(paths[STATE])
    optional = {CUT: cut.any(), PROBLEMS: lists.n_problems, MISSING: missing, STATE: state}
    return FeatureResult(
        files={ending: path for ending, path in paths.items() if optional.get(ending, True)},
        dims=dims,
        dtype="float32",
        mask=mask[keep],
        missing=missing,
        cut=int(cut.sum()),
        n_problems=lists.n_problems,
        problems=lists.first,
    )


class _ProblemLists:
    """Writes two CSV lists, shard by shard: items with an unusable input, and items without an input."""

    def __init__(self, rows: ItemRows, problems: TextIO, missing: TextIO):
        self._rows = rows
        self._problems, self._missing = (csv.writer(file, lineterminator="\n") for file in (problems, missing))
        self._problems.writerow((ITEM, "source", "problem"))
        self._missing.writerow((ITEM,))
        self.n_problems = 0
        self.first: list[tuple[str, str, str]] = []

    def add(self, rows: range, shard: Shard) -> None:
        """Append a shard's items that have an unusable input or none; `rows` are the item rows of the shard."""
        problems = shard.facts["problems"]
        if not problems and not shard.facts["missing"]:
            return
        ids = self._rows.read(rows.start, rows.stop)[ITEM]
        lines = [(str(ids[index]), source, problem) for index, source, problem in problems]
        self._problems.writerows(lines)
        self.n_problems += len(lines)
        self.first += lines[: SHOWN - len(self.first)]
        without_input = np.asarray(~shard.arrays["keys"].any(axis=1))
        without_input[[index for index, *_ in problems]] = False  # an unusable input may have no key either
        self._missing.writerows((str(ids[index]),) for index in np.flatnonzero(without_input).tolist())
