"""Replace files of a prepared folder and its manifest atomically; after a kill at any time it can still be loaded."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

from lirdrec.data.storage import file_entry, read_manifest
from lirdrec.errors import DataError
from lirdrec.files import transaction
from lirdrec.files.atomic import write_errors
from lirdrec.files.locks import folder_lock
from lirdrec.files.transaction import SWITCHING, commit_stage, manifest_text, new_stage


def commit(
    folder: str | Path,
    files: Mapping[str, Path],
    entries: Callable[[Mapping[str, Any]], Mapping[str, Any]] = lambda manifest: {},
    gone: Collection[str] = (),
) -> None:
    """Add, replace and remove files of a prepared folder, and change its manifest: all of this or nothing.

    Args:
        folder: a prepared folder.
        files: name in the manifest → the finished new file, on the same disk; it is moved into the folder.
        entries: function from the current manifest to the changed entries, for instance `features` and `info`.
        gone: names of the files to remove; unknown names are ignored.

    Raises:
        RunFolderError: `folder` is not a prepared dataset, cannot be written, or is being changed by another process.
        DataError: `entries` returns a value that JSON cannot represent.
    """
    folder = Path(folder)
    with dataset_lock(folder):
        transaction.recover_folder(folder)
        old = read_manifest(folder)
        removed = set(gone) & set(old["files"])
        listed = {name: entry for name, entry in old["files"].items() if name not in removed}
        listed |= {name: file_entry(path) for name, path in files.items()}
        manifest = {**old, **entries(old), "files": dict(sorted(listed.items()))}
        try:
            manifest_text(manifest)  # raises an error before any file is moved
        except (TypeError, ValueError) as error:
            raise DataError(f"{folder}: its info cannot be written as JSON: {error}") from None
        with new_stage(folder) as stage:
            for name, path in files.items():
                (stage / name).parent.mkdir(parents=True, exist_ok=True)
                os.replace(path, stage / name)
            commit_stage(folder, stage, manifest, removed)


def recover(folder: str | Path) -> None:
    """Complete an interrupted change of a prepared folder, if any; raises a RunFolderError as `commit` does."""
    folder = Path(folder)
    read_manifest(folder)
    with dataset_lock(folder):
        transaction.recover_folder(folder)


@contextlib.contextmanager
def dataset_lock(folder: Path) -> Iterator[None]:
    """Lock a prepared folder during a `with` block; raises a RunFolderError if another process is changing it."""
    lock = folder_lock(
        folder / SWITCHING,
        lambda owner: f"{folder}: another process{owner} is changing this dataset at the moment; try again later",
        tidy=True,
        nested=True,
    )
    with write_errors(folder), lock:
        yield
