"""Item images for the UI: thumbnails of dataset files and uploads, placeholders, and checks of uploads."""

from __future__ import annotations

import hashlib
import logging
import threading
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from lirdrec.data.images import IMAGE, IMAGES, image_column
from lirdrec.data.storage import read_manifest
from lirdrec.errors import DataError, LirdrecError
from lirdrec.features.images import PictureError, open_picture, thumbnail
from lirdrec.recommender.recommender import Recommender
from lirdrec.server.cache import ByteCache
from lirdrec.server.catalog.placeholder import placeholder
from lirdrec.server.state import LiveState, Snapshot

log = logging.getLogger(__name__)

SIDE = 480  # pixels of the longer side: twice that of a card, for sharp displays
STORED_SIDE = 1024  # pixels of the longer side of a stored upload
CACHE_BYTES = 16 * 2**20  # of thumbnails, about 30 kB each
_SIGNATURES = (b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n")


@dataclass(frozen=True)
class ItemImage:
    """An image as it is sent to a browser.

    Attributes:
        content: of a JPEG, or of an SVG placeholder.
        media_type: of the content.
        tag: hash of the content.
    """

    content: bytes
    media_type: str
    tag: str

    @classmethod
    def from_content(cls, content: bytes, media_type: str) -> ItemImage:
        """An image with its tag."""
        return cls(content, media_type, hashlib.blake2b(content, digest_size=12).hexdigest())


@dataclass(frozen=True, eq=False)
class _ImageFiles:
    """Image files of a run's items."""

    owner: object  # users of the run: the same object in all its snapshots
    folder: Path | None = None
    column: pl.Series | None = None


class ItemImages:
    """The images of the served items.

    Args:
        live: the catalog; images of added items are in its store.
        folder: of the image files; None for that of the run's dataset.
    """

    def __init__(self, live: LiveState, folder: str | Path | None = None):
        self.live, self.folder = live, folder
        self._lock = threading.Lock()
        self._files = _ImageFiles(None)
        self._thumbnails: ByteCache[tuple[str, float, int], ItemImage] = ByteCache(CACHE_BYTES)

    def get(self, snapshot: Snapshot, row: int) -> ItemImage:
        """The image of an item row; a placeholder if it has none."""
        item = snapshot.recommender.items.series[row]
        path = self.path(snapshot, row)
        image = None if path is None else self._from_file(path)
        if image is None:
            content = self.live.store.image(item)
            image = None if content is None else _thumbnail(content)
        return image or ItemImage.from_content(placeholder(item, snapshot.recommender.title(row)), "image/svg+xml")

    def path(self, snapshot: Snapshot, row: int) -> Path | None:
        """The image file of a trained item, never outside of the folder; None if there is none."""
        files = self._files_of(snapshot.recommender)
        if files.column is None or files.folder is None or row >= len(files.column) or files.column[row] is None:
            return None
        path = (files.folder / files.column[row]).resolve()
        return path if path.is_relative_to(files.folder) else None  # a link may lead out

    def _files_of(self, recommender: Recommender) -> _ImageFiles:
        with self._lock:
            if self._files.owner is not recommender.users:
                self._files = _find_files(recommender, self.folder)
            return self._files

    def _from_file(self, path: Path) -> ItemImage | None:
        try:
            status = path.stat()
        except OSError:
            return None
        key = (str(path), status.st_mtime, status.st_size)
        image = self._thumbnails.get(key)
        if image is None and (image := _thumbnail(path)) is not None:
            self._thumbnails.put(key, image, len(image.content) + len(key[0]))
        return image


def _thumbnail(source: Path | bytes) -> ItemImage | None:
    try:
        return ItemImage.from_content(thumbnail(source, SIDE), "image/jpeg")
    except PictureError as error:
        log.info("a placeholder replaces an image that cannot be shown: %s", error)
        return None


def _find_files(recommender: Recommender, folder: str | Path | None) -> _ImageFiles:
    """Find the image files; log a missing folder once, then all items get placeholders."""
    owner = recommender.users
    try:
        if folder is None:
            folder = _dataset_folder(recommender)
        if folder is None:
            return _ImageFiles(owner)
        root = Path(folder).resolve()
        ids = recommender.items.series[: recommender.n_trained_items]
        table = recommender.item_table
        paths = table[IMAGE][: recommender.n_trained_items] if IMAGE in table.columns else None
        if paths is not None and (paths.dtype != pl.String or paths.null_count() == len(paths)):
            paths = None
        return _ImageFiles(owner, root, image_column(ids, root, paths))
    except LirdrecError as error:
        log.warning("all items are shown with placeholder images: %s", error)
        return _ImageFiles(owner)


def _dataset_folder(recommender: Recommender) -> str | None:
    """The image folder in the manifest of the run's dataset."""
    if recommender.features is None or recommender.features.folder is None:
        return None
    folder = read_manifest(recommender.features.folder)["info"].get(IMAGES)
    return folder if isinstance(folder, str) else None


def sanitized_image(content: bytes, max_pixels: int) -> bytes:
    """An uploaded image as a small JPEG without metadata (location, camera).

    Raises:
        DataError: it is not a JPEG, PNG or WebP, is damaged, or has more than `max_pixels` pixels.
    """
    is_webp = content[:4] == b"RIFF" and content[8:12] == b"WEBP"
    if not content.startswith(_SIGNATURES) and not is_webp:
        raise DataError("the picture must be a JPEG, PNG or WebP; its content is something else")
    open_picture(content, max_pixels=max_pixels, enough=STORED_SIDE)
    return thumbnail(content, STORED_SIDE)
