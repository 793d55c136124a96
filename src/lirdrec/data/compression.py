"""Open files that may be compressed (detected by their first bytes); damaged files raise a one-line DataError."""

from __future__ import annotations

import contextlib
import errno
import gzip
import io
import lzma
import sys
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, cast

import pyarrow

from lirdrec.available_memory import format_bytes, free_memory
from lirdrec.data.file_signatures import BZIP2, GZIP, HEAD_BYTES, XZ, ZIP, check_not_archive, detect_compression
from lirdrec.data.frames import first_line
from lirdrec.errors import DataError, describe_read_error
from lirdrec.files.input_file_checks import check_file

CHUNK_BYTES = 16 << 20
MEMORY_FACTOR = 3  # memory needed to parse a text, in multiples of its size
SYSTEM_FILES = ("__MACOSX/", ".DS_Store", "desktop.ini", "Thumbs.db")  # added to archives by operating systems


@contextlib.contextmanager
def open_bytes(path: Path) -> Iterator[BinaryIO]:
    """Open a file for reading bytes in a `with` block: plain, gzip, bzip2, xz, zstd, lz4, or a zip archive of one file.

    Compressed content is decompressed. Raises a DataError, also for read errors inside the block, if the file is
    missing, empty, a folder, cut short or damaged, an archive of several files or with a password, or a 7z or RAR
    archive.
    """
    exists(path)
    head = first_bytes(path)
    kind = detect_compression(head)
    check_not_archive(path, head)
    try:
        with contextlib.ExitStack() as stack:
            yield _opened(path, kind, stack)
    except EOFError:
        raise DataError(
            f"{path}: the {kind} file is cut short (it ends before its end mark); copy or download it again"
        ) from None
    except RuntimeError as error:
        # zipfile raises it for an encrypted member and for an unknown compression; elsewhere it is a bug
        if kind != ZIP:
            raise
        raise DataError(
            f"{path}: lirdrec cannot unpack the zip archive ({first_line(error)}); unpack it yourself"
        ) from None
    except (zlib.error, lzma.LZMAError, zipfile.BadZipFile, pyarrow.ArrowException, OSError) as error:
        # gzip, pyarrow and zip archives raise OSErrors without an error number
        if isinstance(error, OSError) and (kind is None or error.errno not in (None, errno.EINVAL)):
            raise DataError(f"{path}: {describe_read_error(error)}") from None
        raise DataError(
            f"{path}: the {kind} file is damaged ({first_line(error)}); copy or download it again"
        ) from None


def _opened(path: Path, kind: str | None, stack: contextlib.ExitStack) -> BinaryIO:
    if kind is None:
        return stack.enter_context(path.open("rb"))
    if kind == ZIP:
        archive = stack.enter_context(zipfile.ZipFile(path))
        return cast(BinaryIO, stack.enter_context(archive.open(_only_member(path, archive))))
    if kind in (GZIP, XZ):
        return cast(BinaryIO, stack.enter_context(gzip.open(path) if kind == GZIP else lzma.open(path)))
    # not Python's bz2, which treats a damaged second stream as the end of the file
    source = stack.enter_context(pyarrow.OSFile(str(path)))
    stream = pyarrow.CompressedInputStream(source, {BZIP2: "bz2"}.get(kind, kind))
    return cast(BinaryIO, io.BufferedReader(cast("io.RawIOBase", stack.enter_context(stream))))


def _only_member(path: Path, archive: zipfile.ZipFile) -> zipfile.ZipInfo:
    members = [
        member
        for member in archive.infolist()
        if not (member.is_dir() or member.filename.startswith(SYSTEM_FILES) or member.filename.endswith(SYSTEM_FILES))
    ]
    if len(members) == 1:
        return members[0]
    listed = ", ".join(member.filename for member in members[:5]) + (", …" if len(members) > 5 else "")
    raise DataError(
        f"{path}: the zip archive holds {len(members)} files ({listed or 'none'}); unpack it (unzip {path.name})"
        " and give the path of the unpacked file or folder"
    )


def read_bytes(path: Path) -> bytes:
    """Read the complete content of a file that will be parsed as a table, decompressed if necessary.

    A compressed file can expand to a thousand times its size, so the free memory is checked during decompression.
    Raises a DataError as `open_bytes` does, or if less memory is free than parsing needs: 3 times the size of the
    content.
    """
    free = free_memory()
    limit = sys.maxsize if free is None else free // MEMORY_FACTOR
    with open_bytes(path) as file:
        if is_compressed(path):
            chunks: list[bytes] = []
            while sum(map(len, chunks)) <= limit:
                if not (chunk := file.read(CHUNK_BYTES)):
                    return b"".join(chunks)
                chunks.append(chunk)
            problem = f"unpacks to more than {format_bytes(limit)}"
        else:
            size = path.stat().st_size
            if size <= limit:
                return file.read()
            problem = f"has {format_bytes(size)}"
    raise DataError(
        f"{path}: {problem}; reading it as a table needs {MEMORY_FACTOR} times as much memory, but only"
        f" {format_bytes(free or 0)} are free; write it as Parquet, or read a part of it"
    )


def exists(path: Path) -> None:
    """Raise a DataError unless `path` is a readable regular file that is not empty."""
    check_file(path)
    if path.stat().st_size == 0:
        raise DataError(f"{path}: the file is empty")


def first_bytes(path: Path) -> bytes:
    """Return the first bytes of the file as stored, not decompressed: enough to detect its format."""
    with path.open("rb") as file:
        return file.read(HEAD_BYTES)


def is_compressed(path: Path) -> bool:
    """Return whether the file is compressed, by its first bytes."""
    return detect_compression(first_bytes(path)) is not None
