"""Parameter initialization, sampled in float64 on the CPU so that it is the same on every device and dtype."""

from __future__ import annotations

import torch
from torch import Tensor


def xavier_normal_(parameter: Tensor, generator: torch.Generator, fan_in: int, fan_out: int) -> None:
    """Normal with variance `2 / (fan_in + fan_out)` (Glorot & Bengio, AISTATS 2010)."""
    normal_(parameter, generator, (2 / (fan_in + fan_out)) ** 0.5)


def xavier_uniform_(parameter: Tensor, generator: torch.Generator, fan_in: int, fan_out: int) -> None:
    """Uniform in `±√(6 / (fan_in + fan_out))`: the same variance as `xavier_normal_`."""
    uniform_(parameter, generator, (6 / (fan_in + fan_out)) ** 0.5)


def torch_linear_(parameter: Tensor, generator: torch.Generator, fan_in: int) -> None:
    """Uniform in `±1/√fan_in`: torch's default for weights and biases of a linear layer."""
    uniform_(parameter, generator, fan_in**-0.5)


@torch.no_grad()
def normal_(parameter: Tensor, generator: torch.Generator, std: float) -> None:
    """Normal with mean 0 and standard deviation `std`."""
    parameter.copy_(torch.randn(parameter.shape, generator=generator, dtype=torch.float64) * std)


@torch.no_grad()
def uniform_(parameter: Tensor, generator: torch.Generator, bound: float) -> None:
    """Uniform in `±bound`."""
    parameter.copy_((torch.rand(parameter.shape, generator=generator, dtype=torch.float64) * 2 - 1) * bound)
