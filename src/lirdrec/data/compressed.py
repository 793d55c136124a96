"""Files that may be gzipped: told by their first bytes, never by their name; damage is told in one sentence."""

from __future__ import annotations

import contextlib
import gzip
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, cast

from lirdrec.data.frames import first_line
from lirdrec.errors import DataError

GZIP_MAGIC = b"\x1f\x8b"


@contextlib.contextmanager
def open_bytes(path: Path) -> Iterator[BinaryIO]:
    """Open a file for reading, unpacked if it is gzipped; errors of reading inside the block become a DataError.

    Raises:
        DataError: the file is missing, empty, a folder, cut short or damaged.
    """
    exists(path)
    try:
        with gzip.open(path) if is_gzip(path) else path.open("rb") as file:
            yield cast(BinaryIO, file)
    except EOFError:
        raise DataError(
            f"{path}: the gzip file is cut short (it ends before its end mark); copy or download it again"
        ) from None
    except (gzip.BadGzipFile, zlib.error) as error:
        raise DataError(f"{path}: the gzip file is damaged ({first_line(error)}); copy or download it again") from None
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror or error})") from None


def exists(path: Path) -> None:
    """Raise a DataError unless `path` is a file with something in it."""
    if path.is_dir():
        raise DataError(f"{path}: is a folder; name a file")
    if not path.is_file():
        raise DataError(f"{path}: no such file")
    if path.stat().st_size == 0:
        raise DataError(f"{path}: the file is empty")


def is_gzip(path: Path) -> bool:
    """Whether the file begins as gzip files do."""
    with path.open("rb") as file:
        return file.read(2) == GZIP_MAGIC
