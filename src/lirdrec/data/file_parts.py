"""Which files a table consists of: one, several, those of a pattern, or the parts of a folder."""

from __future__ import annotations

import glob
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import unquote

from lirdrec.data.compression import open_bytes
from lirdrec.errors import DataError
from lirdrec.files.checks import is_folder, stat_path

COMPRESSED_SUFFIXES = (".gz", ".bz2", ".xz", ".zst", ".lz4", ".zip")
TEXT_SUFFIXES = (".csv", ".tsv", ".txt", ".tab", ".dat")
TABLE_SUFFIXES = (*TEXT_SUFFIXES, ".parquet", ".pq", ".feather", ".arrow", ".orc")
MAX_HEADER_BYTES = 1 << 20
NO_VALUE = "__HIVE_DEFAULT_PARTITION__"


@dataclass(frozen=True)
class Part:
    """A file of a table.

    Attributes:
        path: the file.
        values: column → value for all of its rows, from folders called `column=value`.
    """

    path: Path
    values: dict[str, str | None] = field(default_factory=dict)


def table_suffix(path: Path) -> str:
    """The ending of a name in small letters, without that of a compression."""
    return Path(path.stem if path.suffix.lower() in COMPRESSED_SUFFIXES else path.name).suffix.lower()


def find_parts(source: str | Path | Sequence[str | Path]) -> list[Part]:
    """The files of a table in order: those that are named, that a pattern fits, or that lie in a folder.

    Args:
        source: a file, a folder, a pattern with `*`, `?` or `[…]`, or several of these.

    Raises:
        DataError: nothing fits a pattern, a folder holds no table, or files of different kinds.
    """
    if not isinstance(source, (str, Path)):
        found = [part for one in source for part in find_parts(one)]
        if not found:
            raise DataError("no file is named")
        paths = [part.path for part in found]
        for at, path in enumerate(paths):
            if path in paths[:at]:
                raise DataError(f"{path}: is named twice; its rows would count twice")
        return found
    path = Path(source)
    if is_pattern(source):
        fitting = sorted(glob.glob(str(source), recursive=True))
        if not fitting:
            raise DataError(f"{source}: no file fits this pattern")
        return [part for one in fitting for part in find_parts(glob.escape(one) if stat_path(one) is None else one)]
    if not is_folder(path):
        return [Part(path)]
    parts = parts_of_folder(path)
    if not parts:
        raise DataError(f"{path}: is a folder; name a file, or a folder of parts of one table (CSV, Parquet …)")
    endings = sorted({table_suffix(part.path) for part in parts})
    if len(endings) > 1:
        raise DataError(
            f"{path}: its files are of several kinds ({', '.join(endings)}); name those that belong together"
        )
    return parts


def is_pattern(source: str | Path) -> bool:
    """Whether a source is a pattern of names, and no file that is called so."""
    return glob.has_magic(str(source)) and stat_path(source) is None


def parts_of_folder(folder: Path) -> list[Part]:
    """The files of tables in a folder and in its folders called `column=value`, in order of their names.

    What begins with `_` or `.` (`_SUCCESS`, `.part-0.crc`) is passed over, as are empty files.
    """
    return list(_within(folder, {}))


def is_parts_folder(folder: Path) -> bool:
    """Whether a folder holds nothing but parts of one table: files of one kind, those of text with one first line."""
    parts = parts_of_folder(folder)
    files = [one for one in folder.iterdir() if one.is_file() and not one.name.startswith(("_", "."))]
    if (
        not parts
        or any(table_suffix(one) not in TABLE_SUFFIXES for one in files)
        or len({table_suffix(p.path) for p in parts}) > 1
    ):
        return False
    if table_suffix(parts[0].path) not in TEXT_SUFFIXES:
        return True
    headers = set()
    for part in parts:
        with open_bytes(part.path) as file:
            headers.add(file.readline(MAX_HEADER_BYTES).strip())
    return len(headers) == 1


def _within(folder: Path, values: dict[str, str | None]) -> Iterable[Part]:
    for one in sorted(folder.iterdir()):
        if one.name.startswith(("_", ".")):
            continue
        name, equals, value = one.name.partition("=")
        if one.is_dir():
            if name and equals:
                yield from _within(one, {**values, name: None if value == NO_VALUE else unquote(value)})
        elif table_suffix(one) in TABLE_SUFFIXES and one.stat().st_size:
            yield Part(one, values)
