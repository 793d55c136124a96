"""Write matrices and item columns into a prepared folder: join shards, add features, drop items without features.

Shards are joined block by block: memory holds a few bytes an item, never the matrix.
"""

from __future__ import annotations

import csv
from collections.abc import Collection, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from safetensors.numpy import save_file

from lirdrec.data.dataset_parts import USERS_MAY_LACK_TRAINING
from lirdrec.data.features import open_array
from lirdrec.data.ids import describe_ids, pluralize
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
from lirdrec.errors import DataError, RunFolderError, describe_error
from lirdrec.features.sources import KEY_BYTES, ItemRows
from lirdrec.files.atomic import share, write_errors
from lirdrec.files.checks import check_file
from lirdrec.files.shards import Shard, Shards


@dataclass(frozen=True)
class Dropped:
    """The changes that removing items makes to a dataset.

    Attributes:
        files: name in the manifest → the replacement file.
        counts: of the manifest.
        info: entries of `info` that change.
        removed: counts of removed `items` and `pairs`, of `users` left without a training pair, and of the removed
            `held_out_pairs` of these users.
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
    """Write the files of a dataset without some items into another folder.

    All users stay, even those without a pair, so that user rows keep their meaning.

    Args:
        folder, manifest: the prepared folder.
        table: the new item table, before items are removed.
        keep: `(I,)` bool.
        to: where to write.
        without: matrices to leave out, since they are replaced.

    Raises:
        DataError: no training pair would be left.
        RunFolderError: a file cannot be written.
    """
    pairs = read_frame(folder, manifest, INTERACTIONS)
    rows = np.where(keep, np.cumsum(keep) - 1, -1)
    left = pairs.with_columns(pl.Series(ITEM, rows[pairs[ITEM].to_numpy()])).filter(pl.col(ITEM) >= 0)
    trained = left.filter(pl.col(SPLIT) == "train")[USER].unique()
    if trained.is_empty():
        raise DataError(f"{folder}: without the items that have no features there would be no training pair left")
    had = pairs.filter(pl.col(SPLIT) == "train")[USER].unique()
    lost = had.filter(~had.is_in(trained.implode()))
    removed = {
        "items": int((~keep).sum()),
        "pairs": pairs.height - left.height,
        "users": len(lost),
        "held_out_pairs": 0,
    }
    if _method(manifest) not in USERS_MAY_LACK_TRAINING:
        kept = left.filter(~pl.col(USER).is_in(lost.implode()))
        removed["held_out_pairs"], left = left.height - kept.height, kept
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
                    values = open_array(resolve_path(folder, manifest, name))
                    write_matrix(values, files[name], keep)
    counts = manifest["counts"] | {"items": int(keep.sum())}
    counts |= {name: left.filter(pl.col(SPLIT) == name).height for name in SPLITS}
    before = manifest["info"].get("dropped_without_features", {})
    total = {key: number + before.get(key, 0) for key, number in removed.items()}
    return Dropped(files, counts, {"dropped_without_features": total}, removed)


def _method(manifest: Mapping[str, Any]) -> str | None:
    split = manifest["info"].get("split")
    return split.get("method") if isinstance(split, Mapping) else None


# Possible files of a matrix NAME: features/NAME plus one of these endings.
VALUES, MASK, KEYS, CUT = ".npy", ".mask.npy", ".keys.npy", ".cut.npy"
PROBLEMS, MISSING, STATE = ".problems.csv", ".missing.csv", ".encoder.safetensors"
ENDINGS = (VALUES, MASK, KEYS, CUT, PROBLEMS, MISSING, STATE)


@dataclass(frozen=True)
class FeatureResult:
    """A finished feature matrix, and how it was made.

    Attributes:
        files: file ending (`VALUES`, `MASK` and optional others) → file, on the disk of the prepared folder.
        dims: columns.
        dtype: of the values, such as "float32".
        mask: `(I,)` bool, the items with a vector.
        missing: items without an input (listed in `features/NAME.missing.csv`).
        cut: items whose input was longer than the encoder's limit.
        n_problems: items whose input cannot be used.
        problems: the first ten, as (item, source, sentence); all are in `features/NAME.problems.csv`.
        name: of the matrix.
        encoded: inputs encoded in this call; `copied`: items whose vector was cached; `resumed`: items finished by an
            earlier, interrupted call.
        seconds: spent on encoding in this call.
        entry: the manifest entry `info["encoders"][NAME]`.
        dropped: counts of what was removed from the dataset because it had no features; None if nothing was.
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
        """All fields but `files`, `dtype` and `mask`, with `items` and `present`."""
        values = {each.name: getattr(self, each.name) for each in fields(self)}
        for name in ("files", "dtype", "mask"):
            del values[name]
        return values | {"items": self.items, "present": self.present}

    @property
    def items(self) -> int:
        """Rows of the mask."""
        return len(self.mask)

    @property
    def present(self) -> int:
        """Items with a vector."""
        return int(self.mask.sum())


def file_name(matrix: str, ending: str) -> str:
    """The name of a matrix's file in the manifest."""
    return f"features/{matrix}{ending}"


def read_frame(folder: Path, manifest: Mapping[str, Any], name: str) -> pl.DataFrame:
    """Read a Parquet table of a prepared folder.

    Raises:
        RunFolderError: the file is missing, may not be read, or is damaged.
    """
    path = resolve_path(folder, manifest, name)
    check_file(path, RunFolderError)
    try:
        return pl.read_parquet(path, glob=False)
    except (OSError, pl.exceptions.PolarsError, pl.exceptions.PanicException) as error:
        raise RunFolderError(
            f"{path}: is damaged ({describe_error(error)}); restore it or prepare the dataset again"
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
        folder: the prepared folder.
        matrices: name → the finished files; they are moved.
        encoders: name → entry of `info["encoders"]`; a matrix without one here loses its old entry.
        info: other entries of `info` that change.
        files: name in the manifest → other files of the dataset to replace in the same step.
        counts: of the dataset, if they change.

    Raises:
        RunFolderError: not a prepared folder, or it cannot be written.
    """
    new = {file_name(name, ending): path for name, matrix in matrices.items() for ending, path in matrix.files.items()}
    possible = {file_name(name, ending) for name in matrices for ending in ENDINGS}
    features = {name: {"dims": m.dims, "dtype": m.dtype, "present": m.present} for name, m in matrices.items()}

    def entries(manifest: Mapping[str, Any]) -> dict[str, Any]:
        noted = {**manifest["info"], **(info or {})}
        others = {name: entry for name, entry in noted.get("encoders", {}).items() if name not in matrices}
        noted["encoders"] = {**others, **encoders}
        changed = {"features": {**manifest["features"], **features}, "info": noted}
        return changed if counts is None else changed | {"counts": counts}

    commit(folder, {**new, **(files or {})}, entries, gone=possible - set(new))


def set_item_columns(folder: str | Path, frame: pl.DataFrame) -> None:
    """Add columns to the item table of a prepared folder, or replace those of the same name.

    Args:
        folder: the prepared folder.
        frame: `item` and the columns; other items get null in new columns and keep their values in existing ones.

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
            f"{folder}: {pluralize(int(unknown.sum()), 'id')} not among the items:"
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


SHOWN = 10  # problems kept in memory to report


class _MatrixWriter:
    """Writes the files of one matrix shard by shard; a context manager that closes them.

    Args:
        folder: where to write; existing files are replaced.
        rows: the item table, for item ids.
        keep: `(I,)` bool, the items to write.
    """

    def __init__(self, folder: Path, rows: ItemRows, keep: np.ndarray):
        self.folder, self._rows, self._keep = folder, rows, keep
        self.mask, self.cut = np.zeros(len(keep), dtype=bool), np.zeros(len(keep), dtype=bool)
        self.dims = self.missing = self.n_problems = 0
        self.problems: list[tuple[str, str, str]] = []
        with ExitStack() as stack:
            self._values, self._keys = (stack.enter_context(self.path(end).open("wb")) for end in (VALUES, KEYS))
            lists = (
                stack.enter_context(self.path(end).open("w", encoding="utf-8", newline=""))
                for end in (PROBLEMS, MISSING)
            )
            self._problem_list, self._missing_list = (csv.writer(file, lineterminator="\n") for file in lists)
            self._files = stack.pop_all()

    def path(self, ending: str) -> Path:
        return self.folder / f"matrix{ending}"

    def __enter__(self) -> _MatrixWriter:
        self._problem_list.writerow((ITEM, "source", "problem"))
        self._missing_list.writerow((ITEM,))
        self._keys.write(matrix_header(np.dtype(np.uint8), (int(self._keep.sum()), KEY_BYTES)))
        return self

    def __exit__(self, *error: object) -> None:
        self._files.close()

    def write_shard(self, at: range, shard: Shard) -> None:
        """Append a shard; shards must come in order. `at` is its range of item rows."""
        rows, arrays, facts = slice(at.start, at.stop), shard.arrays, shard.facts
        keep = self._keep[rows]
        if at.start == 0:
            self.dims = arrays["vectors"].shape[1]
            self._values.write(matrix_header(arrays["vectors"].dtype, (int(self._keep.sum()), self.dims)))
        self._values.write(np.ascontiguousarray(arrays["vectors"][keep]).data)
        self._keys.write(np.ascontiguousarray(arrays["keys"][keep]).data)
        self.mask[rows], self.cut[rows] = arrays["present"], arrays["cut"]
        self.missing += facts["missing"]
        self.n_problems += len(facts["problems"])
        if facts["problems"] or facts["missing"]:
            self._list_items(self._rows.read(at.start, at.stop)[ITEM], arrays["keys"], facts["problems"])

    def _list_items(self, ids: pl.Series, keys: np.ndarray, problems: Sequence[tuple[int, str, str]]) -> None:
        lines = [(str(ids[index]), source, problem) for index, source, problem in problems]
        self._problem_list.writerows(lines)
        self.problems += lines[: SHOWN - len(self.problems)]
        without_input = np.asarray(~keys.any(axis=1))
        without_input[[index for index, *_ in problems]] = False  # an unusable input may have no key either
        self._missing_list.writerows((str(ids[index]),) for index in np.flatnonzero(without_input).tolist())


def join(
    shards: Shards, folder: Path, rows: ItemRows, state: Mapping[str, np.ndarray], keep: np.ndarray | None = None
) -> FeatureResult:
    """Concatenate finished shards into the files of a matrix.

    Args:
        shards: all of them sealed.
        folder: where to write; existing files are replaced.
        rows: the item table, for the ids of items with problems.
        state: the fitted state of the encoder; may be empty.
        keep: `(I,)` bool, the items that stay; by default all.

    Raises:
        RunFolderError: a file cannot be written (a full disk included).
    """
    keep = np.ones(shards.n_rows, dtype=bool) if keep is None else keep
    with write_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        with _MatrixWriter(folder, rows, keep) as writer:
            for index in range(len(shards)):
                writer.write_shard(shards.rows(index), shards.read(index))
        np.save(writer.path(MASK), writer.mask[keep])
        if writer.cut.any():
            np.save(writer.path(CUT), writer.cut[keep])
        if state:
            save_file(dict(sorted(state.items())), writer.path(STATE))
            share(writer.path(STATE))
    written = {VALUES: True, MASK: True, KEYS: True, CUT: writer.cut.any(), PROBLEMS: writer.n_problems}
    written |= {MISSING: writer.missing, STATE: state}
    return FeatureResult(
        files={ending: writer.path(ending) for ending, exists in written.items() if exists},
        dims=writer.dims,
        dtype="float32",
        mask=writer.mask,
        missing=writer.missing,
        cut=int(writer.cut.sum()),
        n_problems=writer.n_problems,
        problems=writer.problems,
    )
