"""Row-wise operators with a custom backward that makes few passes over large matrices.

Each equals the plain torch expression in its docstring. Autograd's backward of these makes three to six passes over
matrices with a row for every user, which cost as much as the propagation.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from lirdrec.autograd_function import AutogradFunction

EPSILON = 1e-12


def normalize(x: Tensor) -> Tensor:
    """`x / max(‖x‖, 1e-12)` along the last axis, as `torch.nn.functional.normalize`; shape and dtype kept."""
    result: Tensor = _Normalize.apply(x)
    return result


def mean_square(x: Tensor, n_rows: int | None = None) -> Tensor:
    """`x.square().mean()`, a scalar; with `n_rows`, the share of these rows in the mean of a table of so many rows."""
    result: Tensor = _MeanSquare.apply(x, len(x) if n_rows is None else n_rows)
    return result


def dropout(x: Tensor, p: float, generator: torch.Generator) -> Tensor:
    """`x` with each entry zeroed with probability `p` and the others divided by `1 - p`, from `generator`."""
    if p == 0:
        return x
    kept = torch.empty(x.shape, dtype=x.dtype).bernoulli_(1 - p, generator=generator)
    return x * kept.div_(1 - p).to(x.device)


class _Normalize(AutogradFunction):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        norm = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
        clamped = norm < EPSILON
        scale = norm.clamp_(min=EPSILON).reciprocal_()
        y = x * scale
        ctx.save_for_backward(y, scale, clamped)
        return y

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        y, scale, clamped = ctx.saved_tensors
        # a row shorter than ε is divided by the constant ε, so its norm does not enter the gradient
        along = torch.linalg.vecdot(gradient, y).unsqueeze(-1).masked_fill_(clamped, 0)
        return torch.addcmul(gradient, y, along, value=-1).mul_(scale)


class _MeanSquare(AutogradFunction):
    @staticmethod
    def forward(ctx: Any, x: Tensor, n_rows: int) -> Tensor:
        ctx.save_for_backward(x)
        ctx.count = n_rows * x[:1].numel()
        flat = x.reshape(-1)
        return torch.dot(flat, flat) / ctx.count

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        (x,) = ctx.saved_tensors
        return x * (gradient * (2 / ctx.count)), None
