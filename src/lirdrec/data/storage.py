"""Read and write prepared datasets: folders of Parquet and npy files with a JSON manifest (docs/architecture.md).

`verify_features` compares the feature files with the checksums of the manifest.
"""

from __future__ import annotations

import io
import os
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from lirdrec.data.column_names import DISLIKE, ITEM, SPLIT, SPLITS, TIMESTAMP, USER, WEIGHT
from lirdrec.data.dataset_base import DatasetParts, Interactions
from lirdrec.data.features import FeatureMatrix, open_array, row_blocks
from lirdrec.data.ids import IdMap
from lirdrec.errors import DataError, RunFolderError, describe_read_error
from lirdrec.files.atomic import sha256
from lirdrec.files.manifest import MANIFEST, check_manifest, file_entry, resolve_path
from lirdrec.files.manifest import read_manifest as read_any_manifest
from lirdrec.files.transaction import atomic_folder, manifest_text, read_stable

__all__ = ["MANIFEST", "file_entry", "read", "read_manifest", "resolve_path", "write"]

FORMAT = "lirdrec-dataset"
FORMAT_VERSION = 1
USERS, ITEMS, INTERACTIONS = "users.parquet", "items.parquet", "interactions.parquet"
# names allowed in a prepared folder besides the files of its manifest
EXTRA = ("work/features", "work/caption", "captions.problems.csv")
REMEDY = "copy the folder again, or prepare the dataset again"
# exceptions of Parquet and npy readers on damaged files; npy headers are parsed as Python
DAMAGE = (
    *(DataError, ValueError, KeyError, TypeError, OSError, EOFError, SyntaxError, MemoryError, OverflowError),
    *(RecursionError, AttributeError, pl.exceptions.PolarsError),
)
ITEM_ROWS = 8192  # rows per row group of the item table; readers of a range load complete row groups


def write(dataset: DatasetParts, folder: str | Path, overwrite: bool = False) -> Path:
    """Write a dataset as a prepared folder, which appears when it is complete; return the path of the folder.

    Args:
        dataset: a `Dataset` or its parts.
        folder: the folder to write; its parents are created.
        overwrite: replace an existing folder, but only if it contains a prepared dataset and nothing else.

    Raises:
        RunFolderError: the folder is not empty and may not be replaced, or cannot be written (disk full, no
            permission).
        DataError: `dataset.info` or the item table has a value that JSON or Parquet cannot represent.
    """
    with atomic_folder(folder, overwrite, (FORMAT,), EXTRA) as temporary:
        _write(dataset, temporary)
    return Path(folder)


def read(folder: str | Path, verify: bool = False) -> DatasetParts:
    """Read the parts of a dataset from a prepared folder; the features stay on disk, memory-mapped.

    `verify` also checks the checksums of the feature matrices (reads all their bytes); the checksums of other files and
    all sizes are always checked. Raises a RunFolderError if a file is missing, damaged, or from a newer version.
    """
    folder = Path(folder)
    return read_stable(folder, lambda: _read(folder, verify))


def _read(folder: Path, verify: bool) -> DatasetParts:
    manifest = read_manifest(folder)
    check_files(folder, manifest, verify)

    def parquet(name: str) -> pl.DataFrame:
        return pl.read_parquet(resolve_path(folder, manifest, name), glob=False)

    try:
        users, table, pairs = IdMap(parquet(USERS)[USER], USER), parquet(ITEMS), parquet(INTERACTIONS)
        features = {}
        for name in manifest["features"]:
            values = open_array(resolve_path(folder, manifest, f"features/{name}.npy"))
            present = open_array(resolve_path(folder, manifest, f"features/{name}.mask.npy"), mapped=False)
            features[name] = FeatureMatrix.known_good(values, present)
        splits = {}
        for name in (*SPLITS, DISLIKE):
            part = pairs.filter(pl.col(SPLIT) == name)
            times = part[TIMESTAMP].to_numpy() if TIMESTAMP in part.columns else None
            weights = part[WEIGHT].to_numpy() if WEIGHT in part.columns else None
            splits[name] = Interactions(part[USER].to_numpy(), part[ITEM].to_numpy(), times, weights)
        return DatasetParts(
            manifest["name"],
            users,
            IdMap(table[ITEM], ITEM),
            splits["train"],
            splits["valid"],
            splits["test"],
            features=features,
            item_table=table,
            info=manifest["info"],
            folder=folder,
            dislikes=splits[DISLIKE] if len(splits[DISLIKE]) else None,
        )
    except PermissionError as error:
        path = error.filename or folder
        raise RunFolderError(f"{path}: {describe_read_error(error)}") from None
    except DAMAGE as error:
        raise RunFolderError(f"{folder}: the prepared dataset is damaged ({error}); prepare it again") from error


def read_manifest(folder: str | Path) -> dict[str, Any]:
    """Read the manifest of a prepared dataset: `format_version`, `name`, `counts`, `features`, `info`, `files`.

    The manifest is a JSON file in the folder of the dataset. Its `files` maps relative names to
    `{"bytes": …, "sha256": …}`. Raises a RunFolderError if there is no manifest, if it is damaged or from a newer
    version, or if the folder holds something else than a dataset.
    """
    folder = Path(folder)
    path = folder / MANIFEST
    if not path.exists():
        raise RunFolderError(f"{folder}: not a prepared dataset (no {MANIFEST}); make one with lirdrec prepare")
    manifest = read_any_manifest(folder, REMEDY)
    kind, version = manifest["format"], manifest["format_version"]
    if kind != FORMAT:
        raise RunFolderError(f"{folder}: a {kind} folder, not a prepared dataset")
    if version > FORMAT_VERSION:
        raise RunFolderError(
            f"{folder}: written in format {version}, but this lirdrec reads up to {FORMAT_VERSION}; upgrade lirdrec"
        )
    check_manifest(manifest, path, REMEDY)
    if wrong := _wrong_entry(manifest):
        raise RunFolderError(f"{path} is damaged: its entry '{wrong}' is missing or of a wrong type; {REMEDY}")
    return manifest


def _wrong_entry(manifest: Mapping[str, Any]) -> str | None:
    """Return the key of the first entry of a dataset's manifest that is missing or of a wrong type, or None."""
    for key, kind in (("name", str), ("info", dict), ("features", dict), ("counts", dict)):
        if not isinstance(manifest.get(key), kind):
            return key
    if not all(isinstance(count, int) and not isinstance(count, bool) for count in manifest["counts"].values()):
        return "counts"
    for name, described in manifest["features"].items():
        sizes = [described.get(key) for key in ("dims", "present")] if isinstance(described, dict) else [None]
        is_listed = {f"features/{name}.npy", f"features/{name}.mask.npy"} <= set(manifest["files"])
        if not is_listed or not all(isinstance(size, int) for size in sizes):
            return f"features.{name}"
    encoders = manifest["info"].get("encoders", {})
    if not isinstance(encoders, dict) or not all(isinstance(encoder, dict) for encoder in encoders.values()):
        return "info.encoders"
    lacking = {USERS, ITEMS, INTERACTIONS} - set(manifest["files"])
    return f"files.{min(lacking)}" if lacking else None


def check_files(folder: Path, manifest: dict[str, Any], verify: bool) -> None:
    """Compare the files of a prepared dataset with its manifest; raise a RunFolderError if one is missing or changed.

    Of feature matrices only the sizes are compared, unless `verify` is true.
    """
    for name, expected in manifest["files"].items():
        path = resolve_path(folder, manifest, name)
        is_big = name.startswith("features/") and not name.endswith(".mask.npy")
        try:
            if not path.is_file():
                raise RunFolderError(f"{folder}: {name} is missing; copy the whole folder again, or prepare it again")
            size = path.stat().st_size
            digest = sha256(path) if size == expected["bytes"] and (verify or not is_big) else expected["sha256"]
        except FileNotFoundError:
            raise
        except OSError as error:
            raise RunFolderError(f"{path}: {describe_read_error(error)}") from None
        if size != expected["bytes"]:
            raise RunFolderError(
                f"{path}: {size} bytes instead of {expected['bytes']}: damaged or cut short; copy it again, or prepare"
                " the dataset again"
            )
        if digest != expected["sha256"]:
            raise RunFolderError(f"{path}: its checksum is wrong: damaged or changed; prepare the dataset again")


def _write(dataset: DatasetParts, folder: Path) -> None:
    pl.DataFrame({USER: dataset.users.series}).write_parquet(folder / USERS)
    write_item_table(dataset.item_table, folder / ITEMS)
    interactions(dataset).write_parquet(folder / INTERACTIONS)
    if dataset.features:
        (folder / "features").mkdir()
    for name, matrix in dataset.features.items():
        write_matrix(matrix.values, folder / "features" / f"{name}.npy")
        np.save(folder / "features" / f"{name}.mask.npy", matrix.present)
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    counts = {"users": dataset.n_users, "items": dataset.n_items}
    counts |= {name: len(dataset.split(name)) for name in SPLITS}
    manifest = {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "name": dataset.name,
        "counts": counts,
        "features": {
            name: {"dims": m.dims, "dtype": str(m.values.dtype), "present": int(m.present.sum())}
            for name, m in dataset.features.items()
        },
        "info": dataset.info,
        "files": {path.relative_to(folder).as_posix(): file_entry(path) for path in files},
    }
    try:
        (folder / MANIFEST).write_text(manifest_text(manifest), encoding="utf-8")
    except (TypeError, ValueError) as error:
        raise DataError(f"dataset.info cannot be written as JSON: {error}") from None


def write_item_table(table: pl.DataFrame, path: Path) -> None:
    """Write the item table in row groups that can be read separately; raises a DataError for types not in Parquet."""
    try:
        table.write_parquet(path, row_group_size=ITEM_ROWS)
    except pl.exceptions.PolarsError as error:
        if "no space" in str(error).lower():
            raise
        raise DataError(f"the item table cannot be written as Parquet: {error}") from error


def interactions(dataset: DatasetParts) -> pl.DataFrame:
    """Return the table of all pairs: user row, item row and split; the split of a dislike is "dislike".

    The table has timestamps if every split with pairs has timestamps, and weights if at least one split has weights.
    """
    named = {name: dataset.split(name) for name in SPLITS}
    if dataset.dislikes is not None:
        named[DISLIKE] = dataset.dislikes
    parts = []
    timed = all(pairs.timestamps is not None for pairs in named.values() if len(pairs))
    weighted = any(pairs.weights is not None for pairs in named.values())
    for name, pairs in named.items():
        columns: dict[str, Any] = {USER: pairs.users, ITEM: pairs.items}
        if timed:
            columns[TIMESTAMP] = pairs.users if pairs.timestamps is None else pairs.timestamps  # both are empty lists
        if weighted:
            columns[WEIGHT] = pairs.known_weights()
        parts.append(pl.DataFrame(columns).with_columns(pl.lit(name).alias(SPLIT)))
    return pl.concat(parts)


def matrix_header(dtype: np.dtype, shape: tuple[int, ...]) -> bytes:
    """Return the header of an npy file, for a matrix that is then written in blocks."""
    header = io.BytesIO()
    description = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(header, description)
    return header.getvalue()


def write_matrix(values: np.ndarray, path: Path, keep: np.ndarray | None = None) -> None:
    """Write a matrix (only the rows in the mask `keep` `(I,)`) as an npy file, in blocks, to need little memory."""
    n_rows = len(values) if keep is None else int(keep.sum())
    with path.open("wb") as file:
        file.write(matrix_header(values.dtype, (n_rows, *values.shape[1:])))
        for start, block in row_blocks(values):
            rows = block if keep is None else block[keep[start : start + len(block)]]
            file.write(np.ascontiguousarray(rows).data)


_verified: set[tuple[object, ...]] = set()  # states of the files that this process has verified


def verify_features(dataset: DatasetParts, names: Collection[str] | None = None) -> None:
    """Compare the feature files of a dataset that was loaded from a prepared folder with their checksums.

    Each file is read once in a process, unless it has changed since. Features in memory, and datasets without a folder,
    are not checked. `names` are the names of the matrices to check; None: all. Raises a RunFolderError that names a
    missing or changed file.
    """
    mapped = [name for name, matrix in dataset.features.items() if isinstance(matrix.values, np.memmap)]
    wanted = [name for name in mapped if names is None or name in names]
    if dataset.folder is None or not wanted:
        return
    folder = Path(dataset.folder)
    read_stable(folder, lambda: _verify(folder, [f"features/{name}.npy" for name in wanted]))


def _verify(folder: Path, files: Sequence[str]) -> None:
    manifest = read_manifest(folder)
    for file in files:
        entry = manifest["files"].get(file)
        if entry is None:  # the matrix was removed from the folder after the dataset was loaded
            continue
        path = resolve_path(folder, manifest, file)
        before = _state(path, entry["sha256"])
        if before is None or before not in _verified:
            check_files(folder, {**manifest, "files": {file: entry}}, verify=True)
            if before is not None:
                _verified.add(before)


def _state(path: Path, digest: str) -> tuple[object, ...] | None:
    """Return values that change when the file or its recorded checksum changes; None if there is no file."""
    try:
        status = os.stat(path)
    except OSError:
        return None
    return os.path.abspath(path), status.st_ino, status.st_size, status.st_mtime_ns, digest
