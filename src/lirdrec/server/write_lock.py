"""Helpers for small files of the server: a lock for writers, names that are not too long, permissions."""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

from lirdrec.errors import ConfigError
from lirdrec.files.atomic import write_errors
from lirdrec.files.locks import lock_file, unlock_file

STORE = ".live.sqlite"
_LONGEST = 255 - len("-journal")  # bytes of a file name, so that SQLite can append "-journal"
_DIGEST = 16


@contextlib.contextmanager
def write_lock(path: str | Path) -> Iterator[None]:
    """Context manager: only one process at a time can hold this lock, which is for changing the file `path`.

    A change replaces the file by a rename, so the lock is another file beside it, which the last writer removes.

    Raises:
        ConfigError: the folder of the file is missing.
        RunFolderError: the lock cannot be written.
    """
    path = Path(os.path.abspath(path))
    if not path.parent.is_dir():
        raise ConfigError(f"{path}: the folder {path.parent} does not exist; make it first")
    lock = path.with_name(f".{_digest(path.name)}.lock")  # a short name, even if the name of the file is long
    while True:
        with write_errors(path):
            handle = os.fdopen(os.open(lock, os.O_RDWR | os.O_CREAT, 0o600), "r+b")
        with handle:
            lock_file(handle, wait=True)
            if not _is_at(handle.fileno(), lock):
                continue  # the last writer removed it while we waited
            try:
                yield
            finally:
                with contextlib.suppress(OSError):
                    lock.unlink()
                unlock_file(handle)
            return


def store_path(run: str | Path) -> Path:
    """Return the path of the SQLite file for the live changes of a run, beside the run: RUN.live.sqlite.

    If the name would be too long, it is cut, and a hash of the full name is added, so that it is unique.
    """
    run = Path(os.path.abspath(run))
    if len(os.fsencode(run.name + STORE)) <= _LONGEST:
        return run.with_name(run.name + STORE)
    ending = f"-{_digest(run.name)}{STORE}"
    kept = os.fsencode(run.name)[: _LONGEST - len(ending)].decode(errors="ignore")  # drops a character that was cut
    return run.with_name(kept + ending)


def create_private_file(path: str | Path) -> None:
    """Create an empty file that only its owner may read, unless it exists.

    Errors are ignored here, because opening the file will raise them again.
    """
    with contextlib.suppress(OSError):
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))


def _digest(name: str) -> str:
    return hashlib.blake2b(os.fsencode(name), digest_size=_DIGEST).hexdigest()


def _is_at(handle: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(handle), path.stat())
    except FileNotFoundError:
        return False
