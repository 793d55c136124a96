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
from lirdrec.files import check_file, reason
from lirdrec.memory import free_memory, in_words

GZIP_MAGIC = b"\x1f\x8b"
PIECE = 16 << 20
COPIES = 3  # of a text in memory while it becomes a table


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
        raise DataError(f"{path}: {reason(error)}") from None


def read_bytes(path: Path) -> bytes:
    """The whole content of a file that is to become a table, unpacked if it is gzipped.

    A small gzip file can unpack to a thousand times its size; what does not fit is refused while it is unpacked.

    Raises:
        DataError: the file is missing, empty, a folder, cut short or damaged, or memory cannot hold its content.
    """
    free = free_memory()
    most = None if free is None else free // COPIES
    with open_bytes(path) as file:
        if is_gzip(path):
            pieces: list[bytes] = []
            size = 0
            while most is None or size <= most:
                if not (piece := file.read(PIECE)):
                    return b"".join(pieces)
                pieces.append(piece)
                size += len(piece)
            found = f"unpacks to more than {in_words(most)}"
        else:
            size = path.stat().st_size
            if most is None or size <= most:
                return file.read()
            found = f"has {in_words(size)}"
    raise DataError(
        f"{path}: {found}, which becomes a table only in {COPIES} times as much memory, and {in_words(free or 0)} are"
        " free; write it as Parquet, or read a part of it"
    )


def exists(path: Path) -> None:
    """Raise a DataError unless `path` is a regular file that may be read, with something in it."""
    check_file(path)
    if path.stat().st_size == 0:
        raise DataError(f"{path}: the file is empty")


def is_gzip(path: Path) -> bool:
    """Whether the file begins as gzip files do."""
    with path.open("rb") as file:
        return file.read(2) == GZIP_MAGIC
