"""The graph of items that follow each other in the histories of users."""

from __future__ import annotations

import torch
from torch import Tensor

from lirdrec.graphs.sparse import SparseMatrix


def transition_graph(start: Tensor, items: Tensor, n_items: int) -> SparseMatrix:
    """`D^-½ C D^-½` `(I, I)`, where `C_ij` counts how often i and j are next to each other, in either order.

    Args:
        start, items: `(U+1,)` and `(n,)` int64: the items of user u, in order, are `items[start[u] : start[u + 1]]`.
        n_items: I; an item without a neighbor in a history has a zero row.
    """
    owner = torch.repeat_interleave(start.diff())
    adjacent = owner[1:] == owner[:-1]
    before, after = items[:-1][adjacent], items[1:][adjacent]
    rows, columns = torch.cat([before, after]), torch.cat([after, before])
    keys, counts = (rows * n_items + columns).unique(return_counts=True)
    rows, columns = keys // n_items, keys % n_items
    degrees = torch.bincount(rows, counts.double(), minlength=n_items)
    values = counts / (degrees[rows] * degrees[columns]).sqrt()
    return SparseMatrix(rows, columns, values.float(), (n_items, n_items))
