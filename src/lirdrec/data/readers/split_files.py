"""Read interactions with one file per split: train, validation and test."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import polars as pl

from lirdrec.data.column_names import ITEM, SPLITS, USER
from lirdrec.data.compression import open_bytes
from lirdrec.data.dataset import Dataset
from lirdrec.data.json_lines import BadLines
from lirdrec.data.readers.amazon_metadata import read_metadata
from lirdrec.data.readers.shared import first_or_none
from lirdrec.data.readers.tabular import read_interactions
from lirdrec.errors import ConfigError, DataError
from lirdrec.option_names import option_name

TABLE_SUFFIXES = (".csv", ".tsv", ".parquet", ".jsonl", ".csv.gz", ".tsv.gz", ".jsonl.gz")
AMAZON_2023 = {USER: "user_id", ITEM: "parent_asin", "rating": "rating", "timestamp": "timestamp"}


def find_split_files(folder: str | Path) -> dict[str, Path] | None:
    """Find NAME.train.csv, NAME.valid.csv and NAME.test.csv (or .tsv, .parquet, .jsonl) in a folder: split → path.

    Returns None if one of the three is missing; raises a DataError if several files could be one of them.
    """
    files: dict[str, Path] = {}
    for split in SPLITS:
        paths = sorted(path for end in TABLE_SUFFIXES for path in Path(folder).glob(f"*.{split}{end}"))
        options = ", ".join(option_name(option) for option in ("train", "validation", "test"))
        remedy = f"give the three files instead of the folder ({options})"
        path = first_or_none(Path(folder), paths, f"files could be {split}", remedy)
        if path is None:
            return None
        files[split] = path
    return files


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
    """Read a folder with NAME.train.csv, NAME.valid.csv and NAME.test.csv, such as the benchmark splits of Amazon 2023.

    Args:
        folder: see `find_split_files`.
        metadata: Amazon's item metadata, which become the item table; they are found by the item ids, whatever the
            columns are called. By default a file `meta_*.jsonl.gz` in the folder, if the files have the columns of
            Amazon 2023 and no `items` are given.
        items, features, name, info: as for `read_interactions`; the default name is NAME.
        options: fields of `PreprocessingConfig`. The columns of Amazon 2023 are detected.

    Raises:
        DataError: as for `read_interactions`; or the metadata have none of the items.
        ConfigError: as for `read_interactions`; or both `metadata` and `items` are given.
    """
    if metadata is not None and items is not None:
        both = f"{option_name('metadata')} and {option_name('items')}"
        raise ConfigError(f"{folder}: {both} both give the item table; leave one of them out")
    folder = Path(folder)
    files = find_split_files(folder)
    if files is None:
        raise DataError(f"{folder}: there must be one file each with the suffix .train.csv, .valid.csv and .test.csv")
    stem = files["train"].name.partition(".train.")[0]
    with open_bytes(files["train"]) as file:
        columns = file.readline(1 << 16).decode("utf-8", errors="replace").removeprefix("\ufeff").strip().split(",")
    amazon = {"user_id", "parent_asin"} <= set(columns)
    known_columns = {key: name for key, name in AMAZON_2023.items() if name in columns} if amazon else {}
    options = {**known_columns, "items": items, "features": features, "name": name or stem, "info": info, **options}
    if metadata is None and amazon and items is None:
        metadata = next(iter(sorted(folder.glob("meta_*.jsonl*"))), None)
    dataset = read_split_files(files["train"], files["valid"], files["test"], **options)
    if metadata is None:
        return dataset
    table = read_metadata(Path(metadata), dataset.items.series.cast(pl.String), BadLines(Path(metadata)))
    table = table.with_columns(dataset.items.series.alias(ITEM))
    source = {**dataset.info["source"], "metadata": Path(metadata).name}
    return dataclasses.replace(dataset, item_table=table, info={**dataset.info, "source": source})


def read_split_files(train: str | Path, validation: str | Path | None, test: str | Path, **options: Any) -> Dataset:
    """Read interactions with one file per split, and keep this split.

    Args:
        train, validation, test: tables of interactions, as for `read_interactions`, all with the same columns. Without
            `validation` training cannot stop early.
        options: options of `read_interactions`. By default `split` is the split of the files, and `name` is the name of
            the folder of `train`.

    Raises:
        DataError, ConfigError: as for `read_interactions`; or a pair is in two files.
    """
    paths = {"train": train, "valid": validation, "test": test}
    return read_interactions({split: path for split, path in paths.items() if path is not None}, **options)
