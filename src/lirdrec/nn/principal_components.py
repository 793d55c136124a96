"""Principal components of a feature matrix, and the projection of features to them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

BLOCK_BYTES = 32 * 2**20  # size of the float64 copy of a block of rows
NO_VARIANCE = 1e-12  # share of the largest variance that float32 rounding leaves in a direction without variance
NOT_SCALED = 1e-9  # share of the largest variance; directions with less are not whitened: it enlarges rounding errors
ROUNDING = 2 * torch.finfo(torch.float32).eps  # relative error of an entry after a few roundings in float32


@dataclass(frozen=True)
class PrincipalComponents:
    """All principal components of a matrix with d columns, in float64 on the CPU.

    Attributes:
        mean: `(d,)`.
        variances: `(d,)` along the directions, descending; sums of squares are divided by n, not by n - 1.
        directions: `(d, d)`, orthonormal columns; the entry of largest magnitude in each is positive.
        rounding: `(d,)`, the variance along each direction that rounding of the entries alone can make.
    """

    mean: Tensor
    variances: Tensor
    directions: Tensor
    rounding: Tensor

    def have_variance(self, share: float) -> Tensor:
        """Return which directions have more than `share` of the largest variance and more than rounding can make.

        Returns:
            `(d,)` bool.
        """
        return self.variances > (share * self.variances[0]).maximum(self.rounding)


@torch.no_grad()
def principal_components(values: Tensor, rows: Tensor) -> PrincipalComponents:
    """Compute all principal components of the chosen rows of a matrix, which is read in blocks and may be in a file.

    The components are exact: eigenvectors of the `d × d` covariance in float64. The same rows give the same bits on the
    same machine. Columns that vary by no more than rounding, relative to their values, count as constant.

    Args:
        values: `(n, d)` of any float type.
        rows: `(n,)` bool, the chosen rows; only these are read.

    >>> found = principal_components(torch.tensor([[0.0, 1.0], [2.0, 1.0]]), torch.tensor([True, True]))
    >>> found.mean.tolist(), found.variances.tolist()
    ([1.0, 1.0], [1.0, 0.0])
    """
    mean, covariance = _moments(values, rows)
    noise = _rounding(mean, covariance.diagonal())
    is_constant = covariance.diagonal() <= noise
    covariance[is_constant] = 0
    covariance[:, is_constant] = 0
    variances, vectors = torch.linalg.eigh(covariance)  # ascending
    directions = vectors.flip(1)
    # the sign of an eigenvector is arbitrary
    directions = directions * directions.gather(0, directions.abs().argmax(0, keepdim=True)).sign()
    return PrincipalComponents(mean, variances.flip(0).clamp(min=0), directions, noise @ directions.square())


def _moments(values: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
    """Return mean `(d,)` and covariance `(d, d)` of the chosen rows, float64 on the CPU; 0 if there are no rows."""
    width = values.shape[1]
    count, shift = 0, torch.zeros(width, dtype=torch.float64)
    total, products = torch.zeros_like(shift), torch.zeros(width, width, dtype=torch.float64)
    for block in _blocks(values, rows):
        if count == 0:
            shift = block.mean(0)  # is near the mean; without it, a large mean would make the covariance less exact
        block = block - shift
        count += len(block)
        total += block.sum(0)
        products.addmm_(block.T, block)
    total /= max(1, count)
    return total + shift, products / max(1, count) - torch.outer(total, total)


@torch.no_grad()
def vary(values: Tensor, rows: Tensor) -> bool:
    """Return whether the chosen rows of a matrix differ by more than rounding; if not, no component has variance.

    Args:
        values: `(n, d)` of any float type.
        rows: `(n,)` bool, the chosen rows.

    >>> values = torch.tensor([[1000.0, 5.0], [1000.0, 5.0], [1000.0001, 7.0]])
    >>> vary(values, torch.tensor([True, True, True])), vary(values[:, :1], torch.tensor([True, True, True]))
    (True, False)
    """
    n, count, shift = int(rows.sum()), 0, torch.zeros(values.shape[1], dtype=torch.float64)
    total, squares, variances = torch.zeros_like(shift), torch.zeros_like(shift), torch.zeros_like(shift)
    for block in _blocks(values, rows):
        if count == 0:
            shift = block.mean(0)
        block = block - shift
        count += len(block)
        total += block.sum(0)
        squares += block.square().sum(0)
        mean = total / count
        variances = squares / count - mean.square()
        # at least so much variance is left if all further rows are equal; this test avoids reading large features to
        # the end
        if bool((variances * count / n > 4 * _rounding(mean + shift, variances)).any()):
            return True
    return bool((variances > _rounding(total / max(1, count) + shift, variances)).any())


def _blocks(values: Tensor, rows: Tensor) -> Iterator[Tensor]:
    """Yield the chosen rows in blocks `(b, d)` float64 on the CPU, without empty blocks."""
    step = block_rows(values.shape[1])
    for part, chosen in zip(values.split(step), rows.split(step), strict=True):
        block = part[chosen].cpu().double()
        if len(block):
            yield block


def _rounding(mean: Tensor, variances: Tensor) -> Tensor:
    """Return the variance `(d,)` that rounding of the entries can make in each column, from mean and variances."""
    return ROUNDING**2 * (mean.square() + variances.clamp(min=0))


def block_rows(width: int) -> int:
    """Return how many rows of a matrix with `width` columns are read at once as a block."""
    return max(1, BLOCK_BYTES // (8 * width))


@dataclass(frozen=True)
class Projection:
    """A projection of features `F` to `(F - offset) C`, their components along `N` directions of largest variance.

    Without whitening, the offset is 0 and `C` has orthonormal columns: the directions of largest variance. If fewer
    than `N` directions have variance, one more column has the part of the mean that lies outside of them. So with `N` ≥
    the rank of the features, the projection is a rotation, which changes no inner product. With whitening, the offset
    is the mean, and each column of `C` is divided by the standard deviation along it.

    Attributes:
        offset: `(d,)` float64, on the CPU.
        directions: `C` `(d, N)` float64, on the CPU.
    """

    offset: Tensor
    directions: Tensor

    @classmethod
    def fit(cls, values: Tensor, rows: Tensor, size: int, whiten: bool = False) -> Projection:
        """Return the projection to at most `size` columns that fits the chosen rows best.

        Args:
            values: `(n, d)` of any float type.
            rows: `(n,)` bool, the rows to which the projection is fitted.
            size: N; the projection has fewer columns if the features have a lower rank.
            whiten: divide each column by its standard deviation.

        Raises:
            ValueError: no rows are chosen, all are zero, or, with `whiten`, they differ by no more than rounding.

        >>> features = torch.rand(20, 5)
        >>> Projection.fit(features, torch.ones(20, dtype=torch.bool), 2)(features).shape
        torch.Size([20, 2])
        """
        found = principal_components(values, rows)
        varies = found.have_variance(NOT_SCALED if whiten else NO_VARIANCE)
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
            raise ValueError("features have no direction of variance: their rows do not differ, or there are no rows")
        return cls(offset, directions.contiguous())

    @property
    def n_columns(self) -> int:
        """N, the number of columns after the projection."""
        return self.directions.shape[1]

    @torch.no_grad()
    def __call__(self, values: Tensor) -> Tensor:
        """Project a matrix `(n, d)` of any float type to `(n, N)` float32 on its device; rows of zeros stay zero."""
        result = torch.empty(len(values), self.n_columns, device=values.device)
        step = block_rows(values.shape[1])
        for start in range(0, len(values), step):
            block = values[start : start + step].cpu().double()
            projected = (block - self.offset) @ self.directions
            result[start : start + step] = projected * (block != 0).any(1, keepdim=True)
        return result
