"""Files of items (images, audio, video): find them by item id or by a column of paths, and record them in a column."""

from __future__ import annotations

import dataclasses
import errno
import logging
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import polars as pl

from lirdrec.data.column_names import ITEM
from lirdrec.data.dataset import Dataset
from lirdrec.data.ids import IdMap, describe_ids
from lirdrec.data.titles import as_texts, is_title
from lirdrec.errors import DataError
from lirdrec.option_names import option_name
from lirdrec.wording import pluralize

logger = logging.getLogger(__name__)

IMAGE = "image"  # column of the item table: path below the folder `info["images"]`
IMAGES = "images"  # entry of `info`: the folder, absolute
SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".avif", ".heic", ".heif", ".gif", ".bmp", ".tiff", ".tif")


@dataclass(frozen=True)
class Media:
    """A kind of files that items can have: images, audio files or videos.

    Attributes:
        column: the column of the item table with the paths below the folder.
        folder: the entry of `info` with the absolute path of the folder; also the option that gives the folder.
        noun: the word for one such file in messages.
        suffixes: suffixes of the files that are found by item id.
    """

    column: str
    folder: str
    noun: str
    suffixes: tuple[str, ...]

    @property
    def option(self) -> str:
        """The name of the option that gives the folder, for messages: `--images` or, in Python, `images`."""
        return option_name(self.folder)


IMAGE_FILES = Media(IMAGE, IMAGES, "image", SUFFIXES)
AUDIO_FILES = Media(
    "audio",
    "audio_files",
    "audio file",
    (".wav", ".mp3", ".flac", ".ogg", ".oga", ".opus", ".m4a", ".aac", ".aiff", ".aif", ".wma"),
)
VIDEO_FILES = Media(
    "video",
    "video_files",
    "video",
    (".mp4", ".m4v", ".mov", ".webm", ".mkv", ".avi", ".mpg", ".mpeg", ".ts", ".wmv", ".flv", ".3gp"),
)


def with_images(dataset: Dataset, folder: str | Path, column: str | None = None) -> Dataset:
    """Return the dataset with the paths of images in the column `image` and their folder in `info["images"]`.

    Args:
        dataset: any dataset; it is not changed.
        folder: contains the images, which are not copied.
        column: column of the item table with a path or file name per item; by default `image` if it holds paths, else
            the images are found by item id.

    Raises a DataError as `image_column` does, or if the item table has no column of the name `column`.
    """
    table = dataset.item_table
    if column is not None and column not in table.columns:
        raise DataError(f"the item table has no column '{column}'; it has {', '.join(table.columns)}")
    if column is None and IMAGE in table.columns and has_paths(table[IMAGE]):
        column = IMAGE
    folder = Path(folder)
    paths = image_column(dataset.items, folder, None if column is None else table[column])
    info = {**dataset.info, IMAGES: str(folder.resolve())}
    return dataclasses.replace(dataset, item_table=table.with_columns(paths), info=info, folder=None)


def with_images_beside(dataset: Dataset, folder: Path) -> Dataset:
    """Add the images whose paths are in the column `image`, if some of them exist in `folder`, the folder of the data.

    Else the dataset is returned unchanged: the user did not ask for images, and the column may have another meaning. A
    warning is logged if the column can contain paths.
    """
    if IMAGE not in dataset.item_table.columns or not has_paths(dataset.item_table[IMAGE]):
        return dataset
    try:
        return with_images(dataset, folder, IMAGE)
    except DataError as error:
        logger.warning(
            "the column '%s' is kept as it is; if it contains images, give their folder (%s): %s",
            IMAGE,
            IMAGE_FILES.option,
            error,
        )
        return dataset


def image_column(
    items: IdMap | Iterable[Any], folder: Path, column: pl.Series | None = None, media: Media = IMAGE_FILES
) -> pl.Series:
    """Find the path of each item's image (or other file) below the folder, with forward slashes; null if it has none.

    Only folders are listed; files are not opened or checked one by one.

    Args:
        items: the item ids.
        folder: contains the images.
        column: `(I,)`: for each item a path below the folder, an absolute path into it, a file name, or null. A file
            name may lack its suffix, and the file may be in a direct subfolder. The path of a missing file is kept, so
            that opening it reports the problem. Without a column, files whose name is the item id and one of the
            suffixes are searched in the folder and its direct subfolders; if there are several, the first by name is
            used.
        media: the kind of the files, which defines the suffixes.

    Returns:
        Series `image` (or `media.column`) `(I,)` of strings.

    Raises:
        DataError: there is no such folder, a path is a URL or contains `..`, or none of the images exists.
    """
    ids = items.series if isinstance(items, IdMap) else IdMap(items, ITEM).series
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder of {media.noun}s")
    paths = _by_id(ids, folder, media) if column is None else _by_path(ids, folder, column, media)
    n_images = f"{len(paths) - paths.null_count():,}"
    logger.info("%s: found a file (%s) for %s of %s", folder, media.noun, n_images, pluralize(len(ids), "item"))
    return paths


def described(dataset: Dataset) -> dict[str, Any]:
    """Count the items with an image (key `images`) and with a text (key `texts`: column → number).

    Images count only if the dataset has their folder. Columns of texts are the string columns of the item table; blank
    texts do not count.
    """
    table = dataset.item_table
    has_images = IMAGES in dataset.info and IMAGE in table.columns and has_paths(table[IMAGE])
    files = {media.column for media in (AUDIO_FILES, VIDEO_FILES) if media.folder in dataset.info}
    texts = {}
    for name, dtype in table.schema.items():
        # a title may be a list of words; other lists are not texts
        if name not in (ITEM, IMAGE, *files) and (dtype == pl.String or (dtype == pl.List and is_title(name))):
            texts[name] = int((as_texts(table[name]).fill_null("").str.strip_chars() != "").sum())
    return {
        "images": table.height - table[IMAGE].null_count() if has_images else 0,
        "texts": {name: number for name, number in texts.items() if number},
    }


def has_paths(column: pl.Series) -> bool:
    """Return whether a column can contain paths of images: texts or integers, not all empty, and no URL among them."""
    if column.dtype not in (pl.String, pl.Categorical, pl.Enum) and not column.dtype.is_integer():
        return False
    texts = column.cast(pl.String).fill_null("")
    return bool((texts.str.strip_chars() != "").any()) and not texts.str.contains("://", literal=True).any()


def _by_id(ids: pl.Series, folder: Path, media: Media) -> pl.Series:
    files = sorted(_listing(folder, deep=True))
    images = [path for path in files if PurePosixPath(path).suffix.lower() in media.suffixes]
    if not images:
        raise DataError(f"{folder}: no {media.noun} in it or in its subfolders ({', '.join(media.suffixes)})")
    stems = pl.Series("id", [PurePosixPath(path).stem for path in images], dtype=pl.String)
    table = pl.DataFrame({"id": stems, media.column: images})
    wanted = pl.DataFrame({"id": ids.cast(pl.String)})
    several = table.filter(pl.col("id").is_duplicated()).join(wanted, on="id", how="semi", maintain_order="left")
    if several.height:
        used, other = several.filter(pl.col("id") == several["id"][0])[media.column].head(2)
        n_items = pluralize(several["id"].n_unique(), "item")
        message = "%s: several %ss for %s; the first by name is used (%s, not %s)"
        logger.warning(message, folder, media.noun, n_items, used, other)
    paths = wanted.join(table.unique("id", keep="first"), on="id", how="left", maintain_order="left")[media.column]
    if paths.null_count() == len(paths):
        raise DataError(
            f"{folder}: none of {pluralize(len(images), media.noun)} has an item id as its name: the first is"
            f" {images[0]}, and the first id is that of item {ids[0]}; rename them to ITEM{media.suffixes[0]}, or give"
            " the column of the item table with their paths"
        )
    return paths


def _by_path(ids: pl.Series, folder: Path, column: pl.Series, media: Media) -> pl.Series:
    if column.dtype != pl.String and not (column.dtype.is_integer() or column.dtype == pl.Null):
        raise DataError(f"column '{column.name}' of the item table holds {column.dtype}, not paths of {media.noun}s")
    texts = column.cast(pl.String).str.strip_chars().replace("", None)
    requested = [text and _inside(text, folder, f"item {id}", media.noun) for id, text in zip(ids, texts, strict=True)]
    paths = {path for path in requested if path is not None}
    parents = {str(PurePosixPath(path).parent) for path in paths}
    existing = {path for parent in sorted(parents) for path in _listing(folder, parent)}
    by_name: dict[str, str] = {}
    if any("/" not in path for path in paths - existing):
        files = [PurePosixPath(path) for path in sorted(_listing(folder, deep=True), reverse=True)]
        by_name = {path.stem: str(path) for path in files if path.suffix.lower() in media.suffixes}
        by_name |= {path.name: str(path) for path in files}
    missing = [path for path in requested if path is not None and path not in existing and path not in by_name]
    if missing and len(missing) == len(requested) - requested.count(None):
        raise DataError(
            f"{folder}: none of the {media.noun}s in column '{column.name}' exists: {describe_ids(missing)};"
            " give the folder that the paths are relative to"
        )
    if missing:
        n_missing = pluralize(len(missing), media.noun)
        logger.warning("%s: %s of column '%s' missing: %s", folder, n_missing, column.name, describe_ids(missing))
    result = [path if path is None or path in existing else by_name.get(path, path) for path in requested]
    return pl.Series(media.column, result, dtype=pl.String)


def _inside(text: str, folder: Path, owner: str, noun: str) -> str:
    """Convert a path given by the user to one relative to the folder; raises a DataError if it is outside."""
    if "://" in text:
        raise DataError(f"the {noun} of {owner} is a URL ({text}); download the {noun}s into a folder first")
    if "\0" in text:
        raise DataError(f"the path of the {noun} of {owner} contains a zero byte; correct it")
    path = PurePosixPath(text.replace("\\", "/"))
    if Path(text).is_absolute() or path.is_absolute():
        roots = [root.as_posix() for root in (folder.absolute(), folder.resolve())]
        root = next((root for root in roots if path.is_relative_to(root)), None)
        if root is None:
            raise DataError(f"the {noun} of {owner}, {text}, is outside of {folder}; give a folder that contains all")
        path = path.relative_to(root)
    if ".." in path.parts:
        raise DataError(
            f"the path of the {noun} of {owner} contains '..': {text}; give a path below {folder} without it"
        )
    return str(path)


def _listing(folder: Path, below: str = ".", deep: bool = False) -> list[str]:
    """List the paths of the files in the subfolder `below`, relative to `folder`; `deep`: also of its subfolders."""
    paths, n_unreadable = [], 0
    try:
        with os.scandir(folder / below) as entries:
            for entry in entries:
                path = entry.name if below == "." else f"{below}/{entry.name}"
                if entry.name.startswith("."):
                    continue
                if not _is_utf8(entry.name):
                    n_unreadable += 1
                elif not _is_folder(entry):
                    paths.append(path)
                elif deep:
                    paths += _listing(folder, path)
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ENAMETOOLONG):
            return []
        raise DataError(f"{folder / below}: cannot be listed ({error.strerror})") from None
    if n_unreadable:
        n_files = pluralize(n_unreadable, "file")
        logger.warning("%s: %s with a name that is not UTF-8 left out", folder / below, n_files)
    return paths


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a circular link counts as a file, so that opening it reports the problem
        return False


def _is_utf8(name: str) -> bool:
    return not any("\ud800" <= letter <= "\udfff" for letter in name)  # Python's replacements of other bytes
