"""The item-item graph of features: exact nearest neighbors by cosine, and their weighted fusion over modalities.

It is not trained. It is computed in blocks, and needs memory for the features and one block of similarities, never for
an `I×I` matrix.
`transition_graph` makes another graph, of items that follow each other in histories.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from lirdrec.graphs.sparse_matrix import SparseMatrix


def nearest_items(
    values: Tensor,
    present: Tensor,
    k: int,
    *,
    memory_limit: int = 128 * 2**20,
    progress: Callable[[int, int], None] | None = None,
) -> Tensor:
    """Find the `k` nearest items of each item by cosine of the raw features, the item itself included.

    Args:
        values: `(I, d)` float; rows need not be normalized.
        present: `(I,)` bool; an absent item has no neighbors and is no item's neighbor.
        k: neighbors per item; items have fewer if fewer are present.
        memory_limit: bytes for one block of similarities.
        progress: called with (rows done, rows in all) after each block.

    Returns:
        `(I, min(k, I))` int64, nearest first; unused entries are -1.
    """
    return nearest_among(values, present, [(values, present)], k, memory_limit=memory_limit, progress=progress)


def nearest_among(
    queries: Tensor,
    queries_present: Tensor,
    blocks: Sequence[tuple[Tensor, Tensor]],
    k: int,
    *,
    memory_limit: int = 128 * 2**20,
    progress: Callable[[int, int], None] | None = None,
) -> Tensor:
    """Find, for each query, the `k` nearest rows of a catalog that is given in blocks; see `nearest_items`.

    Args:
        queries: `(n, d)` float; they are also the last `n` rows of the catalog, so each is its own nearest row.
        queries_present: `(n,)` bool; an absent query has no neighbors.
        blocks: `(values, present)` pairs that together are the catalog, in row order.

    Returns:
        `(n, k)` int64 as in `nearest_items`; k is at most the number of rows of the catalog.
    """
    if progress is None:
        progress = _silent
    n, k = len(queries), min(k, sum(len(values) for values, _ in blocks))
    result = torch.full((n, k), -1, dtype=torch.int64, device=queries.device)
    query_rows = queries_present.nonzero().squeeze(1)
    offsets = [0]
    for values, _ in blocks:
        offsets.append(offsets[-1] + len(values))
    scales = [_inverse_norms(values) for values, _ in blocks]
    step = max(1, memory_limit // (queries.element_size() * max(1, max(len(v) for v, _ in blocks)) * 2))
    first_query, done = offsets[-1] - n, 0
    for rows in query_rows.split(step):
        block = queries[rows]
        best_values = block.new_empty(len(rows), 0)
        best_items = torch.empty(len(rows), 0, dtype=torch.int64, device=queries.device)
        for (values, present), scale, offset in zip(blocks, scales, offsets, strict=False):
            cosine = block @ values.T  # (b, I); the query's own norm does not change its order
            cosine *= scale
            if not bool(present.all()):
                cosine[:, ~present] = -torch.inf
            itself = rows + first_query - offset
            in_block = (itself >= 0) & (itself < len(values))
            cosine[in_block.nonzero().squeeze(1), itself[in_block]] = torch.inf  # first, even among exact copies
            top = cosine.topk(min(k, len(values)), dim=1)
            best_values = torch.cat([best_values, top.values], dim=1)
            best_items = torch.cat([best_items, top.indices + offset], dim=1)
        order = best_values.argsort(dim=1, descending=True, stable=True)[:, :k]
        nearest = best_items.gather(1, order)
        nearest[best_values.gather(1, order) == -torch.inf] = -1
        result[rows, : nearest.shape[1]] = nearest
        done += len(rows)
        progress(done, len(query_rows))
    return result


def fuse(
    neighbors: Mapping[str, Tensor], weights: Mapping[str, float], n_items: int, dtype: torch.dtype = torch.float32
) -> SparseMatrix:
    r"""Return the fused graph of all modalities, `S = Σ_m w_m S_m`, with `S_m = D^-½ K_m D^-½`.

    `K_m` has ones at the neighbors of each item. All rows of `K_m` have the same number of ones, so each entry of `S_m`
    is 1 divided by this number. If an item lacks some modalities, its row is scaled up to the sum of all weights.

    Args:
        neighbors: modality → `(n, k)` int64, rows among the `n_items` items; unused entries are -1.
        weights: modality → `w_m`.
        n_items: number of columns.

    Returns:
        `(n, n_items)` sparse matrix; not symmetric.
    """
    n = len(next(iter(neighbors.values())))
    device = next(iter(neighbors.values())).device
    total = torch.zeros(n, dtype=torch.float64, device=device)
    for name, table in neighbors.items():
        total += weights[name] * (table[:, 0] >= 0).double()
    rows, columns, values = [], [], []
    sum_of_weights = sum(weights.values())
    for name, table in neighbors.items():
        row, slot = (table >= 0).nonzero(as_tuple=True)
        count = (table >= 0).sum(1)
        rows.append(row)
        columns.append(table[row, slot])
        if weights[name] > 0:  # else `total` may be 0 too, for an item with no other modality
            values.append(weights[name] * sum_of_weights / total[row] / count[row])
        else:
            values.append(total.new_zeros(len(row)))
    key = torch.cat(rows) * n_items + torch.cat(columns)
    unique, inverse = torch.unique(key, return_inverse=True)
    summed = torch.zeros(len(unique), dtype=torch.float64, device=device).index_add_(0, inverse, torch.cat(values))
    return SparseMatrix(unique // n_items, unique % n_items, summed.to(dtype), (n, n_items))


def _inverse_norms(values: Tensor) -> Tensor:
    norms = torch.cat([block.norm(dim=1) for block in values.split(8192)])
    return 1 / norms.clamp(min=1e-12)


def _silent(done: int, total: int) -> None:
    """Show no progress."""


def transition_graph(start: Tensor, items: Tensor, n_items: int) -> SparseMatrix:
    """Return `D^-½ C D^-½` `(I, I)`, where `C_ij` counts how often i and j are next to each other, in either order.

    `D` holds the row sums of `C`.

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
