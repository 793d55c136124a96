"""Row-wise operators with a backward that reads and writes each large matrix as seldom as possible.

Each equals the plain torch expression in its docstring; autograd's own backward of those makes three to six passes over
matrices of the size of all users, which cost as much as the propagation.
"""

from __future__ import annotations

import torch
from torch import Tensor

EPSILON = 1e-12


def normalize(x: Tensor) -> Tensor:
    """`x / max(‖x‖, 1e-12)` along the last axis, as `torch.nn.functional.normalize`; shape and dtype kept."""
    return _Normalize.apply(x)  # type: ignore[no-any-return]


def mean_square(x: Tensor) -> Tensor:
    """`x.square().mean()`, a scalar."""
    return _MeanSquare.apply(x)  # type: ignore[no-any-return]


class _Normalize(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor) -> Tensor:  # type: ignore[no-untyped-def,override]
        scale = torch.linalg.vector_norm(x, dim=-1, keepdim=True).clamp_(min=EPSILON).reciprocal_()
        y = x * scale
        ctx.save_for_backward(y, scale)
        return y

    @staticmethod
    def backward(ctx, gradient: Tensor) -> Tensor:  # type: ignore[no-untyped-def,override]
        y, scale = ctx.saved_tensors
        along = torch.linalg.vecdot(gradient, y).unsqueeze(-1)
        return torch.addcmul(gradient, y, along, value=-1).mul_(scale)


class _MeanSquare(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor) -> Tensor:  # type: ignore[no-untyped-def,override]
        ctx.save_for_backward(x)
        flat = x.reshape(-1)
        return torch.dot(flat, flat) / flat.numel()

    @staticmethod
    def backward(ctx, gradient: Tensor) -> Tensor:  # type: ignore[no-untyped-def,override]
        (x,) = ctx.saved_tensors
        return x * (gradient * (2 / x.numel()))
