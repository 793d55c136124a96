"""Interactions whose split is published as files of their own: train, validation and test."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import polars as pl

from lirdrec.data.compression import open_bytes
from lirdrec.data.dataset import Dataset
from lirdrec.data.feature_files import read_features
from lirdrec.data.json_lines import BadLines
from lirdrec.data.preprocessing_config import make_preprocessing_config
from lirdrec.data.readers.amazon_metadata import read_metadata
from lirdrec.data.readers.tabular import needed_columns
from lirdrec.data.schema import ITEM, SPLITS, USER
from lirdrec.data.tables import Table, join_tables, read_table
from lirdrec.errors import DataError
from lirdrec.option_names import called

LABEL = "split_file"
ENDINGS = (".csv", ".tsv", ".parquet", ".jsonl", ".csv.gz", ".tsv.gz", ".jsonl.gz")
AMAZON_2023 = {USER: "user_id", ITEM: "parent_asin", "rating": "rating", "timestamp": "timestamp"}


def find_split_files(folder: str | Path) -> dict[str, Path] | None:
    """The files NAME.train.csv, NAME.valid.csv and NAME.test.csv of a folder (or .tsv, .parquet, .jsonl), by split.

    Returns:
        None where there are no such files, or where one of the three is missing.

    Raises:
        DataError: there are several such splits.
    """
    found: dict[str, Path] = {}
    for split in SPLITS:
        paths = sorted(path for end in ENDINGS for path in Path(folder).glob(f"*.{split}{end}"))
        if not paths:
            return None
        if len(paths) > 1:
            listed = ", ".join(path.name for path in paths)
            raise DataError(
                f"{folder}: several files could be {split}: {listed}; name the three files instead of the folder"
                f" ({called('train')}, {called('validation')}, {called('test')})"
            )
        found[split] = paths[0]
    return found


def read_split_folder(
    folder: str | Path,
    *,
    metadata: str | Path | None = None,
    items: str | Path | None = None,
    features: Mapping[str, str | Path] | None = None,
    name: str | None = None,
    info: Mapping[str, Any] | None = None,
    **options: Any,
) -> Dataset:
    """Read a folder with NAME.train.csv, NAME.valid.csv and NAME.test.csv, as the benchmark splits of Amazon 2023.

    Args:
        folder: what `find_split_files` understands; `meta_NAME.jsonl.gz` in it is taken as `metadata`.
        metadata: of Amazon's reviews: the products; only with columns of these.
        items, features, info: see `read_split_files`.
        name: of the dataset; by default NAME.
        options: fields of `PreprocessingConfig`. Columns of Amazon 2023 need not be named.

    Raises:
        DataError: a file is missing or damaged; says what, where and what to do.
        ConfigError: an unknown option, or one out of range.
    """
    folder = Path(folder)
    files = find_split_files(folder)
    if files is None:
        raise DataError(f"{folder}: there must be one file each that ends in .train.csv, .valid.csv and .test.csv")
    stem = files["train"].name.partition(".train.")[0]
    with open_bytes(files["train"]) as file:
        columns = file.readline(1 << 16).decode("utf-8", errors="replace").removeprefix("\ufeff").strip().split(",")
    amazon = {"user_id", "parent_asin"} <= set(columns)
    known = {key: name for key, name in AMAZON_2023.items() if name in columns} if amazon else {}
    options = {**known, "items": items, "features": features, "name": name or stem, "info": info, **options}
    if metadata is None and amazon and items is None:
        metadata = next(iter(sorted(folder.glob("meta_*.jsonl*"))), None)
    dataset = read_split_files(files["train"], files["valid"], files["test"], **options)
    return dataset if metadata is None else _described(dataset, Path(metadata))


def read_split_files(
    train: str | Path,
    validation: str | Path | None,
    test: str | Path,
    *,
    items: str | Path | None = None,
    features: Mapping[str, str | Path] | None = None,
    separator: str | None = None,
    encoding: str | None = None,
    header: bool = True,
    columns: Sequence[str] | None = None,
    items_columns: Sequence[str] | None = None,
    name: str | None = None,
    info: Mapping[str, Any] | None = None,
    **options: Any,
) -> Dataset:
    """Read interactions of which each split is a file of its own, and keep this split.

    Args:
        train, validation, test: tables of interactions, as for `read_interactions`, all with the same columns. Without
            `validation` training cannot stop early.
        items: a table with a row per item.
        features, separator, encoding, header, columns, items_columns: as for `read_interactions`.
        name: of the dataset; by default the name of the folder of `train`.
        info: what else to record.
        options: fields of `PreprocessingConfig`. The split of the files is kept unless `split` is given.

    Raises:
        DataError: a file or its content is wrong, or a pair is in two files.
        ConfigError: an unknown option, or one out of range.
    """
    recipe = make_preprocessing_config({"split": LABEL, **options}, "read_split_files")
    paths = {"train": train, "valid": validation, "test": test}
    files = {split: Path(path) for split, path in paths.items() if path is not None}
    needed = [column for column in needed_columns(recipe) if column != LABEL]
    both = {"encoding": encoding, "bad_rows": recipe.bad_rows}
    parts = []
    for split, path in files.items():
        table = read_table(path, keys=needed, separator=separator, header=header, columns=columns, **both)
        table.need(needed)
        labelled = table.frame.select(needed).with_columns(pl.lit(split).alias(LABEL))
        parts.append(dataclasses.replace(table, frame=labelled))
    where = ", ".join(str(path) for path in files.values())
    joined = join_tables(parts, [*needed, LABEL], where)
    names = [path.name for path in files.values()]
    item_table: Table | None = None
    if items is not None:
        item_table = read_table(items, recipe.items_column, header=items_columns is None, columns=items_columns, **both)
        names.append(Path(items).name)
    return Dataset.from_tables(
        joined,
        item_table,
        {key: read_features(path, item_column=recipe.item) for key, path in (features or {}).items()},
        recipe,
        name or Path(train).resolve().parent.name,
        {"source": {"format": "split files", "files": names}, **(info or {})},
    )


def _described(dataset: Dataset, metadata: Path) -> Dataset:
    """The dataset with the columns of Amazon's metadata in its item table."""
    bad = BadLines(metadata)
    table = read_metadata(metadata, dataset.items.series.cast(pl.String), bad)
    table = table.with_columns(dataset.items.series.alias(ITEM))
    source = {**dataset.info["source"], "metadata": metadata.name}
    return dataclasses.replace(dataset, item_table=table, info={**dataset.info, "source": source})
