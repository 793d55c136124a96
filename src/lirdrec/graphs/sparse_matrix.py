"""Constant sparse matrices with a stored transpose for the backward pass.

The sparse backward of torch builds the transpose at every step. With the matrix and its transpose in CSR, forward and
backward are one product each. Indices are int32, which the CPU kernels use without conversion.
"""

from __future__ import annotations

import copy
import logging
import warnings
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from lirdrec.autograd_function_base import AutogradFunction

log = logging.getLogger(__name__)
warnings.filterwarnings("ignore", message="Sparse CSR tensor support is in beta state")
torch.sparse.check_sparse_tensor_invariants.disable()  # sorted and in range by construction


class SparseMatrix:
    """A constant `(rows, columns)` matrix in CSR together with its transpose.

    Args:
        rows, columns: `(n,)` int64 positions of the entries, no pair twice.
        values: `(n,)` float.
        shape: `(number of rows, number of columns)`.
    """

    def __init__(self, rows: Tensor, columns: Tensor, values: Tensor, shape: tuple[int, int]):
        self.shape = shape
        self.csr = _csr(rows, columns, values, shape)
        self.csr_t = _csr(columns, rows, values, (shape[1], shape[0]))

    def matmul(self, x: Tensor) -> Tensor:
        """Return `A @ x` for dense `x` `(columns, D)`; differentiable with respect to `x`."""
        result: Tensor = _Product.apply(x, self)
        return result

    def transposed(self) -> SparseMatrix:
        """Return `Aᵀ`, which shares the entries with this matrix."""
        other = copy.copy(self)
        other.shape, other.csr, other.csr_t = (self.shape[1], self.shape[0]), self.csr_t, self.csr
        return other

    def row_sums(self) -> Tensor:
        """Return the sum of the entries of each row, `(rows,)`."""
        return product(self.csr, self.csr.values().new_ones(self.shape[1], 1)).squeeze(1)

    def dense(self) -> Tensor:
        """Return the matrix `(rows, columns)` as a dense tensor; for tests and small graphs only."""
        return self.csr.to_dense()

    def __repr__(self) -> str:
        return f"SparseMatrix({self.shape[0]}×{self.shape[1]}, {self.csr.values().numel()} entries)"


def product(
    csr: Tensor, x: Tensor, plus: Tensor | None = None, *, factor: float = 1.0, plus_factor: float = 1.0
) -> Tensor:
    """Return `csr @ x`, or `factor · csr @ x + plus_factor · plus` if `plus` is given, without autograd.

    On MPS, which has no sparse kernels, the product runs on the CPU.
    """
    if x.device.type == "mps":
        _warn_of_fallback()
        result = (csr @ x.cpu()).to(x.device)
        return result if plus is None else plus_factor * plus + factor * result
    with torch.autocast(x.device.type, enabled=False):  # there are no sparse kernels in bfloat16
        if plus is None:
            out = x.new_empty(csr.shape[0], x.shape[1])
            return torch.addmm(out, csr, x, beta=0, out=out) if x.is_cpu else csr @ x
        return torch.addmm(plus, csr, x, beta=plus_factor, alpha=factor)


class _Product(AutogradFunction):
    @staticmethod
    def forward(ctx: Any, x: Tensor, matrix: SparseMatrix) -> Tensor:
        ctx.matrix = matrix
        return product(matrix.csr, x.contiguous())

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return product(ctx.matrix.csr_t, gradient.contiguous()), None


def _csr(rows: Tensor, columns: Tensor, values: Tensor, shape: tuple[int, int]) -> Tensor:
    order = torch.argsort(rows * shape[1] + columns)
    counts = torch.bincount(rows, minlength=shape[0])
    crow = torch.zeros(shape[0] + 1, dtype=torch.int32, device=rows.device)
    crow[1:] = counts.cumsum(0)
    if rows.device.type == "mps":
        crow, order, columns, values = crow.cpu(), order.cpu(), columns.cpu(), values.cpu()
    return torch.sparse_csr_tensor(crow, columns[order].to(torch.int32), values[order], shape)


@lru_cache
def _warn_of_fallback() -> None:
    """Log, once in a process, that sparse products run on the CPU."""
    log.warning("MPS has no sparse products: these run on the CPU, everything else runs on the device")
