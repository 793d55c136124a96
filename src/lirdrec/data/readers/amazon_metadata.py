"""Read Amazon's item metadata of 2014, 2018 and 2023 into the same columns."""

from __future__ import annotations

import html
import logging
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import polars as pl

from lirdrec.data.column_names import ITEM
from lirdrec.data.json_lines import BadLines, finite_float, parse_lines, parse_record, read_blocks
from lirdrec.errors import DataError
from lirdrec.wording import pluralize

logger = logging.getLogger(__name__)

COLUMNS = {
    ITEM: pl.String,
    "title": pl.String,
    "brand": pl.String,
    "category": pl.String,
    "description": pl.String,
    "price": pl.Float64,
    "image_url": pl.String,
}
LEVELS, PATHS = " > ", " | "  # Baby > Car Seats | Baby > Travel
ASIN_OF_LINE = re.compile(rb"asin['\"]\s*:\s*['\"]([^'\"]*)")
TAG = re.compile(r"</?[a-zA-Z][a-zA-Z0-9]*(?:\s+[^\s<>=]+\s*=[^<>]*|\s*/?)>")
SPACE = re.compile(r"\s+")
PRICE = re.compile(r"(?:from\s*)?\$?\s*([0-9][0-9,]{0,15}(?:\.[0-9]+)?)(?:\s*-\s*\$?\s*[0-9][0-9,]*(?:\.[0-9]+)?)?")


def read_metadata(path: Path, items: pl.Series, bad: BadLines) -> pl.DataFrame:
    """Read Amazon's metadata of some items as an item table.

    Lines of other items are not parsed. HTML is removed from texts. If an item is repeated, its first line is used, and
    the number of repetitions is logged.

    Args:
        path: JSON lines or Python literals, plain or gzipped.
        items: `(n,)` distinct string ids.
        bad: handles unusable lines.

    Returns:
        one row per item of `items`, in their order, with the columns item, title, brand, category (levels of a path
        joined by " > ", paths by " | "), description (and the listed features), price and image_url; null for
        missing values.

    Raises:
        DataError: the file is damaged, holds no metadata or none of the items; or a line is unusable, and
            `bad` does not skip it.
    """
    wanted = set(items.to_list())
    wanted_bytes = {item.encode() for item in wanted}
    seen: set[str] = set()
    repeated = 0

    def parse(line: bytes) -> tuple[Any, ...] | None:
        nonlocal repeated
        asins = ASIN_OF_LINE.findall(line)
        if asins and wanted_bytes.isdisjoint(asins):
            return None
        record = parse_record(line)
        if "reviewerID" in record or "user_id" in record:
            raise DataError(f"{path} holds reviews, not metadata of items; exchange the two files")
        row = metadata_row(record)
        if row[0] not in wanted:
            return None
        repeated += row[0] in seen
        if row[0] in seen:
            return None
        seen.add(row[0])
        return row

    frames = [pl.DataFrame(schema=COLUMNS)]
    for number, block in read_blocks(path):
        frames.append(pl.DataFrame(list(parse_lines(number, block, bad, parse)), schema=COLUMNS, orient="row"))
    if repeated:
        logger.warning("%s: %s of repeated items; the first of each is used", path, pluralize(repeated, "line"))
    if len(items) and not seen:
        raise DataError(
            f"{path} holds none of the {pluralize(len(items), 'item')} of the reviews; is it the metadata of another"
            " category or another year?"
        )
    return pl.DataFrame({ITEM: items}).join(pl.concat(frames), on=ITEM, how="left", maintain_order="left")


def metadata_row(record: Mapping[str, Any]) -> tuple[Any, ...]:
    """Convert a record of any year to a row of `COLUMNS`; raises a ValueError without an ASIN or for a wrong type."""
    item = record.get("parent_asin") or record.get("asin")
    if not isinstance(item, str):
        raise ValueError("there is no asin" if item is None else f"asin is {item!r:.60}, not a text")
    return (
        item,
        _joined(record, " ", "title"),
        _joined(record, " ", "brand") or _joined(record, " ", "store"),
        _category(record),
        _joined(record, " ", "description", "feature", "features"),
        _price(record.get("price")),
        _image(record),
    )


def strip_html(text: str) -> str:
    """Replace HTML entities by their characters, remove tags and halves of characters, and collapse white space."""
    if "&" in text:
        text = html.unescape(text)
    if "<" in text:
        text = TAG.sub(" ", text)
    if not text.isascii():
        text = text.encode("utf-8", "ignore").decode("utf-8")
    return SPACE.sub(" ", text).strip()


def _joined(record: Mapping[str, Any], separator: str, *keys: str) -> str | None:
    parts = [strip_html(text) for key in keys for text in _texts(record.get(key), key)]
    return separator.join(part for part in parts if part) or None


def _texts(value: Any, key: str) -> list[str]:
    """Convert a text, a number or a list of them to a list of texts; raises a ValueError for other values."""
    values = list(value) if isinstance(value, (list, tuple)) else [] if value is None else [value]
    if all(isinstance(element, (str, int, float)) for element in values):
        return [str(element) for element in values]
    raise ValueError(f"{key} is {value!r:.60}, not a text or a list of texts")


def _category(record: Mapping[str, Any]) -> str | None:
    """Return the category paths as one text: "Baby > Car Seats | Baby > Travel"; else the main category; or None.

    There are several paths in `categories` in 2014, one in `category` in 2018, and one in `categories` in 2023.
    """
    key = "categories" if record.get("categories") else "category"
    value = record.get(key)
    is_nested = isinstance(value, (list, tuple)) and all(isinstance(element, (list, tuple)) for element in value)
    paths = list(value) if is_nested and value else [value]
    joined = dict.fromkeys(filter(None, (_joined({key: path}, LEVELS, key) for path in paths)))
    return PATHS.join(joined) or _joined(record, " ", "main_cat") or _joined(record, " ", "main_category")


def _price(value: Any) -> float | None:
    """Return the price in dollars (of a range the lower end); None without a price (some are parts of web pages)."""
    if isinstance(value, str):
        found = PRICE.fullmatch(value.strip())
        return None if found is None else float(found[1].replace(",", ""))
    number = finite_float(value)
    return number if number is not None and number >= 0 else None


def _image(record: Mapping[str, Any]) -> str | None:
    """Return the URL of the main image in its largest size, or None."""
    for key in ("imUrl", "imageURLHighRes", "imageURL", "images"):
        value = record.get(key)
        images = [value] if isinstance(value, str) else value if isinstance(value, (list, tuple)) else []
        images = sorted(images, key=lambda image: not (isinstance(image, dict) and image.get("variant") == "MAIN"))
        for image in images:
            sizes = [image.get(size) for size in ("hi_res", "large", "thumb")] if isinstance(image, dict) else [image]
            for address in sizes:
                if isinstance(address, str) and strip_html(address):
                    return strip_html(address)
    return None
