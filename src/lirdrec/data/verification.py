"""Verify the feature files of a prepared dataset against the checksums of its manifest."""

from __future__ import annotations

import os
from collections.abc import Collection, Sequence
from pathlib import Path

import numpy as np

from lirdrec.data.dataset_parts import DatasetParts
from lirdrec.data.storage import check_files, read_manifest, resolve_path
from lirdrec.files.transaction import read_stable

_verified: set[tuple[object, ...]] = set()  # states of the files that this process has verified


def verify_features(dataset: DatasetParts, names: Collection[str] | None = None) -> None:
    """Compare the feature files of a dataset that was loaded from a prepared folder with their checksums.

    Each file is read once in a process, unless it has changed since. Features in memory are not checked.

    Args:
        dataset: any dataset.
        names: names of matrices; None: all.

    Raises:
        RunFolderError: a file is missing, or is not what was written; it names the file.
    """
    mapped = [name for name, matrix in dataset.features.items() if isinstance(matrix.values, np.memmap)]
    wanted = [name for name in mapped if names is None or name in names]
    if dataset.folder is None or not wanted:
        return
    folder = Path(dataset.folder)
    read_stable(folder, lambda: _verify(folder, [f"features/{name}.npy" for name in wanted]))


def _verify(folder: Path, files: Sequence[str]) -> None:
    manifest = read_manifest(folder)
    for file in files:
        entry = manifest["files"].get(file)
        if entry is None:  # the matrix was removed from the folder after the dataset was loaded
            continue
        path = resolve_path(folder, manifest, file)
        before = _state(path, entry["sha256"])
        if before is None or before not in _verified:
            check_files(folder, {**manifest, "files": {file: entry}}, verify=True)
            if before is not None:
                _verified.add(before)


def _state(path: Path, digest: str) -> tuple[object, ...] | None:
    """What changes when the file or its recorded checksum does; None where there is no file."""
    try:
        status = os.stat(path)
    except OSError:
        return None
    return os.path.abspath(path), status.st_ino, status.st_size, status.st_mtime_ns, digest
