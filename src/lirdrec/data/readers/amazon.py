"""Amazon's reviews of 2014, 2018 and 2023, with metadata and image features, as they are published."""

from __future__ import annotations

import dataclasses
import logging
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from lirdrec.data.alignment import align
from lirdrec.data.dataset import Dataset
from lirdrec.data.ids import count
from lirdrec.data.json_lines import BadLines, Policy
from lirdrec.data.preprocessing_config import PreprocessingConfig, make_preprocessing_config
from lirdrec.data.readers.amazon_images import read_image_features
from lirdrec.data.readers.amazon_metadata import read_metadata
from lirdrec.data.readers.amazon_reviews import first_lines, read_reviews, recognise_reviews
from lirdrec.data.schema import ITEM, RATING, SPLITS, TIMESTAMP, USER
from lirdrec.data.splits import METHODS
from lirdrec.data.tables import Table
from lirdrec.errors import ConfigError, DataError

logger = logging.getLogger(__name__)

IMAGE = "image"  # the modality that the published image features become
JSON_NAME = re.compile(r"\.jsonl?(\.gz)?$")
CSV_NAME = re.compile(r"\.csv(\.gz)?$")
FEATURES_NAME = re.compile(r"^image_features.*\.b(\.gz)?$")
KNOWN = (USER, ITEM, RATING, "only")  # what the format decides


def read_amazon(
    reviews: str | Path,
    metadata: str | Path | None = None,
    *,
    image_features: str | Path | None = None,
    name: str | None = None,
    info: Mapping[str, Any] | None = None,
    bad_lines: Policy = "raise",
    **options: Any,
) -> Dataset:
    """Read Amazon's reviews and prepare them.

    The reviews stream: what is held of each is its user, its item and, where needed, rating and time.

    Args:
        reviews: JSON lines of 2014, 2018 or 2023 (there the item is `parent_asin`), or the table of ratings (CSV),
            plain or gzipped; or a folder that `find_amazon` understands.
        metadata: JSON lines, or the Python literals of 2014, plain or gzipped; gives the item table its columns
            title, brand, category, description, price and image_url. Only items that are left after filtering are
            read.
        image_features: the published file of 4,096 numbers per item; becomes the modality "image".
        name: of the dataset; by default from the file's name.
        info: what else to record (source, licence …).
        bad_lines: what to do with lines that are no record or lack a value: "raise", or "skip" (logged and counted).
        options: fields of `PreprocessingConfig` but user, item and rating, which the format decides. Times are
            read unless `timestamp=None`, in the unit of the file (2014 and 2018 seconds, 2023 milliseconds). Items
            without a review left are dropped unless `keep_all_items=True`, which keeps all that the reviews name.

    Raises:
        DataError: a file or its content is wrong; says what, where and what to do.
        ConfigError: an unknown option, or one out of range.
    """
    for option in KNOWN:
        if option in options:
            raise ConfigError(f"Amazon reviews: the format decides what '{option}' is; leave the option out")
    if options.get(TIMESTAMP, TIMESTAMP) not in (TIMESTAMP, None):
        raise ConfigError("Amazon reviews: the format decides what the time is; leave the option 'timestamp' out")
    options = {TIMESTAMP: TIMESTAMP, "keep_all_items": False, **options, RATING: RATING}
    recipe = make_preprocessing_config(options, "Amazon reviews")
    if recipe.split not in (None, *METHODS):
        raise ConfigError(f"Amazon reviews: there is no split '{recipe.split}'; choose one of {', '.join(METHODS)}")
    reviews = Path(reviews)
    if reviews.is_dir():
        reviews, beside, pictures = find_amazon(reviews)
        metadata, image_features = metadata or beside, image_features or pictures
    if recipe.min_rating is None:
        recipe = dataclasses.replace(recipe, rating=None)
    columns = [column for column in (recipe.user, recipe.item, recipe.rating, recipe.timestamp) if column is not None]
    form = recognise_reviews(reviews)
    bad_lines = "skip" if recipe.bad_rows == "skip" else bad_lines
    bad = BadLines(reviews, bad_lines)
    frame = read_reviews(reviews, form, columns, bad)
    bad.report()
    files = [Path(file).name for file in (reviews, metadata, image_features) if file is not None]
    source: dict[str, Any] = {"format": "amazon", "year": form.year, "files": files, "bad_lines": bad.count}
    name = name or _category(reviews)
    table = Table(frame, str(reviews), skipped=bad.count)
    dataset = Dataset.from_tables(table, None, {}, recipe, name, {"source": source, **(info or {})})
    del table
    del frame
    if metadata is not None:
        dataset = _described(dataset, BadLines(Path(metadata), bad_lines))
    return dataset if image_features is None else _pictured(dataset, Path(image_features), recipe)


def find_amazon(folder: str | Path) -> tuple[Path, Path | None, Path | None]:
    """The files of a folder: reviews, metadata and image features.

    Reviews are the `.json`, `.jsonl` or, where there is none, `.csv` file (perhaps with `.gz`) whose content says so;
    metadata is `meta_*`, the one of the reviews' category where there are several; image features are
    `image_features*.b`.

    Raises:
        DataError: there are no reviews, or several files that could be meant.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder")
    files = sorted(path for path in folder.iterdir() if path.is_file())
    lines = [path for path in files if JSON_NAME.search(path.name)]
    described = [path for path in lines if path.name.startswith("meta")]
    reviewed = [path for path in lines if path not in described and _are_reviews(path)]
    reviewed = reviewed or [path for path in files if CSV_NAME.search(path.name) and _are_reviews(path)]
    reviews = _the_one(folder, reviewed, "reviews")
    if reviews is None:
        check_packed(folder)
        raise DataError(f"{folder}: no file of Amazon reviews (reviews_*.json.gz, *_5.json.gz, *.jsonl.gz, *.csv)")
    same = [path for path in described if _category(path) == _category(reviews)]
    pictures = [path for path in files if FEATURES_NAME.search(path.name)]
    return (
        reviews,
        _the_one(folder, same or described, "metadata"),
        _the_one(folder, [path for path in pictures if _category(path) == _category(reviews)] or pictures, "features"),
    )


def check_packed(folder: Path) -> None:
    """Raise a DataError if a gzipped file of a folder, by its name one of reviews, is cut short or damaged."""
    for path in sorted(folder.iterdir()):
        if path.is_file() and path.suffix == ".gz" and (JSON_NAME.search(path.name) or CSV_NAME.search(path.name)):
            first_lines(path)


def looks_like_amazon(path: str | Path) -> bool:
    """Whether a file holds Amazon reviews, or a folder has a file that does; reads a megabyte of a file at most."""
    path = Path(path)
    if path.is_dir():
        files = [one for one in sorted(path.iterdir()) if one.is_file() and not one.name.startswith("meta")]
        return any(looks_like_amazon(one) for one in files)
    return bool(JSON_NAME.search(path.name) or CSV_NAME.search(path.name)) and _are_reviews(path)


def _are_reviews(path: Path) -> bool:
    try:
        recognise_reviews(path)
    except DataError:
        return False
    return True


def _the_one(folder: Path, paths: list[Path], what: str) -> Path | None:
    if len(paths) > 1:
        listed = ", ".join(path.name for path in paths)
        raise DataError(f"{folder}: several files could be the {what}: {listed}; name the files instead of the folder")
    return paths[0] if paths else None


def _category(path: Path) -> str:
    """`reviews_Baby_5.json.gz`, `meta_Baby.json.gz`, `ratings_Baby.csv` → `Baby`."""
    stem = path.name.partition(".")[0]
    return re.sub(r"^(reviews|ratings|meta|image_features)_|_(5|10)$", "", stem) or stem


def _described(dataset: Dataset, bad: BadLines) -> Dataset:
    """The dataset with the columns of the metadata in its item table."""
    table = read_metadata(bad.path, dataset.items.series, bad)
    bad.report()
    known = table.select(pl.any_horizontal(pl.exclude(ITEM).is_not_null())).to_series()
    lacking = int((~known).sum())
    if lacking:
        logger.warning("%s: nothing about %s of %d", bad.path, count(lacking, "item"), dataset.n_items)
    source = {**dataset.info["source"], "bad_metadata_lines": bad.count, "items_without_metadata": lacking}
    return dataclasses.replace(dataset, item_table=table, info={**dataset.info, "source": source})


def _pictured(dataset: Dataset, path: Path, recipe: PreprocessingConfig) -> Dataset:
    """The dataset with the modality "image"; items without it are dropped where the recipe says so.

    Dropping comes before the k-core, which thus is looked for again, in what the first one left: a k-core of fewer
    pairs lies within that of all pairs.
    """
    file = read_image_features(path, dataset.items.series)
    aligned = align(file, dataset.items, f"features '{IMAGE}'")
    if recipe.without_features == "raise" or aligned.present.all():
        everything = np.ones(dataset.n_items, dtype=bool)
        return dataclasses.replace(dataset, features={IMAGE: aligned.take(everything)})
    before = dict(dataset.info["preparation"])
    pairs = pl.concat([dataset.frame(split) for split in SPLITS])
    again = Dataset.from_tables(
        Table(pairs, str(path)),
        Table(dataset.item_table, str(path)),
        {IMAGE: file},
        dataclasses.replace(recipe, rating=None, min_rating=None),
        dataset.name,
        {},
    )
    after = again.info["preparation"]
    if "removed_by_k_core" in before:
        before["removed_by_k_core"] += after["removed_by_k_core"]
    counts = {**before, "items_without_features_dropped": after["items_without_features_dropped"]}
    return dataclasses.replace(again, info={**dataset.info, **again.info, "preparation": counts})
