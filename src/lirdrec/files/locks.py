"""Locks on folders and files, held through the operating system: they end with the process, even if it is killed."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO

from lirdrec.errors import RunFolderError
from lirdrec.files.atomic import make_folder, write_errors

LOCK = ".lock"
_held: dict[tuple[int, int, str], int] = {}  # (process, thread, folder) → how many blocks hold it


@contextlib.contextmanager
def folder_lock(
    folder: str | Path, taken: Callable[[str], str], tidy: bool = False, nested: bool = False
) -> Iterator[Path]:
    """Lock a folder for this process and thread by a file `.lock` in it, inside the block; a missing folder is created.

    Args:
        folder: the folder to lock; it is removed at the end if it was created here and is empty.
        taken: function that returns the error message for a lock that is not free. Its argument is " (process 17)" if
            process 17 holds the lock, or "" if the process is unknown.
        tidy: at the end also remove the folder if it is empty and existed before.
        nested: the thread that holds the lock may acquire it again (a reentrant lock).

    Raises:
        RunFolderError: another process or thread holds the lock, or the folder cannot be created.
    """
    folder = Path(folder)
    existed = folder.exists()
    make_folder(folder)
    key = os.getpid(), threading.get_ident(), str(folder.resolve())
    if nested and key in _held:
        _held[key] += 1
        try:
            yield folder
        finally:
            _held[key] -= 1
        return
    handle = _acquire(folder, taken)
    try:
        _held[key] = 1
        try:
            yield folder
        finally:
            del _held[key]
            with contextlib.suppress(OSError):
                (folder / LOCK).unlink()  # before it is released: see `_acquire`
            unlock_file(handle)
            if tidy or not existed:
                with contextlib.suppress(OSError):
                    folder.rmdir()  # only an empty folder
    finally:
        handle.close()


def _acquire(folder: Path, taken: Callable[[str], str]) -> IO[bytes]:
    """Open and lock the lock file of a folder; raise a RunFolderError if another process or thread holds the lock."""
    while True:
        handle = _open_lock(folder / LOCK)
        if not lock_file(handle):
            owner = _owner(handle)
            handle.close()
            raise RunFolderError(taken(owner))
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(handle.fileno()), (folder / LOCK).stat()):
                handle.seek(0)
                handle.truncate()
                handle.write(str(os.getpid()).encode())
                handle.flush()
                return handle
        handle.close()  # the last holder removed the file while it was opened here


@contextlib.contextmanager
def no_locks_below(folder: Path, taken: Callable[[str], str]) -> Iterator[None]:
    """Hold the locks in a folder and in two levels of folders below it inside the block, which replaces the folder.

    Args:
        folder: only lock files that exist are locked.
        taken: function that returns the error message, as in `folder_lock`.

    Raises:
        RunFolderError: another process holds one of the locks.
    """
    with contextlib.ExitStack() as stack:
        for path in sorted({*folder.glob(LOCK), *folder.glob(f"*/{LOCK}"), *folder.glob(f"*/*/{LOCK}")}):
            handle = stack.enter_context(_open_lock(path))
            if not lock_file(handle):
                raise RunFolderError(taken(_owner(handle)))
        yield


def _open_lock(path: Path) -> IO[bytes]:
    """Open or create a lock file; raise a RunFolderError for a link, whose target would be overwritten."""
    with write_errors(path.parent):
        try:
            number = os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0), 0o666)
        except OSError as error:
            if error.errno == errno.ELOOP:
                raise RunFolderError(f"{path} is a link, but a lock must be a regular file; remove it") from None
            raise
        if not stat.S_ISREG(os.fstat(number).st_mode):
            os.close(number)
            raise RunFolderError(f"{path} is not a regular file, but a lock must be one; remove it")
        return os.fdopen(number, "r+b")


def _owner(handle: IO[bytes]) -> str:
    handle.seek(0)
    owner = handle.read().decode(errors="replace").strip()
    return f" (process {owner})" if owner else ""


def lock_file(handle: IO[bytes], wait: bool = False) -> bool:
    """Lock an open file for this process, and return True; without `wait`, return False if another process holds it."""
    if sys.platform == "win32":
        import msvcrt

        handle.seek(1 << 30)  # far after the process number, which other processes must be able to read
        while True:
            try:
                msvcrt.locking(handle.fileno(), msvcrt.LK_LOCK if wait else msvcrt.LK_NBLCK, 1)
            except OSError:
                if wait:  # Windows gives up after ten seconds, so try again
                    continue
                return False
            return True
    import fcntl

    try:
        fcntl.flock(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except OSError:
        return False
    return True


def unlock_file(handle: IO[bytes]) -> None:
    """Release a locked file."""
    if sys.platform == "win32":
        import msvcrt

        handle.seek(1 << 30)
        msvcrt.locking(handle.fileno(), msvcrt.LK_UNLCK, 1)
        return
    import fcntl

    fcntl.flock(handle, fcntl.LOCK_UN)
