"""Looking at a file before it is read: that it is one, that this user may read it, that it is text."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

from lirdrec.errors import WORDS, DataError, LirdrecError, unreadable

KIND_NAMES = {
    stat.S_IFIFO: "a FIFO (a named pipe)",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


def check_file(path: str | Path, error: type[LirdrecError] = DataError) -> None:
    """Refuse what is not a regular file that this user may read. Never opens a FIFO, which would wait for a writer.

    Args:
        path: of the file.
        error: the type to raise.

    Raises:
        LirdrecError: of the given type: there is no such file, or it is a folder, a FIFO, a socket or a device, or it
            may not be read.
    """
    kind = stat_path(path, error)
    if kind is None:
        raise error(f"{path}: no such file")
    if stat.S_ISDIR(kind.st_mode):
        raise error(f"{path}: is a folder; name a file")
    if not stat.S_ISREG(kind.st_mode):
        raise error(f"{path}: is {kind_name(kind)}; name a regular file")
    if not os.access(path, os.R_OK):
        raise error(f"{path}: {WORDS[errno.EACCES]}")


def stat_path(path: str | Path, error: type[LirdrecError] = DataError) -> os.stat_result | None:
    """What the file system says of a path, symbolic links followed; None where nothing is there.

    Raises:
        LirdrecError: of the given type: the path cannot be looked at (its folder may not be read, its name is too
            long, it holds a character that names cannot have).
    """
    try:
        return os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as refused:
        raise error(f"{path}: {unreadable(refused)}") from None
    except ValueError:
        raise error(f"{path}: no path can hold such a character") from None


def is_folder(path: str | Path, error: type[LirdrecError] = DataError) -> bool:
    """Whether a path is a folder (else a regular file, or nothing).

    Raises:
        LirdrecError: of the given type: it is a FIFO, a socket or a device, a folder whose names may not be read, or it
            cannot be looked at.
    """
    kind = stat_path(path, error)
    if kind is None or stat.S_ISREG(kind.st_mode):
        return False
    if not stat.S_ISDIR(kind.st_mode):
        raise error(f"{path}: is {kind_name(kind)}; name a regular file or a folder")
    if not os.access(path, os.R_OK | os.X_OK):
        raise error(f"{path}: {WORDS[errno.EACCES]}")
    return True


def read_text(path: str | Path, error: type[LirdrecError] = DataError, limit: int = 64 << 20) -> str:
    """The text of a small UTF-8 file.

    Args:
        path: of the file.
        error: the type to raise.
        limit: bytes that such a file can sensibly have.

    Raises:
        LirdrecError: of the given type: it is no readable file, larger than `limit`, or not UTF-8.
    """
    check_file(path, error)
    size = os.stat(path).st_size
    if size > limit:
        raise error(f"{path}: has {size:,} bytes, and at most {limit:,} are read; is it the right file?")
    try:
        return Path(path).read_text(encoding="utf-8")
    except UnicodeDecodeError as fault:
        raise error(f"{path}: not UTF-8 text (byte 0x{fault.object[fault.start]:02x} at {fault.start:,})") from None
    except OSError as refused:
        raise error(f"{path}: {unreadable(refused)}") from None


def kind_name(kind: os.stat_result) -> str:
    """What something that is neither a regular file nor a folder is called."""
    return KIND_NAMES.get(stat.S_IFMT(kind.st_mode), "no regular file")
