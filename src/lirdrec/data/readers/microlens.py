"""Read MicroLens as published: views of short videos with times, and a title and a cover image per video."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import polars as pl

from lirdrec.data.dataset import Dataset
from lirdrec.data.feature_files import read_features
from lirdrec.data.images import with_images
from lirdrec.data.json_lines import BadLines
from lirdrec.data.preprocessing_config import PreprocessingConfig, make_preprocessing_config
from lirdrec.data.raw_ids import read_ids, whole_texts
from lirdrec.data.readers.raw_text import check_id_columns, read_lines, read_numbers, strip_quotes
from lirdrec.data.schema import ITEM, TIMESTAMP, USER
from lirdrec.data.tables import Table
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
    """Whether a folder contains a file `…_pairs.csv`."""
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
        images: the folder of covers, if it is elsewhere.
        titles: the file of titles, if it is elsewhere or one of several.
        features: name → feature file, as for `read_interactions`.
        name: of the dataset; by default the name of the pairs file without its suffix.
        info: further metadata.
        options: fields of `PreprocessingConfig`.

    Raises:
        DataError: a file is missing or damaged; the message says what is wrong, where, and what to do.
        ConfigError: an unknown option, or one out of range.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder")
    found = sorted(folder.glob(PAIRS))
    if len(found) != 1:
        listed = ", ".join(path.name for path in found) or "none"
        raise DataError(f"{folder}: a MicroLens folder has one file {PAIRS}; found {listed}")
    ids = [*NAMES[USER], *NAMES[ITEM], *(options[what] for what in (USER, ITEM) if what in options)]
    pairs = read_numbers(found[0], ids, bad_rows=make_preprocessing_config(options, "read_microlens").bad_rows)
    known = {ours: name for ours, names in NAMES.items() for name in names if name in pairs.frame.columns}
    config = make_preprocessing_config(known | options, "read_microlens")
    pairs = check_id_columns(pairs, config, config.user, config.item)
    texts = {
        "title": _find(folder, TITLES) if titles is None else Path(titles),
        "category": _find(folder, (CATEGORIES,)),
    }
    files = {column: path for column, path in texts.items() if path is not None}
    dataset = Dataset.from_tables(
        pairs,
        _items(pairs, config, files),
        {key: read_features(path, item_column=config.item) for key, path in (features or {}).items()},
        config,
        name or found[0].name.removesuffix(PAIRS[1:]),
        {
            "source": {"format": "microlens", "files": [found[0].name, *(path.name for path in files.values())]},
            **(info or {}),
        },
    )
    covers = _find(folder, COVERS) if images is None else Path(images)
    return dataset if covers is None else with_images(dataset, covers)


def _items(pairs: Table, config: PreprocessingConfig, files: Mapping[str, Path]) -> Table:
    """All videos of all files, sorted by id, with one column per file."""
    bad = [BadLines(path, "skip" if config.bad_rows == "skip" else "raise", "bad_rows") for path in files.values()]
    frames = {
        column: _texts(path, column, bad_lines) for (column, path), bad_lines in zip(files.items(), bad, strict=True)
    }
    for bad_lines in bad:
        bad_lines.report()
    where = f"{pairs.where}, column '{config.item}'"
    watched = read_ids(
        pairs.frame[config.item], where, ITEM, pairs.place, text=True, string_ids=config.string_ids
    ).rename(ITEM)
    named = pl.concat([watched.cast(pl.String), *(frame[ITEM] for frame in frames.values())]).unique()
    whole = whole_texts(named)
    table = pl.DataFrame({ITEM: named.sort() if whole is None else named.gather(whole.arg_sort())})
    for frame in frames.values():
        table = table.join(frame, on=ITEM, how="left", maintain_order="left")
    where = f"the videos of {', '.join([pairs.where, *map(str, files.values())])}"
    skipped = sum(bad_lines.count for bad_lines in bad)
    return Table(table.rename({ITEM: config.items_column}), where, text=True, skipped=skipped, ordered=False)


def _texts(path: Path, column: str, bad: BadLines) -> pl.DataFrame:
    """`item` and a text from lines `ITEM,TEXT`; a text may hold commas, and, in quotes, line ends."""
    found: dict[str, str] = {}
    item = ""
    for number, line in enumerate(read_lines(path), 1):
        if cut := LINE.fullmatch(line):
            item = cut[1]
            if item in found:
                raise DataError(f"{path}: item {item} in line {number} is repeated; keep one line per item")
            found[item] = cut[2]
        elif found and found[item].startswith('"') and found[item].count('"') % 2:  # a line end within quotes
            found[item] += f" {line}"
        elif number > 1 or "," not in line:  # the first line may hold the names of columns
            bad.add(number, f"not ITEM,{column.upper()}: {line[:60]!r}")
    texts = [strip_quotes(text) or None for text in found.values()]
    return pl.DataFrame({ITEM: list(found), column: texts}, schema={ITEM: pl.String, column: pl.String})


def _find(folder: Path, patterns: Sequence[str]) -> Path | None:
    """The file or folder that matches the first pattern with a match."""
    for pattern in patterns:
        found = sorted(folder.glob(pattern))
        if len(found) > 1:
            raise DataError(f"{folder}: several of {pattern}: {', '.join(path.name for path in found)}; keep one")
        if found:
            return found[0]
    return None
