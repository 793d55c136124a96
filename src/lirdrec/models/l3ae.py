r"""L3AE: EASE that distills item-item weights of features from language models (Moon, Park, Lee, CIKM 2025).

"LLM-Enhanced Linear Autoencoders for Recommendation", arXiv 2508.13500. `X` `(U, I)` holds the interactions, `F̂`
`(I, Σd)` the fused features of `models/modality_options.py`. There are two regressions, both in closed form:

    C = argmin ‖F̂ᵀ - F̂ᵀ C‖² + λ_F ‖C‖²,   diag(C) = 0                                   EASE on the features
    B = argmin ‖X - X B‖² + λ_X ‖B‖² + λ_E ‖B - C‖²,   diag(B) = 0

With `λ = λ_X + λ_E` and `P = (XᵀX + λI)^-1`, off the diagonal

    B = λ_E P C - P diag(μ),   μ_j = (1 + λ_E (P C)_jj) / P_jj,   score(u, j) = Σ_{i ∈ H_u} B_ij

With `λ_E = 0` this is EASE. The options are λ and λ_E, not λ_X and λ_E, because only the sum λ must be positive: the
published λ_X is negative (-100, with a λ_E of 150). Pairs count with their weights as in `ease.py`.

With `rank = r` no `I×I` matrix is built. `ease.py` gives `P = D^-1 - Y Yᵀ` and, off the diagonal, `C = Y' T'ᵀ`. With
`c_j = ⟨Y'_j, T'_j⟩`, off the diagonal

    (P C)_jj = c_j ‖Y_j‖² - ⟨Y_j, (Yᵀ Y') T'_j⟩
    B = λ_E (D^-1 Y' - Y (Yᵀ Y')) T'ᵀ + Y diag(λ_E c + μ) Yᵀ

So user vectors are the sums over `i ∈ H_u` of the rows of the two left factors, side by side.

**Differs from public code** (the authors' github.com/jaewan7599/L3AE_CIKM2025): here features are fused rows of length
1; there they are one matrix of embeddings as the encoder gives them. With one modality whose rows have length 1, the
numbers agree. The public code has no low-rank form.

The defaults are the choice of the authors' `script/*.sh` for Games; the grid is around their values: λ_F 5 and 10, λ 50
and 100, λ_E 150 and 200.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from lirdrec.config import option, validated
from lirdrec.errors import ConfigError
from lirdrec.models.base import Capabilities
from lirdrec.models.ease import EASEWithFeatures, FeatureOptions, Gram, dense_weights, low_rank_inverse

PARTS = ("features", "interactions")


@dataclass(frozen=True)
@validated
class L3AEConfig(FeatureOptions):
    """Hyper-parameters of L3AE.

    >>> L3AEConfig(distillation=200.0).distillation
    200.0
    """

    model: ClassVar[str] = "l3ae"

    regularization: float = option(100.0, "λ = λ_X + λ_E, the whole ridge of the second regression, in counts of users")
    distillation: float = option(150.0, "λ_E, how strongly B is pulled to the weights from features; 0: EASE")
    feature_regularization: float = option(5.0, "λ_F of the regression on the features")

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.distillation < float("inf"):
            raise ConfigError(f"distillation is {self.distillation}; it must be 0 or more")
        if not 0 < self.feature_regularization < float("inf"):
            raise ConfigError(f"feature_regularization is {self.feature_regularization}; it must be more than 0")


class L3AE(EASEWithFeatures):
    """L3AE: EASE whose weights are pulled towards the weights that features alone give, in closed form.

    The formulas are at the top of this file.
    """

    name = L3AEConfig.model
    Config = L3AEConfig
    capabilities = Capabilities(
        needs_features=True, cold_items=False, new_users=True, training="closed_form", weights=True
    )
    grid: ClassVar = {
        "regularization": (10.0, 20.0, 50.0, 100.0, 200.0, 500.0, 1000.0),
        "distillation": (0.0, 10.0, 20.0, 50.0, 100.0, 150.0, 200.0, 500.0),
        "feature_regularization": (0.5, 1.0, 5.0, 10.0, 50.0),
    }
    part_names = PARTS
    dense_matrices = 4
    config: L3AEConfig

    def solve(self) -> None:
        """Compute the item-item weights: fill `weights`, or with `rank` their factors `sources` and `targets`."""
        c = self.config
        interactions, features = Gram(self._history(), None), Gram(None, self.fused())
        if c.rank is None:
            semantic = dense_weights(features.dense(), c.feature_regularization)  # C
            self.weights.copy_(distilled_weights(interactions.dense(), semantic, c.regularization, c.distillation))
            return
        width = min(c.rank, self.inputs.n_items)
        generator = torch.Generator().manual_seed(self.inputs.seed)
        y_f, targets_f, _ = low_rank_inverse(features, c.feature_regularization, width, generator)
        y, _, d = low_rank_inverse(interactions, c.regularization, width, generator)
        p = 1 / d - y.square().sum(1)
        own = (y_f * targets_f).sum(1)  # c
        inner = y.T @ y_f
        semantic_diagonal = own * y.square().sum(1) - ((y @ inner) * targets_f).sum(1)  # of P C
        mu = (1 + c.distillation * semantic_diagonal) / p
        self.sources.copy_(torch.cat([c.distillation * (y_f / d[:, None] - y @ inner), y], 1))
        self.targets.copy_(torch.cat([targets_f, y * (c.distillation * own + mu)[:, None]], 1))


def distilled_weights(gram: Tensor, semantic: Tensor, regularization: float, distillation: float) -> Tensor:
    """Return the item-item weights `B` `(I, I)` float64 of the second regression.

    Args:
        gram: the Gram matrix `XᵀX` `(I, I)` float64 of the interactions, which is overwritten.
        semantic: `C` `(I, I)` float64, the weights that features give.
        regularization: λ.
        distillation: λ_E.
    """
    gram.diagonal().add_(regularization)
    factor = torch.linalg.cholesky(gram)
    del gram
    weights = torch.cholesky_solve(semantic, factor).mul_(distillation)  # λ_E P C
    p = torch.cholesky_inverse(factor)
    del factor
    weights -= p.mul_((1 + weights.diagonal()) / p.diagonal())  # column j by μ_j
    weights.diagonal().zero_()
    return weights
