"""Rows of sparse matrices on the CPU: products of two sparse matrices, and the largest entries of each row.

torch multiplies a sparse matrix by a dense matrix. If both are sparse, such as histories and the weights of nearest
items, scipy's product uses only the stored entries, and makes no dense block of results.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import scipy.sparse as sp
import torch
from torch import Tensor

from lirdrec.ranking.histories import expand

ENTRY_BYTES = 40  # memory for an entry while the largest entries of each row are found
ROW_ENTRIES = 32  # besides its entries, a row needs about as much memory as this number of entries


def csr_of(matrix: Tensor) -> Any:
    """Return a CSR tensor on the CPU as scipy's CSR matrix, without a copy of its values."""
    parts = (part.numpy() for part in (matrix.values(), matrix.col_indices(), matrix.crow_indices()))
    return sp.csr_matrix(tuple(parts), shape=tuple(matrix.shape))


def transposed_csr(matrix: Tensor) -> Tensor:
    """Transpose a CSR tensor `(n, m)` on the CPU; the result has int64 indices, and its columns in order."""
    other = csr_of(matrix).T.tocsr()
    start, columns = (torch.from_numpy(part.astype(np.int64, copy=False)) for part in (other.indptr, other.indices))
    return torch.sparse_csr_tensor(start, columns, torch.from_numpy(other.data), other.shape)


def csr_of_pairs(rows: Tensor, columns: Tensor, values: Tensor, shape: tuple[int, int]) -> Any:
    """Make scipy's CSR matrix of entries on the CPU, `(n,)` rows, columns and values; the rows must be in order."""
    start = np.zeros(shape[0] + 1, np.int64)
    np.cumsum(torch.bincount(rows, minlength=shape[0]).numpy(), out=start[1:])
    return sp.csr_matrix((values.numpy(), columns.numpy(), start), shape=shape)


def csr_rows(matrix: Tensor, rows: Tensor) -> Any:
    """Return the rows `(B,)` of a CSR tensor `(n, m)` on the CPU as scipy's CSR matrix `(B, m)`."""
    owner, entry = expand(matrix.crow_indices(), rows)
    shape = len(rows), matrix.shape[1]
    return csr_of_pairs(owner, matrix.col_indices()[entry], matrix.values()[entry], shape)


def masking(weights: Any) -> Any:
    """Append a diagonal of -inf below the weights `(I, I)`; return scipy's CSR matrix `(2I, I)`.

    A history `(B, I)` times the upper half gives scores. With further columns that are 1 for seen items, `(B, 2I)`, the
    product gives -inf for seen items.
    """
    below = sp.diags_array(np.full(weights.shape[1], -np.inf, np.float32), format="csr")
    return sp.csr_matrix(sp.vstack([weights, sp.csr_matrix(below)], format="csr"))


def largest_of_rows(matrix: Any, k: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the `k` largest finite entries above 0 of each row, largest first; equal entries in order of column.

    Args:
        matrix: scipy's CSR matrix `(n, m)` of float32, its columns in any order, none twice in a row.
        k: 1 or more.

    Returns:
        The values `(n, k)` float32 and the columns `(n, k)` int64; 0 and -1 where a row has fewer such entries. The
        third result is the number of entries found in each row, `(n,)` int64.

    >>> values, columns, counts = largest_of_rows(scipy.sparse.csr_matrix(np.float32([[0, 3, 1, 5], [0, 0, 0, -1]])), 2)
    >>> columns.tolist(), counts.tolist()
    ([[3, 1], [-1, -1]], [2, 0])
    """
    keys, lengths = _keys(matrix), np.diff(matrix.indptr)
    first = np.zeros((matrix.shape[0], k), np.int64)
    shortest, longest = 1, k
    while shortest <= lengths.max(initial=0):  # rows of similar length together, filled up with zeros
        here = (lengths >= shortest) & (lengths <= longest)
        some = lengths[here, None]
        table = np.zeros((len(some), max(k, int(some.max(initial=0)))), np.int64)
        table[np.arange(table.shape[1]) < some] = keys[np.repeat(here, lengths)]
        if longest > k:
            table.partition(k - 1, axis=1)
        first[here] = table[:, :k]
        shortest, longest = longest + 1, 2 * longest
    first.sort(axis=1)
    is_there = first < 0
    values = (-(first >> 32)).astype(np.int32).view(np.float32)
    return values, np.where(is_there, first & (2**32 - 1), -1), is_there.sum(axis=1)


def _keys(matrix: Any) -> np.ndarray:
    """Return a sort key `(n,)` int64 for each entry: larger entries have lower keys, equal entries are by column.

    The key of an entry above 0 is below 0. Its upper half is the negative of the entry's bits, because the bits of
    positive float32 numbers, read as integers, have the order of the numbers. Its lower half is the column.
    """
    data = matrix.data.astype(np.float32, copy=False)
    bits = np.where((data > 0) & (data < np.inf), data, np.float32(0)).view(np.int32)
    keys: np.ndarray = bits * np.int64(-(2**32))
    keys += matrix.indices
    return keys


def fill_with_zeros(matrix: Any, values: np.ndarray, columns: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Complete the lists of `largest_of_rows` in place with entries that are 0, in the order of their columns.

    Args:
        matrix: scipy's CSR matrix `(n, m)`; entries that are not stored are 0.
        values, columns, counts: the results of `largest_of_rows`.

    Returns:
        The rows that are still not complete, since they may need entries below 0, or have very many entries.
    """
    k, lengths = values.shape[1], np.diff(matrix.indptr)
    is_short = counts < k
    few = is_short & (lengths <= np.minimum(matrix.shape[1] - k, 8 * k))
    rows = np.flatnonzero(few)
    if len(rows):
        some = matrix[rows]
        free = np.ones((len(rows), k + int(lengths[rows].max())), bool)  # so many columns contain enough zeros
        shown = (some.data != 0) & (some.indices < free.shape[1])
        free[np.repeat(np.arange(len(rows)), lengths[rows])[shown], some.indices[shown]] = False
        order = free.cumsum(axis=1, dtype=np.int32)
        row, column = np.nonzero(free & (order <= (k - counts[rows])[:, None]))
        columns[rows[row], counts[rows[row]] + order[row, column] - 1] = column
    return np.flatnonzero(is_short & ~few)


def product_blocks(left: Any, right: Any, memory_limit: int) -> Iterator[tuple[int, int]]:
    """Cut the rows of `left` into blocks whose products with `right` fit into a memory limit; yield (start, stop).

    Args:
        left, right: scipy's CSR matrices `(n, m)` and `(m, p)`.
        memory_limit: bytes for the entries of a product and for finding the largest; a block has at least one row.
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
