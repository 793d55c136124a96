"""A fixed set of edges whose weights are recomputed in every step, with gradients (attention on a graph).

There are three operations. The gradients of the first two are computed by the same two operations, so that no
`(edges, dimensions)` matrix is stored:

    dots(a, b)[e]   = ⟨a[row of e], b[column of e]⟩           sampled dense product
    matmul(w, x)    = Σ_e w[e] · x[column of e]  into rows      and matmul_t into columns
    softmax of scores over the edges of each row, or of each column
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor

from lirdrec.autograd_function_base import AutogradFunction
from lirdrec.graphs.sparse_matrix import product

BLOCK_EDGES = 4096  # edges gathered at once on a device without sampled product


class Edges:
    """The positions of the entries of a `(rows, columns)` matrix, sorted by row, then column.

    Args:
        rows, columns: `(E,)` int64, no pair twice.
        shape: `(number of rows, number of columns)`.

    Attributes:
        rows, columns: `(E,)` int64, the sorted edges; weights and scores in all methods have this order.
        order: `(E,)` int64, index of each sorted edge among the given edges.
    """

    def __init__(self, rows: Tensor, columns: Tensor, shape: tuple[int, int]):
        self.shape = shape
        self.order = torch.argsort(rows * shape[1] + columns)
        self.rows, self.columns = rows[self.order], columns[self.order]
        self._crow = _pointers(self.rows, shape[0])
        self._column = self.columns.to(torch.int32)
        # the same edges sorted by column, for products with the transpose
        self._order_t = torch.argsort(self.columns * shape[0] + self.rows)
        self._crow_t = _pointers(self.columns, shape[1])
        self._column_t = self.rows[self._order_t].to(torch.int32)

    def __len__(self) -> int:
        return len(self.rows)

    def dots(self, a: Tensor, b: Tensor) -> Tensor:
        """Return `⟨a[row], b[column]⟩` of each edge, `(E,)`; differentiable. `a` is `(rows, D)`, `b` `(columns, D)`."""
        result: Tensor = _Dots.apply(a, b, self)
        return result

    def matmul(self, weights: Tensor, x: Tensor) -> Tensor:
        """Return `W @ x` `(rows, D)` for weights `(E,)` and `x` `(columns, D)`; differentiable in weights and `x`."""
        result: Tensor = _Product.apply(weights, x, self, False)
        return result

    def matmul_t(self, weights: Tensor, x: Tensor) -> Tensor:
        """Return `Wᵀ @ x` `(columns, D)` for weights `(E,)` and `x` `(rows, D)`; differentiable in weights and `x`."""
        result: Tensor = _Product.apply(weights, x, self, True)
        return result

    def softmax(self, scores: Tensor, over: Literal["row", "column"]) -> Tensor:
        """Return the softmax `(E,)` of scores `(E,)` over the edges of each row (or column); differentiable.

        An edge with score `-inf` gets 0, even if all edges of its row have this score.
        """
        groups, n = (self.rows, self.shape[0]) if over == "row" else (self.columns, self.shape[1])
        result: Tensor = _Softmax.apply(scores, groups, n)
        return result

    def _product(self, weights: Tensor, x: Tensor, transposed: bool) -> Tensor:
        if transposed:
            transposed_weights, shape_t = weights.index_select(0, self._order_t), (self.shape[1], self.shape[0])
            return product(_csr(self._crow_t, self._column_t, transposed_weights, shape_t, x), x)
        return product(_csr(self._crow, self._column, weights, self.shape, x), x)

    def _dots(self, a: Tensor, b: Tensor) -> Tensor:
        if a.device.type in ("cpu", "cuda"):
            with torch.autocast(a.device.type, enabled=False):
                pattern = _csr(self._crow, self._column, a.new_zeros(len(self)), self.shape, a)
                return torch.sparse.sampled_addmm(pattern, a, b.T, beta=0).values()
        blocks = zip(self.rows.split(BLOCK_EDGES), self.columns.split(BLOCK_EDGES), strict=True)
        return torch.cat([(a.index_select(0, r) * b.index_select(0, c)).sum(1) for r, c in blocks])


class _Dots(AutogradFunction):
    @staticmethod
    def forward(ctx: Any, a: Tensor, b: Tensor, edges: Edges) -> Tensor:
        a, b = a.contiguous(), b.contiguous()
        ctx.save_for_backward(a, b)
        ctx.edges = edges
        return edges._dots(a, b)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        a, b = ctx.saved_tensors
        g_a = ctx.edges._product(gradient, b, False) if ctx.needs_input_grad[0] else None
        g_b = ctx.edges._product(gradient, a, True) if ctx.needs_input_grad[1] else None
        return g_a, g_b, None


class _Product(AutogradFunction):
    @staticmethod
    def forward(ctx: Any, weights: Tensor, x: Tensor, edges: Edges, transposed: bool) -> Tensor:
        x = x.contiguous()
        ctx.save_for_backward(weights, x)
        ctx.edges, ctx.transposed = edges, transposed
        return edges._product(weights, x, transposed)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:
        weights, x = ctx.saved_tensors
        gradient = gradient.contiguous()
        g_weights = g_x = None
        if ctx.needs_input_grad[0]:
            g_weights = ctx.edges._dots(x, gradient) if ctx.transposed else ctx.edges._dots(gradient, x)
        if ctx.needs_input_grad[1]:
            g_x = ctx.edges._product(weights, gradient, not ctx.transposed)
        return g_weights, g_x, None, None


class _Softmax(AutogradFunction):
    @staticmethod
    def forward(ctx: Any, scores: Tensor, groups: Tensor, n: int) -> Tensor:
        largest = scores.new_full((n,), -torch.inf).scatter_reduce_(0, groups, scores, "amax")
        largest.masked_fill_(largest == -torch.inf, 0)
        p = (scores - largest.index_select(0, groups)).exp_()
        mass = p.new_zeros(n).index_add_(0, groups, p).clamp_(min=torch.finfo(p.dtype).tiny)
        p.div_(mass.index_select(0, groups))
        ctx.save_for_backward(p, groups)
        ctx.n = n
        return p

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        p, groups = ctx.saved_tensors
        weighted = p * gradient
        mean = p.new_zeros(ctx.n).index_add_(0, groups, weighted)
        return torch.addcmul(weighted, p, mean.index_select(0, groups), value=-1), None, None


def _pointers(sorted_rows: Tensor, n: int) -> Tensor:
    pointers = torch.zeros(n + 1, dtype=torch.int32, device=sorted_rows.device)
    pointers[1:] = torch.bincount(sorted_rows, minlength=n).cumsum(0)
    return pointers


def _csr(crow: Tensor, column: Tensor, values: Tensor, shape: tuple[int, int], x: Tensor) -> Tensor:
    values = values.detach().to(x.dtype)
    if x.device.type == "mps":  # has no sparse kernels: `product` is computed on the CPU
        crow, column, values = crow.cpu(), column.cpu(), values.cpu()
    return torch.sparse_csr_tensor(crow, column, values, shape)
