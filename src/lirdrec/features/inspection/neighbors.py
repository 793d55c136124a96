"""Nearest rows of a matrix by cosine, read block by block: never all similarities at once."""

from __future__ import annotations

import numpy as np

BLOCK = 4096  # rows of the matrix that are compared at once
QUERIES = 1024  # compared at once with a block


def unit_rows(values: np.ndarray) -> np.ndarray:
    """`(n, d)` float32 rows of length 1; rows of zeros stay zero."""
    rows = np.asarray(values, dtype=np.float32)
    # by the largest value first: squares of large float16 features must not overflow
    rows = rows / np.maximum(np.abs(rows).max(axis=1, keepdims=True, initial=0), np.float32(1e-30))
    return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), np.float32(1e-30))


def nearest_rows(values: np.ndarray, among: np.ndarray, queries: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """The `k` nearest rows by cosine of each query row, itself excluded.

    Args:
        values: `(I, d)` floats, an array or a memory map.
        among: `(I,)` bool, rows that may be neighbors.
        queries: `(n,)` int64 rows.
        k: neighbors of each.

    Returns:
        `(n, k)` int64 rows, nearest first, -1 where there is none; and `(n, k)` float32 cosines, -inf there.
    """
    rows = np.full((len(queries), k), -1, dtype=np.int64)
    cosines = np.full((len(queries), k), -np.inf, dtype=np.float32)
    for first in range(0, len(queries), QUERIES):
        block = slice(first, first + QUERIES)
        rows[block], cosines[block] = _nearest(values, among, queries[block], k)
    return rows, cosines


def _nearest(values: np.ndarray, among: np.ndarray, queries: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    query_vectors = unit_rows(values[queries])
    best = np.full((len(queries), k), -np.inf, dtype=np.float32)
    rows = np.full((len(queries), k), -1, dtype=np.int64)
    for start in range(0, len(values), BLOCK):
        here = start + np.flatnonzero(among[start : start + BLOCK])
        if not len(here):
            continue
        cosine = query_vectors @ unit_rows(values[start : start + BLOCK][here - start]).T
        cosine[queries[:, None] == here[None, :]] = -np.inf
        if len(here) > k:
            top = np.argpartition(cosine, -k, axis=1)[:, -k:]
            cosine, candidates = np.take_along_axis(cosine, top, axis=1), here[top]
        else:
            candidates = np.broadcast_to(here, cosine.shape)
        best, rows = np.concatenate([best, cosine], axis=1), np.concatenate([rows, candidates], axis=1)
        order = np.lexsort((rows, -best), axis=1)[:, :k]
        best, rows = np.take_along_axis(best, order, axis=1), np.take_along_axis(rows, order, axis=1)
    rows[best == -np.inf] = -1
    return rows, best
