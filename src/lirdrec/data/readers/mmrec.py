"""MMRec folders as they are published: `NAME.inter` with `x_label`, and one `MODALITY_feat.npy` per modality."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl

from lirdrec.data.columns import ITEM, TIMESTAMP, USER, unused_name
from lirdrec.data.compressed import exists
from lirdrec.data.dataset import Dataset, Interactions
from lirdrec.data.identifiers import IdMap, count, describe_ids
from lirdrec.data.matrices import FeatureMatrix, as_floats, check_rows
from lirdrec.data.preparation import distinct_pairs
from lirdrec.data.raw_ids import read_ids
from lirdrec.data.readers.feature_files import read_npy
from lirdrec.data.splits import given_labels
from lirdrec.data.tables import read_table
from lirdrec.data.values import moments
from lirdrec.errors import DataError

SUFFIX = "_feat.npy"


def read_mmrec(
    folder: str | Path, user: str = "userID", item: str = "itemID", label: str = "x_label", name: str | None = None
) -> Dataset:
    """Read an MMRec folder.

    Ids are the integers as published. Row i of a feature matrix is item i, so with features there are as many items as
    rows; without, the items are those that occur. `items.tsv`, if there, becomes the item table (its column `item`
    named as in the .inter file). Rows of zeros mean that the item lacks the modality.

    Args:
        folder: holds one .inter file (tab-separated: user, item, label 0 train, 1 valid, 2 test, perhaps timestamp).
        user, item, label: names of the columns.
        name: of the dataset; by default that of the .inter file.

    Raises:
        DataError: something is missing, damaged, or does not fit together.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder")
    inters = sorted(folder.glob("*.inter"))
    if len(inters) != 1:
        found = ", ".join(path.name for path in inters) or "none"
        raise DataError(f"{folder}: an MMRec folder has one .inter file; found {found}")
    table = read_table(inters[0])
    table.need([user, item, label])
    where = table.where
    user_ids, item_ids = (
        read_ids(table.frame[column], f"{where}, column '{column}'", what, table.place, text=True)
        for column, what in ((user, USER), (item, ITEM))
    )
    for ids, what in ((user_ids, "user"), (item_ids, "item")):
        if ids.dtype != pl.Int64:
            bad = ~ids.str.contains(r"^(0|[1-9][0-9]*)$")
            raise DataError(
                f"{where}: {what} id {ids[bad.arg_true()[0]]!r} in {table.at(bad)} is not an integer, and MMRec's"
                " ids are row numbers; read it as an ordinary table instead"
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
            "preparation": {"repeated_pairs": repeated},
            "split": {"method": "label", "column": label},
        },
    )


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
