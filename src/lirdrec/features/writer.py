"""Sealed shards become the files of one matrix, block by block: memory holds a few bytes an item, never the matrix.

What the run adds to a prepared folder: matrices with all that belongs to them, and columns of the item table.

A prepared folder without some of its items: the tables and matrices that change, and what to say about it.
"""

from __future__ import annotations

import csv
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from safetensors.numpy import save_file

from lirdrec.data.dataset_parts import USERS_MAY_LACK_TRAINING
from lirdrec.data.features import open_array
from lirdrec.data.ids import count, describe_ids
from lirdrec.data.schema import ITEM, SPLIT, SPLITS, USER
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
from lirdrec.errors import DataError, RunFolderError, reason
from lirdrec.features.sources import KEY_BYTES, ItemRows
from lirdrec.files.atomic import share, write_errors
from lirdrec.files.checks import check_file
from lirdrec.files.shards import Shards


@dataclass(frozen=True)
class Dropped:
    """What leaving out items does to a dataset.

    Attributes:
        files: name in the manifest → the file that takes its place.
        counts: of the manifest.
        info: entries of `info` that change.
        told: counts: `items`, `pairs` that went with them, `users` who have no training pair left, and
            `held_out_pairs` of these users, which went too.
    """

    files: dict[str, Path]
    counts: dict[str, int]
    info: dict[str, Any]
    told: dict[str, int]


def drop_items(
    folder: Path,
    manifest: Mapping[str, Any],
    table: pl.DataFrame,
    keep: np.ndarray,
    to: Path,
    without: Collection[str] = (),
) -> Dropped:
    """Write the changed files of a dataset into a folder of their own.

    Users stay, even those without a pair: their rows are names that others may have noted.

    Args:
        folder, manifest: the prepared folder.
        table: its item table, as it is to be but for the items that go.
        keep: `(I,)` bool.
        to: where to write.
        without: matrices that are replaced anyway.

    Raises:
        DataError: no training pair would be left.
        RunFolderError: it cannot be written.
    """
    pairs = read_frame(folder, manifest, INTERACTIONS)
    rows = np.where(keep, np.cumsum(keep) - 1, -1)
    left = pairs.with_columns(pl.Series(ITEM, rows[pairs[ITEM].to_numpy()])).filter(pl.col(ITEM) >= 0)
    trained = left.filter(pl.col(SPLIT) == "train")[USER].unique()
    if trained.is_empty():
        raise DataError(f"{folder}: without the items that have no features there would be no training pair left")
    had = pairs.filter(pl.col(SPLIT) == "train")[USER].unique()
    lost = had.filter(~had.is_in(trained.implode()))
    told = {"items": int((~keep).sum()), "pairs": pairs.height - left.height, "users": len(lost), "held_out_pairs": 0}
    if _method(manifest) not in USERS_MAY_LACK_TRAINING:
        known = left.filter(~pl.col(USER).is_in(lost.implode()))
        told["held_out_pairs"], left = left.height - known.height, known
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
                    # the copy gets a checksum of its own, which would hide damage
                    check_files(folder, {**manifest, "files": {name: manifest["files"][name]}}, verify=True)
                    values = open_array(resolve_path(folder, manifest, name))
                    write_matrix(values, files[name], keep)
    counts = manifest["counts"] | {"items": int(keep.sum())}
    counts |= {name: left.filter(pl.col(SPLIT) == name).height for name in SPLITS}
    before = manifest["info"].get("dropped_without_features", {})
    both = {key: number + before.get(key, 0) for key, number in told.items()}
    return Dropped(files, counts, {"dropped_without_features": both}, told)


def _method(manifest: Mapping[str, Any]) -> str | None:
    split = manifest["info"].get("split")
    return split.get("method") if isinstance(split, Mapping) else None


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
    path = resolve_path(folder, manifest, name)
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

    commit(folder, {**new, **(files or {})}, entries, gone=possible - set(new))


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


SHOWN = 10  # problems that are told at once


@dataclass(frozen=True)
class Joined:
    """A matrix that is ready to be added.

    Attributes:
        matrix: its files.
        present: `(I,)` bool.
        missing, cut: items without an input; items whose input was longer than the encoder's limit.
        n_problems: items whose input could not be used.
        problems: the first of them, as (item, source, sentence).
    """

    matrix: NewMatrix
    present: np.ndarray
    missing: int
    cut: int
    n_problems: int
    problems: list[tuple[str, str, str]]


def join(
    shards: Shards, folder: Path, rows: ItemRows, state: Mapping[str, np.ndarray], keep: np.ndarray | None = None
) -> Joined:
    """Write the files of a matrix.

    Args:
        shards: all of them sealed.
        folder: where to write; what is there is replaced.
        rows: the item table, for the ids of items with problems.
        state: what the encoder was fitted to, if anything.
        keep: `(I,)` bool, the items that stay; by default all.

    Raises:
        RunFolderError: it cannot be written (a full disk included).
    """
    n = shards.n_rows
    keep = np.ones(n, dtype=bool) if keep is None else keep
    present, cut = np.zeros(n, dtype=bool), np.zeros(n, dtype=bool)
    files = {ending: folder / f"matrix{ending}" for ending in (VALUES, MASK, KEYS)}
    dims = missing = n_problems = 0
    told: list[tuple[str, str, str]] = []
    with write_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        with (
            files[VALUES].open("wb") as values,
            files[KEYS].open("wb") as keys,
            (folder / f"matrix{PROBLEMS}").open("w", encoding="utf-8", newline="") as list_of_problems,
            (folder / f"matrix{MISSING}").open("w", encoding="utf-8", newline="") as list_of_missing,
        ):
            writer = csv.writer(list_of_problems, lineterminator="\n")
            writer.writerow((ITEM, "source", "problem"))
            without = csv.writer(list_of_missing, lineterminator="\n")
            without.writerow((ITEM,))
            keys.write(matrix_header(np.dtype(np.uint8), (int(keep.sum()), KEY_BYTES)))
            for index in range(len(shards)):
                at, shard = shards.rows(index), shards.read(index)
                some = slice(at.start, at.stop)
                vectors = shard.arrays["vectors"]
                if index == 0:
                    dims = vectors.shape[1]
                    values.write(matrix_header(vectors.dtype, (int(keep.sum()), dims)))
                values.write(np.ascontiguousarray(vectors[keep[some]]).data)
                present[some], cut[some] = shard.arrays["present"], shard.arrays["cut"]
                keys.write(np.ascontiguousarray(shard.arrays["keys"][keep[some]]).data)
                missing += shard.facts["missing"]
                n_problems += len(shard.facts["problems"])
                if shard.facts["problems"] or shard.facts["missing"]:
                    ids = rows.read(at.start, at.stop)[ITEM]
                    lines = [(str(ids[place]), source, fault) for place, source, fault in shard.facts["problems"]]
                    writer.writerows(lines)
                    told += lines[: SHOWN - len(told)]
                    bare = np.asarray(~shard.arrays["keys"].any(axis=1))  # problems may have no key either
                    bare[[place for place, *_ in shard.facts["problems"]]] = False
                    without.writerows((str(ids[place]),) for place in np.flatnonzero(bare).tolist())
        np.save(files[MASK], present[keep])
        if cut.any():
            files[CUT] = folder / f"matrix{CUT}"
            np.save(files[CUT], cut[keep])
        if n_problems:
            files[PROBLEMS] = folder / f"matrix{PROBLEMS}"
        if missing:
            files[MISSING] = folder / f"matrix{MISSING}"
        if state:
            files[STATE] = folder / f"matrix{STATE}"
            save_file(dict(sorted(state.items())), files[STATE])
            share(files[STATE])
    matrix = NewMatrix(files, dims, "float32", int(present.sum()))
    return Joined(matrix, present, missing, int(cut.sum()), n_problems, told)
