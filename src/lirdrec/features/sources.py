"""Read the inputs of encoders for a range of items: texts from columns of the item table, media from files."""

from __future__ import annotations

import hashlib
import io
from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import polars as pl

from lirdrec.data.column_names import ITEM
from lirdrec.data.images import AUDIO_FILES, IMAGE, IMAGE_FILES, VIDEO_FILES, Media, has_paths
from lirdrec.data.storage import ITEMS, read_manifest, resolve_path
from lirdrec.errors import ConfigError, DataError
from lirdrec.features.audio_video_decoding import MAX_MEDIA_BYTES
from lirdrec.features.encoder import Input, Kind, TextAndImage
from lirdrec.features.images import MAX_BYTES, ImageError, open_file
from lirdrec.features.template import Template, default_template

if TYPE_CHECKING:
    import pyarrow as pa

KEY_BYTES = 16


@dataclass(frozen=True)
class Item:
    """The input of one item for an encoder: a value, or a problem if it cannot be used, or neither if it is missing.

    Attributes:
        value: the text, the path of the file, or both (`TextAndImage`); None if there is a problem or no input.
        key: 16 bytes, the hash of the text in UTF-8 or of the content of the file; None without a value.
        problem: one sentence that says why the input cannot be used.
        source: the path as the item table has it; empty for a text.
    """

    value: Input | None = None
    key: bytes | None = None
    problem: str | None = None
    source: str = ""


class ItemRows:
    """Reads ranges of rows of a prepared dataset's item table; one Parquet row group at a time is in memory."""

    def __init__(self, folder: str | Path):
        import pyarrow.parquet

        self.folder = Path(folder)
        self.manifest = read_manifest(self.folder)
        path = resolve_path(self.folder, self.manifest, ITEMS)
        try:
            self._file = pyarrow.parquet.ParquetFile(path)
        except (pyarrow.ArrowException, OSError) as error:
            raise DataError(f"{path} cannot be read ({error}); prepare the dataset again") from None
        sizes = [self._file.metadata.row_group(index).num_rows for index in range(self._file.metadata.num_row_groups)]
        self._starts = [sum(sizes[:index]) for index in range(len(sizes) + 1)]
        self._held: tuple[int, tuple[str, ...], pl.DataFrame] | None = None

    def __len__(self) -> int:
        return self._starts[-1]

    @cached_property
    def schema(self) -> dict[str, pl.DataType]:
        """The name of each column → its type."""
        return dict(_frame(self._file.schema_arrow.empty_table()).schema)

    def need(self, column: str, hint: str = "") -> None:
        """Raise a DataError if the table has no such column; `hint` is the end of its message."""
        if column not in self.schema:
            raise DataError(
                f"{self.folder}: the item table has no column '{column}'; it has {', '.join(self.schema)}{hint}"
            )

    def read(self, start: int, stop: int, columns: tuple[str, ...] = (ITEM,)) -> pl.DataFrame:
        """Return the rows `start` to `stop` (not included) of some columns."""
        frames = []
        for group, (first, last) in enumerate(pairwise(self._starts)):
            if first < stop and start < last:
                rows = self._group(group, columns)
                frames.append(rows.slice(max(start - first, 0), min(stop, last) - max(start, first)))
        return pl.concat(frames) if frames else pl.DataFrame(schema={name: self.schema[name] for name in columns})

    def digest(self, columns: tuple[str, ...]) -> str:
        """Return a hash of all values of some columns."""
        return digest(self._group(group, columns) for group in range(len(self._starts) - 1))

    def _group(self, group: int, columns: tuple[str, ...]) -> pl.DataFrame:
        if self._held is None or self._held[:2] != (group, columns):
            self._held = None  # never two in memory
            table = self._file.read_row_group(group, list(columns), use_threads=False)
            self._held = (group, columns, _frame(table))
        return self._held[2]


def _frame(table: pa.Table) -> pl.DataFrame:
    frame = pl.from_arrow(table)
    assert isinstance(frame, pl.DataFrame)
    return frame


def names_images(rows: ItemRows, column: str = IMAGE) -> bool:
    """Return whether the item table has the column `column`, and it contains paths of files (not URLs)."""
    return column in rows.schema and has_paths(rows.read(0, len(rows), (column,))[column])


def default_texts(rows: ItemRows) -> Template | None:
    """Return the default template for the text of an item; None if no column has the name of a text, such as title."""
    try:
        return default_template(rows.schema)
    except ConfigError:
        return None


class Source(ABC):
    """Base class of input sources: `read(start, stop)` gives the inputs of a range of item rows."""

    kind: ClassVar[Kind]
    rows: ItemRows
    description: dict[str, Any]  # JSON-able: the column or the template; stored in `info["encoders"]`
    columns: tuple[str, ...]  # columns of the item table that are read
    location: str | None = None  # folder of the input files; None if all inputs are in the table itself
    files: tuple[FileSource, ...] = ()  # parts of this source that read files: their folders and columns are recorded

    def __len__(self) -> int:
        return len(self.rows)

    @abstractmethod
    def read(self, start: int, stop: int) -> list[Item]:
        """Return one `Item` for each of the rows `start` to `stop` (not included)."""

    def digest(self) -> str:
        """Return a hash of what the item table has of all inputs; for files this is their paths, not their content."""
        return self.rows.digest(self.columns)


class TextSource(Source):
    """Source of the text of each item: a template filled from columns of the item table, or one unchanged column.

    A template is a text such as "{title}. {brand}"; for the default see `default_template`.

    Raises:
        DataError: the column is missing.
        ConfigError: the template is invalid or names a column that is missing, or no column has the name of a text.
    """

    kind = "text"

    def __init__(self, folder: str | Path, template: str | None = None, column: str | None = None):
        self.rows = ItemRows(folder)
        self._template: Template | None = None
        if column is not None:
            self.rows.need(column, "; lirdrec caption makes it from images" if column == "caption" else "")
            self.columns, self.description = (column,), {"column": column}
            return
        self._template = default_template(self.rows.schema) if template is None else Template(template)
        self._template.check(self.rows.schema)
        self.columns, self.description = tuple(self._template.columns), {"template": self._template.text}

    def read(self, start: int, stop: int) -> list[Item]:
        frame = self.rows.read(start, stop, self.columns)
        if self._template is not None:
            return [text_item(text) for text in self._template.render(frame)]
        return [text_item(text) for text in frame[self.columns[0]].cast(pl.String).to_list()]


class FileSource(Source):
    """Base class of sources of files whose paths are in a column of the item table; an item without a file has null.

    Args:
        folder: the prepared dataset.
        column: the column of paths; by default the usual column of this kind of file, such as `image`.
        root: base folder of the paths; by default the folder that `lirdrec prepare` recorded.
        found: `(I,)` paths to use instead of the column; they are stored in the column when the matrix is added.

    Raises:
        DataError: there is no such column or folder.
    """

    media: ClassVar[Media]
    max_bytes: ClassVar[int] = MAX_MEDIA_BYTES

    def __init__(
        self,
        folder: str | Path,
        column: str | None = None,
        root: str | Path | None = None,
        found: pl.Series | None = None,
    ):
        column, noun, option = column or self.media.column, self.media.noun, self.media.option
        self.rows = ItemRows(folder)
        self.column, self.found = column, None if found is None else found.alias(column)
        if found is None:
            self.rows.need(column, f"; give the folder of files named after items ({option} FOLDER)")
        self.columns, self.description = (column,), {"column": column}
        recorded = self.rows.manifest["info"].get(self.media.folder)
        default = self.rows.folder / (recorded if isinstance(recorded, str) else "")
        self.root = default if root is None else Path(root)
        if not self.root.is_dir():
            raise DataError(f"{self.root}: the folder of {noun}s is missing; give its path with {option}")
        self.location = str(self.root.resolve())
        self.files = (self,)

    def read(self, start: int, stop: int) -> list[Item]:
        paths = self.rows.read(start, stop, self.columns)[self.column] if self.found is None else self.found[start:stop]
        return [file_item(self.root, path, self.media, self.max_bytes) for path in paths.cast(pl.String).to_list()]

    def digest(self) -> str:
        return super().digest() if self.found is None else digest([self.found.to_frame()])


class ImageSource(FileSource):
    """Image files whose paths are in a column of the item table; see `FileSource`."""

    kind, media, max_bytes = "image", IMAGE_FILES, MAX_BYTES


class AudioSource(FileSource):
    """Sound files whose paths are in a column of the item table; see `FileSource`."""

    kind, media = "audio", AUDIO_FILES


class VideoSource(FileSource):
    """Video files whose paths are in a column of the item table; see `FileSource`."""

    kind, media = "video", VIDEO_FILES


class JointSource(Source):
    """Source of the text and the image of each item as one input.

    The text or the image may be missing, but an image that cannot be read makes the whole input unusable. The key of
    the input is the hash of the text's key and the image's key; if one is missing, its key counts as zeros.
    """

    kind = "joint"

    def __init__(self, texts: TextSource, images: ImageSource):
        self.texts, self.images, self.rows = texts, images, texts.rows
        self.columns = (*texts.columns, *images.columns)
        self.description = {**texts.description, "image": images.column}
        self.location, self.files = images.location, (images,)

    def read(self, start: int, stop: int) -> list[Item]:
        return [
            joint_item(text, image)
            for text, image in zip(self.texts.read(start, stop), self.images.read(start, stop), strict=True)
        ]

    def digest(self) -> str:
        return f"{self.texts.digest()}{self.images.digest()}"


def joint_item(text: Item, image: Item) -> Item:
    """Combine a text and an image into one `Item`; if the image has a problem, this is the problem of the result."""
    if image.problem is not None or (text.value is None and image.value is None):
        return image
    nothing = bytes(KEY_BYTES)
    key = hashlib.blake2b((text.key or nothing) + (image.key or nothing), digest_size=KEY_BYTES).digest()
    assert text.value is None or isinstance(text.value, str)
    assert image.value is None or isinstance(image.value, Path | bytes)
    return Item(TextAndImage(text.value, image.value), key, source=image.source or str(text.value))


def digest(frames: Iterable[pl.DataFrame]) -> str:
    """Return a hash of all values of some data frames."""
    hashed = hashlib.blake2b(digest_size=KEY_BYTES)
    for frame in frames:
        buffer = io.BytesIO()
        frame.write_ipc(buffer)
        hashed.update(buffer.getbuffer())
    return hashed.hexdigest()


def file_item(root: Path, name: str | None, media: Media, max_bytes: int) -> Item:
    """Return the `Item` of a media file; its `problem` says why the file cannot be read.

    Args:
        root: the folder that paths start from.
        name: the path of the file below `root`; None or blank if the item has no file.
        media: the kind of file, for messages.
        max_bytes: a larger file is a problem.
    """
    if name is None or not name.strip():
        return Item()
    if name.startswith(("http://", "https://")):
        return Item(problem=f"this is a web address, not a file; download the {media.noun} first", source=name)
    path = root / name
    try:
        with open_file(path, media.noun, max_bytes) as file:
            key = hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=KEY_BYTES)).digest()
    except ImageError as error:
        return Item(problem=str(error), source=name)
    except OSError as error:
        return Item(problem=f"cannot be read ({error.strerror or error})", source=name)
    return Item(path, key, source=name)


def text_item(text: str | None) -> Item:
    """Return the `Item` of a text; a blank text counts as missing."""
    if text is None or not text.strip():
        return Item()
    return Item(text, hashlib.blake2b(text.encode(), digest_size=KEY_BYTES).digest())
