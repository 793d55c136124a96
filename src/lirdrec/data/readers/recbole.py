"""Read RecBole's atomic files: `NAME.inter` and `NAME.item`, tab-separated, with typed columns (`user_id:token`)."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import polars as pl

from lirdrec.data.column_names import SPLITS
from lirdrec.data.dataset import Dataset
from lirdrec.data.feature_files import vectors_of_frame
from lirdrec.data.preprocessing_config import make_preprocessing_config
from lirdrec.data.readers.shared import build_dataset, existing_folder, find_single_file
from lirdrec.data.table_files import read_table
from lirdrec.data.table_with_source import Table, join_tables
from lirdrec.errors import DataError
from lirdrec.option_names import option_name, option_text

logger = logging.getLogger(__name__)

TYPES = ("token", "token_seq", "float", "float_seq")
LABEL = "recbole_split"
UNREAD = (".user", ".kg", ".link", ".net")  # atomic files of users and knowledge graphs: not supported by the models


def read_recbole(
    folder: str | Path,
    *,
    vectors: Sequence[str] = (),
    features: Mapping[str, str | Path] | None = None,
    name: str | None = None,
    info: Mapping[str, Any] | None = None,
    **options: Any,
) -> Dataset:
    """Read a folder of atomic files and prepare it.

    Args:
        folder: contains `NAME.inter`, or `NAME.train.inter`, `NAME.valid.inter` and `NAME.test.inter` (this split is
            kept unless `split` is given), and optionally `NAME.item`, which becomes the item table: its columns of
            type token_seq become texts, with words joined by blanks; its columns of type float_seq become lists.
            `NAME.user`, `NAME.kg` and `NAME.link` are not read.
        vectors: columns of type float_seq in `NAME.item` that become feature matrices, not columns of the item table.
        features, name, info: as for `read_interactions`; the default name is NAME.
        options: fields of `PreprocessingConfig`; by default user is "user_id", item "item_id", and timestamp
            "timestamp" if there is such a column.

    Raises:
        DataError, ConfigError: as for `read_interactions`; or a header has no types.
    """
    folder = existing_folder(folder)
    bad_rows = options.get("bad_rows", "error")
    table, stem, files = _interactions(folder, bad_rows)
    options = {"user": "user_id", "item": "item_id"} | options
    if "timestamp" in table.frame.columns:
        options.setdefault("timestamp", "timestamp")
    if LABEL in table.frame.columns:
        options.setdefault("split", LABEL)
    config = make_preprocessing_config(options, "read_recbole")
    table.require_columns([config.user, config.item])
    sources: dict[str, Any] = dict(features or {})
    items = None
    if (path := folder / f"{stem}.item").exists():
        items = _typed(path, bad_rows)
        files.append(path.name)
        items.require_columns([config.items_column, *vectors])
        for column in vectors:
            part = Table(items.frame.select(config.items_column, column), f"{path}, column '{column}'")
            sources[column] = vectors_of_frame(part, config.items_column, column)
        items = dataclasses.replace(items, frame=items.frame.drop(*vectors))
    elif vectors:
        raise DataError(
            f"{path}: no such item table, but it should contain the vectors {', '.join(vectors)}; add it, or leave"
            f" {option_name('vectors')} out"
        )
    _warn_unread(folder, items, config.items_column)
    return build_dataset(table, items, config, name or stem, {"format": "recbole", "files": files}, info, sources)


def _warn_unread(folder: Path, items: Table | None, item: str) -> None:
    """Log which files are not read, and which columns could be feature matrices."""
    if unread := sorted(path.name for path in folder.iterdir() if path.suffix in UNREAD):
        logger.warning("%s: not read: %s (only interactions and items are read)", folder, ", ".join(unread))
    schema = {} if items is None else items.frame.drop(item).schema
    for column, kind in schema.items():
        if kind == pl.List(pl.Float32):
            message = "%s: column '%s' (float_seq) stays a list of the item table; to make it a feature matrix: %s"
            logger.warning(message, folder, column, option_text("vectors", column))


def _interactions(folder: Path, bad_rows: str) -> tuple[Table, str, list[str]]:
    parts = {split: sorted(folder.glob(f"*.{split}.inter")) for split in SPLITS}
    if not all(len(paths) == 1 for paths in parts.values()):
        expected = "there must be one .inter file, or one each of train, valid and test"
        path = find_single_file(folder, "*.inter", expected)
        return _typed(path, bad_rows), path.stem, [path.name]
    tables = []
    for split, (path,) in parts.items():
        table = _typed(path, bad_rows)
        tables.append(dataclasses.replace(table, frame=table.frame.with_columns(pl.lit(split).alias(LABEL))))
    columns = tables[0].frame.columns
    if any(table.frame.columns != columns for table in tables):
        raise DataError(f"{folder}: the three .inter files have different columns; give them the same")
    stem = parts["train"][0].name.removesuffix(".train.inter")
    return join_tables(tables, columns, f"{folder}/{stem}.*.inter"), stem, [path.name for (path,) in parts.values()]


def _typed(path: Path, bad_rows: str) -> Table:
    """Read a file of RecBole; convert columns to the types in its header, and remove the types from their names."""
    table = read_table(path, separator="\t", bad_rows=bad_rows)
    columns = []
    for header in table.frame.columns:
        column, colon, kind = header.rpartition(":")
        if not colon or kind not in TYPES:
            raise DataError(f"{path}: column '{header}' has no type; write NAME:TYPE, with one of {', '.join(TYPES)}")
        values = table.frame[header]
        if kind == "float":
            numbers = values.cast(pl.Float64, strict=False)
            if bad_rows == "error" and (bad := numbers.is_null() & values.is_not_null()).any():
                value, location = values[bad.arg_true()[0]], table.first_bad_row(bad)
                raise DataError(f"{path}: column '{column}' has {value!r} in {location}, not a number")
            values = numbers
        elif kind == "token_seq":
            values = _words(values).list.join(" ").replace("", None)
        elif kind == "float_seq":
            values = _float_lists(values, column, table)
        columns.append(values.alias(column))
    return dataclasses.replace(table, frame=pl.DataFrame(columns))


def _words(texts: pl.Series) -> pl.Series:
    return texts.str.split(" ").list.eval(pl.element().filter(pl.element() != ""))


def _float_lists(texts: pl.Series, column: str, table: Table) -> pl.Series:
    """Parse texts of numbers separated by blanks to lists; null for empty texts. Raises a DataError for other texts."""
    words = _words(texts)
    numbers = words.list.eval(pl.element().cast(pl.Float32, strict=False))
    bad = numbers.list.eval(pl.element().is_null()).list.any().fill_null(False)
    for row in bad.arg_true()[:1]:
        word = words[row][numbers[row].is_null().arg_true()[0]]
        raise DataError(f"{table.source}: column '{column}' has {word!r} in {table.row_location(row)}, not a number")
    return pl.select(pl.when(words.list.len() > 0).then(numbers)).to_series()
