"""Reduction of feature matrices to a few columns by principal component analysis (PCA)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn

from lirdrec.models.base import Features
from lirdrec.nn.principal_components import NOT_SCALED, principal_components


class PCA(nn.Module):
    """A reduction of features `F` to `(F - mean) C`, their components along the directions of largest variance.

    Mean and directions `C` are fitted once and are part of the model's state. They are fitted to the items that have
    training pairs and the modality; items that are added later are reduced with the same mean and directions. Rows of
    items without the modality stay zero.

    Args:
        width: number of columns of the features.
        n_columns: k ≤ width, number of columns after the reduction.
        dtype, device: those of the mean and the directions.
        whiten: divide each component by its standard deviation, so that all have the same variance; components
            without variance become 0.

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
        """Fit mean and directions to the items that `features.present` marks; see `principal_components`."""
        found = principal_components(features.values, features.present)
        directions = found.directions[:, : self.directions.shape[1]]
        if self.whiten:
            variances = found.variances[: directions.shape[1]]
            # directions without variance become zero, since whitening would enlarge their rounding errors
            counts = found.have_variance(NOT_SCALED)[: directions.shape[1]]
            directions = directions * torch.where(counts, variances.clamp(min=1e-300).rsqrt(), 0)
        self.directions.copy_(directions)
        self.mean.copy_(found.mean)
        self.fitted.fill_(True)

    @torch.no_grad()
    def forward(self, features: Features) -> Features:
        """Return the reduced features `(n, k)` of `n` items."""
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
    """Return a reduction for each feature matrix: a `PCA` to `n_columns` if the matrix is wider, else the identity.

    `n_columns` None: all columns. With `whiten`, every matrix gets a `PCA`.
    """
    return nn.ModuleList(
        PCA(d, size, dtype, device, whiten) if whiten or size < d else nn.Identity()
        for d, size in zip(widths, reduced_widths(widths, n_columns), strict=True)
    )


def reduced_widths(widths: Sequence[int], n_columns: int | None) -> list[int]:
    """Return how many columns each matrix has after `reductions`, given their widths; `n_columns` None: all."""
    return [d if n_columns is None else min(d, n_columns) for d in widths]


def reduced(
    reductions: Iterable[nn.Module], own: Sequence[Features], features: Sequence[Features], known: Tensor
) -> list[Features]:
    """Return the features of any items after the reductions, which are fitted first if they are not fitted yet.

    Args:
        reductions: one for each modality.
        own: the features of the model's `I` items, to which the reductions are fitted.
        features: the features to reduce, one entry per modality.
        known: `(I,)` bool, the items of `own` that are used to fit.
    """
    found = []
    for reduction, trained, feature in zip(reductions, own, features, strict=True):
        if isinstance(reduction, PCA) and not bool(reduction.fitted):
            reduction.fit(Features(trained.values, trained.present & known))
        found.append(reduction(feature))
    return found
