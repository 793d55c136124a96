"""Weighted item graphs: nearest items with their cosines, normalized and summed (LATTICE, MICRO).

Only entries are stored, `k` for each item and modality: memory is O(I·k), also for gradients.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lirdrec.graphs.graph_attention import Edges
from lirdrec.graphs.item_item import nearest_among

BLOCK_BYTES = 32 * 2**20  # size of the feature rows gathered at once for each of the two sides of a cosine


@dataclass(frozen=True)
class WeightedEdges:
    """Entries of an item-item matrix: `values[n]` at `(rows[n], columns[n])`; entries at the same position add up.

    Attributes:
        rows, columns: `(n,)` int64 items.
        values: `(n,)` float, possibly with a gradient.
    """

    rows: Tensor
    columns: Tensor
    values: Tensor

    @classmethod
    def joined(cls, matrices: Sequence[WeightedEdges]) -> WeightedEdges:
        """Return the sum of several matrices."""
        return cls(*(torch.cat([getattr(m, name) for m in matrices]) for name in ("rows", "columns", "values")))

    def scaled(self, factor: float | Tensor) -> WeightedEdges:
        """Return the matrix times a number."""
        return WeightedEdges(self.rows, self.columns, self.values * factor)

    def degrees(self, n: int) -> Tensor:
        """Return the row sums `(n,)`."""
        return self.values.new_zeros(n).index_add(0, self.rows, self.values)

    def normalized(self, degrees: Tensor) -> WeightedEdges:
        """Return `D^-½ A D^-½` for this matrix `A`, with `degrees` `(n,)` as `D`.

        A degree that is not positive counts as infinite: the entries of its row and column become 0.
        """
        is_positive = degrees > 0
        # the inner where keeps the root and its gradient finite in entries that the outer where discards
        scale = torch.where(is_positive, torch.where(is_positive, degrees, 1.0).rsqrt(), 0.0)
        both = scale.index_select(0, self.rows) * scale.index_select(0, self.columns)
        return WeightedEdges(self.rows, self.columns, self.values * both)

    def matrix(self, shape: tuple[int, int], first_row: int = 0) -> EdgeMatrix:
        """Return a sparse matrix of `shape`, in which row 0 is the row `first_row` of this matrix.

        All entries must be in its rows; entries at the same position are added up.
        """
        keys = (self.rows - first_row) * shape[1] + self.columns
        unique, inverse = torch.unique(keys, return_inverse=True)  # sorted, as `Edges` sorts
        summed = self.values.new_zeros(len(unique)).index_add(0, inverse, self.values)
        return EdgeMatrix(Edges(unique // shape[1], unique % shape[1], shape), summed)


@dataclass(frozen=True)
class EdgeMatrix:
    """A sparse matrix whose `values` `(E,)` at `edges` may carry a gradient."""

    edges: Edges
    values: Tensor

    def matmul(self, x: Tensor) -> Tensor:
        """Return the matrix times dense `x` `(columns, D)`; differentiable in the values and in `x`."""
        return self.edges.matmul(self.values, x)

    def detached(self) -> EdgeMatrix:
        """Return the same matrix as a constant, without gradient."""
        return EdgeMatrix(self.edges, self.values.detach())


def pairs(neighbors: Tensor) -> tuple[Tensor, Tensor]:
    """Return rows and columns, `(n,)` int64 each, of the entries of a neighbor table `(I, k)`; -1 is no entry."""
    rows, slots = (neighbors >= 0).nonzero(as_tuple=True)
    return rows, neighbors[rows, slots]


def own_cosines(unit: Tensor, neighbors: Tensor) -> WeightedEdges:
    """Return the links from each item to its neighbors in a table `(I, k)`, in which -1 is no entry.

    The values are the cosines of the items' vectors `unit` `(I, D)`, which have length 1; they are differentiable.
    """
    edges = Edges(*pairs(neighbors), (len(unit), len(unit)))
    return WeightedEdges(edges.rows, edges.columns, edges.dots(unit, unit))


@torch.no_grad()
def cosines(queries: Tensor, blocks: Sequence[Tensor], rows: Tensor, columns: Tensor) -> Tensor:
    """Return the cosines `(n,)` of the rows `rows` of `queries` with the rows `columns` of `blocks`; no gradient.

    Args:
        queries: `(m, d)` float.
        blocks: `(_, d)` each, which together are one matrix. No rows need to be normalized, and no block is copied.
        rows, columns: `(n,)` int64, the pairs of rows.
    """
    result, first = queries.new_zeros(len(rows)), 0
    step = max(1, BLOCK_BYTES // (queries.element_size() * max(1, queries.shape[1])))
    for block in blocks:
        inside = ((columns >= first) & (columns < first + len(block))).nonzero().squeeze(1)
        for chunk in inside.split(step):
            a, b = queries[rows[chunk]], block[columns[chunk] - first]
            scale = a.norm(dim=1) * b.norm(dim=1)
            result[chunk] = torch.linalg.vecdot(a, b) / scale.clamp(min=1e-12)
        first += len(block)
    return result


@torch.no_grad()
def nearest_edges(queries: Tensor, present: Tensor, blocks: Sequence[tuple[Tensor, Tensor]], k: int) -> WeightedEdges:
    """Return links from each of the last items of a catalog to its `k` nearest items; the values are cosines.

    See `nearest_among`. The rows and columns of the links are rows of the catalog.

    Args:
        queries: `(n, d)` float, the last `n` rows of the catalog.
        present: `(n,)` bool.
        blocks: `(values, present)` pairs that together are the catalog, in row order.
    """
    rows, columns = pairs(nearest_among(queries, present, blocks, k))
    values = [values for values, _ in blocks]
    first = sum(len(v) for v in values) - len(queries)
    return WeightedEdges(rows + first, columns, cosines(queries, values, rows, columns))
