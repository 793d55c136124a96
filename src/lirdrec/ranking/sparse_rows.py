"""Rows of sparse matrices on the CPU: products of two sparse matrices, and the largest entries of each row.

torch multiplies a sparse matrix by a dense one. Where both are sparse, as a history and the weights of the nearest
items are, scipy's product takes only the entries that are there, and no dense block of results is made.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import scipy.sparse as sp
import torch
from torch import Tensor

from lirdrec.ranking.histories import expand

ENTRY_BYTES = 40  # memory for an entry while the largest of each row are found
ROW_ENTRIES = 32  # a row needs about as much as these beside its entries


def csr_of(matrix: Tensor) -> Any:
    """A CSR tensor on the CPU as scipy's CSR matrix, without a copy of its entries."""
    parts = (part.numpy() for part in (matrix.values(), matrix.col_indices(), matrix.crow_indices()))
    return sp.csr_matrix(tuple(parts), shape=tuple(matrix.shape))


def transposed_csr(matrix: Tensor) -> Tensor:
    """A CSR tensor `(n, m)` on the CPU as one `(m, n)` with int64 indices, its columns in order."""
    other = csr_of(matrix).T.tocsr()
    start, columns = (torch.from_numpy(part.astype(np.int64, copy=False)) for part in (other.indptr, other.indices))
    return torch.sparse_csr_tensor(start, columns, torch.from_numpy(other.data), other.shape)


def csr_of_pairs(rows: Tensor, columns: Tensor, values: Tensor, shape: tuple[int, int]) -> Any:
    """Entries `(n,)` on the CPU, in the order of their rows, as scipy's CSR matrix."""
    start = np.zeros(shape[0] + 1, np.int64)
    np.cumsum(torch.bincount(rows, minlength=shape[0]).numpy(), out=start[1:])
    return sp.csr_matrix((values.numpy(), columns.numpy(), start), shape=shape)


def csr_rows(matrix: Tensor, rows: Tensor) -> Any:
    """Rows `(B,)` of a CSR tensor `(n, m)` on the CPU as scipy's CSR matrix `(B, m)`."""
    owner, entry = expand(matrix.crow_indices(), rows)
    shape = len(rows), matrix.shape[1]
    return csr_of_pairs(owner, matrix.col_indices()[entry], matrix.values()[entry], shape)


def masking(weights: Any) -> Any:
    """Weights `(I, I)` with -inf for each item itself below, `(2I, I)`; scipy's CSR.

    A history `(B, I)` times the upper half gives scores; with ones for seen items beside it, `(B, 2I)`, the scores of
    seen items are -inf.
    """
    below = sp.diags_array(np.full(weights.shape[1], -np.inf, np.float32), format="csr")
    return sp.csr_matrix(sp.vstack([weights, sp.csr_matrix(below)], format="csr"))


def largest_of_rows(matrix: Any, k: int, *, in_order: bool = True) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The `k` largest of the entries above 0 of each row; equal ones by column. NaN and infinity are left out.

    Args:
        matrix: scipy's CSR matrix `(n, m)` of float32, its columns in any order, none twice in a row.
        k: 1 or more.
        in_order: largest first; False: in any order, in less time.

    Returns:
        The values `(n, k)` float32 and the columns `(n, k)` int64; 0 and -1 where a row has fewer. The number of each
        row's entries `(n,)` int64.

    >>> values, columns, counts = largest_of_rows(scipy.sparse.csr_matrix(np.float32([[0, 3, 1, 5], [0, 0, 0, -1]])), 2)
    >>> columns.tolist(), counts.tolist()
    ([[3, 1], [-1, -1]], [2, 0])
    """
    n_rows, lengths = matrix.shape[0], np.diff(matrix.indptr)
    data = matrix.data.astype(np.float32, copy=False)
    if len(data) and not (data.min() >= 0 and data.max() < np.inf):
        data = np.where((data > 0) & (data < np.inf), data, np.float32(0))
    least = np.maximum(_smallest_kept(matrix, data, k), np.finfo(np.float32).tiny)
    is_kept = data >= np.repeat(least, lengths)
    # numpy sorts numbers of 16 bits in linear time
    rows = np.repeat(np.arange(n_rows, dtype=np.uint16 if n_rows <= 2**16 else np.int64), lengths)[is_kept]
    found, columns = data[is_kept], matrix.indices[is_kept]
    counts = np.bincount(rows, minlength=n_rows)
    # without an order, only rows with more than k entries, the last of them equal, have to be sorted
    sorted_at = np.flatnonzero(np.repeat(in_order | (counts > k), counts))
    key = _falling(found[sorted_at]) << np.uint64(32) | columns[sorted_at].astype(np.uint64)
    order = sorted_at[np.argsort(key)]
    order = order[np.argsort(rows[order], kind="stable")]
    found[sorted_at], columns[sorted_at] = found[order], columns[order]
    rank = np.arange(len(rows)) - np.repeat(np.cumsum(counts) - counts, counts)
    first = rank < k
    at = rows[first].astype(np.int64) * k + rank[first]
    values, places = np.zeros(n_rows * k, np.float32), np.full(n_rows * k, -1, np.int64)
    values[at], places[at] = found[first], columns[first]
    return values.reshape(n_rows, k), places.reshape(n_rows, k), np.minimum(counts, k)


def fill_with_zeros(matrix: Any, values: np.ndarray, columns: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Complete the lists of `largest_of_rows` in place by entries that are 0, in the order of their columns.

    Args:
        matrix: scipy's CSR matrix `(n, m)`; what is not there is 0.
        values, columns, counts: of `largest_of_rows`.

    Returns:
        The rows that are not complete: they may need entries below 0, or have very many entries.
    """
    k, lengths = values.shape[1], np.diff(matrix.indptr)
    is_short = counts < k
    few = is_short & (lengths <= np.minimum(matrix.shape[1] - k, 8 * k))
    rows = np.flatnonzero(few)
    if len(rows):
        some = matrix[rows]
        free = np.ones((len(rows), k + int(lengths[rows].max())), bool)  # among so many columns there are enough
        shown = (some.data != 0) & (some.indices < free.shape[1])
        free[np.repeat(np.arange(len(rows)), lengths[rows])[shown], some.indices[shown]] = False
        order = free.cumsum(axis=1, dtype=np.int32)
        row, column = np.nonzero(free & (order <= (k - counts[rows])[:, None]))
        columns[rows[row], counts[rows[row]] + order[row, column] - 1] = column
    return np.flatnonzero(is_short & ~few)


def _falling(values: np.ndarray) -> np.ndarray:
    """Numbers `(n,)` uint64 below 2^32 in the opposite order of positive float32 `values`, whose bits are in order."""
    return np.uint64(2**32 - 1) - values.view(np.uint32)


def _smallest_kept(matrix: Any, data: np.ndarray, k: int) -> np.ndarray:
    """The k-th largest entry `(n,)` of each row of `data`, the entries of a CSR matrix; 0 where a row has fewer."""
    lengths, shortest = np.diff(matrix.indptr), k + 1
    smallest = np.zeros(matrix.shape[0], np.float32)
    entries = sp.csr_matrix((data, matrix.indices, matrix.indptr), shape=matrix.shape, copy=False)
    while shortest <= lengths.max(initial=0):  # rows of similar length side by side, filled up with zeros
        rows = np.flatnonzero((lengths >= shortest) & (lengths < 2 * shortest))
        shortest *= 2
        if len(rows):
            table = np.zeros((len(rows), int(lengths[rows].max())), np.float32)
            table[np.arange(table.shape[1]) < lengths[rows, None]] = entries[rows].data
            smallest[rows] = torch.from_numpy(table).topk(k, dim=1, sorted=False).values.amin(1).numpy()
    return smallest


def product_blocks(left: Any, right: Any, memory_limit: int) -> Iterator[tuple[int, int]]:
    """First and last row of blocks of `left` so that each block's product with `right` fits into `memory_limit` bytes.

    Args:
        left, right: scipy's CSR matrices `(n, m)` and `(m, p)`.
        memory_limit: for the product's entries, and for finding the largest; a block has a row at least.
    """
    width = np.diff(right.indptr)
    up_to = np.concatenate([[0], np.cumsum(width[left.indices], dtype=np.int64)])
    entries = np.minimum(np.diff(up_to[left.indptr]), right.shape[1]) + ROW_ENTRIES
    total = np.cumsum(entries)
    start, limit = 0, max(1, memory_limit // ENTRY_BYTES)
    while start < left.shape[0]:
        before = int(total[start - 1]) if start else 0
        stop = max(start + 1, int(np.searchsorted(total, before + limit, side="right")))
        yield start, stop
        start = stop
