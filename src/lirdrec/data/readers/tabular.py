"""Interactions from tables of any kind, with an item table and feature files beside them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lirdrec.data.dataset import Dataset
from lirdrec.data.feature_files import read_features
from lirdrec.data.file_parts import PACKED_ENDINGS
from lirdrec.data.preprocessing_config import PreprocessingConfig, make_preprocessing_config
from lirdrec.data.splits import METHODS
from lirdrec.data.tables import read_table


def read_interactions(
    path: str | Path | Sequence[str | Path],
    *,
    items: str | Path | Sequence[str | Path] | None = None,
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
    """Read a table of interactions and prepare it.

    Ids of text files are integers if every id of the column is written as one, else strings. In tab-separated files
    quotes mean nothing; in comma-separated files they enclose a value.

    Args:
        path: a table with the columns named in `options`: separated text (CSV, TSV …), JSON, Parquet, Arrow, ORC,
            compressed or not; or several files, a folder of parts, or a pattern such as "log-*.csv". In JSON `a.b`
            names the key `b` of a nested record, or of each record of a nested list, which then gives as many rows.
        items: a table of the same kinds with a row per item.
        features: name → .npy (rows in the order of `items`), or .npz, .safetensors, .parquet or .csv with ids.
        separator: between the values of a text file, such as ";" or "tab"; found in its first lines by default. That of
            `items` is always found so.
        encoding: of text files, such as "cp1252"; by default UTF-8, or UTF-16 where the file begins with its mark.
        header: whether the first line of text files names the columns; without it give `columns`.
        columns: the names of the columns of files without a header, in order.
        items_columns: the same of `items`, if they have no header.
        name: of the dataset; by default the file's name.
        info: what else to record (source, licence …).
        options: fields of `PreprocessingConfig` (user, item, rating, min_rating, timestamp, split, seed …).

    Raises:
        DataError: a file or its content is wrong; says what, where and what to do.
        ConfigError: an unknown option, or one out of range.
    """
    recipe = make_preprocessing_config(options, "read_interactions")
    both = {"encoding": encoding, "bad_rows": recipe.bad_rows}
    table = read_table(path, keys=needed_columns(recipe), separator=separator, header=header, columns=columns, **both)
    item_table = None
    if items is not None:
        item_table = read_table(items, recipe.items_column, header=items_columns is None, columns=items_columns, **both)
    files = {key: read_features(file, item_column=recipe.item) for key, file in (features or {}).items()}
    sources = [*_several(path), *(() if items is None else _several(items)), *(features or {}).values()]
    names = [Path(file).name for file in sources]
    return Dataset.from_tables(
        table,
        item_table,
        files,
        recipe,
        name or _stem(Path(_several(path)[0])),
        {"source": {"format": "tables", "files": names}, **(info or {})},
    )


def needed_columns(recipe: PreprocessingConfig) -> list[str]:
    """The columns of a table of interactions that a recipe reads."""
    label = recipe.split if recipe.split not in METHODS else None
    named = (recipe.user, recipe.item, recipe.rating, recipe.timestamp, label, *(recipe.only or {}))
    return list(dict.fromkeys(column for column in named if column is not None))


def _several(path: str | Path | Sequence[str | Path]) -> Sequence[str | Path]:
    return [path] if isinstance(path, (str, Path)) else path


def _stem(path: Path) -> str:
    """The name of a file without its ending and that of a compression."""
    return Path(path.stem).stem if path.suffix.lower() in PACKED_ENDINGS else path.stem
