"""Atomic file writes: write to a temporary file beside the target, flush it, rename it."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import functools
import hashlib
import json
import os
import re
import secrets
import shutil
import socket
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from lirdrec.errors import LirdrecError, RunFolderError

DISK_FULL = (errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC))
NOT_ALLOWED = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.ENAMETOOLONG)
NAME_TAKEN = (errno.ENOTEMPTY, errno.EEXIST, errno.EISDIR)

_UMASK = os.umask(0o022)  # reading it requires setting it
os.umask(_UMASK)
_OS_ERROR = re.compile(r"\(os error ([0-9]+)\)")
_TEMPORARY = re.compile(r"\..+\.(?:(?P<host>[0-9a-f]{8})-)?(?P<pid>\d+)-[0-9a-f]{8}\.(?:tmp|old)")
_NAME_BYTES = 100  # characters of the target's name in a temporary name, to respect the limit of the file system
_active: set[str] = set()  # temporary names of this process
_tidied: set[tuple[int, str]] = set()  # (process, folder) for which `remove_leftovers` has run
_DAY = 86_400


@contextlib.contextmanager
def atomic_write(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; if the block succeeds, its file replaces `path` and is flushed to the disk.

    If the block raises an error, `path` stays unchanged.

    Raises:
        RunFolderError: the file cannot be written (a full disk included).
    """
    target = Path(os.path.abspath(path))
    with write_errors(path):
        remove_leftovers(target.parent)
    with temporary_name(target) as temporary:
        try:
            with write_errors(path):
                yield temporary
                flush(temporary)
                os.replace(temporary, target)
                flush(target.parent)
        finally:
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def write_errors(path: str | Path) -> Iterator[None]:
    """Convert some system errors inside the block to a RunFolderError about `path`: disk full, no right, name taken."""
    try:
        yield
    except LirdrecError:
        raise
    except Exception as error:
        number = error.errno if isinstance(error, OSError) else 0
        if not number:  # polars and safetensors have the number only in their messages
            match = _OS_ERROR.search(str(error))
            full = errno.ENOSPC if "no space left" in str(error).lower() else 0
            number = full if match is None else int(match[1])
        if number in DISK_FULL + NOT_ALLOWED + NAME_TAKEN:
            raise _write_error(path, number, getattr(error, "strerror", None) or os.strerror(number)) from error
        raise


def make_folder(path: str | Path) -> None:
    """Create a folder and its missing parents, and flush their directory entries to the disk.

    Raises:
        RunFolderError: the folder cannot be created.
    """
    folder = Path(os.path.abspath(path))
    try:
        missing = [parent for parent in (folder, *folder.parents) if not parent.exists()]
        folder.mkdir(parents=True, exist_ok=True)
        for created in missing:
            flush(created.parent)
    except OSError as error:
        raise _write_error(path, error.errno, error.strerror or str(error)) from error


def share(path: str | Path) -> None:
    """Give a file the permissions that new files usually get (by the umask).

    safetensors makes files that only their owner may read.
    """
    os.chmod(path, 0o666 & ~_UMASK)


def sha256(path: str | Path) -> str:
    """Return the SHA-256 of a file, as 64 hexadecimal digits."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_text(path: str | Path, text: str) -> None:
    """Write a text as UTF-8, atomically."""
    with atomic_write(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: str | Path, value: Any, indent: int = 1, default: Callable[[Any], Any] | None = None) -> None:
    """Write a value as JSON in UTF-8 with a newline at the end, atomically; `indent`, `default`: see `json.dumps`."""
    write_text(path, json.dumps(value, indent=indent, ensure_ascii=False, default=default) + "\n")


def flush(path: Path) -> None:
    """Flush a file or folder to the disk (fsync); otherwise a renamed file could be empty after a power failure."""
    if path.is_dir() and os.name == "nt":  # Windows cannot open folders
        return
    handle = os.open(path, os.O_RDONLY if path.is_dir() or os.name != "nt" else os.O_RDWR)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def flush_tree(folder: Path) -> None:
    """Flush a folder with everything in it to the disk."""
    for path in folder.rglob("*"):
        if not path.is_symlink():
            flush(path)
    flush(folder)


# ---------------------------------------------------------------- temporary names


@contextlib.contextmanager
def temporary_name(target: Path, ending: str = "tmp") -> Iterator[Path]:
    """Yield a hidden path beside `target`, whose name identifies this machine and process; nothing is created there."""
    name = f"{_prefix(target)}{_host()}-{os.getpid()}-{secrets.token_hex(4)}.{ending}"
    _active.add(name)
    try:
        yield target.with_name(name)
    finally:
        _active.discard(name)


def remove_leftovers(folder: Path) -> None:
    """Remove temporary files and folders that ended processes of this machine left in a folder.

    In a process, only the first call for a folder does this. Old versions of folders (`.old`) stay: see `recover`.
    """
    key = os.getpid(), str(folder)
    if key in _tidied:
        return
    _tidied.add(key)
    with contextlib.suppress(OSError), os.scandir(folder) as entries:
        for name in [entry.name for entry in entries if entry.name.endswith(".tmp")]:
            if is_leftover(folder / name):
                remove(folder / name)


def is_leftover(path: Path) -> bool:
    """Return whether a path has a temporary name of lirdrec, made on this machine by a process that has ended."""
    match = _TEMPORARY.fullmatch(path.name)
    if match is None or path.name in _active or match["host"] not in (None, _host()):
        return False
    pid = int(match["pid"])
    if pid == os.getpid():  # an earlier process had this number: in containers, numbers start from 1 at every start
        return True
    if sys.platform == "win32":
        with contextlib.suppress(OSError):
            return time.time() - path.lstat().st_mtime > _DAY
        return False
    try:
        os.kill(pid, 0)
    except PermissionError:
        return False
    except (ProcessLookupError, OverflowError):
        return True
    return False


def recover(target: Path) -> bool:
    """Rename the old version of a missing folder back to `target`; return whether this was done.

    It is missing if a process was killed while it replaced the folder in two steps: rename the old version, rename the
    new one. This is needed only where two folders cannot exchange their names in one step (`exchange_folders`).
    """
    if target.exists():
        return False
    for path in _moved_away(target):
        with contextlib.suppress(OSError):
            os.rename(path, target)
            return True
    return False


def remove_moved_away(target: Path) -> None:
    """Remove the old versions (`.old`) of a folder that ended processes left beside it."""
    for path in _moved_away(target):
        remove(path)


def _moved_away(target: Path) -> list[Path]:
    try:
        paths = [path for path in target.parent.iterdir() if path.name.startswith(_prefix(target))]
    except OSError:
        return []
    return sorted(path for path in paths if path.name.endswith(".old") and is_leftover(path))


def remove(path: Path) -> None:
    """Remove a file or a folder; errors are ignored."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with contextlib.suppress(OSError):
            path.unlink(missing_ok=True)


def _prefix(target: Path) -> str:
    return f".{os.fsencode(target.name)[:_NAME_BYTES].decode(errors='replace')}."


@functools.cache
def _host() -> str:
    return hashlib.sha256(socket.gethostname().encode()).hexdigest()[:8]


# ---------------------------------------------------------------- exchange


def exchange_folders(first: Path, second: Path) -> bool:
    """Exchange the names of two folders in one step; return False if the operating system or file system cannot."""
    if sys.platform not in ("linux", "darwin"):
        return False
    libc = ctypes.CDLL(None, use_errno=True)
    names = os.fsencode(first), os.fsencode(second)
    if sys.platform == "linux" and hasattr(libc, "renameat2"):
        at_cwd, flag = -100, 2  # AT_FDCWD, RENAME_EXCHANGE
        failed = libc.renameat2(at_cwd, names[0], at_cwd, names[1], flag)
    elif sys.platform == "darwin" and hasattr(libc, "renamex_np"):
        failed = libc.renamex_np(*names, 2)  # RENAME_SWAP
    else:
        return False
    if not failed:
        return True
    number = ctypes.get_errno()
    if number in (errno.ENOSYS, errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EXDEV):
        return False
    raise OSError(number, os.strerror(number), str(second))


def _write_error(path: str | Path, number: int | None, text: str) -> RunFolderError:
    if number in DISK_FULL:
        return RunFolderError(f"{path}: the disk is full; nothing was written: free some space or choose another place")
    if number in NAME_TAKEN and number != errno.EEXIST:
        return RunFolderError(f"{path}: something with this name already exists ({text}); choose another name")
    return RunFolderError(f"{path} cannot be written ({text}); nothing was left behind")
