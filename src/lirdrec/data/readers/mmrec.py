"""MMRec folders as they are published: `NAME.inter` with `x_label`, and one `MODALITY_feat.npy` per modality."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import polars as pl

from lirdrec.data.compression import exists
from lirdrec.data.dataset import Dataset, Interactions
from lirdrec.data.delimited import BadRows
from lirdrec.data.feature_files import read_npy
from lirdrec.data.features import FeatureMatrix, as_floats, check_rows
from lirdrec.data.ids import IdMap, count, describe_ids
from lirdrec.data.parsing import moments, without_bad_rows
from lirdrec.data.preprocessing import distinct_pairs
from lirdrec.data.preprocessing_config import make_preprocessing_config
from lirdrec.data.raw_ids import read_ids
from lirdrec.data.readers.raw_text import check_id_columns
from lirdrec.data.schema import ITEM, TIMESTAMP, USER, unused_name
from lirdrec.data.splits import given_labels, label_values
from lirdrec.data.tables import Table, read_table, select_rows
from lirdrec.errors import DataError

SUFFIX = "_feat.npy"
NUMBER = r"^-?(0|[1-9][0-9]*)(\.0*)?$"  # ids are row numbers


def read_mmrec(
    folder: str | Path,
    user: str = "userID",
    item: str = "itemID",
    label: str = "x_label",
    name: str | None = None,
    *,
    bad_rows: BadRows = "error",
) -> Dataset:
    """Read an MMRec folder.

    Ids are the integers as published. Row i of a feature matrix is item i, so with features there are as many items as
    rows; without, the items are those that occur. `items.tsv`, if there, becomes the item table (its column `item`
    named as in the .inter file). Rows of zeros mean that the item lacks the modality.

    Args:
        folder: holds one .inter file (tab-separated: user, item, label 0 train, 1 valid, 2 test, perhaps timestamp).
        user, item, label: names of the columns.
        name: of the dataset; by default that of the .inter file.
        bad_rows: "error", or "skip": leave out, and count, rows of the .inter file that lack an id, a label or a time,
            whose ids are no integers, or that have a wrong number of values.

    Raises:
        DataError: something is missing, damaged, or does not fit together.
        ConfigError: another value of `bad_rows`.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder")
    inters = sorted(folder.glob("*.inter"))
    if len(inters) != 1:
        found = ", ".join(path.name for path in inters) or "none"
        raise DataError(f"{folder}: an MMRec folder has one .inter file; found {found}")
    table, skipped = _pairs(inters[0], user, item, label, bad_rows)
    where = table.where
    user_ids, item_ids = (
        read_ids(table.frame[column], f"{where}, column '{column}'", what, table.place, text=True)
        for column, what in ((user, USER), (item, ITEM))
    )
    labels = given_labels(table.frame[label], where, table.place)
    files = {path.name.removesuffix(SUFFIX): path for path in sorted(folder.glob(f"*{SUFFIX}"))}
    features = {}
    for modality, path in files.items():
        exists(path)
        values = as_floats(read_npy(path), str(path))
        features[modality] = FeatureMatrix.known_good(values, check_rows(values, str(path)))
    items = _item_ids(item_ids, files, features)
    item_map = IdMap(items, ITEM)
    user_map = IdMap(user_ids.unique().sort(), USER)
    user_rows, item_rows = user_map.rows(user_ids), item_map.rows(item_ids)
    times = moments(table, TIMESTAMP) if TIMESTAMP in table.frame.columns else None
    splits = []
    repeated = 0
    for code in range(3):
        mask = labels == code
        pairs = distinct_pairs(user_rows[mask], item_rows[mask], None if times is None else times[mask])
        repeated += int(mask.sum()) - len(pairs[0])
        splits.append(Interactions(*pairs[:3]))
    return Dataset(
        name or inters[0].stem,
        user_map,
        item_map,
        splits[0],
        splits[1],
        splits[2],
        features=features,
        item_table=_item_table(folder, item, item_map),
        info={
            "source": {"format": "mmrec", "files": [inters[0].name, *(path.name for path in files.values())]},
            "preparation": {**skipped, "repeated_pairs": repeated},
            "split": {"method": "label", "column": label},
        },
    )


def _pairs(path: Path, user: str, item: str, label: str, bad_rows: BadRows) -> tuple[Table, dict[str, int]]:
    """The rows of the .inter file that can be used and, where some are left out, how many of how many."""
    config = make_preprocessing_config({"user": user, "item": item, "bad_rows": bad_rows}, "read_mmrec")
    table = read_table(path, separator="\t", bad_rows=bad_rows)
    table.need([user, item, label])
    height = table.frame.height + table.skipped
    if TIMESTAMP in table.frame.columns:
        config = dataclasses.replace(config, timestamp=TIMESTAMP)
    labelled = label_values(table.frame[label]).is_not_null()
    if bad_rows == "skip" and labelled.any() and not labelled.all():
        table = dataclasses.replace(select_rows(table, labelled), skipped=table.skipped + int((~labelled).sum()))
    table, lacking = without_bad_rows(check_id_columns(table, config, user, item, pattern=NUMBER), config)
    skipped = table.skipped + lacking
    return table, {"rows": height, "bad_rows_skipped": skipped} if skipped else {}


def _item_ids(ids: pl.Series, files: dict[str, Path], features: dict[str, FeatureMatrix]) -> np.ndarray:
    if not features:
        return np.unique(ids.to_numpy())
    sizes = {modality: len(matrix) for modality, matrix in features.items()}
    if len(set(sizes.values())) > 1:
        listed = ", ".join(f"{files[modality].name} {size}" for modality, size in sizes.items())
        raise DataError(
            f"{next(iter(files.values())).parent}: the feature files have different numbers of rows: {listed}"
        )
    modality, size = next(iter(sizes.items()))
    beyond = ids.filter(ids >= size).unique().sort()
    if len(beyond):
        raise DataError(
            f"{files[modality]}: {count(size, 'row')}, but the interactions name {count(len(beyond), 'item')} beyond"
            f" them ({describe_ids(beyond)}); row i must be item i"
        )
    return np.arange(size)


def _item_table(folder: Path, item: str, items: IdMap) -> pl.DataFrame:
    path = folder / "items.tsv"
    if not path.exists():
        return pl.DataFrame({ITEM: items.series})
    table = read_table(path)
    table.need([item])
    ids = read_ids(table.frame[item], f"{path}, column '{item}'", ITEM, table.place, text=True)
    if ids.is_duplicated().any():
        raise DataError(f"{path}: item id {ids[ids.is_duplicated().arg_true()[0]]} occurs more than once")
    columns = table.frame.drop(item)
    if ITEM in columns.columns:
        columns = columns.rename({ITEM: unused_name(ITEM, columns.columns)})
    described = columns.with_columns(ids.alias(ITEM))
    return pl.DataFrame({ITEM: items.series}).join(described, on=ITEM, how="left", maintain_order="left")
