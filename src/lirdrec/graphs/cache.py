"""A disk cache of neighbour tables, keyed by a hash of the features and of the settings that made them."""

from __future__ import annotations

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
VERSION = 2  # raise when `nearest_items` changes what it returns


class NeighbourSource:
    """`(modality, k) -> (I, k)` neighbour tables; kept in memory, and in `folder` if one is given.

    Args:
        features: modality → (`values` `(I, d)`, `present` `(I,)`) tensors.
        folder: where tables are cached, or None. A damaged or foreign file is ignored and made anew.
        progress: `(modality) -> callback(done, total)` for long builds.
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
        """The table of modality `name` with `k` neighbours per item, `(I, k)` int64 on the features' device."""
        if (name, k) not in self._tables:
            self._tables[name, k] = self._find(name, k)
        return self._tables[name, k]

    def _find(self, name: str, k: int) -> Tensor:
        values, present = self._features[name]
        path = None
        if self._folder is not None:
            path = self._folder / f"neighbours-{_key(values, present, k)}.npy"
            kept = _read(path, (len(values), k))
            if kept is not None:
                return torch.from_numpy(kept).to(values.device)
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
    try:
        table = np.lib.format.read_array(io.BytesIO(path.read_bytes()), allow_pickle=False)
    except (OSError, ValueError, EOFError, MemoryError):
        return None
    if (
        table.shape != shape
        or table.dtype != np.int64
        or (table.size and (table.min() < -1 or table.max() >= shape[0]))
    ):
        log.warning("%s does not hold the expected neighbours; it is made anew", path.name)
        return None
    return table


def _write(path: Path, table: np.ndarray) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=path.parent, suffix=".tmp")
        try:
            with os.fdopen(handle, "wb") as file:
                np.save(file, table)
            os.replace(temporary, path)
        finally:
            Path(temporary).unlink(missing_ok=True)  # what a full disk cut short
    except OSError as error:  # a cache that cannot be written costs time, nothing else
        log.warning("the neighbour cache cannot be written (%s); the graph is kept in memory only", error)
