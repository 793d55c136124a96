"""Row-wise operators with a custom backward that makes few passes over large matrices, and the cosine transform.

Each equals the plain torch expression in its docstring. Autograd's backward of these makes three to six passes over
matrices with a row for every user, which cost as much as the propagation.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

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


class _Normalize(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:  # type: ignore[override]  # torch types it (*args)
        norm = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
        clamped = norm < EPSILON
        scale = norm.clamp_(min=EPSILON).reciprocal_()
        y = x * scale
        ctx.save_for_backward(y, scale, clamped)
        return y

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:  # type: ignore[override]  # torch types it (*args)
        y, scale, clamped = ctx.saved_tensors
        # a row shorter than ε is divided by the constant ε, so its norm does not enter the gradient
        along = torch.linalg.vecdot(gradient, y).unsqueeze(-1).masked_fill_(clamped, 0)
        return torch.addcmul(gradient, y, along, value=-1).mul_(scale)


class _MeanSquare(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, n_rows: int) -> Tensor:  # type: ignore[override]  # torch types it (*args)
        ctx.save_for_backward(x)
        ctx.count = n_rows * x[:1].numel()
        flat = x.reshape(-1)
        return torch.dot(flat, flat) / ctx.count

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:  # type: ignore[override]  # torch types it (*args)
        (x,) = ctx.saved_tensors
        return x * (gradient * (2 / ctx.count)), None


def dct(x: Tensor) -> Tensor:
    """DCT-II with orthonormal scaling along the last axis: `(…, d)` float → `(…, d)`, same dtype and device.

    It goes through one real FFT of the same length (Makhoul 1980), as `idct` does. The transform is linear and
    orthonormal, so `DCT(F) @ W == F @ IDCT(W)` when both act along the feature axis: the model transforms its small
    weights instead of storing a second copy of its large features.
    """
    d = x.shape[-1]
    shuffled = torch.cat([x[..., ::2], x[..., 1::2].flip(-1)], dim=-1)
    turn, scale = _constants(d, x.dtype, x.device)
    half = torch.fft.rfft(shuffled) * turn  # (…, d//2 + 1)
    low, high = half.real, -half.imag[..., 1 : (d + 1) // 2].flip(-1)
    return torch.cat([low, high], dim=-1) * scale


def idct(x: Tensor) -> Tensor:
    """Inverse of `dct` (DCT-III, orthonormal): `(…, d)` float → `(…, d)`. Differentiable; its backward is `dct`."""
    result: Tensor = _InverseDCT.apply(x)
    return result


class _InverseDCT(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:  # type: ignore[override]  # torch types it (*args)
        d = x.shape[-1]
        turn, scale = _constants(d, x.dtype, x.device)
        y = x / scale
        imaginary = torch.zeros_like(y[..., : d // 2 + 1])
        imaginary[..., 1:] = -y[..., (d + 1) // 2 :].flip(-1)  # -y[d-k] for k = 1 … d//2
        half = torch.complex(y[..., : d // 2 + 1].contiguous(), imaginary) * turn.conj()
        shuffled = torch.fft.irfft(half, n=d)
        out = torch.empty_like(x)
        out[..., ::2] = shuffled[..., : (d + 1) // 2]
        out[..., 1::2] = shuffled[..., (d + 1) // 2 :].flip(-1)
        return out

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:  # type: ignore[override]  # torch types it (*args)
        return dct(gradient)  # the transpose of an orthonormal inverse is the transform itself


@lru_cache(maxsize=16)
def _constants(d: int, dtype: torch.dtype, device: torch.device) -> tuple[Tensor, Tensor]:
    k = torch.arange(d // 2 + 1, dtype=torch.float64)
    angle = -torch.pi * k / (2 * d)
    turn = torch.complex(angle.cos(), angle.sin())
    turn = turn.to(torch.complex64 if dtype == torch.float32 else torch.complex128)
    scale = torch.full((d,), (2 / d) ** 0.5, dtype=torch.float64)
    scale[0] = (1 / d) ** 0.5
    return turn.to(device), scale.to(dtype).to(device)
