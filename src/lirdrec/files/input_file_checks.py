"""Check a file before it is read: whether it is a regular file, readable, and text."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

from lirdrec.errors import WORDS, DataError, LirdrecError, describe_read_error

KIND_NAMES = {
    stat.S_IFIFO: "a FIFO (a named pipe)",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


def check_file(path: str | Path, error: type[LirdrecError] = DataError) -> None:
    """Raise `error` unless a path is a regular file that this user may read. Never opens a FIFO, which would block."""
    status = stat_path(path, error)
    if status is None:
        raise error(f"{path}: no such file")
    if stat.S_ISDIR(status.st_mode):
        raise error(f"{path} is a folder; give the path of a file")
    if not stat.S_ISREG(status.st_mode):
        raise error(f"{path} is {kind_name(status)}; give the path of a regular file")
    if not os.access(path, os.R_OK):
        raise error(f"{path}: {WORDS[errno.EACCES]}")


def stat_path(path: str | Path, error: type[LirdrecError] = DataError) -> os.stat_result | None:
    """Return the result of `os.stat` for a path, following symbolic links; None if the path does not exist.

    Raises:
        LirdrecError: of the type `error`, if the parent folder may not be read, or the name is too long or invalid.
    """
    try:
        return os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as os_error:
        raise error(f"{path}: {describe_read_error(os_error)}") from None
    except ValueError:
        raise error(f"{path} has a character that is not allowed in paths; give another path") from None


def is_folder(path: str | Path, error: type[LirdrecError] = DataError) -> bool:
    """Return whether a path is a folder; False for a regular file, or if it does not exist.

    Raises:
        LirdrecError: of the type `error`, if the path is neither a file nor a readable folder, or `stat_path` fails.
    """
    status = stat_path(path, error)
    if status is None or stat.S_ISREG(status.st_mode):
        return False
    if not stat.S_ISDIR(status.st_mode):
        raise error(f"{path} is {kind_name(status)}; give the path of a regular file or a folder")
    if not os.access(path, os.R_OK | os.X_OK):
        raise error(f"{path}: {WORDS[errno.EACCES]}")
    return True


def read_text(path: str | Path, error: type[LirdrecError] = DataError, limit: int = 64 << 20) -> str:
    """Return the text of a UTF-8 file of at most `limit` bytes.

    Raises:
        LirdrecError: of the type `error`, if it is not a readable file, is larger than `limit`, or is not UTF-8.
    """
    check_file(path, error)
    if (size := os.stat(path).st_size) > limit:
        raise error(f"{path} has {size:,} bytes, but the limit is {limit:,}; is it the right file?")
    try:
        return Path(path).read_text(encoding="utf-8")
    except UnicodeDecodeError as fault:
        raise error(f"{path}: not UTF-8 text (byte 0x{fault.object[fault.start]:02x} at {fault.start:,})") from None
    except OSError as os_error:
        raise error(f"{path}: {describe_read_error(os_error)}") from None


def kind_name(status: os.stat_result) -> str:
    """Return a name for the kind of a path that is neither a regular file nor a folder."""
    return KIND_NAMES.get(stat.S_IFMT(status.st_mode), "not a regular file")
