"""Read LightGCN's files: `train.txt` and `test.txt`, each line a user and its items, separated by blanks."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from lirdrec.data.column_names import ITEM, USER
from lirdrec.data.dataset import Dataset
from lirdrec.data.delimited import BadRows
from lirdrec.data.ids import LARGEST
from lirdrec.data.json_lines import BadLines
from lirdrec.data.preprocessing_config import make_preprocessing_config
from lirdrec.data.readers.shared import LABEL, build_dataset, read_lines, reject_options
from lirdrec.data.table_files import read_table
from lirdrec.data.table_with_source import Table, join_tables
from lirdrec.errors import DataError

FILES = {"train": ("train.txt",), "valid": ("valid.txt", "val.txt", "validation.txt"), "test": ("test.txt",)}
ID = re.compile(r"(0|[1-9][0-9]{0,18})")
ITEM_LIST = "item_list.txt"  # org_id remap_id
TABLE_OPTIONS = frozenset({"user", "item", "header", "columns"})  # if one of these options is given, a file is a table
FIXED_OPTIONS = ("user", "item", "rating", "min_rating", "timestamp", "only")


def is_lightgcn(folder: str | Path) -> bool:
    """Return whether a folder contains train.txt, and optionally test.txt, whose first lines are numbers."""
    paths = [path for path in (Path(folder) / "train.txt", Path(folder) / "test.txt") if path.is_file()]
    for path in paths:
        with path.open("rb") as file:
            words = file.readline(1 << 16).split()
        if not words or not all(word.isdigit() for word in words[:2]):
            return False
    return bool(paths) and paths[0].name == "train.txt"


def check_not_lightgcn(path: Path, options: Collection[str]) -> None:
    """Raise a DataError for a single file of LightGCN (only its folder can be read), unless options name columns."""
    names = {name for group in FILES.values() for name in group}
    if path.name in names and not TABLE_OPTIONS.intersection(options) and is_lightgcn(path.parent):
        raise DataError(
            f"{path} is not a table: each line has a user and the user's items; give its folder: {path.parent}"
        )


def read_lightgcn(
    folder: str | Path,
    *,
    features: Mapping[str, str | Path] | None = None,
    name: str | None = None,
    info: Mapping[str, Any] | None = None,
    **options: Any,
) -> Dataset:
    """Read a folder in the format of LightGCN's public data (Gowalla, Yelp2018, Amazon-Book) and keep its split.

    Ids are the numbers in the files. The items are 0 to the largest id, so that row i of a feature matrix is item i;
    only if the numbers are very large, the items are those in the files.
    The column `org_id` of an `item_list.txt` is added to the item table. Users without items are dropped.

    Args:
        folder: contains `train.txt`, `test.txt` and optionally `valid.txt` or `val.txt`. If there is only `train.txt`,
            it is split at random.
        features, name, info: as for `read_interactions`; the default name is the name of the folder.
        options: fields of `PreprocessingConfig` except those that the format defines: user, item, rating, min_rating,
            timestamp, only. The split of the files is kept unless `split` is given.

    Raises:
        DataError, ConfigError: as for `read_interactions`.
    """
    reject_options(options, FIXED_OPTIONS, f"{folder}: its files contain only users and items")
    folder = Path(folder)
    candidates = {split: [folder / file_name for file_name in names] for split, names in FILES.items()}
    files = {split: [path for path in paths if path.is_file()] for split, paths in candidates.items()}
    is_split = bool(files["valid"] or files["test"])
    config = make_preprocessing_config({"split": LABEL, **options} if is_split else options, "read_lightgcn")
    for split in ("train", "test"):
        if not files[split] and (is_split or split == "train"):
            raise DataError(f"{folder}: no {FILES[split][0]}")
    parts = [_read_lines(paths[0], split, config.bad_rows) for split, paths in files.items() if paths]
    table = join_tables(parts, [USER, ITEM, LABEL], str(folder))
    source = {"format": "lightgcn", "files": [Path(part.source).name for part in parts]}
    name = name or folder.resolve().name
    return build_dataset(table, _item_table(folder, table), config, name, source, info, features)


def _read_lines(path: Path, split: str, bad_rows: BadRows) -> Table:
    users, items, lines = [], [], []
    bad = BadLines(path, bad_rows, "bad_rows")
    for number, line in enumerate(read_lines(path), 1):
        words = line.split()
        wrong = next((word for word in words if not (ID.fullmatch(word) and int(word) <= LARGEST)), None)
        if wrong is not None:
            bad.add(number, f"{wrong!r} is not an id; a line contains the numbers of a user and of the user's items")
            continue
        users += [int(words[0])] * (len(words) - 1) if words else []
        items += [int(word) for word in words[1:]]
        lines += [number] * (len(words) - 1)
    bad.report()
    if not users:
        raise DataError(f"{path}: no user has an item" + (f" ({bad.example})" if bad.count else ""))
    frame = pl.DataFrame({USER: users, ITEM: items}, schema={USER: pl.Int64, ITEM: pl.Int64})
    frame = frame.with_columns(pl.lit(split).alias(LABEL))
    numbers = np.array(lines, dtype=np.int64)
    return Table(frame, str(path), skipped=bad.count, row_location=lambda row: f"line {numbers[row]}")


def _item_table(folder: Path, table: Table) -> Table:
    """Return all items up to the largest id, in order, with their original ids if `item_list.txt` lists them."""
    largest = table.frame[ITEM].max()
    assert isinstance(largest, int)
    if largest >= 10 * table.frame.height + 1_000_000:
        frame = table.frame.select(pl.col(ITEM).unique().sort())  # such large numbers are ids, not row numbers
    else:
        frame = pl.DataFrame({ITEM: np.arange(largest + 1, dtype=np.int64)})
    path = folder / ITEM_LIST
    if path.is_file():
        listed = read_table(path, separator=" ")
        listed.require_columns(["org_id", "remap_id"])
        originals = listed.frame.select(pl.col("remap_id").cast(pl.Int64, strict=False).alias(ITEM), "org_id")
        if originals[ITEM].null_count() or originals[ITEM].is_duplicated().any():
            raise DataError(f"{path}: the column 'remap_id' must hold integers, and no number twice; correct the file")
        frame = pl.concat([frame, originals.select(ITEM)]).unique(maintain_order=True).sort(ITEM)
        frame = frame.join(originals, on=ITEM, how="left", maintain_order="left")
    return Table(frame, f"the items of {folder}")
