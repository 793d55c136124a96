"""Read Amazon's reviews of 2014, 2018 and 2023, with metadata and image features, as published."""

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
from lirdrec.data.column_names import ITEM, RATING, TIMESTAMP, USER, WEIGHT
from lirdrec.data.compression import exists, is_compressed, open_bytes
from lirdrec.data.dataset import Dataset, Interactions
from lirdrec.data.feature_files import FeatureFile
from lirdrec.data.json_lines import BadLines, Policy
from lirdrec.data.preprocessing_config import PreprocessingConfig, make_preprocessing_config
from lirdrec.data.readers.amazon_metadata import read_metadata
from lirdrec.data.readers.amazon_reviews import detect_review_format, first_lines, read_reviews
from lirdrec.data.readers.shared import existing_folder, first_or_none
from lirdrec.data.splits import METHODS
from lirdrec.data.table_with_source import Table
from lirdrec.errors import ConfigError, DataError
from lirdrec.wording import pluralize

logger = logging.getLogger(__name__)

IMAGE = "image"  # modality of the published image features
JSON_NAME = re.compile(r"\.jsonl?(\.gz)?$")
CSV_NAME = re.compile(r"\.csv(\.gz)?$")
FEATURES_NAME = re.compile(r"^image_features.*\.b(\.gz)?$")
FIXED_OPTIONS = (USER, ITEM, RATING, "only")  # decided by the format
ASIN_BYTES = 10
DIMS = 4096
BLOCK_RECORDS = 2048  # 32 MB
NO_ASIN = re.compile(rb"[^0-9A-Za-z]")


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

    The reviews are streamed; only user, item and, where needed, rating and time are kept in memory.

    Args:
        reviews: JSON lines of 2014, 2018 or 2023 (there the item is `parent_asin`), or the table of ratings (CSV),
            plain or gzipped; or a folder, in which `find_amazon` finds the files.
        metadata: the items as JSON lines, or as the Python literals of 2014, plain or gzipped; `read_metadata` says
            which columns they give. Only items left after filtering are read.
        image_features: the published file of 4,096 numbers per item; becomes the modality "image". Items that are not
            in the file raise a DataError unless `without_features="drop"`.
        name, info: as for `read_interactions`; the default name is the category in the file's name.
        bad_lines: "raise" at a line that is not a record or lacks a value, or "skip" such lines (logged and counted).
        options: fields of `PreprocessingConfig` except user, item, rating and only, which the format defines. Times are
            read unless `timestamp=None`, in the unit of the file (2014 and 2018 seconds, 2023 milliseconds). Items
            without a review left are dropped unless `keep_all_items=True`, which keeps all items in the reviews.

    Raises:
        DataError: a file or its content is wrong; the message says what is wrong, where, and what to do.
        ConfigError: an unknown option, or one out of range.
    """
    config = _make_config(options)
    reviews = Path(reviews)
    if reviews.is_dir():
        reviews, metadata_file, features_file = find_amazon(reviews)
        metadata, image_features = metadata or metadata_file, image_features or features_file
    review_format = detect_review_format(reviews)
    bad_lines = "skip" if config.bad_rows == "skip" else bad_lines
    bad = BadLines(reviews, bad_lines)
    columns = [column for column in (config.user, config.item, config.rating, config.timestamp) if column is not None]
    frame = read_reviews(reviews, review_format, columns, bad)
    bad.report()
    files = [Path(file).name for file in (reviews, metadata, image_features) if file is not None]
    source = {"format": "amazon", "year": review_format.year, "files": files, "bad_lines": bad.count}
    table = Table(frame, str(reviews), skipped=bad.count)
    del frame  # to free its memory
    info = {"source": source, **(info or {})}
    dataset = Dataset.from_tables(table, None, {}, config, name or _category(reviews), info)
    del table
    if metadata is not None:
        dataset = _with_metadata(dataset, BadLines(Path(metadata), bad_lines))
    return dataset if image_features is None else _with_image_features(dataset, Path(image_features), config)


def _make_config(options: Mapping[str, Any]) -> PreprocessingConfig:
    """Make the options of preprocessing for Amazon's reviews; ratings are read only for `min_rating`."""
    for option in FIXED_OPTIONS:
        if option in options:
            raise ConfigError(f"Amazon reviews: the format defines '{option}'; leave the option out")
    if options.get(TIMESTAMP, TIMESTAMP) not in (TIMESTAMP, None):
        raise ConfigError(
            "Amazon reviews: the format defines the column of times; leave the option 'timestamp' out, or"
            " give None to read no times"
        )
    options = {TIMESTAMP: TIMESTAMP, "keep_all_items": False, **options, RATING: RATING}
    config = make_preprocessing_config(options, "Amazon reviews")
    if config.split not in (None, *METHODS):
        raise ConfigError(f"Amazon reviews: there is no split '{config.split}'; choose one of {', '.join(METHODS)}")
    return dataclasses.replace(config, rating=None) if config.min_rating is None else config


def find_amazon(folder: str | Path) -> tuple[Path, Path | None, Path | None]:
    """Find the files of Amazon in a folder; returns the reviews, the metadata or None, and the image features or None.

    The reviews are a `.json` or `.jsonl` file or, if there is none, a `.csv` file that contains reviews (also with
    `.gz`). The metadata are `meta_*`, and the image features `image_features*.b`; if there are several, the file of the
    same category as the reviews. Raises a DataError if there are no reviews, or the choice is ambiguous.
    """
    folder = existing_folder(folder)
    files = sorted(path for path in folder.iterdir() if path.is_file())
    lines = [path for path in files if JSON_NAME.search(path.name)]
    metadata = [path for path in lines if path.name.startswith("meta")]
    candidates = [path for path in lines if path not in metadata and _are_reviews(path)]
    candidates = candidates or [path for path in files if CSV_NAME.search(path.name) and _are_reviews(path)]
    remedy = "give the files instead of the folder"
    reviews = first_or_none(folder, candidates, "files could be the reviews", remedy)
    if reviews is None:
        check_gzip_files(folder)
        raise DataError(f"{folder}: no file of Amazon reviews (reviews_*.json.gz, *_5.json.gz, *.jsonl.gz, *.csv)")
    others = {"metadata": metadata, "features": [path for path in files if FEATURES_NAME.search(path.name)]}
    for role, paths in others.items():
        others[role] = [path for path in paths if _category(path) == _category(reviews)] or paths
    metadata_file, features_file = (
        first_or_none(folder, paths, f"files could be the {role}", remedy) for role, paths in others.items()
    )
    return reviews, metadata_file, features_file


def check_gzip_files(folder: Path) -> None:
    """Raise a DataError if the beginning of a gzipped .json, .jsonl or .csv file in the folder cannot be read."""
    for path in sorted(folder.iterdir()):
        if path.is_file() and path.suffix == ".gz" and (JSON_NAME.search(path.name) or CSV_NAME.search(path.name)):
            first_lines(path)


def is_amazon(path: str | Path) -> bool:
    """Return whether a file, or a file in a folder, contains Amazon reviews; reads a megabyte of a file at most."""
    path = Path(path)
    if path.is_dir():
        files = [file for file in sorted(path.iterdir()) if file.is_file() and not file.name.startswith("meta")]
        return any(is_amazon(file) for file in files)
    return bool(JSON_NAME.search(path.name) or CSV_NAME.search(path.name)) and _are_reviews(path)


def _are_reviews(path: Path) -> bool:
    try:
        detect_review_format(path)
    except DataError:
        return False
    return True


def _category(path: Path) -> str:
    """Return the category in a file name: `Baby` for `reviews_Baby_5.json.gz`, `meta_Baby.json.gz` and the like."""
    stem = path.name.partition(".")[0]
    return re.sub(r"^(reviews|ratings|meta|image_features)_|_(5|10)$", "", stem) or stem


def _with_metadata(dataset: Dataset, bad: BadLines) -> Dataset:
    """Return the dataset with the columns of the metadata in the item table."""
    table = read_metadata(bad.path, dataset.items.series, bad)
    bad.report()
    has_metadata = table.select(pl.any_horizontal(pl.exclude(ITEM).is_not_null())).to_series()
    missing = int((~has_metadata).sum())
    if missing:
        logger.warning("%s: there are no metadata for %s of %d", bad.path, pluralize(missing, "item"), dataset.n_items)
    source = {**dataset.info["source"], "bad_metadata_lines": bad.count, "items_without_metadata": missing}
    return dataclasses.replace(dataset, item_table=table, info={**dataset.info, "source": source})


def _with_image_features(dataset: Dataset, path: Path, config: PreprocessingConfig) -> Dataset:
    """Return the dataset with the modality "image"; items without it are dropped if `without_features` is "drop".

    Items must be dropped before the k-core filter. So the dataset is built again from the interactions that are left,
    with their times and weights. The result is exact, since the k-core of fewer interactions is a subset of the k-core
    of all interactions.
    """
    file = read_image_features(path, dataset.items.series)
    aligned = align(file, dataset.items, f"features '{IMAGE}'")
    if config.without_features == "raise" or aligned.present.all():
        all_items = np.ones(dataset.n_items, dtype=bool)
        return dataclasses.replace(dataset, features={IMAGE: aligned.take(all_items)})
    before = dict(dataset.info["preparation"])
    pairs = dataset.all_interactions()
    if dataset.dislikes is not None:
        pairs = Interactions.concatenate([pairs, dataset.dislikes])
    ids = {USER: dataset.users.series.gather(pairs.users), ITEM: dataset.items.series.gather(pairs.items)}
    known = {TIMESTAMP: pairs.timestamps, WEIGHT: pairs.weights}
    known = {name: values for name, values in known.items() if values is not None}
    # ratings, events, ages and the order of the file have become times and weights
    used: dict[str, Any] = dict.fromkeys(("rating", "min_rating", "event", "event_weights", "half_life", "order"))
    used |= {name: name if name in known else None for name in (TIMESTAMP, WEIGHT)}
    rebuilt = Dataset.from_tables(
        Table(pl.DataFrame(ids | known), str(path)),
        Table(dataset.item_table, str(path)),
        {IMAGE: file},
        dataclasses.replace(config, **used),
        dataset.name,
        dataset.info,
    )
    after = rebuilt.info["preparation"]
    for count in ("removed_by_k_core", "users_removed_by_k_core"):
        if count in before:
            before[count] += after[count]
    counts = {**before, "items_without_features_dropped": after["items_without_features_dropped"]}
    return dataclasses.replace(rebuilt, info={**rebuilt.info, "preparation": counts})


def read_image_features(path: str | Path, items: pl.Series, dims: int = DIMS) -> FeatureFile:
    """Read Amazon's image features of some items; the file is read in blocks and never kept in memory.

    If an ASIN is repeated, its first record is used; the number of repetitions is logged.

    Args:
        path: the file, plain or gzipped.
        items: `(n,)` distinct string ids to look for.
        dims: numbers in a record.

    Returns:
        `values` `(n, dims)` float32 with a row per item of `items`, in their order, all zero for items missing in
        the file (which thus count as items without an image); `ids` is `items`.

    Raises:
        DataError: the file is missing, cut short, damaged, not of this format, or names none of the items.
    """
    path = Path(path)
    record = np.dtype([("asin", f"S{ASIN_BYTES}"), ("values", "<f4", (dims,))])
    exists(path)
    if not is_compressed(path):
        _check_size(path, path.stat().st_size, record.itemsize)
    rows = {asin.encode(): row for row, asin in enumerate(items.to_list())}
    values = np.zeros((len(items), dims), dtype=np.float32)
    present = np.zeros(len(items), dtype=bool)
    position = n_repeated = 0
    with open_bytes(path) as file:
        while block := file.read(BLOCK_RECORDS * record.itemsize):
            records = np.frombuffer(block[: len(block) - len(block) % record.itemsize], dtype=record)
            asins = records["asin"].tolist()
            _check_asins(path, asins, position, record.itemsize)
            position += len(block)
            if len(block) % record.itemsize:
                _check_size(path, position, record.itemsize)
            for source, row in enumerate(map(rows.get, asins)):
                if row is not None and not present[row]:
                    values[row] = records["values"][source]
                    present[row] = True
                elif row is not None:
                    n_repeated += 1
    if n_repeated:
        logger.warning("%s: %s of repeated items; the first of each is used", path, pluralize(n_repeated, "record"))
    if len(items) and not present.any():
        raise DataError(
            f"{path} holds none of the {pluralize(len(items), 'item')}; is it the file of another category?"
        )
    logger.info("%s: features of %d of %d items", path, present.sum(), len(items))
    return FeatureFile(values, items, str(path))


def _check_size(path: Path, size: int, record: int) -> None:
    if over := size % record:
        raise DataError(
            f"{path}: {size:,} bytes are not a multiple of a record of {record:,} bytes ({ASIN_BYTES} of ASIN, then"
            f" {(record - ASIN_BYTES) // 4:,} float32): the record at byte {size - over:,} is cut short; copy it again"
        )


def _check_asins(path: Path, asins: list[bytes], position: int, record: int) -> None:
    for index, asin in enumerate(asins):
        if len(asin) != ASIN_BYTES or NO_ASIN.search(asin):
            raise DataError(
                f"{path}: no ASIN at byte {position + index * record:,} ({asin!r}): damaged, or not a file of image"
                f" features ({ASIN_BYTES} bytes of ASIN, then {(record - ASIN_BYTES) // 4:,} float32, repeated)"
            )
