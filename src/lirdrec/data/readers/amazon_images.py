"""Read the image features of Amazon's reviews: records of a 10-byte ASIN and 4,096 little-endian float32."""

from __future__ import annotations

import logging
import re
from pathlib import Path

import numpy as np
import polars as pl

from lirdrec.data.compression import exists, is_compressed, open_bytes
from lirdrec.data.feature_files import FeatureFile
from lirdrec.data.ids import pluralize
from lirdrec.errors import DataError

logger = logging.getLogger(__name__)

ASIN_BYTES = 10
DIMS = 4096
BLOCK_RECORDS = 2048  # 32 MB
NO_ASIN = re.compile(rb"[^0-9A-Za-z]")


def read_image_features(path: str | Path, items: pl.Series, dims: int = DIMS) -> FeatureFile:
    """Read the features of some items; the file is read in blocks and never kept in memory.

    Of a repeated ASIN the first record is used; the number of repetitions is logged.

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
        logger.warning("%s: %s of repeated items; the first is used", path, pluralize(n_repeated, "record"))
    if len(items) and not present.any():
        raise DataError(
            f"{path}: holds none of the {pluralize(len(items), 'item')}; is it the file of another category?"
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
    for at, asin in enumerate(asins):
        if len(asin) != ASIN_BYTES or NO_ASIN.search(asin):
            raise DataError(
                f"{path}: no ASIN at byte {position + at * record:,} ({asin!r}): damaged, or not a file of image"
                f" features ({ASIN_BYTES} bytes of ASIN, then {(record - ASIN_BYTES) // 4:,} float32, repeated)"
            )
