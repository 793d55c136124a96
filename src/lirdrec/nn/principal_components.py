"""Principal components of a feature matrix, and the projection of features to them."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

BLOCK_BYTES = 32 * 2**20  # of the float64 copy of a block of rows
NO_VARIANCE = 1e-12  # of the largest variance: what rounding in float32 leaves in a direction without variance
NOT_SCALED = 1e-9  # of the largest variance: whitening would make rounding errors of smaller ones large


@dataclass(frozen=True)
class PrincipalComponents:
    """Directions of the largest variance, in float64 on the CPU.

    Attributes:
        mean: `(d,)`.
        variances: `(r,)`, descending; the mean square, not divided by n - 1.
        directions: `(d, r)`, orthonormal columns; the entry of largest magnitude in each is positive.
    """

    mean: Tensor
    variances: Tensor
    directions: Tensor


@torch.no_grad()
def principal_components(values: Tensor, rows: Tensor) -> PrincipalComponents:
    """All principal components of the chosen rows of a matrix, which is read in blocks, from a file if it is one.

    Exact: from the eigenvectors of the `d × d` covariance, in float64. The same rows give the same bits on a machine.

    Args:
        values: `(n, d)` of any float type.
        rows: `(n,)` bool; no others are read.

    >>> found = principal_components(torch.tensor([[0.0, 1.0], [2.0, 1.0]]), torch.tensor([True, True]))
    >>> found.mean.tolist(), found.variances.tolist()
    ([1.0, 1.0], [1.0, 0.0])
    """
    width = values.shape[1]
    count, shift = 0, torch.zeros(width, dtype=torch.float64)
    total, products = torch.zeros_like(shift), torch.zeros(width, width, dtype=torch.float64)
    for part, chosen in zip(values.split(block_rows(width)), rows.split(block_rows(width)), strict=True):
        block = part[chosen].cpu().double()
        if not len(block):
            continue
        if count == 0:
            shift = block.mean(0)  # near the mean: a large mean would cost digits of the covariance
        block = block - shift
        count += len(block)
        total += block.sum(0)
        products.addmm_(block.T, block)
    total /= max(1, count)
    variances, vectors = torch.linalg.eigh(products / max(1, count) - torch.outer(total, total))  # ascending
    directions = vectors.flip(1)
    # the sign of an eigenvector is arbitrary
    directions = directions * directions.gather(0, directions.abs().argmax(0, keepdim=True)).sign()
    return PrincipalComponents(total + shift, variances.flip(0).clamp(min=0), directions)


def block_rows(width: int) -> int:
    """The number of rows of a block of a matrix with `width` columns."""
    return max(1, BLOCK_BYTES // (8 * width))


@dataclass(frozen=True)
class Projection:
    """`(F - offset) C`: a feature matrix in the directions of its largest variance.

    Without whitening the offset is 0 and `C` has orthonormal columns: `N` directions, and, where `N` is more than
    their number, the part of the mean that lies outside of them. So with `N` ≥ the rank of the features it is a
    rotation, which changes no inner product. With whitening the offset is the mean, and each column of `C` is divided
    by the standard deviation.

    Attributes:
        offset: `(d,)` float64; directions: `C` `(d, N)` float64; both on the CPU.
    """

    offset: Tensor
    directions: Tensor

    @classmethod
    def fit(cls, values: Tensor, rows: Tensor, size: int, whiten: bool = False) -> Projection:
        """The projection to at most `size` columns that fits the chosen rows best.

        Args:
            values: `(n, d)` of any float type; rows: `(n,)` bool, which of them count.
            size: N; fewer columns result where the features have a lower rank.
            whiten: divide each column by its standard deviation.

        Raises:
            ValueError: the chosen rows do not differ, with `whiten`, or are all zero.

        >>> features = torch.rand(20, 5)
        >>> Projection.fit(features, torch.ones(20, dtype=torch.bool), 2)(features).shape
        torch.Size([20, 2])
        """
        found = principal_components(values, rows)
        limit = (NOT_SCALED if whiten else NO_VARIANCE) * float(found.variances[0])
        varies = found.variances > limit
        directions = found.directions[:, varies]
        if whiten:
            directions = directions[:, :size] * found.variances[varies][:size].rsqrt()
            offset = found.mean
        else:
            rest = found.mean - directions @ (directions.T @ found.mean)
            length, scale = float(rest.norm()), float((found.mean.square().sum() + found.variances.sum()).sqrt())
            if directions.shape[1] < size and length > NO_VARIANCE**0.5 * scale:
                directions = torch.cat([directions, rest[:, None] / length], dim=1)
            directions, offset = directions[:, :size], torch.zeros_like(found.mean)
        if not directions.shape[1]:
            raise ValueError("no direction: the rows do not differ, or there are none")
        return cls(offset, directions.contiguous())

    @property
    def n_columns(self) -> int:
        """N, the columns of a projected matrix."""
        return self.directions.shape[1]

    @torch.no_grad()
    def __call__(self, values: Tensor) -> Tensor:
        """The matrix `(n, d)`, of any float type, as `(n, N)` float32 on its device; rows of zeros stay so."""
        result = torch.empty(len(values), self.n_columns, device=values.device)
        step = block_rows(values.shape[1])
        for start in range(0, len(values), step):
            block = values[start : start + step].cpu().double()
            projected = (block - self.offset) @ self.directions
            result[start : start + step] = projected * (block != 0).any(1, keepdim=True)
        return result
