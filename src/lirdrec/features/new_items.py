"""Make the features of new items from their texts and files, with the encoders that made the dataset's features."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from lirdrec.data.column_names import ITEM
from lirdrec.data.storage import read_manifest
from lirdrec.errors import DataError, LirdrecError
from lirdrec.features.encode import encode_shard
from lirdrec.features.encoder_specs import load_encoder
from lirdrec.features.job_parsing import FILE_SOURCES
from lirdrec.features.sources import FileSource, ImageSource, Item, file_item, joint_item, text_item
from lirdrec.features.template import recorded_template
from lirdrec.option_names import option_name


@dataclass(frozen=True)
class EncodedItems:
    """Features of new items, made by the encoders of a dataset.

    Attributes:
        features: name of a matrix → a vector `(d,)` float32 for each item, None for an item without a text or a file.
        reasons: name of a matrix that is not in `features` → why not, although the dataset records its encoder.
    """

    features: dict[str, list[np.ndarray | None]]
    reasons: dict[str, str]


def encode_items(
    folder: str | Path, names: Iterable[str], table: pl.DataFrame, images: str | Path = ".", device: str = "cpu"
) -> EncodedItems:
    """Return the features of new items, made from their texts and files, for `Recommender.add_items`.

    A matrix gets a reason instead of features if its encoder cannot be loaded or used, or if the new items have no
    inputs for it.

    Args:
        folder: the prepared dataset, whose manifest records the encoders.
        names: names of the matrices; a matrix whose encoder is not recorded is left out.
        table: a row per new item, with columns of the dataset's item table.
        images: the folder that the paths of images, sounds and videos start from.
        device: where the encoders run.

    Raises:
        DataError: the text or the file of an item cannot be encoded.
    """
    made: dict[str, list[np.ndarray | None]] = {}
    reasons: dict[str, str] = {}
    recorded = read_manifest(Path(folder))["info"].get("encoders", {})
    for name in names:
        entry = recorded.get(name) or {}
        if not entry.get("origin"):
            continue
        items, columns = _inputs(entry, table, Path(images))
        if all(item.value is None and item.problem is None for item in items):
            reasons[name] = f"the new items have nothing in the columns {', '.join(columns)}"
            continue
        try:
            arrays, problems = _encoded(folder, name, items, device)
        except LirdrecError as error:
            reasons[name] = str(error)
            continue
        _check_problems(name, problems, table, entry["origin"]["kind"])
        rows = zip(arrays["vectors"], arrays["present"], strict=True)
        made[name] = [row if present else None for row, present in rows]
    return EncodedItems(made, reasons)


def _encoded(folder: str | Path, name: str, items: list[Item], device: str) -> tuple[dict[str, np.ndarray], list[Any]]:
    """Encode items with the recorded encoder of a matrix; returns the arrays and the problems of `encode_shard`."""
    encoder = load_encoder(folder, name, device=device)
    arrays, facts = encode_shard(encoder, items, encoder.batch_size)
    encoder.release()
    return arrays, facts["problems"]


def _check_problems(name: str, problems: list[Any], table: pl.DataFrame, kind: str) -> None:
    if problems:
        index, source, problem = problems[0]
        item = repr(table[ITEM][index]) if ITEM in table.columns else f"{index + 1}"
        hint = "" if kind == "text" else f"; {option_name('images')} is the folder of the files"
        raise DataError(f"new item {item}: its '{name}' features cannot be made: {source}: {problem}{hint}")


def _inputs(entry: Mapping[str, Any], table: pl.DataFrame, images: Path) -> tuple[list[Item], list[str]]:
    """Return the inputs of new items for a matrix, and the names of the columns that have these inputs.

    `entry` is the matrix's entry of `info["encoders"]`.
    """
    kind, source = entry["origin"]["kind"], entry.get("source", {})
    if kind == "text":
        return _texts(source, table)
    if kind != "joint":
        return _files(FILE_SOURCES[kind], source.get("column"), table, images)
    (texts, columns), (files, more) = _texts(source, table), _files(ImageSource, source["image"], table, images)
    return list(map(joint_item, texts, files)), [*columns, *more]


def _texts(source: Mapping[str, Any], table: pl.DataFrame) -> tuple[list[Item], list[str]]:
    template = recorded_template(source)
    missing = [pl.lit(None, pl.String).alias(column) for column in template.columns if column not in table.columns]
    return list(map(text_item, template.render(table.with_columns(missing)))), template.columns


def _files(
    source: type[FileSource], column: str | None, table: pl.DataFrame, root: Path
) -> tuple[list[Item], list[str]]:
    column = column or source.media.column
    if column not in table.columns:
        return [Item()] * table.height, [column]
    paths = table[column].cast(pl.String).to_list()
    return [file_item(root, path, source.media, source.max_bytes) for path in paths], [column]


def encode_texts(folder: str | Path, table: pl.DataFrame) -> dict[str, np.ndarray]:
    """Return the features of new items that are made from their texts, for `Recommender.add_items`.

    Args:
        folder: the prepared dataset, whose manifest records the encoders.
        table: a row per new item, with the columns of the dataset's item table that the texts are made of.

    Returns:
        Name → `(n, d)` float32 for each matrix that an encoder made from texts; empty if there is no such matrix. The
        row of an item without a text is zero.

    Raises:
        ConfigError: the table lacks a column, or an encoder cannot be loaded.
        DataError: a text cannot be encoded, or the fitted state of an encoder is missing.
    """
    found = {}
    for name, entry in read_manifest(Path(folder))["info"].get("encoders", {}).items():
        if (entry.get("origin") or {}).get("kind") != "text":
            continue
        template = recorded_template(entry.get("source", {}))
        template.check(table.columns)
        arrays, problems = _encoded(folder, name, list(map(text_item, template.render(table))), "cpu")
        _check_problems(name, problems, table, "text")
        found[name] = arrays["vectors"]
    return found
