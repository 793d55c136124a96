"""Locks on folders and files, kept by the operating system: a killed process leaves none behind."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO

from lirdrec.atomic import make_folder, write_errors
from lirdrec.errors import RunFolderError

LOCK = ".lock"


@contextlib.contextmanager
def folder_lock(folder: str | Path, taken: Callable[[str], str], tidy: bool = False) -> Iterator[Path]:
    """Hold a folder for this process alone; the folder is made where it is missing.

    Args:
        folder: holds the file `.lock`. A folder that was made here and got nothing else is removed again.
        taken: makes the sentence of the error of " (process 17)", or of "" where the holder is unknown.
        tidy: remove a folder that was there before too, if nothing else is in it at the end.

    Raises:
        RunFolderError: another process holds it, or it cannot be made.
    """
    folder = Path(folder)
    existed = folder.exists()
    make_folder(folder)
    with write_errors(folder):
        handle = (folder / LOCK).open("a+b")
    try:
        if not lock_file(handle) or not _still_there(handle, folder / LOCK):
            handle.seek(0)
            owner = handle.read().decode(errors="replace").strip()
            raise RunFolderError(taken(f" (process {owner})" if owner else ""))
        handle.truncate(0)
        handle.write(str(os.getpid()).encode())
        handle.flush()
        try:
            yield folder
        finally:
            unlock_file(handle)
            if tidy or not existed:
                with contextlib.suppress(OSError):
                    if [path.name for path in folder.iterdir()] == [LOCK]:
                        (folder / LOCK).unlink()
                        folder.rmdir()
    finally:
        handle.close()


def _still_there(handle: IO[bytes], path: Path) -> bool:
    """Whether the locked file still has its name: the last holder may have removed it while we opened it."""
    try:
        return os.path.samestat(os.fstat(handle.fileno()), path.stat())
    except FileNotFoundError:
        return False


def lock_file(handle: IO[bytes], wait: bool = False) -> bool:
    """Lock an open file for this process; False where another has it, unless `wait` is on."""
    if sys.platform == "win32":  # pragma: no cover
        import msvcrt

        handle.seek(1 << 30)  # far behind the process number, which others must be able to read
        while True:
            try:
                msvcrt.locking(handle.fileno(), msvcrt.LK_LOCK if wait else msvcrt.LK_NBLCK, 1)
            except OSError:
                if wait:  # it gives up after ten seconds
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
    """Give a locked file free."""
    if sys.platform == "win32":  # pragma: no cover
        import msvcrt

        handle.seek(1 << 30)
        msvcrt.locking(handle.fileno(), msvcrt.LK_UNLCK, 1)
        return
    import fcntl

    fcntl.flock(handle, fcntl.LOCK_UN)
