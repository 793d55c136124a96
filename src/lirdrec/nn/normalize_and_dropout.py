"""Row-wise operators with a custom backward that makes few passes over large matrices.

Each operator equals the plain torch expression in its docstring. The backward pass that autograd makes for these
expressions reads matrices with a row for every user three to six times, which costs as much as the propagation over the
graph.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from lirdrec.autograd_function_base import AutogradFunction

EPSILON = 1e-12


def normalize(x: Tensor) -> Tensor:
    """Return `x / max(‖x‖, 1e-12)` along the last axis, as `torch.nn.functional.normalize`; same shape and dtype."""
    result: Tensor = _Normalize.apply(x)
    return result


def mean_square(x: Tensor, n_rows: int | None = None) -> Tensor:
    """Return `x.square().mean()`, a scalar.

    With `n_rows`, `x` has some rows of a table of `n_rows` rows: the sum of its squares is divided by the number of
    entries of the whole table.
    """
    result: Tensor = _MeanSquare.apply(x, len(x) if n_rows is None else n_rows)
    return result


def dropout(x: Tensor, p: float, generator: torch.Generator) -> Tensor:
    """Return `x` with random entries set to zero, each with probability `p`, and all other entries divided by `1 - p`.

    The random numbers come from `generator`.
    """
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
