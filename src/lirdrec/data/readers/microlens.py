"""Read MicroLens as published: views of short videos with times, and a title and a cover image per video."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import polars as pl

from lirdrec.data.column_names import ITEM, TIMESTAMP, USER
from lirdrec.data.dataset import Dataset
from lirdrec.data.images import with_images
from lirdrec.data.json_lines import BadLines
from lirdrec.data.preprocessing_config import PreprocessingConfig, make_preprocessing_config
from lirdrec.data.raw_ids import whole_texts
from lirdrec.data.readers.shared import (
    build_dataset,
    check_id_columns,
    existing_folder,
    find_single_file,
    first_or_none,
    read_lines,
    read_numbers,
    strip_quotes,
)
from lirdrec.data.table_with_source import Table
from lirdrec.data.value_parsing import parse_ids
from lirdrec.errors import DataError

PAIRS = "*_pairs.csv"
TITLES = ("*_title_en.csv", "*_titles_en.csv", "*_titles.csv", "*_title.csv")  # English is preferred
COVERS = ("*_covers", "covers")
CATEGORIES = "tags_to_summary.csv"
NAMES = {  # names of columns in the releases
    USER: ("user", "userID", "user_id"),
    ITEM: ("item", "videoID", "video_id", "itemID", "item_id"),
    TIMESTAMP: ("timestamp", "time"),
}
LINE = re.compile(r"([0-9]+),(.*)")


def is_microlens(folder: str | Path) -> bool:
    """Return whether a folder contains a file `…_pairs.csv`."""
    return any(Path(folder).glob(PAIRS))


def read_microlens(
    folder: str | Path,
    *,
    images: str | Path | None = None,
    titles: str | Path | None = None,
    features: Mapping[str, str | Path] | None = None,
    name: str | None = None,
    info: Mapping[str, Any] | None = None,
    **options: Any,
) -> Dataset:
    """Read a MicroLens folder and prepare it.

    The items are the videos in the titles and in the pairs, sorted by id, with the columns `title`, `category` (if
    there is `tags_to_summary.csv`) and `image` (if there is a folder of covers). Likes, views and comments are not
    read: they include the interactions of the test set.

    Args:
        folder: contains `…_pairs.csv` (user, item, timestamp in milliseconds), optionally `…_titles.csv` or
            `…_title_en.csv` (item, title; with or without a header) and a folder `…_covers` of ITEM.jpg.
        images: the folder of covers, if it is elsewhere or there are several.
        titles: the file of titles, if it is elsewhere or there are several.
        features, name, info: as for `read_interactions`; the default name is the name of the pairs file.
        options: fields of `PreprocessingConfig`; the columns of the pairs are detected by their names.

    Raises:
        DataError, ConfigError: as for `read_interactions`.
    """
    folder = existing_folder(folder)
    path = find_single_file(folder, PAIRS, f"a MicroLens folder has one file {PAIRS}")
    ids = [*NAMES[USER], *NAMES[ITEM], *(options[entity] for entity in (USER, ITEM) if entity in options)]
    pairs = read_numbers(path, ids, bad_rows=make_preprocessing_config(options, "read_microlens").bad_rows)
    columns = {ours: name for ours, names in NAMES.items() for name in names if name in pairs.frame.columns}
    config = make_preprocessing_config(columns | options, "read_microlens")
    pairs = check_id_columns(pairs, config, config.user, config.item)
    texts = {
        "title": _find(folder, TITLES) if titles is None else Path(titles),
        "category": _find(folder, (CATEGORIES,)),
    }
    files = {column: file for column, file in texts.items() if file is not None}
    source = {"format": "microlens", "files": [path.name, *(file.name for file in files.values())]}
    name = name or path.name.removesuffix(PAIRS[1:])
    dataset = build_dataset(pairs, _items(pairs, config, files), config, name, source, info, features)
    covers = _find(folder, COVERS) if images is None else Path(images)
    return dataset if covers is None else with_images(dataset, covers)


def _items(pairs: Table, config: PreprocessingConfig, files: Mapping[str, Path]) -> Table:
    """Return all videos of the pairs and the files, sorted by id, with one column per file (null: not in this file)."""
    bad = {column: BadLines(path, config.bad_rows, "bad_rows") for column, path in files.items()}
    frames = [_texts(path, column, bad[column]) for column, path in files.items()]
    for bad_lines in bad.values():
        bad_lines.report()
    watched = parse_ids(pairs, config.item, ITEM, config.string_ids).cast(pl.String).rename(ITEM)
    ids = pl.concat([watched, *(frame[ITEM] for frame in frames)]).unique()
    integers = whole_texts(ids)
    table = pl.DataFrame({ITEM: ids.sort() if integers is None else ids.gather(integers.arg_sort())})
    for frame in frames:
        table = table.join(frame, on=ITEM, how="left", maintain_order="left")
    source = f"the videos of {', '.join([pairs.source, *map(str, files.values())])}"
    skipped = sum(bad_lines.count for bad_lines in bad.values())
    return Table(table.rename({ITEM: config.items_column}), source, text=True, skipped=skipped, ordered=False)


def _texts(path: Path, column: str, bad: BadLines) -> pl.DataFrame:
    """Read lines `ITEM,TEXT` to the columns `item` and `column`; a text may hold commas and, in quotes, line ends."""
    texts: dict[str, str] = {}
    item = ""
    for number, line in enumerate(read_lines(path), 1):
        if cut := LINE.fullmatch(line):
            item = cut[1]
            if item in texts:
                raise DataError(f"{path}: item {item} in line {number} is repeated; keep one line per item")
            texts[item] = cut[2]
        elif texts and texts[item].startswith('"') and texts[item].count('"') % 2:  # a line end within quotes
            texts[item] += f" {line}"
        elif number > 1 or "," not in line:  # the first line may hold the names of columns
            bad.add(number, f"not ITEM,{column.upper()}: {line[:60]!r}")
    columns = {ITEM: list(texts), column: [strip_quotes(text) or None for text in texts.values()]}
    return pl.DataFrame(columns, schema={ITEM: pl.String, column: pl.String})


def _find(folder: Path, patterns: Sequence[str]) -> Path | None:
    """Find the file or folder of the first pattern with a match, or None; raises a DataError for several matches."""
    for pattern in patterns:
        if path := first_or_none(folder, sorted(folder.glob(pattern)), f"matches of {pattern}", "keep one"):
            return path
    return None
