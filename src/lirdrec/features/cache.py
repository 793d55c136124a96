"""Look up vectors of finished matrices by the hash of their input."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file

from lirdrec.data.features import open_array
from lirdrec.data.storage import read_manifest, resolve_path
from lirdrec.features.dataset_writer import CUT, KEYS, MASK, STATE, VALUES, file_name
from lirdrec.files.atomic import sha256

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Cached:
    """Cached vectors of some inputs: `found` (n,) bool, `vectors` (f, d) of these or None, their `cut` (f,) bool."""

    found: np.ndarray
    vectors: np.ndarray | None
    cut: np.ndarray


class VectorCache:
    """The vectors of an encoder, by its identity, in prepared folders (in order of priority).

    Memory holds 16 bytes per vector; the vectors stay on disk. A matrix without keys, or with a damaged file, is
    skipped: its items are encoded again.
    """

    def __init__(self, folders: Iterable[Path], identity: Mapping[str, Any]):
        self._matrices = [
            _Matrix(folder, name, manifest)
            for folder in folders
            for manifest in (read_manifest(folder),)
            for name, entry in manifest["info"].get("encoders", {}).items()
            if entry.get("identity") == identity and _is_complete(folder, name, manifest)
        ]

    def look_up(self, keys: np.ndarray) -> Cached:
        """Look up inputs by their keys `(n, 16)` uint8; a key is all zero where there is no input."""
        found = np.zeros(len(keys), dtype=bool)
        cut = np.zeros(len(keys), dtype=bool)
        vectors: np.ndarray | None = None
        for matrix in self._matrices:
            rows = np.where(found, -1, matrix.rows(keys))
            new = np.flatnonzero(rows >= 0)
            if len(new):
                copied = matrix.vectors(rows[new])
                if vectors is None:
                    vectors = np.zeros((len(keys), copied.shape[1]), dtype=np.float32)
                vectors[new], cut[new], found[new] = copied, matrix.cut[rows[new]], True
        return Cached(found, None if vectors is None else vectors[found], cut[found])


class _Matrix:
    """An existing feature matrix whose vectors are reused: an index from the key of an input (its hash) to a row."""

    def __init__(self, folder: Path, name: str, manifest: Mapping[str, Any]):
        def load(ending: str) -> np.ndarray:
            return open_array(resolve_path(folder, manifest, file_name(name, ending)))

        self._values, self.keys = resolve_path(folder, manifest, file_name(name, VALUES)), load(KEYS)
        has_cut = file_name(name, CUT) in manifest["files"]
        self.cut = load(CUT) if has_cut else np.zeros(len(self.keys), dtype=bool)
        rows = np.flatnonzero(load(MASK))
        heads = _heads(self.keys[rows])
        order = np.argsort(heads, kind="stable")
        self._heads, self._rows = heads[order], rows[order]

    def rows(self, keys: np.ndarray) -> np.ndarray:
        """The row of each key, -1 where there is none."""
        if not len(self._rows):
            return np.full(len(keys), -1)
        rows = self._rows[np.minimum(np.searchsorted(self._heads, _heads(keys)), len(self._rows) - 1)]
        return np.where((self.keys[rows] == keys).all(axis=1) & keys.any(axis=1), rows, -1)

    def vectors(self, rows: np.ndarray) -> np.ndarray:
        """Vectors of some rows. The memory map is opened for each call, since pages of an open map accumulate."""
        return open_array(self._values)[rows]


def fitted_state(folder: Path, name: str) -> dict[str, np.ndarray] | None:
    """The fitted state of a matrix's encoder; None if it was not stored, or is damaged."""
    manifest = read_manifest(folder)
    if not _is_intact(folder, manifest, file_name(name, STATE)):
        return None
    return load_file(resolve_path(folder, manifest, file_name(name, STATE)))


def _is_complete(folder: Path, name: str, manifest: Mapping[str, Any]) -> bool:
    needed = [file_name(name, ending) for ending in (VALUES, MASK, KEYS)]
    complete = all(file in manifest["files"] for file in needed)
    intact = complete and all(_is_intact(folder, manifest, file) for file in needed)
    if complete and not intact:
        logger.warning("%s: a file of features '%s' is damaged; its items are encoded again", folder, name)
    return intact


def _is_intact(folder: Path, manifest: Mapping[str, Any], name: str) -> bool:
    entry, path = manifest["files"].get(name), resolve_path(folder, manifest, name)
    return entry is not None and path.is_file() and sha256(path) == entry["sha256"]


def _heads(keys: np.ndarray) -> np.ndarray:
    """The first half of each key as one number; equal ones are compared in full afterwards."""
    return np.ascontiguousarray(keys[:, :8]).view(np.uint64)[:, 0]
