"""Files of a prepared folder replaced together with its manifest, so that a kill at any moment leaves it loadable."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

from lirdrec.atomic import atomic_write, flush, write_errors
from lirdrec.data.storage import BESIDE, MANIFEST, file_entry, manifest_text, placed, read_manifest
from lirdrec.locks import folder_lock

SWITCHING = ".switching"


def switch(
    folder: str | Path,
    files: Mapping[str, Path],
    entries: Callable[[Mapping[str, Any]], Mapping[str, Any]] = lambda manifest: {},
    gone: Collection[str] = (),
) -> None:
    """Put new files in their places and say so in the manifest: all of it is seen, or nothing.

    The new files first lie beside those they replace, and one manifest names the new ones; then they take the old
    names, and a second manifest says that. Between the two, `lirdrec.data.storage.placed` knows where they are.

    Args:
        folder: a prepared folder.
        files: name in the manifest → the finished file, on the same disk; it is moved.
        entries: from the manifest as it is to the entries that change, for instance `features` and `info`.
        gone: names of files that the dataset has no more; those that it never had do not count.

    Raises:
        RunFolderError: no prepared folder, or it cannot be written.
        DataError: `entries` holds something that JSON cannot.
    """
    folder = Path(folder)
    with _alone(folder):
        _settle(folder)
        old = read_manifest(folder)
        gone = set(gone) & set(old["files"])
        moved = sorted(name for name in files if name in old["files"])
        listed = {name: entry for name, entry in old["files"].items() if name not in gone}
        listed |= {name: file_entry(path) for name, path in files.items()}
        manifest = {**old, **entries(old), "moved": moved, "files": dict(sorted(listed.items()))}
        manifest_text(manifest)  # raises before anything is moved
        for name, path in files.items():
            target = placed(folder, manifest, name)
            target.parent.mkdir(exist_ok=True)
            flush(path)
            os.replace(path, target)
            flush(target.parent)
        _write(folder, manifest)
        _settle(folder)
        for name in gone:
            (folder / name).unlink(missing_ok=True)


def settle(folder: str | Path) -> None:
    """Finish a switch that was cut short; does nothing to a folder that is in order.

    Raises:
        RunFolderError: no prepared folder, or it cannot be written.
    """
    folder = Path(folder)
    read_manifest(folder)
    with _alone(folder):
        _settle(folder)


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[None]:
    lock = folder_lock(
        folder / SWITCHING,
        lambda owner: f"{folder}: another process{owner} is changing this dataset at the moment; try again",
        tidy=True,
    )
    with write_errors(folder), lock:
        yield


def _settle(folder: Path) -> None:
    manifest = read_manifest(folder)
    for name in manifest.get("moved", ()):
        (folder / name).unlink(missing_ok=True)
        _second_name(placed(folder, manifest, name), folder / name)
    if "moved" in manifest:
        _write(folder, {key: value for key, value in manifest.items() if key != "moved"})
    for path in [*folder.glob(f"*{BESIDE}"), *folder.glob(f"features/*{BESIDE}")]:
        path.unlink()


def _second_name(path: Path, name: Path) -> None:
    try:
        os.link(path, name)
    except OSError:  # a file system without hard links
        with contextlib.suppress(FileNotFoundError):
            name.unlink()
        shutil.copyfile(path, name)
        flush(name)
    flush(name.parent)


def _write(folder: Path, manifest: Mapping[str, Any]) -> None:
    with atomic_write(folder / MANIFEST) as temporary:
        temporary.write_text(manifest_text(manifest), encoding="utf-8")
