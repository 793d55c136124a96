"""Find the files that form a table: one file, several files, the matches of a pattern, or parts in a folder."""

from __future__ import annotations

import glob
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import unquote

from lirdrec.data.compression import open_bytes
from lirdrec.errors import DataError
from lirdrec.files.input_file_checks import is_folder, stat_path

COMPRESSED_SUFFIXES = (".gz", ".bz2", ".xz", ".zst", ".lz4", ".zip")
TEXT_SUFFIXES = (".csv", ".tsv", ".txt", ".tab", ".dat")
TABLE_SUFFIXES = (*TEXT_SUFFIXES, ".parquet", ".pq", ".feather", ".arrow", ".orc")
MAX_HEADER_BYTES = 1 << 20
NO_VALUE = "__HIVE_DEFAULT_PARTITION__"


@dataclass(frozen=True)
class Part:
    """One file of a table.

    Attributes:
        path: the file.
        values: column → value of all rows of the file, from folders called `column=value`.
    """

    path: Path
    values: dict[str, str | None] = field(default_factory=dict)


def table_suffix(path: Path) -> str:
    """Return the suffix of a file name in lower case, without a compression suffix: `.csv` for `A.CSV.gz`."""
    return Path(path.stem if path.suffix.lower() in COMPRESSED_SUFFIXES else path.name).suffix.lower()


def find_parts(source: str | Path | Sequence[str | Path]) -> list[Part]:
    """Find the files of a table, in order: a file, a folder, a pattern with `*`, `?` or `[…]`, or several of these.

    Raises a DataError if no file matches a pattern, a folder contains no table or files of different formats, or a file
    is given twice. A single path is not checked.
    """
    if not isinstance(source, (str, Path)):
        parts = [part for file in source for part in find_parts(file)]
        if not parts:
            raise DataError("no file is given")
        paths = [part.path for part in parts]
        if repeated := next((path for i, path in enumerate(paths) if path in paths[:i]), None):
            raise DataError(f"{repeated} is given twice; its rows would count twice")
        return parts
    path = Path(source)
    if is_pattern(source):
        matches = sorted(glob.glob(str(source), recursive=True))
        if not matches:
            raise DataError(f"{source}: no file matches this pattern")
        return [part for file in matches for part in find_parts(glob.escape(file) if stat_path(file) is None else file)]
    if not is_folder(path):
        return [Part(path)]
    parts = parts_of_folder(path)
    if not parts:
        raise DataError(f"{path} is a folder; give a file, or a folder with the parts of one table (CSV, Parquet …)")
    endings = sorted({table_suffix(part.path) for part in parts})
    if len(endings) > 1:
        raise DataError(
            f"{path}: its files are of several kinds ({', '.join(endings)}); give the files that belong together"
        )
    return parts


def is_pattern(source: str | Path) -> bool:
    """Return whether a source is a file name pattern, and not the name of an existing file."""
    return glob.has_magic(str(source)) and stat_path(source) is None


def parts_of_folder(folder: Path, values: Mapping[str, str | None] | None = None) -> list[Part]:
    """Find the table files in a folder and in its subfolders called `column=value`, sorted by name.

    Empty files and files with other suffixes are ignored, and names that begin with `_` or `.` (`_SUCCESS`,
    `.part-0.crc`). `values` are the columns that the names of the parent folders define.
    """
    parts = []
    for path in sorted(folder.iterdir()):
        name, equals, value = path.name.partition("=")
        if path.name.startswith(("_", ".")):
            continue
        if path.is_dir() and name and equals:
            column = {name: None if value == NO_VALUE else unquote(value)}
            parts += parts_of_folder(path, {**(values or {}), **column})
        elif not path.is_dir() and table_suffix(path) in TABLE_SUFFIXES and path.stat().st_size:
            parts.append(Part(path, dict(values or {})))
    return parts


def is_parts_folder(folder: Path) -> bool:
    """Return whether a folder contains only parts of one table: one format, and in text files the same first line."""
    parts = parts_of_folder(folder)
    files = [file for file in folder.iterdir() if file.is_file() and not file.name.startswith(("_", "."))]
    suffixes = {table_suffix(part.path) for part in parts}
    if len(suffixes) != 1 or any(table_suffix(file) not in TABLE_SUFFIXES for file in files):
        return False
    headers = set()
    for part in parts if suffixes <= set(TEXT_SUFFIXES) else []:
        with open_bytes(part.path) as file:
            headers.add(file.readline(MAX_HEADER_BYTES).strip())
    return len(headers) <= 1
