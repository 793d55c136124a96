"""Atomic replacement of a folder, or of files in a folder with a manifest; safe if the process is killed.

In both cases, the next version is complete and flushed to the disk before one atomic operation publishes it.
Where the system cannot exchange the names of two folders, two renames do it; if the process is killed between them, the
next reader or writer gives the old folder its name back.

- `atomic_folder` creates the folder beside the old one and exchanges the two names.
- `commit_stage` takes new files from a stage, a hidden folder inside the folder, and writes a manifest that names the
  stage. From then on `manifest.resolve_path` finds the new files there. Then the files are moved to their final names
  (`recover_folder`), and a second manifest is written. If this is interrupted, the next writer finishes it.

Readers use `read_stable`, which reads again if a new version was published meanwhile.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import secrets
import shutil
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

from lirdrec.errors import LirdrecError, RunFolderError
from lirdrec.files import atomic
from lirdrec.files.atomic import (
    flush,
    flush_tree,
    is_leftover,
    make_folder,
    recover,
    remove,
    remove_leftovers,
    temporary_name,
    write_errors,
    write_text,
)
from lirdrec.files.locks import LOCK, no_locks_below
from lirdrec.files.manifest import (
    BESIDE,
    MANIFEST,
    STAGE,
    check_manifest,
    manifest_format,
    manifest_stamp,
    read_manifest,
    resolve_path,
)

logger = logging.getLogger(__name__)

SWITCHING = ".switching"  # contains the lock of a change to a prepared dataset
EARLIER_STAGE = ".writing-"  # prefix of what killed processes of earlier versions left in a run folder
LINKED = ("checkpoint", "tensorboard")  # folders that may be on another disk
REMEDY = "restore the folder from a copy, or choose another one"
MAX_READS = 50  # of a folder that changes continuously

T = TypeVar("T")


# ---------------------------------------------------------------- complete folders


@contextlib.contextmanager
def atomic_folder(
    path: str | Path, overwrite: bool = False, formats: Collection[str] = (), extra: Collection[str] = ()
) -> Iterator[Path]:
    """Yield an empty temporary folder beside `path`; if the block succeeds it becomes `path`, else it is removed.

    Args:
        path: the folder to create, with its parents.
        overwrite: replace a folder that is not empty, if its manifest has one of `formats` and it contains only files
            of the manifest and `extra`.
        formats: formats of manifests that may be replaced, such as "lirdrec-dataset".
        extra: names of files and folders that may exist besides those of the manifest.

    Raises:
        RunFolderError: `path` may not be replaced, another process is writing to it, or it cannot be written.
    """
    target = Path(os.path.abspath(path))
    if target.is_symlink() and target.is_dir():
        target = target.resolve()  # keep a link, for instance to a larger disk
    with write_errors(path):
        recover(target)
        check_replaceable(target, overwrite, formats, extra)
        make_folder(target.parent)
        remove_leftovers(target.parent)
    with temporary_name(target) as temporary:
        try:
            with write_errors(path):
                temporary.mkdir()
                yield temporary
                flush_tree(temporary)
                with no_locks_below(target, lambda pid: f"{target}: another process{pid} is writing to it; try again"):
                    check_replaceable(target, overwrite, formats, extra)  # another process may have written it since
                    _replace_folder(temporary, target)
        finally:
            remove(temporary)  # on success this is the old version


def check_replaceable(target: Path, overwrite: bool, formats: Collection[str], extra: Collection[str]) -> None:
    """Raise a RunFolderError if `target` exists and may not be replaced by a new folder (see `atomic_folder`)."""
    if not target.is_dir():
        if target.exists() or target.is_symlink():
            raise RunFolderError(f"{target}: a file with this name already exists; choose another name")
        return
    if not any(target.iterdir()):
        return
    if not overwrite:
        raise RunFolderError(
            f"{target}: this folder is not empty; choose another name, or allow overwriting (--overwrite)"
        )
    if formats and (target / MANIFEST).exists() and manifest_format(target) not in formats:
        name = manifest_format(target)
        reason = f"of the format {name}" if name else f"whose {MANIFEST} was not written by lirdrec"
        raise RunFolderError(f"{target} contains something else, {reason}, so it is not replaced; choose another name")
    if foreign := foreign_names(target, extra):
        raise RunFolderError(
            f"{target} contains '{foreign[0]}', which lirdrec did not write, so the folder is not replaced; choose"
            " another name"
        )


def foreign_names(folder: Path, extra: Collection[str]) -> list[str]:
    """Return the files, folders and links in a folder that are neither in its manifest nor created by lirdrec, sorted.

    Args:
        folder: with or without a manifest.
        extra: names of files and complete folders created by lirdrec, such as "checkpoint" or "work/features".
    """
    try:
        listed = {MANIFEST, *json.loads((folder / MANIFEST).read_text(encoding="utf-8"))["files"]}
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        listed = set()
    parents = {parent.as_posix() for name in (*listed, *extra) for parent in Path(name).parents} - {"."}
    foreign: list[str] = []
    folders = [folder]
    while folders:
        for path in folders.pop().iterdir():
            name = path.relative_to(folder).as_posix()
            if name in listed or _is_working_file(path, name, listed):
                continue
            if name in parents and path.is_dir() and (name in LINKED or not path.is_symlink()):
                folders.append(path)
            elif name not in extra or (path.is_symlink() and name not in LINKED):
                foreign.append(name)
    return sorted(foreign)


def _is_working_file(path: Path, name: str, listed: Collection[str]) -> bool:
    return (
        path.name == LOCK
        or name == SWITCHING
        or (name.endswith(BESIDE) and name.removesuffix(BESIDE) in listed)
        or STAGE.fullmatch(name) is not None
        or name.startswith(EARLIER_STAGE)
        or is_leftover(path)
    )


def _replace_folder(temporary: Path, target: Path) -> None:
    if not target.exists():
        os.rename(temporary, target)
    elif not atomic.exchange_folders(temporary, target):
        with temporary_name(target, "old") as old:
            os.rename(target, old)
            try:
                os.rename(temporary, target)
            except OSError:
                os.rename(old, target)
                raise
            flush(target.parent)
            remove(old)
    flush(target.parent)
    atomic.remove_moved_away(target)


# ---------------------------------------------------------------- files of a folder


@contextlib.contextmanager
def new_stage(folder: Path) -> Iterator[Path]:
    """Yield an empty hidden folder (a stage) for the new files of the next version of `folder`.

    The caller has locked `folder`. At the end the stage is removed, unless the manifest of `folder` names it.
    """
    stage = folder / f".stage-{secrets.token_hex(4)}"
    with write_errors(folder):
        stage.mkdir()
    try:
        yield stage
    finally:
        try:
            named = _read(folder).get("stage")
        except LirdrecError:
            named = None
        if named != stage.name:
            remove(stage)


def commit_stage(folder: Path, stage: Path, manifest: Mapping[str, Any], removed: Collection[str] = ()) -> None:
    """Make the files in a stage files of the folder, by a new manifest; on return everything is flushed to the disk.

    Args:
        folder: the folder, which the caller has locked.
        stage: the hidden folder from `new_stage`; it contains each new file under its name in the manifest.
        manifest: the manifest of the next version.
        removed: names of files that the next version does not have.

    Raises:
        RunFolderError: the folder cannot be written, or a subfolder of a file is a link; the folder is then unchanged.
    """
    moved = sorted(path.relative_to(stage).as_posix() for path in stage.rglob("*") if not path.is_dir())
    for name in (*moved, *removed):
        _check_no_links(folder, name)
    with write_errors(folder):
        flush_tree(stage)
        flush(folder)
        manifest = {**manifest, "stage": stage.name, "moved": moved, "removed": sorted(removed)}
        write_text(folder / MANIFEST, manifest_text(manifest))
    try:
        recover_folder(folder)
    except OSError as error:  # the new version is published and is read from its stage
        logger.info(
            "%s: the files of its new version keep their temporary names until the next change (%s)", folder, error
        )


def recover_folder(folder: Path) -> None:
    """Finish a change of the folder that `commit_stage` has published, and remove what killed processes left.

    The caller has locked the folder.

    Raises:
        RunFolderError: the manifest is damaged, names files outside of the folder, or a subfolder of a file is a link.
    """
    manifest = _read(folder)
    if manifest:
        check_manifest(manifest, folder / MANIFEST, REMEDY)
    for name in (*manifest.get("moved", ()), *manifest.get("removed", ())):
        _check_no_links(folder, name)
    for name in manifest.get("moved", ()):
        _link_as(resolve_path(folder, manifest, name), folder / name)
    for name in manifest.get("removed", ()):
        (folder / name).unlink(missing_ok=True)
        for parent in list(Path(name).parents)[:-1]:
            with contextlib.suppress(OSError):  # only empty folders are removed
                (folder / parent).rmdir()
    if "moved" in manifest:
        manifest = {key: value for key, value in manifest.items() if key not in ("stage", "moved", "removed")}
        write_text(folder / MANIFEST, manifest_text(manifest))
    for parent in sorted({(folder / name).parent for name in manifest.get("files", ())} | {folder}):
        remove_leftovers(parent)
    for path in folder.iterdir():
        if STAGE.fullmatch(path.name) or path.name.startswith(EARLIER_STAGE):
            remove(path)
    for name in manifest.get("files", ()):
        if not _first_link(folder, name):
            remove(folder / (name + BESIDE))


def _first_link(folder: Path, name: str) -> Path | None:
    """Return the first folder on the way from `folder` to a file in it that is a link; None if there is none."""
    parents = [folder / parent for parent in reversed(list(Path(name).parents)[:-1])]
    return next((parent for parent in parents if parent.is_symlink()), None)


def _check_no_links(folder: Path, name: str) -> None:
    if (link := _first_link(folder, name)) is not None:
        raise RunFolderError(
            f"{link} is a link, and files outside of the folder are never changed; replace the link by a real folder"
        )


def _read(folder: Path) -> dict[str, Any]:
    return read_manifest(folder, REMEDY) if (folder / MANIFEST).exists() else {}


def _link_as(path: Path, name: Path) -> None:
    if name.exists() and os.path.samefile(path, name):
        return
    make_folder(name.parent)
    with temporary_name(name) as temporary:
        try:
            try:
                os.link(path, temporary)
            except OSError:  # a file system without hard links
                shutil.copyfile(path, temporary)
                flush(temporary)
            os.replace(temporary, name)
        finally:
            temporary.unlink(missing_ok=True)
    flush(name.parent)


def manifest_text(manifest: Mapping[str, Any]) -> str:
    """Return a manifest as JSON text; raise a TypeError or ValueError if JSON cannot represent a value."""
    return json.dumps(manifest, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


# ---------------------------------------------------------------- reading


def read_stable(folder: Path, read: Callable[[], T]) -> T:
    """Return the result of `read()`, which reads one version of a folder.

    `read` is called again if the manifest changed while it ran, also after an error; at most `MAX_READS` times.
    """
    for _ in range(MAX_READS):
        if not folder.exists() and not recover(folder) and _is_being_replaced(folder):
            time.sleep(0.01)
            continue
        before = manifest_stamp(folder)
        try:
            value = read()
        except (LirdrecError, OSError):
            if manifest_stamp(folder) == before:
                raise
            continue
        if manifest_stamp(folder) == before:
            return value
    return read()


def _is_being_replaced(folder: Path) -> bool:
    """Return whether a process is replacing a folder by two renames, of which only the first is done.

    This happens only where `exchange_folders` is not possible.
    """
    start = f".{folder.name[:50]}"
    paths = folder.parent.iterdir() if folder.parent.is_dir() else ()
    return any(path.name.startswith(start) and path.name.endswith(".old") for path in paths)
