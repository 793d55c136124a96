"""Item images for the UI: thumbnails of dataset files and uploads, placeholders, and checks of uploads.

A placeholder is an SVG with shapes derived from the id of the item and the initials of its title.
"""

from __future__ import annotations

import hashlib
import logging
import math
import threading
from dataclasses import dataclass
from functools import cached_property
from html import escape
from pathlib import Path

import polars as pl

from lirdrec.data.images import IMAGE, IMAGES, image_column
from lirdrec.data.storage import read_manifest
from lirdrec.errors import DataError, LirdrecError
from lirdrec.features.images import ImageError, open_image, thumbnail
from lirdrec.recommender.recommender import Recommender
from lirdrec.reporting.figure import COLORS, RED
from lirdrec.server.lru_cache import ByteCache
from lirdrec.server.snapshot import Snapshot
from lirdrec.server.state import LiveState

WIDTH, HEIGHT = 320, 400
_HUES = (*COLORS[:4], COLORS[5], RED)
_SKIPPED = {"a", "an", "and", "by", "for", "in", "of", "on", "or", "the", "to", "with"}


def placeholder(item: int | str, title: str | None = None) -> bytes:
    """Return a placeholder for the image of an item: an SVG of 320 × 400, without scripts and style sheets.

    The same id and title always give the same SVG.
    """
    digits = hashlib.blake2b(f"{type(item).__name__}:{item}".encode("utf-8", "surrogatepass"), digest_size=16).digest()
    hue = _HUES[digits[0] % len(_HUES)]
    accent = _HUES[(digits[0] + 1 + digits[1] % (len(_HUES) - 1)) % len(_HUES)]
    letters = initials(title if title and title.strip() else str(item))
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" height="{HEIGHT}">'
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="{_mixed(hue, 0.86)}"/>'
        f"{_shapes(digits, hue, accent)}"
        f'<text x="24" y="{HEIGHT - 28}" font-family="system-ui, sans-serif" font-size="76" font-weight="700"'
        f' letter-spacing="-2" fill="#ffffff">{escape(letters)}</text></svg>'
    ).encode("utf-8", "replace")


def initials(title: str) -> str:
    """Return one or two initials of a title; "·" if there is no letter or digit.

    Articles, words such as "of" and words that start with a digit count only if there are no other words.
    """
    words = [word.strip("\"'([{.,:;!?-–…“”‘’") for word in title.split()]
    words = [word for word in words if word and word[0].isalnum()]
    significant = [word for word in words if word.lower() not in _SKIPPED and not word[0].isdigit()] or words
    return "".join(word[0] for word in significant[:2]).upper()[:2] or "·"


def _shapes(digits: bytes, hue: str, accent: str) -> str:
    """Return SVG elements of a sun behind two hills, with positions and slopes from `digits`, the hash of the id."""
    x, y, radius = 60 + digits[2] % 200, 90 + digits[3] % 80, 42 + digits[4] % 38
    shapes = [f'<circle cx="{x}" cy="{y}" r="{radius}" fill="{_mixed(accent, 0.45)}"/>']
    for height, swing, phase, white in (
        (215 + digits[5] % 40, 14 + digits[6] % 26, digits[7], 0.55),
        (275 + digits[8] % 30, 10 + digits[9] % 22, digits[10], 0.12),
    ):
        sine = [(x, math.sin(phase / 256 * math.tau + x / WIDTH * 5)) for x in range(0, WIDTH + 1, 20)]
        line = " ".join(f"L{x} {height + swing * value:.0f}" for x, value in sine)
        shapes.append(f'<path d="M0 {HEIGHT} {line} L{WIDTH} {HEIGHT}Z" fill="{_mixed(hue, white)}"/>')
    return "".join(shapes)


def _mixed(color: str, white: float) -> str:
    """Return a color, such as "#1f77b4", mixed with the share `white` (0 to 1) of white."""
    channels = (int(color[start : start + 2], 16) for start in (1, 3, 5))
    return "#" + "".join(f"{round(channel + (255 - channel) * white):02x}" for channel in channels)


log = logging.getLogger(__name__)

SIDE = 480  # pixels of the longer side: twice the side on the page, for displays with many pixels
STORED_SIDE = 1024  # pixels of the longer side of a stored upload
CACHE_BYTES = 16 * 2**20  # size of the cache of thumbnails, which have about 30 kB each
_SIGNATURES = (b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n")


@dataclass(frozen=True)
class ItemImage:
    """An image as it is sent to a browser: a JPEG, or an SVG placeholder."""

    content: bytes
    media_type: str

    @cached_property
    def tag(self) -> str:
        """A hash of the bytes of the image, for the header ETag."""
        return hashlib.blake2b(self.content, digest_size=12).hexdigest()


@dataclass(frozen=True, eq=False)
class _ImageFiles:
    """Where the image files of a run's trained items are; without `folder` there are none."""

    owner: object  # the users of the run: the same object in all snapshots of a run, so it identifies the run
    folder: Path | None = None
    column: pl.Series | None = None


class ItemImages:
    """The images of the served items: files of trained items in a folder, uploads of added items in the store.

    Args:
        live: the current snapshot and the store.
        folder: folder of the image files; None: the folder that the manifest of the run's dataset names.
    """

    def __init__(self, live: LiveState, folder: str | Path | None = None):
        self.live, self.folder = live, folder
        self._lock = threading.Lock()
        self._files = _ImageFiles(None)
        self._thumbnails: ByteCache[tuple[str, float, int], ItemImage] = ByteCache(CACHE_BYTES)

    def get(self, snapshot: Snapshot, row: int) -> ItemImage:
        """Return a small image of the item in this row; a placeholder if it has no image that can be shown."""
        item = snapshot.recommender.items.series[row]
        path = self.path(snapshot, row)
        image = None if path is None else self._from_file(path)
        if image is None and (content := self.live.store.image(item)) is not None:
            image = _thumbnail(content)
        return image or ItemImage(placeholder(item, snapshot.recommender.title(row)), "image/svg+xml")

    def path(self, snapshot: Snapshot, row: int) -> Path | None:
        """Return the path of the image file of the item in this row; None if it has none, or was added later.

        The path may not exist. A path outside of the image folder is never returned.
        """
        with self._lock:
            if self._files.owner is not snapshot.recommender.users:
                self._files = _find_files(snapshot.recommender, self.folder)
            files = self._files
        if files.column is None or files.folder is None or row >= len(files.column) or files.column[row] is None:
            return None
        path = (files.folder / files.column[row]).resolve()
        return path if path.is_relative_to(files.folder) else None  # a link may lead out of the folder

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
        return ItemImage(thumbnail(source, SIDE), "image/jpeg")
    except ImageError as error:
        log.info("a placeholder replaces an image that cannot be shown: %s", error)
        return None


def _find_files(recommender: Recommender, folder: str | Path | None) -> _ImageFiles:
    """Find the image files of a run's trained items; if that fails, log the reason, and return no files.

    There are no files either if no image folder is given and the dataset names none.
    """
    owner, features = recommender.users, recommender.features
    try:
        if folder is None and features is not None and features.folder is not None:
            folder = read_manifest(features.folder)["info"].get(IMAGES)
        if not isinstance(folder, (str, Path)):
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


def sanitized_image(content: bytes, max_pixels: int) -> bytes:
    """Convert an uploaded image to a JPEG of at most 1024 pixels per side, without metadata (location, camera).

    Raises:
        DataError: the image is not a JPEG, PNG or WebP, is damaged, or has more than `max_pixels` pixels.
    """
    is_webp = content[:4] == b"RIFF" and content[8:12] == b"WEBP"
    if not content.startswith(_SIGNATURES) and not is_webp:
        raise DataError("the image must be a JPEG, PNG or WebP; its content has another format")
    open_image(content, max_pixels=max_pixels, enough=STORED_SIDE)
    return thumbnail(content, STORED_SIDE)
