"""Interactions from any CSV, TSV or Parquet file, with an item table and feature files beside it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lirdrec.configuration import make
from lirdrec.data.building import build
from lirdrec.data.dataset import Dataset
from lirdrec.data.readers.feature_files import read_features
from lirdrec.data.recipe import Recipe
from lirdrec.data.tables import read_table


def read_interactions(
    path: str | Path,
    *,
    items: str | Path | None = None,
    features: Mapping[str, str | Path] | None = None,
    name: str | None = None,
    info: Mapping[str, Any] | None = None,
    **options: Any,
) -> Dataset:
    """Read a table of interactions and prepare it.

    Ids of text files are integers if every id of the column is written as one, else strings. In tab-separated files
    quotes mean nothing; in comma-separated files they enclose a value.

    Args:
        path: .csv, .tsv or .parquet with the columns named in `options`.
        items: a table of the same kinds with a row per item.
        features: name → .npy (rows in the order of `items`), .npz, .safetensors or .parquet with ids.
        name: of the dataset; by default the file's name.
        info: what else to record (source, licence …).
        options: fields of `lirdrec.data.recipe.Recipe` (user, item, rating, min_rating, timestamp, split, seed …).

    Raises:
        DataError: a file or its content is wrong; says what, where and what to do.
        ConfigError: an unknown option, or one out of range.
    """
    recipe = make(Recipe, options, "read_interactions")
    table = read_table(path)
    item_table = None if items is None else read_table(items, text=recipe.item)
    files = {key: read_features(file) for key, file in (features or {}).items()}
    names = [Path(path).name] + [Path(file).name for file in (items, *(features or {}).values()) if file is not None]
    return build(
        table,
        item_table,
        files,
        recipe,
        name or Path(path).stem,
        {"source": {"format": "tables", "files": names}, **(info or {})},
    )
