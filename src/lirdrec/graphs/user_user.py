"""The user-user graph: each user's neighbors by the number of common items, and their weights."""

from __future__ import annotations

import torch
from torch import Tensor

from lirdrec.graphs.sparse_matrix import SparseMatrix, product

MEMORY_LIMIT = 128 * 2**20  # bytes of a block of counts


def user_user_graph(history: Tensor, k: int, dtype: torch.dtype) -> SparseMatrix:
    r"""Return the graph `T` `(U, U)`: the entries of row u are at the k neighbors of user u.

    The neighbors of u are the other users with the most items in common. The entries are the softmax of these numbers
    of common items. Users without a common item are no neighbors, so a row can have fewer than k entries, or none.

    Args:
        history: CSR `(U, I)` of ones at the training pairs.
        k: neighbors per user.
        dtype: dtype of the values.

    >>> user_user_graph(torch.eye(3).to_sparse_csr(), 2, torch.float32).csr.values().numel()
    0
    """
    n_users, n_items = history.shape
    start, items = history.crow_indices().long(), history.col_indices().long()
    rows, columns, values = [], [], []
    step = max(1, MEMORY_LIMIT // (16 * max(n_users, n_items)))
    for first in range(0, n_users, step):
        last = min(first + step, n_users)
        owner = torch.repeat_interleave(torch.arange(last - first, device=start.device), start[first : last + 1].diff())
        wanted = history.values().new_zeros(n_items, last - first)
        wanted[items[start[first] : start[last]], owner] = 1
        common = product(history, wanted).T
        own = torch.arange(first, last, device=start.device)
        common[own - first, own] = 0
        found, nearest, weights = weighted_users(common, k, dtype)
        rows.append(found + first)
        columns.append(nearest)
        values.append(weights)
    return SparseMatrix(torch.cat(rows), torch.cat(columns), torch.cat(values), (n_users, n_users))


def weighted_users(common: Tensor, k: int, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    """Find, for each query, the k users with the most common items, and the softmax of these numbers.

    Args:
        common: `(B, U)` float, numbers of common items. Users with 0 are left out; among equal numbers, users with
            lower rows come first.
        k: users per query.
        dtype: dtype of the weights.

    Returns:
        The entries: their queries `(n,)` int64, users `(n,)` int64, and weights `(n,)`.
    """
    n_users = common.shape[1]
    # each further row gets a fraction less, so that equal numbers are ordered by row
    keys = common.double() - torch.arange(n_users, device=common.device, dtype=torch.float64) / (n_users + 1)
    nearest = keys.topk(min(k, n_users), dim=1).indices
    numbers = common.gather(1, nearest).to(torch.float64)
    numbers = numbers.masked_fill(numbers <= 0, -torch.inf)
    weights = numbers.softmax(1)  # a row without any neighbor is nan, and has no entry
    row, slot = (numbers > 0).nonzero(as_tuple=True)
    return row, nearest[row, slot], weights[row, slot].to(dtype)
