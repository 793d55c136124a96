"""Read interactions from tables of any supported format, with an optional item table and feature files."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import polars as pl

from lirdrec.data.dataset import Dataset
from lirdrec.data.file_parts import COMPRESSED_SUFFIXES
from lirdrec.data.preprocessing_config import PreprocessingConfig, make_preprocessing_config
from lirdrec.data.readers.shared import LABEL, build_dataset
from lirdrec.data.splits import METHODS
from lirdrec.data.table_files import read_table
from lirdrec.data.table_with_source import Table, join_tables

Paths = str | Path | Sequence[str | Path]


def read_interactions(
    path: Paths | Mapping[str, str | Path],
    *,
    items: Paths | None = None,
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
    """Read a table of interactions, and make a dataset of it.

    Ids of text files are integers if all ids of the column are integers, else strings. In tab-separated files
    quotes have no meaning; in comma-separated files they enclose a value.

    Args:
        path: a table with the columns that `options` name: separated text (CSV, TSV …), JSON, Parquet, Arrow, ORC,
            compressed or not; or several files, a folder of parts, or a pattern such as "log-*.csv". In JSON `a.b`
            names the key `b` of a nested record, or of each record of a nested list, each of which becomes a row.
            A mapping from "train", "valid" and "test" to files: see `read_split_files`.
        items: a table of the same formats with a row per item.
        features: name → .npy (rows in the order of `items`), or .npz, .safetensors, .parquet or .csv with ids.
        separator: of a text file, such as ";" or "tab"; by default detected from its first lines. The separator of
            `items` is always detected.
        encoding: of text files, such as "cp1252"; by default UTF-8, or UTF-16 if it begins with a byte order mark.
        header: whether the first line of text files contains the column names; if False, give `columns`.
        columns: the names of the columns of files without a header, in order.
        items_columns: the same for `items`, if it has no header.
        name, info: name of the dataset, by default the name of the file; further metadata (source, license …).
        options: fields of `PreprocessingConfig` (user, item, rating, min_rating, timestamp, split, seed …).

    Raises:
        DataError: a file is missing or invalid; the message says what is wrong, where, and what to do.
        ConfigError: an unknown option, or one out of range.
    """
    is_split = isinstance(path, Mapping)
    defaults = {"split": LABEL} if is_split else {}
    config = make_preprocessing_config(defaults | options, "read_split_files" if is_split else "read_interactions")
    common: dict[str, Any] = {"encoding": encoding, "bad_rows": config.bad_rows}
    layout = {"separator": separator, "header": header, "columns": columns, **common}
    features = features or {}
    if isinstance(path, Mapping):
        table, files = _read_splits(path, config, layout), list(path.values())
        default_name = Path(path["train"]).resolve().parent.name
    else:
        files = _as_list(path)
        table, default_name = read_table(path, keys=needed_columns(config), **layout), _stem(Path(files[0]))
    item_table = None
    if items is not None:
        item_table = read_table(
            items, config.items_column, header=items_columns is None, columns=items_columns, **common
        )
        files += _as_list(items)
    files += [] if is_split else features.values()
    source = {"format": "split files" if is_split else "tables", "files": [Path(file).name for file in files]}
    return build_dataset(table, item_table, config, name or default_name, source, info, features)


def _read_splits(files: Mapping[str, str | Path], config: PreprocessingConfig, layout: Mapping[str, Any]) -> Table:
    """Read one file per split; the column `LABEL` contains the split of each row."""
    needed = [column for column in needed_columns(config) if column != LABEL]
    tables = []
    for split, file in files.items():
        table = read_table(Path(file), keys=needed, **layout)
        table.require_columns(needed)
        labeled = table.frame.select(needed).with_columns(pl.lit(split).alias(LABEL))
        tables.append(dataclasses.replace(table, frame=labeled))
    return join_tables(tables, [*needed, LABEL], ", ".join(str(Path(file)) for file in files.values()))


def needed_columns(config: PreprocessingConfig) -> list[str]:
    """Return the names of the columns that preprocessing reads from a table of interactions."""
    label = config.split if config.split not in METHODS else None
    columns = [config.user, config.item, config.rating, config.timestamp, config.weight, config.event, label]
    columns += config.only or {}
    return list(dict.fromkeys(column for column in columns if column is not None))


def _as_list(path: Paths) -> list[str | Path]:
    return [path] if isinstance(path, (str, Path)) else list(path)


def _stem(path: Path) -> str:
    """Return the name of a file without its suffix and a compression suffix."""
    return Path(path.stem).stem if path.suffix.lower() in COMPRESSED_SUFFIXES else path.stem
