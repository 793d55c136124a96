"""Parameter initialization, sampled in float64 on the CPU so that it is the same on every device and dtype.

`fan_in` and `fan_out` are the numbers of inputs and outputs of a layer. With several ranks (processes), `parameter`
holds the rows `shard` of a table.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from lirdrec.parallel.ranks_and_shards import WHOLE, Shard

BLOCK_NUMBERS = 2**20  # random numbers drawn at once for a table of which this rank (process) holds a part


def xavier_normal_(
    parameter: Tensor, generator: torch.Generator, fan_in: int, fan_out: int, shard: Shard = WHOLE.users
) -> None:
    """Fill `parameter` with normal numbers of variance `2 / (fan_in + fan_out)` (Glorot & Bengio, AISTATS 2010)."""
    normal_(parameter, generator, (2 / (fan_in + fan_out)) ** 0.5, shard)


def xavier_uniform_(
    parameter: Tensor, generator: torch.Generator, fan_in: int, fan_out: int, shard: Shard = WHOLE.users
) -> None:
    """Fill `parameter` with uniform numbers in `±√(6 / (fan_in + fan_out))`; the variance of `xavier_normal_`."""
    uniform_(parameter, generator, (6 / (fan_in + fan_out)) ** 0.5, shard)


def torch_linear_(parameter: Tensor, generator: torch.Generator, fan_in: int) -> None:
    """Fill `parameter` with uniform numbers in `±1/√fan_in`, torch's default for the parameters of a linear layer."""
    uniform_(parameter, generator, fan_in**-0.5)


def linear_layers(
    shapes: Sequence[tuple[int, int]], generator: torch.Generator, dtype: torch.dtype, device: torch.device
) -> tuple[nn.ParameterList, nn.ParameterList]:
    """Make a weight `(rows, columns)` and a bias `(rows,)` for each linear layer, initialized like `torch.nn.Linear`.

    `shapes` has the (rows, columns) of each layer.
    """
    weights = nn.ParameterList(torch.empty(*shape, dtype=dtype, device=device) for shape in shapes)
    biases = nn.ParameterList(torch.empty(rows, dtype=dtype, device=device) for rows, _ in shapes)
    for (_, columns), weight, bias in zip(shapes, weights, biases, strict=True):
        torch_linear_(weight, generator, columns)
        torch_linear_(bias, generator, columns)
    return weights, biases


@torch.no_grad()
def normal_(parameter: Tensor, generator: torch.Generator, std: float, shard: Shard = WHOLE.users) -> None:
    """Fill `parameter` with normal numbers of mean 0 and standard deviation `std`."""
    for part, drawn in _drawn(torch.randn, parameter, generator, shard):
        part.copy_(drawn * std)


@torch.no_grad()
def uniform_(parameter: Tensor, generator: torch.Generator, bound: float, shard: Shard = WHOLE.users) -> None:
    """Fill `parameter` with uniform numbers in `±bound`."""
    for part, drawn in _drawn(torch.rand, parameter, generator, shard):
        part.copy_((drawn * 2 - 1) * bound)


def _drawn(
    draw: Callable[..., Tensor], parameter: Tensor, generator: torch.Generator, shard: Shard
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield parts of the parameter, each with the float64 random numbers for it.

    With several ranks (processes), `parameter` holds the rows `shard` of a table. Each rank draws the numbers of the
    complete table, block by block, so that a row gets the same numbers on any rank.
    """
    if shard.ranks.size == 1:
        yield parameter, draw(parameter.shape, generator=generator, dtype=torch.float64)
        return
    width = parameter[:1].numel()
    # torch draws normal numbers in groups of 16. So blocks of whole groups give the same numbers as one draw, and so
    # does the last block, which takes the rest
    step = max(16, BLOCK_NUMBERS // width // 16 * 16)
    bounds = [*range(0, max(1, shard.total - 15), step), shard.total]
    for first, last in pairwise(bounds):
        drawn = draw((last - first, *parameter.shape[1:]), generator=generator, dtype=torch.float64)
        start, stop = max(first, shard.start), min(last, shard.stop)
        if start < stop:
            yield parameter[start - shard.start : stop - shard.start], drawn[start - first : stop - first]
