"""Detect the format of a file or folder, and read it with the right reader."""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from lirdrec.config import field_docs
from lirdrec.data.column_names import ITEM, USER
from lirdrec.data.compression import open_bytes
from lirdrec.data.dataset import Dataset
from lirdrec.data.file_parts import find_parts, is_parts_folder, is_pattern
from lirdrec.data.file_signatures import HEAD_BYTES, check_maybe_table
from lirdrec.data.images import with_images, with_images_beside
from lirdrec.data.json_tables import first_record, is_json, is_list
from lirdrec.data.preprocessing_config import PreprocessingConfig
from lirdrec.data.readers.amazon import check_gzip_files, is_amazon, read_amazon
from lirdrec.data.readers.amazon_reviews import detect_review_format
from lirdrec.data.readers.lightgcn import check_not_lightgcn, is_lightgcn, read_lightgcn
from lirdrec.data.readers.microlens import is_microlens, read_microlens
from lirdrec.data.readers.mmrec import read_mmrec
from lirdrec.data.readers.movielens import is_movielens, read_movielens
from lirdrec.data.readers.recbole import read_recbole
from lirdrec.data.readers.sparse_matrices import check_not_pickle, is_matrix, read_matrices
from lirdrec.data.readers.split_files import find_split_files, read_split_files, read_split_folder
from lirdrec.data.readers.tabular import read_interactions
from lirdrec.data.storage import MANIFEST
from lirdrec.errors import ConfigError, DataError
from lirdrec.files.input_file_checks import check_file, is_folder, stat_path
from lirdrec.option_names import option_text

Kind = Literal[
    "prepared", "mmrec", "recbole", "movielens", "microlens", "amazon", "splits", "lightgcn", "matrix", "table"
]
MAX_HEADER_BYTES = 1 << 20
MAX_SHOWN_KEYS = 30  # number of keys in a message
TABLE_OPTIONS = frozenset(
    {"user", "item", "rating", "items", "only"}
)  # if one of these options is given, a file is a table
# kind → its name in messages, its reader, and the check whether a folder is of this kind; checked in this order
FORMATS: dict[Kind, tuple[str, Callable[..., Dataset], Callable[[Path], Any]]] = {
    "movielens": ("a MovieLens folder", read_movielens, is_movielens),
    "microlens": ("a MicroLens folder", read_microlens, is_microlens),
    "splits": ("a folder of a split in three files", read_split_folder, find_split_files),
    "lightgcn": ("a LightGCN folder", read_lightgcn, is_lightgcn),
    "amazon": ("Amazon reviews", read_amazon, is_amazon),
    "mmrec": ("an MMRec folder", read_mmrec, lambda folder: False),
    "recbole": ("a RecBole folder", read_recbole, lambda folder: False),
    "matrix": ("a sparse matrix", read_matrices, lambda folder: False),
    "table": ("a table", read_interactions, lambda folder: False),
}
WORDS: dict[Kind, str] = {kind: words for kind, (words, _, _) in FORMATS.items()}


def kind_of(path: str | Path | Sequence[str | Path], options: Collection[str] = ()) -> Kind:
    """Detect the kind of data at a path, such as "prepared", "amazon" or "table".

    Files of no other kind count as tables; other JSON files need the options user and item.

    Args:
        path: a file or a folder; several files or a pattern are parts of a table.
        options: the names of the options that the user gives. With user, item, rating, items or only, a file counts as
            a table.

    Raises:
        DataError: no such file, an unknown kind of folder, a pickle, or a .json file without recognizable keys.
    """
    if not isinstance(path, (str, Path)):
        if len(path) == 1:
            return kind_of(path[0], options)
        find_parts(path)
        return "table"
    if is_pattern(path):
        return "table"
    path = Path(path)
    if stat_path(path) is None:
        raise DataError(f"{path}: no such file or folder")
    if not is_folder(path):
        return _kind_of_file(path, options)
    if (path / MANIFEST).is_file():
        return "prepared"
    if inters := sorted(path.glob("*.inter")):
        with open_bytes(inters[0]) as file:
            return "recbole" if b":token" in file.readline(MAX_HEADER_BYTES) else "mmrec"
    for kind, (_, _, matches) in FORMATS.items():
        if matches(path):
            return kind
    check_gzip_files(path)
    for part in sorted(path.iterdir()):
        check_not_pickle(part)
    if is_parts_folder(path):
        return "table"
    parts = _parts_within(path)
    hint = (
        f"give the folder of its parts: {parts}" if parts else "make a dataset of other files with lirdrec prepare FILE"
    )
    raise DataError(
        f"{path}: neither a prepared dataset (no {MANIFEST}) nor an MMRec or RecBole folder (no .inter file), nor one"
        " of MovieLens (ratings.csv and movies.csv), MicroLens (…_pairs.csv), Amazon reviews, a split in three files"
        " (….train.csv) or LightGCN (train.txt and test.txt); nor a table in parts (nothing but CSV or Parquet files);"
        f" {hint}"
    )


def _parts_within(folder: Path) -> Path | None:
    """Find the first subfolder that is a table in parts, or None; unreadable subfolders are ignored."""
    for path in sorted(folder.iterdir()):
        with contextlib.suppress(DataError, OSError):
            if path.is_dir() and is_parts_folder(path):
                return path
    return None


def read_any(path: str | Path) -> Dataset:
    """Read the dataset at a path: prepared, or in one of the published formats that `kind_of` detects.

    Raises a DataError for invalid content, and for tables, since they need options (see `read_raw`). Raises a
    RunFolderError for a damaged prepared dataset.
    """
    if stat_path(path) is None:
        raise DataError(f"{path}: no such folder")
    if kind_of(path) == "table":
        what = "holds parts of a table" if is_folder(path) else "is a file"
        raise DataError(f"{path}: {what}; give the folder of a dataset, or make one with lirdrec prepare")
    return read_raw(path)


def read_raw(
    path: str | Path | Sequence[str | Path] | None = None,
    *,
    train: str | Path | None = None,
    validation: str | Path | None = None,
    test: str | Path | None = None,
    images: str | Path | None = None,
    image_column: str | None = None,
    **options: Any,
) -> Dataset:
    """Read any supported source, as `lirdrec prepare` does: the formats that `kind_of` detects, and tables.

    Args:
        path: a file or a folder; or several files, or a pattern such as "log-*.csv", that are one table.
        train, validation, test: the files of a split, instead of `path`: tables, or scipy matrices.
        images: a folder of images, found by item id or by `image_column`; see `lirdrec.data.images.with_images`.
        image_column: column of the item table with paths or file names of images; by default `image`, if it contains
            paths. Without `images` the paths are relative to the folder of `items`, or of `path`.
        options: options of the reader of this kind of source; a prepared dataset has none.

    Raises:
        DataError: the files are invalid.
        RunFolderError: a prepared dataset is damaged.
        ConfigError: the reader does not support an option, or both `path` and `train` are given, or train or test is
            missing.
    """
    if path is None or train is not None:
        dataset = _read_split(path, {"train": train, "validation": validation, "test": test}, options)
        return _with_images(dataset, Path(options.get("items") or str(train)), images, image_column)
    kind = kind_of(path, options)
    if not isinstance(path, (str, Path)) and len(path) == 1:
        path = path[0]
    if kind == "prepared":
        if options:
            raise ConfigError(f"{path} is prepared already, so options have no effect; prepare the raw files again")
        assert isinstance(path, (str, Path))  # only a table has several paths
        dataset = Dataset.load(path)
        return dataset if images is None and image_column is None else _with_images(dataset, path, images, image_column)
    known = options_of(kind)
    for option in options:
        if option not in known:
            raise ConfigError(f"'{option}' does not apply to {path} ({WORDS[kind]}); options: {', '.join(known)}")
    _, reader, _ = FORMATS[kind]
    if kind in ("movielens", "microlens") and image_column is None:
        return reader(path, images=images, **options)  # if images are given, the covers in the folder are not read
    dataset = reader(path, **options)
    first = find_parts(options.get("items") or path)[0].path if kind == "table" else path
    return _with_images(dataset, first, images, image_column)


def _with_images(dataset: Dataset, source: Any, images: str | Path | None, image_column: str | None) -> Dataset:
    beside = Path(source) if Path(source).is_dir() else Path(source).parent
    if images is None and image_column is None:
        return with_images_beside(dataset, beside)
    return with_images(dataset, images or beside, image_column)


def _read_split(path: Any, files: Mapping[str, str | Path | None], options: Mapping[str, Any]) -> Dataset:
    """Read a dataset from the files of a split; raises a ConfigError if train or test is missing."""
    if path is not None:
        raise ConfigError(f"{path} is one source, and the files of a split are another; give only one of them")
    for name in ("train", "test"):
        if files[name] is None:
            raise ConfigError(f"no file of {name} is given: a split needs train and test, and should have validation")
    given = {name: Path(file) for name, file in files.items() if file is not None}
    for file in given.values():
        check_file(file)
        check_not_pickle(file)
        check_not_lightgcn(file, options)
    matrices = [file for file in given.values() if is_matrix(file)]
    if matrices and len(matrices) < len(given):
        other = next(file for file in given.values() if file not in matrices)
        raise DataError(f"{other} is a table, and {matrices[0]} is a matrix; the files of a split must be of one kind")
    reader: Callable[..., Dataset] = read_matrices if matrices else read_split_files
    return reader(given["train"], given.get("validation"), given["test"], **options)


def options_of(kind: Kind) -> list[str]:
    """Return the names of the options of the reader of a kind of source; none for a prepared dataset."""
    if kind == "prepared":
        return []
    parameters = inspect.signature(FORMATS[kind][1]).parameters.values()
    names = [p.name for p in parameters if p.kind is p.KEYWORD_ONLY or p.default is not p.empty]
    if any(p.kind is p.VAR_KEYWORD for p in parameters):
        names += field_docs(PreprocessingConfig)
    return names


def _kind_of_file(path: Path, options: Collection[str]) -> Kind:
    check_not_pickle(path)
    check_not_lightgcn(path, options)
    if path.suffix.lower() == ".npz":
        return "matrix"
    if is_json(path):
        with open_bytes(path) as file:
            check_maybe_table(path, file.read(HEAD_BYTES))
        return _kind_of_json(path, options)
    return "table" if TABLE_OPTIONS.intersection(options) or not is_amazon(path) else "amazon"


def _kind_of_json(path: Path, options: Collection[str]) -> Kind:
    """Return the kind of a JSON file: "table" by its options or its keys user and item, or "amazon".

    Raises a DataError if the file is neither.
    """
    if TABLE_OPTIONS.intersection(options):
        return "table"
    record = first_record(path)
    if record is not None and {USER, ITEM} <= record.keys():
        return "table"
    named = f"{option_text('user', 'KEY')}, {option_text('item', 'KEY')}"
    hint = f"give the keys that hold the users and the items: {named}"
    if record is not None and is_list(path):
        raise DataError(f"{path}: its records have the keys {', '.join(list(record)[:MAX_SHOWN_KEYS])}; {hint}")
    try:
        detect_review_format(path)  # report the problem of the file
    except DataError as error:
        if record is None:
            raise
        raise DataError(f"{str(error).partition('; expected')[0]}; {hint}") from None
    return "amazon"
