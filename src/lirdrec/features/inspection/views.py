"""Titles, texts and thumbnails of items for an inspection report."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lirdrec.data.dataset import Dataset
from lirdrec.data.schema import ITEM
from lirdrec.data.titles import titles
from lirdrec.errors import ConfigError, DataError
from lirdrec.features.images import ImageError, thumbnail
from lirdrec.features.sources import IMAGE, ImageSource, TextSource

MAX_TEXT = 160  # characters of a text


class Titles:
    """Ids and titles of items by row."""

    def __init__(self, data: Dataset):
        self._ids = data.item_table[ITEM]
        self._titles = titles(data.item_table)

    def of(self, row: int) -> dict[str, Any]:
        """`item` and `title`; the title of an untitled item is its id."""
        item = self._ids[row]
        title = None if self._titles is None else " ".join((self._titles[row] or "").split())
        return {"item": item, "title": title or str(item)}


class InspectionViews:
    """Texts (as the encoder read them) and thumbnails of items by row."""

    def __init__(self, folder: Path, data: Dataset, encoder: Mapping[str, Any] | None):
        self.titles = Titles(data)
        self._texts = _text_source(folder, encoder or {})
        try:
            self._images: ImageSource | None = ImageSource(folder)
        except DataError:  # no column of image paths, or the folder has moved
            self._images = None

    def text(self, row: int) -> str:
        """The beginning of the text, without the title."""
        if self._texts is None:
            return ""
        (item,) = self._texts.read(row, row + 1)
        text = "" if item.value is None else " ".join(str(item.value).split())
        text = text.removeprefix(self.titles.of(row)["title"]).lstrip(" .,;:|/-–")
        return text if len(text) <= MAX_TEXT else text[: MAX_TEXT - 1].rstrip() + "…"

    def image(self, row: int, size: int = 320) -> bytes | None:
        """A small JPEG; None if the item has no readable image."""
        if self._images is None:
            return None
        (item,) = self._images.read(row, row + 1)
        try:
            return thumbnail(item.value, size) if isinstance(item.value, Path) else None
        except ImageError:
            return None


def _text_source(folder: Path, encoder: Mapping[str, Any]) -> TextSource | None:
    source = encoder.get("source", {})
    column = None if source.get("column") == IMAGE else source.get("column")
    for template, name in ((source.get("template"), column), (None, None)):
        try:
            return TextSource(folder, template, name)
        except (ConfigError, DataError):  # the columns were removed, or none holds texts
            continue
    return None
