"""Read the inputs of items by row range: texts from a template or a column, images from paths."""

from __future__ import annotations

import hashlib
import io
from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import polars as pl

from lirdrec.data.images import IMAGE, IMAGES, has_paths
from lirdrec.data.schema import ITEM
from lirdrec.data.storage import ITEMS, read_manifest, resolve_path
from lirdrec.errors import ConfigError, DataError
from lirdrec.features.encoder import Input, Kind
from lirdrec.features.images import ImageError, open_file
from lirdrec.features.template import Template, default_template

KEY_BYTES = 16


@dataclass(frozen=True)
class Item:
    """The input of one item.

    Attributes:
        value: a text, or an image as a file or its content; None if the item has none, or it cannot be read.
        key: 16 bytes, the hash of the content (of the text in UTF-8, or of the file's bytes); None without a value.
        problem: why an input cannot be read, as one sentence.
        source: of `problem`: the path as in the item table.
    """

    value: Input | None = None
    key: bytes | None = None
    problem: str | None = None
    source: str = ""


class ItemRows:
    """Ranges of rows of a prepared dataset's item table; one row group at a time is in memory.

    Raises:
        RunFolderError: `folder` is not a prepared dataset.
    """

    def __init__(self, folder: str | Path):
        import pyarrow.parquet

        self.folder = Path(folder)
        self.manifest = read_manifest(self.folder)
        path = resolve_path(self.folder, self.manifest, ITEMS)
        try:
            self._file = pyarrow.parquet.ParquetFile(path)
        except (pyarrow.ArrowException, OSError) as error:
            raise DataError(f"{path}: cannot be read ({error}); prepare the dataset again") from None
        sizes = [self._file.metadata.row_group(at).num_rows for at in range(self._file.metadata.num_row_groups)]
        self._starts = [sum(sizes[:at]) for at in range(len(sizes) + 1)]
        self._held: tuple[int, tuple[str, ...], pl.DataFrame] | None = None

    def __len__(self) -> int:
        return self._starts[-1]

    @cached_property
    def schema(self) -> dict[str, pl.DataType]:
        """Column → type."""
        empty = pl.from_arrow(self._file.schema_arrow.empty_table())
        assert isinstance(empty, pl.DataFrame)
        return dict(empty.schema)

    def need(self, column: str, hint: str = "") -> None:
        """Raise a DataError if the table has no such column."""
        if column not in self.schema:
            has = ", ".join(self.schema)
            raise DataError(f"{self.folder}: the item table has no column '{column}'; it has {has}{hint}")

    def read(self, start: int, stop: int, columns: tuple[str, ...] = (ITEM,)) -> pl.DataFrame:
        """Rows `start` to `stop` (not included) of some columns."""
        frames = []
        for group, first in enumerate(self._starts[:-1]):
            last = self._starts[group + 1]
            if first < stop and start < last:
                rows = self._group(group, columns)
                frames.append(rows.slice(max(start - first, 0), min(stop, last) - max(start, first)))
        return pl.concat(frames) if frames else pl.DataFrame(schema={name: self.schema[name] for name in columns})

    def digest(self, columns: tuple[str, ...]) -> str:
        """A hash of all values of some columns."""
        return digest(self._group(group, columns) for group in range(len(self._starts) - 1))

    def _group(self, group: int, columns: tuple[str, ...]) -> pl.DataFrame:
        if self._held is None or self._held[:2] != (group, columns):
            self._held = None  # never two in memory
            frame = pl.from_arrow(self._file.read_row_group(group, list(columns), use_threads=False))
            assert isinstance(frame, pl.DataFrame)
            self._held = (group, columns, frame)
        return self._held[2]


def names_pictures(rows: ItemRows, column: str = IMAGE) -> bool:
    """Whether the item table has a column of image paths (not URLs)."""
    return column in rows.schema and has_paths(rows.read(0, len(rows), (column,))[column])


def default_texts(rows: ItemRows) -> Template | None:
    """The default template; None if no column has the name of a text."""
    try:
        return default_template(rows.schema)
    except ConfigError:
        return None


class Source(ABC):
    """Base class of input sources: `read(start, stop)` gives the inputs of a range of item rows."""

    kind: ClassVar[Kind]
    rows: ItemRows

    @property
    def place(self) -> str | None:
        """Location of inputs that the table only references; None if the table contains them."""
        return None

    def __len__(self) -> int:
        return len(self.rows)

    @property
    @abstractmethod
    def description(self) -> dict[str, Any]:
        """JSON-able: which columns, how; goes into `info["encoders"]`."""

    @property
    @abstractmethod
    def columns(self) -> tuple[str, ...]:
        """The columns of the item table that this source uses."""

    @abstractmethod
    def read(self, start: int, stop: int) -> list[Item]:
        """One `Item` for each of the rows `start` to `stop` (not included)."""

    def digest(self) -> str:
        """A hash of the table's values of all items (of images: the paths, not the content)."""
        return self.rows.digest(self.columns)


class TextSource(Source):
    """Texts of the item table.

    Args:
        folder: a prepared dataset.
        template: such as "{title}. {brand}"; by default one of all columns that hold texts.
        column: take this column as it is, instead of a template.

    Raises:
        DataError: the column is missing.
        ConfigError: the template cannot be read or names a column that is missing, or no column looks like text.
    """

    kind = "text"

    def __init__(self, folder: str | Path, template: str | None = None, column: str | None = None):
        self.rows = ItemRows(folder)
        self.column = column
        if column is not None:
            hint = "; lirdrec caption makes it from pictures" if column == "caption" else ""
            self.rows.need(column, hint)
            return
        self._template = default_template(self.rows.schema) if template is None else Template(template)
        self._template.check(self.rows.schema)

    @property
    def description(self) -> dict[str, Any]:
        return {"template": self._template.text} if self.column is None else {"column": self.column}

    @property
    def columns(self) -> tuple[str, ...]:
        return tuple(self._template.columns) if self.column is None else (self.column,)

    def read(self, start: int, stop: int) -> list[Item]:
        frame = self.rows.read(start, stop, self.columns)
        column = self.column
        texts = self._template.render(frame) if column is None else frame[column].cast(pl.String).to_list()
        return [text_item(text) for text in texts]


class ImageSource(Source):
    """Image files whose paths are in a column of the item table.

    Args:
        folder: a prepared dataset.
        column: holds a path, or null.
        root: base folder of the paths; by default the one recorded by `lirdrec prepare`.
        found: `(I,)` paths to use instead of the column; they are stored in it when the matrix is added.

    Raises:
        DataError: no such column or folder.
    """

    kind = "image"

    def __init__(
        self,
        folder: str | Path,
        column: str = IMAGE,
        root: str | Path | None = None,
        found: pl.Series | None = None,
    ):
        self.rows = ItemRows(folder)
        self.column, self.found = column, None if found is None else found.alias(column)
        if found is None:
            self.rows.need(column, "; prepare the dataset with --images, so that it knows the image of each item")
        noted = self.rows.manifest["info"].get(IMAGES)
        self.root = Path(root) if root is not None else self.rows.folder / (noted if isinstance(noted, str) else "")
        if not self.root.is_dir():
            raise DataError(f"{self.root}: the image folder is missing; give its path with --images")

    @property
    def description(self) -> dict[str, Any]:
        return {"column": self.column}

    @property
    def columns(self) -> tuple[str, ...]:
        return (self.column,)

    @property
    def place(self) -> str:
        return str(self.root.resolve())

    def read(self, start: int, stop: int) -> list[Item]:
        named = self.rows.read(start, stop, self.columns)[self.column] if self.found is None else self.found[start:stop]
        return [self._item(name) for name in named.cast(pl.String).to_list()]

    def digest(self) -> str:
        return super().digest() if self.found is None else digest([self.found.to_frame()])

    def _item(self, name: str | None) -> Item:
        if name is None or not name.strip():
            return Item()
        if name.startswith(("http://", "https://")):
            return Item(problem="this is a web address, not a file; download the image first", source=name)
        path = self.root / name
        try:
            with open_file(path) as file:
                key = hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=KEY_BYTES)).digest()
        except ImageError as error:
            return Item(problem=str(error), source=name)
        except OSError as error:
            return Item(problem=f"cannot be read ({error.strerror or error})", source=name)
        return Item(path, key, source=name)


def digest(frames: Iterable[pl.DataFrame]) -> str:
    """A hash of all values of some frames."""
    hashed = hashlib.blake2b(digest_size=KEY_BYTES)
    for frame in frames:
        buffer = io.BytesIO()
        frame.write_ipc(buffer)
        hashed.update(buffer.getbuffer())
    return hashed.hexdigest()


def text_item(text: str | None) -> Item:
    """A text as an `Item`; blank texts count as missing."""
    if text is None or not text.strip():
        return Item()
    return Item(text, hashlib.blake2b(text.encode(), digest_size=KEY_BYTES).digest())
