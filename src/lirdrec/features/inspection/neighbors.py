"""Nearest rows of a matrix by cosine, read block by block: never all similarities at once."""

from __future__ import annotations

import numpy as np

BLOCK = 4096  # rows of the matrix that are compared at once
QUERIES = 1024  # with so many others


def unit_rows(values: np.ndarray) -> np.ndarray:
    """`(n, d)` float32 rows of length 1; rows of zeros stay zero."""
    rows = np.asarray(values, dtype=np.float32)
    # by the largest value first: squares of large float16 features must not overflow
    rows = rows / np.maximum(np.abs(rows).max(axis=1, keepdims=True, initial=0), np.float32(1e-30))
    return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), np.float32(1e-30))


def nearest_rows(values: np.ndarray, among: np.ndarray, asked: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """The `k` nearest rows by cosine of each row that is asked for, itself left out.

    Args:
        values: `(I, d)` floats, an array or a memory map.
        among: `(I,)` bool, rows that may be neighbours.
        asked: `(n,)` int64 rows.
        k: neighbours of each.

    Returns:
        `(n, k)` int64 rows, nearest first, -1 where there is none; and `(n, k)` float32 cosines, -inf there.
    """
    rows = np.full((len(asked), k), -1, dtype=np.int64)
    cosines = np.full((len(asked), k), -np.inf, dtype=np.float32)
    for first in range(0, len(asked), QUERIES):
        part = slice(first, first + QUERIES)
        rows[part], cosines[part] = _nearest(values, among, asked[part], k)
    return rows, cosines


def _nearest(values: np.ndarray, among: np.ndarray, asked: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    queries = unit_rows(values[asked])
    best = np.full((len(asked), k), -np.inf, dtype=np.float32)
    rows = np.full((len(asked), k), -1, dtype=np.int64)
    for start in range(0, len(values), BLOCK):
        here = start + np.flatnonzero(among[start : start + BLOCK])
        if not len(here):
            continue
        cosine = queries @ unit_rows(values[start : start + BLOCK][here - start]).T
        cosine[asked[:, None] == here[None, :]] = -np.inf
        if len(here) > k:
            top = np.argpartition(cosine, -k, axis=1)[:, -k:]
            cosine, found = np.take_along_axis(cosine, top, axis=1), here[top]
        else:
            found = np.broadcast_to(here, cosine.shape)
        best, rows = np.concatenate([best, cosine], axis=1), np.concatenate([rows, found], axis=1)
        order = np.lexsort((rows, -best), axis=1)[:, :k]
        best, rows = np.take_along_axis(best, order, axis=1), np.take_along_axis(rows, order, axis=1)
    rows[best == -np.inf] = -1
    return rows, best
