"""The orthonormal discrete cosine transform (type II) and its inverse, along the last axis, on any device.

Both are computed by one real FFT of the same length (Makhoul 1980). The transform is linear and orthonormal, so
`DCT(F) @ W == F @ IDCT(W)` when both act along the feature axis: the model transforms its small weights instead of
storing a second copy of its large features.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from lirdrec.autograd_function_base import AutogradFunction


def dct(x: Tensor) -> Tensor:
    """Return the orthonormal DCT-II along the last axis: `(…, d)` float → `(…, d)`, same dtype and device."""
    d = x.shape[-1]
    shuffled = torch.cat([x[..., ::2], x[..., 1::2].flip(-1)], dim=-1)
    turn, scale = _constants(d, x.dtype, x.device)
    half = torch.fft.rfft(shuffled) * turn  # (…, d//2 + 1)
    low, high = half.real, -half.imag[..., 1 : (d + 1) // 2].flip(-1)
    return torch.cat([low, high], dim=-1) * scale


def idct(x: Tensor) -> Tensor:
    """Return the inverse of `dct` (DCT-III, orthonormal): `(…, d)` float → `(…, d)`.

    It is differentiable; its backward pass is `dct`.
    """
    result: Tensor = _InverseDCT.apply(x)
    return result


class _InverseDCT(AutogradFunction):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
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
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
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
