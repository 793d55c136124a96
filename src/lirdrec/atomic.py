"""Files and folders that appear whole or not at all: write to a temporary name beside the target, flush, rename."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import secrets
import shutil
from collections.abc import Collection, Iterator
from pathlib import Path

from lirdrec.errors import LirdrecError, RunFolderError

MANIFEST = "manifest.json"
DISK_FULL = (errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC))
REFUSED = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.ENAMETOOLONG)

_UMASK = os.umask(0o022)  # it can only be read by setting it
os.umask(_UMASK)


@contextlib.contextmanager
def atomic_folder(path: str | Path, overwrite: bool = False, own: Collection[str] = ()) -> Iterator[Path]:
    """Give an empty temporary folder beside `path`; on success it becomes `path`, on any error it is removed.

    Args:
        path: the folder to make. Parents are created.
        overwrite: replace a folder that has something in it (the old one stays until the new one is complete). What
            stands in it must be ours: named by its `manifest.json`, or one of `own`; else a folder of somebody's raw
            files would go like one of results.
        own: names of files and folders that such a folder may hold beside those of its manifest.

    Raises:
        RunFolderError: `path` is a file, or a folder with something in it while `overwrite` is false, or with
            something else than ours; or it cannot be written (a full disk included).
    """
    target = Path(os.path.abspath(path))
    _refuse(target, overwrite, own)
    temporary = _beside(target)
    try:
        make_folder(target.parent)
        with write_errors(path):
            temporary.mkdir()
            yield temporary
            for file in temporary.rglob("*"):
                flush(file)
            flush(temporary)
            _refuse(target, overwrite, own)  # someone else may have written it in the meantime
            _swap(temporary, target)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


@contextlib.contextmanager
def atomic_write(path: str | Path) -> Iterator[Path]:
    """Give a temporary file name beside `path`; what is written there replaces `path` when the block succeeds.

    Raises:
        RunFolderError: the file cannot be written (a full disk included).
    """
    target = Path(os.path.abspath(path))
    temporary = _beside(target)
    try:
        with write_errors(path):
            yield temporary
            flush(temporary)
            os.replace(temporary, target)
            flush(target.parent)
    finally:
        temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def write_errors(path: str | Path) -> Iterator[None]:
    """Turn the operating system's refusals inside the block into one clear sentence about `path`."""
    try:
        yield
    except LirdrecError:
        raise
    except OSError as error:
        if error.errno in DISK_FULL + REFUSED:
            raise _explain(path, error.errno, error.strerror or str(error)) from error
        raise
    except Exception as error:
        # polars and safetensors wrap the system's message in errors of their own
        if "no space left" in str(error).lower() or "os error 28" in str(error).lower():
            raise _explain(path, errno.ENOSPC, "") from error
        raise


def make_folder(path: str | Path) -> None:
    """Make a folder and its parents, where they are missing.

    Raises:
        RunFolderError: that cannot be.
    """
    try:
        Path(path).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _explain(path, error.errno, error.strerror or str(error)) from error


def share(path: str | Path) -> None:
    """Give a file the rights that new files have here; safetensors writes for the owner alone."""
    os.chmod(path, 0o666 & ~_UMASK)


def sha256(path: str | Path) -> str:
    """The SHA-256 of a file, as 64 hexadecimal digits."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _explain(path: str | Path, number: int | None, reason: str) -> RunFolderError:
    if number in DISK_FULL:
        return RunFolderError(f"{path}: the disk is full; nothing was written: free some space or choose another place")
    return RunFolderError(f"{path}: cannot be written ({reason}); nothing was left behind")


def _refuse(target: Path, overwrite: bool, own: Collection[str]) -> None:
    if target.is_dir():
        if not overwrite and any(target.iterdir()):
            raise RunFolderError(
                f"{target}: this folder has something in it; choose another name, or allow overwriting (--overwrite)"
            )
        named = {*own, *_named(target)}
        if strange := sorted(one.name for one in target.iterdir() if one.name[0] != "." and one.name not in named):
            raise RunFolderError(
                f"{target}: holds '{strange[0]}', which did not come from here, so it is left as it is; choose "
                "another name"
            )
    elif target.exists():
        raise RunFolderError(f"{target}: a file of this name is in the way; choose another name")


def _named(folder: Path) -> set[str]:
    """What the folder's manifest says is in it, itself included; nothing where there is none."""
    try:
        names = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))["files"]
        return {MANIFEST, *(Path(name).parts[0] for name in names)}
    except (OSError, ValueError, KeyError, TypeError, IndexError):
        return set()


def _beside(target: Path) -> Path:
    return target.with_name(f".{target.name}.{os.getpid()}-{secrets.token_hex(4)}.tmp")


def _swap(temporary: Path, target: Path) -> None:
    """Rename the finished folder into place; the old one is moved away first, since Windows cannot rename over it."""
    if not target.exists():
        os.rename(temporary, target)
    else:
        old = _beside(target)
        os.rename(target, old)
        try:
            os.rename(temporary, target)
        except OSError:
            os.rename(old, target)
            raise
        shutil.rmtree(old, ignore_errors=True)
    flush(target.parent)


def flush(path: Path) -> None:
    """Force a file or folder to the disk, so that a rename never shows names without their contents."""
    if path.is_dir() and os.name == "nt":  # Windows cannot open folders
        return
    handle = os.open(path, os.O_RDONLY if path.is_dir() or os.name != "nt" else os.O_RDWR)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
