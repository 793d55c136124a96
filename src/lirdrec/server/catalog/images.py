"""The picture of an item, small enough for a card: what came with it, a file of the dataset, or a drawn one.

Pictures from strangers: told by their content, bounded, and kept only as a JPEG of our own.
"""

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
from lirdrec.features.images import open_picture, thumbnail
from lirdrec.recommender.recommender import Recommender
from lirdrec.server.cache import ByteCache
from lirdrec.server.catalog.placeholder import placeholder
from lirdrec.server.state import LiveState, Snapshot

log = logging.getLogger(__name__)

SIDE = 480  # pixels, of the longer side: sharp on a card of half as many
KEPT_BYTES = 16 * 2**20  # of thumbnails in memory, about 30 kB each


@dataclass(frozen=True)
class Picture:
    """What a browser gets.

    Attributes:
        content: of a JPEG, or of a drawn SVG.
        media_type: of the content.
        tag: changes when the content does.
        is_drawn: whether the item has no picture of its own.
    """

    content: bytes
    media_type: str
    tag: str
    is_drawn: bool = False


@dataclass(frozen=True, eq=False)
class _Paths:
    """Where the pictures of a run's items lie."""

    owner: object  # users of the run: the same object in all its snapshots
    folder: Path | None
    column: pl.Series | None


class Pictures:
    """Pictures of the items that are served.

    Args:
        live: the catalogue; pictures of items that were added lie in its store.
        folder: of the pictures; None for the one that the run's dataset notes.
    """

    def __init__(self, live: LiveState, folder: str | Path | None = None):
        self.live, self.folder = live, folder
        self._lock = threading.Lock()
        self._paths = _Paths(None, None, None)
        self._kept: ByteCache[tuple[str, float, int], Picture] = ByteCache(KEPT_BYTES)

    def of(self, snapshot: Snapshot, row: int) -> Picture:
        """The picture of the item of a row."""
        item = snapshot.recommender.items.series[row]
        path = self.path(snapshot, row)
        found = None if path is None else self._file(path)
        if found is None:
            content = self.live.store.picture(item)
            found = None if content is None else self._thumbnail(content)
        return found or _drawn(item, snapshot.recommender.title(row))

    def path(self, snapshot: Snapshot, row: int) -> Path | None:
        """The file of a trained item's picture, never outside of the folder; None where there is none."""
        paths = self._found(snapshot.recommender)
        if paths.column is None or paths.folder is None or row >= len(paths.column) or paths.column[row] is None:
            return None
        path = (paths.folder / paths.column[row]).resolve()
        return path if path.is_relative_to(paths.folder) else None  # a link may lead out

    def _found(self, recommender: Recommender) -> _Paths:
        with self._lock:
            if self._paths.owner is not recommender.users:
                self._paths = _look(recommender, self.folder)
            return self._paths

    def _file(self, path: Path) -> Picture | None:
        try:
            state = path.stat()
        except OSError:
            return None
        key = (str(path), state.st_mtime, state.st_size)
        kept = self._kept.get(key)
        if kept is not None:
            return kept
        made = self._thumbnail(path)
        if made is not None:
            self._kept.put(key, made, len(made.content) + len(key[0]))
        return made

    def _thumbnail(self, source: Path | bytes) -> Picture | None:
        from lirdrec.features.images import PictureError, thumbnail

        try:
            content = thumbnail(source, SIDE)
        except PictureError as error:
            log.info("a drawn picture stands for one that cannot be shown: %s", error)
            return None
        return Picture(content, "image/jpeg", _tag(content))


def _look(recommender: Recommender, folder: str | Path | None) -> _Paths:
    """Find the pictures; a folder that is gone is told of once, and the page draws all of them."""
    owner = recommender.users
    try:
        if folder is None:
            folder = _noted(recommender)
        if folder is None:
            return _Paths(owner, None, None)
        root = Path(folder).resolve()
        ids = recommender.items.series[: recommender.n_trained_items]
        table = recommender.item_table
        named = table[IMAGE][: recommender.n_trained_items] if IMAGE in table.columns else None
        if named is not None and (named.dtype != pl.String or named.null_count() == len(named)):
            named = None
        return _Paths(owner, root, image_column(ids, root, named))
    except LirdrecError as error:
        log.warning("the page draws the pictures itself: %s", error)
        return _Paths(owner, None, None)


def _noted(recommender: Recommender) -> str | None:
    """The folder of pictures that the run's dataset notes."""
    if recommender.features is None or recommender.features.folder is None:
        return None
    noted = read_manifest(recommender.features.folder)["info"].get(IMAGES)
    return noted if isinstance(noted, str) else None


def _drawn(item: int | str, title: str | None) -> Picture:
    content = placeholder(item, title)
    return Picture(content, "image/svg+xml", _tag(content), is_drawn=True)


def _tag(content: bytes) -> str:
    return hashlib.blake2b(content, digest_size=12).hexdigest()


KEPT_SIDE = 1024
_SIGNATURES = (b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n")


def checked_picture(content: bytes, max_pixels: int) -> bytes:
    """A small JPEG of an uploaded picture, without whatever else the file carried (place, camera, other formats).

    Raises:
        DataError: it is no JPEG, PNG or WebP, is damaged, or has more than `max_pixels` pixels.
    """
    is_webp = content[:4] == b"RIFF" and content[8:12] == b"WEBP"
    if not content.startswith(_SIGNATURES) and not is_webp:
        raise DataError("the picture must be a JPEG, PNG or WebP; its content is something else")
    open_picture(content, max_pixels=max_pixels, enough=KEPT_SIDE)
    return thumbnail(content, KEPT_SIDE)
