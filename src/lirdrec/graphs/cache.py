"""Disk cache of nearest-neighbor tables. A file's name has a hash of the features and of the number of neighbors.

A file is the table in NumPy's format, followed by the 32 bytes of its SHA-256.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import logging
import os
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from lirdrec.graphs.item_item import nearest_items

log = logging.getLogger(__name__)
VERSION = 3  # increase when the result of `nearest_items` or the format of the files changes
DIGEST_BYTES = 32


class NeighborSource:
    """A function `(modality, k) -> (I, k)` that returns the table of the k nearest neighbors of each item.

    It keeps its tables in memory, and also in `folder` if one is given.

    Args:
        features: modality → (`values` `(I, d)`, `present` `(I,)`) tensors.
        folder: folder of the cached tables, or None. A damaged file is replaced, with a warning.
        progress: function `(modality) -> callback(done, total)` that shows the progress of a computation, or None.
    """

    def __init__(
        self,
        features: dict[str, tuple[Tensor, Tensor]],
        folder: Path | None = None,
        progress: Callable[[str], Callable[[int, int], None]] | None = None,
    ):
        self._features, self._folder, self._progress = features, folder, progress
        self._tables: dict[tuple[str, int], Tensor] = {}

    def __call__(self, name: str, k: int) -> Tensor:
        """Return the table of the modality `name`, as `nearest_items` does: `(I, min(k, I))` int64.

        It is on the device of the features.
        """
        k = min(k, len(self._features[name][0]))
        if (name, k) not in self._tables:
            self._tables[name, k] = self._load_or_compute(name, k)
        return self._tables[name, k]

    def _load_or_compute(self, name: str, k: int) -> Tensor:
        values, present = self._features[name]
        path = None
        if self._folder is not None:
            path = self._folder / f"neighbors-{_key(values, present, k)}.npy"
            cached = _read(path, (len(values), k))
            if cached is not None:
                return torch.from_numpy(cached).to(values.device)
        progress = self._progress(name) if self._progress else None
        table = nearest_items(values, present, k, progress=progress)
        if path is not None:
            _write(path, table.cpu().numpy())
        return table


def _key(values: Tensor, present: Tensor, k: int) -> str:
    digest = hashlib.sha256(f"{VERSION} {tuple(values.shape)} {values.dtype} {k}".encode())
    for block in values.split(4096):
        digest.update(block.cpu().contiguous().numpy().data)
    digest.update(present.cpu().numpy().tobytes())
    return digest.hexdigest()[:32]


def _read(path: Path, shape: tuple[int, int]) -> np.ndarray | None:
    """Return the table in a file. None if there is no file, or no permission to read it.

    If reading fails in another way or the file is damaged, None is returned, too, with a warning.
    """
    try:
        content = memoryview(path.read_bytes())
    except (FileNotFoundError, NotADirectoryError, PermissionError):
        return None  # `_write` reports an unusable folder
    except (OSError, MemoryError) as error:
        log.warning("%s: the cached neighbors cannot be read (%s); they are computed again", path, error)
        return None
    table_bytes, digest = content[:-DIGEST_BYTES], content[-DIGEST_BYTES:]
    if hashlib.sha256(table_bytes).digest() == digest:
        with contextlib.suppress(ValueError, EOFError):
            table = np.lib.format.read_array(io.BytesIO(table_bytes), allow_pickle=False)
            if table.shape == shape and table.dtype == np.int64:
                return table
    log.warning("%s: the cached neighbors are damaged (wrong checksum); they are computed again", path)
    return None


def _write(path: Path, table: np.ndarray) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=path.parent, suffix=".tmp")
        try:
            content = io.BytesIO()
            np.save(content, table)
            with os.fdopen(handle, "wb") as file:
                file.write(content.getbuffer())
                file.write(hashlib.sha256(content.getbuffer()).digest())
            os.replace(temporary, path)
        finally:
            Path(temporary).unlink(missing_ok=True)
    except OSError as error:  # no fault: without a cache, the next run computes the tables again
        log.warning("the neighbor cache cannot be written (%s); the neighbors are kept in memory only", error)
