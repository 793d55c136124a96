"""Reduction of feature matrices to a few columns by principal component analysis (PCA)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn

from lirdrec.models.base import Features

BLOCK_ROWS = 4096


class PCA(nn.Module):
    """`(F - mean) C`: the `n_columns` directions of the largest variance of a feature matrix.

    Mean and directions are fitted once, to the items of training that have the modality, and are part of the model's
    state; items that are added later are reduced with the same. Rows of items without the modality stay zero.

    Args:
        width: columns of the matrix; n_columns: k ≤ width.
        dtype, device: of the mean and the directions.
        whiten: divide each component by its standard deviation, so that all have the same variance.

    >>> pca = PCA(5, 2)
    >>> pca.fit(Features(torch.rand(20, 5), torch.ones(20, dtype=torch.bool)))
    >>> pca(Features(torch.rand(3, 5), torch.ones(3, dtype=torch.bool))).values.shape
    torch.Size([3, 2])
    """

    mean: Tensor
    directions: Tensor
    fitted: Tensor

    def __init__(
        self,
        width: int,
        n_columns: int,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
        whiten: bool = False,
    ):
        super().__init__()
        self.whiten = whiten
        self.register_buffer("mean", torch.zeros(width, dtype=dtype, device=device))
        self.register_buffer("directions", torch.zeros(width, n_columns, dtype=dtype, device=device))  # C
        self.register_buffer("fitted", torch.zeros((), dtype=torch.bool))

    @torch.no_grad()
    def fit(self, features: Features) -> None:
        """Mean and directions of the rows that are present; computed in float64 from the `width × width` covariance."""
        count = max(1, int(features.present.sum()))
        width = len(self.mean)
        # on the CPU: eigenvectors in float64, which not every device has
        mean = torch.zeros(width, dtype=torch.float64)
        products = torch.zeros(width, width, dtype=torch.float64)
        for rows in features.values.split(BLOCK_ROWS):  # absent rows are zero and add nothing
            block = rows.cpu().double()
            mean += block.sum(0)
            products += block.T @ block
        mean /= count
        variances, vectors = torch.linalg.eigh(products / count - torch.outer(mean, mean))  # ascending
        directions = vectors.flip(1)[:, : self.directions.shape[1]]
        # the sign of an eigenvector is arbitrary: its largest entry is made positive
        directions = directions * directions.gather(0, directions.abs().argmax(0, keepdim=True)).sign()
        if self.whiten:
            variances = variances.flip(0)[: directions.shape[1]]
            # components without variance stay zero instead of growing from rounding errors
            counts = variances > 1e-9 * variances[0]
            directions = directions * torch.where(counts, variances.clamp(min=1e-300).rsqrt(), 0)
        self.directions.copy_(directions)
        self.mean.copy_(mean)
        self.fitted.fill_(True)

    @torch.no_grad()
    def forward(self, features: Features) -> Features:
        """The features `(n, k)` of `n` items."""
        with torch.autocast(features.values.device.type, enabled=False):
            values = (features.values - self.mean) @ self.directions
        return Features(values * features.present[:, None], features.present)


def reductions(
    widths: Sequence[int],
    n_columns: int | None,
    dtype: torch.dtype,
    device: torch.device | str,
    whiten: bool = False,
) -> nn.ModuleList:
    """A `PCA` to `n_columns` for each matrix that is wider, else the identity; `whiten`: a `PCA` for each."""
    return nn.ModuleList(
        PCA(d, size, dtype, device, whiten) if whiten or size < d else nn.Identity()
        for d, size in zip(widths, reduced_widths(widths, n_columns), strict=True)
    )


def reduced_widths(widths: Sequence[int], n_columns: int | None) -> list[int]:
    """The columns that `reductions` keep of matrices of these widths; `n_columns` None: all."""
    return [d if n_columns is None else min(d, n_columns) for d in widths]


def reduced(reductions: Iterable[nn.Module], own: Sequence[Features], features: Sequence[Features]) -> list[Features]:
    """Features of any items with the columns that the reductions keep; they are fitted to `own` at first use."""
    found = []
    for reduction, trained, feature in zip(reductions, own, features, strict=True):
        if isinstance(reduction, PCA) and not bool(reduction.fitted):
            reduction.fit(trained)
        found.append(reduction(feature))
    return found
