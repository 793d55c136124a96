"""Read MMRec folders as published: `NAME.inter` with `x_label`, and one `MODALITY_feat.npy` per modality."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import polars as pl

from lirdrec.data.column_names import ITEM, TIMESTAMP, USER, unused_name
from lirdrec.data.compression import exists
from lirdrec.data.dataset import Dataset, Interactions
from lirdrec.data.delimited import BadRows
from lirdrec.data.feature_files import read_npy
from lirdrec.data.features import FeatureMatrix, as_floats, check_rows
from lirdrec.data.ids import IdMap, describe_ids
from lirdrec.data.interaction_filters import distinct_pairs
from lirdrec.data.preprocessing_config import make_preprocessing_config
from lirdrec.data.readers.shared import check_id_columns, existing_folder, find_single_file
from lirdrec.data.splits import given_labels, label_values
from lirdrec.data.table_files import read_table
from lirdrec.data.table_with_source import Table, select_rows
from lirdrec.data.value_parsing import drop_bad_rows, parse_ids, parse_times
from lirdrec.errors import DataError
from lirdrec.wording import pluralize

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
    """Read an MMRec folder as a dataset with its published split.

    Ids are the integers as published. Row i of a feature matrix is item i, so with features there are as many items as
    rows; without features, the items are those with interactions. An `items.tsv` becomes the item table
    (its id column is named as in the .inter file). A row of zeros means that the item lacks the modality.

    Args:
        folder: contains one .inter file (tab-separated: user, item, label 0 train, 1 validation, 2 test, optionally
            timestamp).
        user, item, label: names of the columns.
        name: of the dataset; by default the name of the .inter file.
        bad_rows: "error", or "skip": drop and count rows of the .inter file that lack an id, a label or a time, whose
            ids are not integers, or that have a wrong number of values.

    Raises:
        DataError: a file is missing or damaged, or the files contradict each other.
        ConfigError: another value of `bad_rows`.
    """
    folder = existing_folder(folder)
    path = find_single_file(folder, "*.inter", "an MMRec folder has one .inter file")
    table, counts = _read_interactions(path, user, item, label, bad_rows)
    user_ids, item_ids = parse_ids(table, user, USER), parse_ids(table, item, ITEM)
    labels = given_labels(table.frame[label], table.source, table.row_location)
    files = {path.name.removesuffix(SUFFIX): path for path in sorted(folder.glob(f"*{SUFFIX}"))}
    features = {}
    for modality, file in files.items():
        exists(file)
        values = as_floats(read_npy(file), str(file))
        features[modality] = FeatureMatrix.known_good(values, check_rows(values, str(file)))
    items = IdMap(_item_ids(item_ids, files, features), ITEM)
    users = IdMap(user_ids.unique().sort(), USER)
    times = parse_times(table, TIMESTAMP) if TIMESTAMP in table.frame.columns else None
    pairs = Interactions(users.rows(user_ids), items.rows(item_ids), times)
    splits = [(split.users, split.items, split.timestamps) for split in pairs.by_label(labels)]
    train, valid, test = (Interactions(*distinct_pairs(*split)[:3]) for split in splits)
    repeated = len(pairs) - sum(map(len, (train, valid, test)))
    return Dataset(
        name or path.stem,
        users,
        items,
        train,
        valid,
        test,
        features=features,
        item_table=_item_table(folder, item, items),
        info={
            "source": {"format": "mmrec", "files": [path.name, *(file.name for file in files.values())]},
            "preparation": {**counts, "repeated_pairs": repeated},
            "split": {"method": "label", "column": label},
        },
    )


def _read_interactions(path: Path, user: str, item: str, label: str, bad_rows: BadRows) -> tuple[Table, dict[str, int]]:
    """Return the usable rows of the .inter file and, if some were dropped, counts for the dataset's info."""
    config = make_preprocessing_config({"user": user, "item": item, "bad_rows": bad_rows}, "read_mmrec")
    table = read_table(path, separator="\t", bad_rows=bad_rows)
    table.require_columns([user, item, label])
    height = table.frame.height + table.skipped
    if TIMESTAMP in table.frame.columns:
        config = dataclasses.replace(config, timestamp=TIMESTAMP)
    labeled = label_values(table.frame[label]).is_not_null()
    if bad_rows == "skip" and labeled.any() and not labeled.all():
        table = select_rows(table, labeled, skipped=int((~labeled).sum()))
    table, n_dropped = drop_bad_rows(check_id_columns(table, config, user, item, pattern=NUMBER), config)
    skipped = table.skipped + n_dropped
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
            f"{files[modality]}: {pluralize(size, 'row')}, but the interactions have {pluralize(len(beyond), 'item')}"
            f" beyond these rows ({describe_ids(beyond)}); row i must be item i"
        )
    return np.arange(size)


def _item_table(folder: Path, item: str, items: IdMap) -> pl.DataFrame:
    path = folder / "items.tsv"
    if not path.exists():
        return pl.DataFrame({ITEM: items.series})
    table = read_table(path)
    table.require_columns([item])
    ids = parse_ids(table, item, ITEM)
    if ids.is_duplicated().any():
        raise DataError(f"{path}: item id {ids[ids.is_duplicated().arg_true()[0]]} occurs more than once")
    columns = table.frame.drop(item)
    if ITEM in columns.columns:
        columns = columns.rename({ITEM: unused_name(ITEM, columns.columns)})
    columns = columns.with_columns(ids.alias(ITEM))
    return pl.DataFrame({ITEM: items.series}).join(columns, on=ITEM, how="left", maintain_order="left")
