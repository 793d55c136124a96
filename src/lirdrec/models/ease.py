r"""EASE, a linear item-item model in closed form (Steck, WWW 2019), and its two extensions with item features.

`X` `(U, I)` holds the interactions, `H_u` are the items of user u. Each item is regressed on all other items, with a
ridge penalty:

    B = argmin ‖X - X B‖² + λ‖B‖²,  diag(B) = 0
    P = (XᵀX + λI)^-1,   B_ij = -P_ij / P_jj  (i ≠ j),   score(u, j) = Σ_{i ∈ H_u} B_ij

If the interactions have weights `w`, these are divided by their mean over the training pairs, and `X_ui = √w_ui` in the
regression and in the scores, so that `(XᵀX)_ij = Σ_u √(w_ui w_uj)`. An interaction then counts with its weight on the
diagonal, and λ stays in counts of users. New users have weights of 1.

`F̂` `(I, Σd)` holds fused features (`models/modality_options.py`): the row of each modality is normalized to length 1
and multiplied by `√w_m`; these rows are put side by side and normalized to length 1. Two extensions of EASE use them
(Jeunen, Van Balen, Goethals, RecSys 2020):

    cease       the regression of [X ; α F̂ᵀ], i.e. XᵀX + α² F̂F̂ᵀ in place of XᵀX
    add_ease    (1 - α) B_X + α B_F,  with B_F the regression of F̂ᵀ alone

In the paper, features are 0/1 tags, α is at most 1, and both regressions of add_ease have the same λ
(`feature_regularization=None`). Rows of length 1 are small in comparison with counts of users, so α may be larger here,
and λ smaller.

`B` is dense: it needs two `I×I` matrices in float64 while it is solved, and one in float32 after. With `rank = r` it is
never built. Then the Gram matrix `G` (such as `XᵀX`) is approximated by `G ≈ Z Zᵀ + R`. `Z` `(I, r)` comes from the r
largest eigenpairs, found by subspace iteration, which needs only products with `X` and `F̂`. `R` is diagonal: the rest
of the diagonal of G. With `D = λI + R`, Woodbury's identity and `K = I + Zᵀ D^-1 Z = L Lᵀ`:

    P = D^-1 - Y Yᵀ,   Y = D^-1 Z L^-ᵀ,   B_ij = ⟨Y_i, Y_j⟩ / P_jj  (i ≠ j)

So user vectors are `Σ_{i ∈ H_u} Y_i`, and item vectors `Y_j / P_jj`. At full rank this is the dense solution, except
that an item in the history contributes to its own score; such items are not recommended. A smaller rank needs a larger
λ.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

import torch
from torch import Tensor

from lirdrec.config import option, validated
from lirdrec.errors import CapabilityError, ConfigError
from lirdrec.models.base import Capabilities, Model, ModelInputs
from lirdrec.models.feature_size_option import FeatureSizeOptions
from lirdrec.models.interaction_matrices import weighted_history
from lirdrec.models.modality_options import check_modality_weights, chosen_modalities, fused_features, modality_weights
from lirdrec.ranking.item_weight_scorer import ItemWeightScorer
from lirdrec.ranking.scorers import Scorer, VectorScorer
from lirdrec.ranking.sparse_top_k import csr_of

DENSE_LIMIT = 30_000  # largest number of items for the dense solution
ITERATIONS, OVERSAMPLING = 8, 16  # of the subspace iteration: its steps, and its columns in addition to the rank


@dataclass(frozen=True)
@validated
class EASEConfig:
    """Hyper-parameters of EASE.

    >>> EASEConfig(regularization=300.0).regularization
    300.0
    """

    model: ClassVar[str] = "ease"

    regularization: float = option(250.0, "λ of the ridge regression, in counts of users")
    rank: int | None = option(None, "r of the low-rank form; none: the dense solution")

    def __post_init__(self) -> None:
        if not 0 < self.regularization < float("inf"):
            raise ConfigError(f"regularization is {self.regularization}; it must be more than 0")
        if self.rank is not None and self.rank < 1:
            raise ConfigError(f"rank is {self.rank}; it must be 1 or more, or none for the dense solution")


@dataclass(frozen=True)
@validated
class FeatureOptions(FeatureSizeOptions, EASEConfig):
    """Hyper-parameters of the extensions of EASE with features."""

    modalities: tuple[str, ...] | None = option(None, "which feature matrices to use, in order; none: all")
    modality_weights: dict[str, float] | None = option(
        None, "w_m of the features; none: image .1 and text .9 for exactly these two, else 1/M"
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        check_modality_weights(self.modality_weights)


@dataclass(frozen=True)
@validated
class CEASEConfig(FeatureOptions):
    """Hyper-parameters of collective EASE.

    >>> CEASEConfig(regularization=300.0).regularization
    300.0
    """

    model: ClassVar[str] = "cease"

    feature_weight: float = option(1.0, "α, factor of the features in the regression")

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.feature_weight < float("inf"):
            raise ConfigError(f"feature_weight is {self.feature_weight}; it must be 0 or more")


@dataclass(frozen=True)
@validated
class AddEASEConfig(FeatureOptions):
    """Hyper-parameters of additive EASE.

    >>> AddEASEConfig(regularization=300.0).regularization
    300.0
    """

    model: ClassVar[str] = "add_ease"

    feature_share: float = option(0.5, "α, share of the features' regression in the weights")
    feature_regularization: float | None = option(10.0, "λ of the features' regression; none: regularization")

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.feature_share <= 1:
            raise ConfigError(f"feature_share is {self.feature_share}; it must be between 0 and 1")
        if self.feature_regularization is not None and not 0 < self.feature_regularization < float("inf"):
            raise ConfigError(f"feature_regularization is {self.feature_regularization}; it must be more than 0")


class EASE(Model):
    """EASE: item-item weights that predict a user's interactions, in closed form.

    The formulas are at the top of this file.
    """

    name = EASEConfig.model
    Config = EASEConfig
    capabilities = Capabilities(
        needs_features=False, cold_items=False, new_users=True, training="closed_form", weights=True
    )
    # the published values 50 … 1000, and smaller ones for data with fewer users
    grid: ClassVar = {"regularization": (10.0, 20.0, 50.0, 100.0, 200.0, 500.0, 1000.0)}
    part_names: ClassVar[tuple[str, ...]] = ("score",)  # one for each regression
    dense_matrices: ClassVar[int] = 2  # `I×I` matrices in float64 that the dense solution holds at once

    weights: Tensor
    sources: Tensor
    targets: Tensor

    def __init__(self, inputs: ModelInputs, config: EASEConfig):
        super().__init__(inputs, config)
        self.config: EASEConfig = config
        n = inputs.n_items
        if config.rank is not None:
            width = len(self.part_names) * min(config.rank, n)
            self.register_buffer("sources", torch.zeros(n, width, device=inputs.device))  # Y
            self.register_buffer("targets", torch.zeros(n, width, device=inputs.device))  # Y_j / P_jj
            return
        if n > DENSE_LIMIT:
            size = self.dense_matrices * 8 * n * n / 1e9
            raise CapabilityError(
                f"{self.name} would need {size:.0f} GB of memory for its dense solution of {n:,} items; "
                f"for more than {DENSE_LIMIT:,} items use the low-rank form: set rank, for instance to 1000"
            )
        self.register_buffer("weights", torch.zeros(n, n, device=inputs.device))  # B

    def _history(self) -> Tensor:
        return weighted_history(self.inputs, 0.5)

    def regressions(self) -> list[tuple[float, Gram, float]]:
        """Return, for each regression, its share in the item-item weights `B`, its Gram matrix and its λ.

        The shares sum to 1.
        """
        return [(1.0, Gram(self._history(), None), self.config.regularization)]

    def solve(self) -> None:
        """Compute the item-item weights: fill `weights`, or with `rank` their factors `sources` and `targets`."""
        if self.config.rank is None:
            self.weights.zero_()
            for share, gram, regularization in self.regressions():
                self.weights.add_(dense_weights(gram.dense(), regularization), alpha=share)
            return
        width = min(self.config.rank, self.inputs.n_items)
        for number, (share, gram, regularization) in enumerate(self.regressions()):
            generator = torch.Generator().manual_seed(self.inputs.seed)
            sources, targets = low_rank_weights(gram, regularization, width, generator)
            columns = slice(number * width, number * width + sources.shape[1])
            self.sources[:, columns] = sources
            self.targets[:, columns] = share * targets

    def scorer(self) -> Scorer:
        if self.config.rank is None:
            return ItemWeightScorer(self._history(), self.weights)
        users = torch.sparse.mm(self._history(), self.sources)
        return VectorScorer(users, self.targets, self.part_names, memory={"item_sources": self.sources})

    def fold_in(self, scorer: Scorer, histories: Sequence[Tensor]) -> Tensor:
        """Return the histories as 0/1 rows `(B, I)`; with `rank`, the sums of the rows of `sources` of their items.

        The columns of these sums are the `r` columns of each regression, side by side.
        """
        if isinstance(scorer, ItemWeightScorer):
            return scorer.queries_of(histories)
        assert isinstance(scorer, VectorScorer)
        sources = scorer.memory["item_sources"]
        return torch.stack([sources[torch.as_tensor(liked)].sum(0) for liked in histories])


class EASEWithFeatures(EASE):
    """Base class of the extensions of EASE with features: fuses the chosen modalities into one matrix."""

    def __init__(self, inputs: ModelInputs, config: FeatureOptions):
        super().__init__(inputs, config)
        names = chosen_modalities(inputs, config.modalities, model=self.name)
        self.modality_weights = modality_weights(names, config.modality_weights)

    def fused(self) -> Tensor:
        """Return the fused features `F̂` `(I, Σd)`."""
        return fused_features(self.inputs.features, self.modality_weights)


class CEASE(EASEWithFeatures):
    """Collective EASE: one regression, in which features are further rows of the interactions."""

    name = CEASEConfig.model
    Config = CEASEConfig
    capabilities = Capabilities(
        needs_features=True, cold_items=False, new_users=True, training="closed_form", weights=True
    )
    grid: ClassVar = EASE.grid | {"feature_weight": (0.25, 0.5, 1.0, 2.0, 4.0, 8.0)}
    config: CEASEConfig

    def regressions(self) -> list[tuple[float, Gram, float]]:
        return [(1.0, Gram(self._history(), self.config.feature_weight * self.fused()), self.config.regularization)]


class AddEASE(EASEWithFeatures):
    """Additive EASE: two regressions, on interactions and on features, whose weights are mixed."""

    name = AddEASEConfig.model
    Config = AddEASEConfig
    capabilities = Capabilities(
        needs_features=True, cold_items=False, new_users=True, training="closed_form", weights=True
    )
    grid: ClassVar = EASE.grid | {
        "feature_share": tuple(step / 20 for step in range(1, 20)),
        "feature_regularization": (1.0, 10.0, 100.0),
    }
    part_names = ("interactions", "features")
    config: AddEASEConfig

    def regressions(self) -> list[tuple[float, Gram, float]]:
        c = self.config
        regularization = c.regularization if c.feature_regularization is None else c.feature_regularization
        return [
            (1 - c.feature_share, Gram(self._history(), None), c.regularization),
            (c.feature_share, Gram(None, self.fused()), regularization),
        ]


@dataclass(frozen=True)
class Gram:
    """The Gram matrix `G = XᵀX + F Fᵀ` `(I, I)` as an operator, which is not stored.

    Attributes:
        history: `X` `(U, I)` in CSR, or None.
        features: `F` `(I, d)`, dense, or None.
    """

    history: Tensor | None
    features: Tensor | None

    @cached_property
    def _factors(self) -> tuple[Tensor, Tensor] | None:
        if self.history is None:
            return None
        by_user = self.history.to(torch.float64)
        return by_user, by_user.to_sparse_coo().t().coalesce().to_sparse_csr()

    def diagonal(self) -> Tensor:
        """Return the diagonal of `G`, `(I,)` float64."""
        diagonal = None
        if self.history is not None:
            squares = self.history.values().double().square()
            diagonal = torch.bincount(self.history.col_indices().long(), squares, minlength=self.history.shape[1])
        if self.features is not None:
            squares = self.features.square().sum(1).double()
            diagonal = squares if diagonal is None else diagonal + squares
        assert diagonal is not None
        return diagonal

    def times(self, x: Tensor) -> Tensor:
        """Return `G x` `(I, r)` for `x` `(I, r)` float64; features are multiplied in their own precision."""
        result = torch.zeros_like(x)
        if self._factors is not None:
            by_user, by_item = self._factors
            result += torch.sparse.mm(by_item, torch.sparse.mm(by_user, x))
        if self.features is not None:
            result += self.features @ (self.features.T @ x.to(self.features.dtype))
        return result

    def dense(self) -> Tensor:
        """Return `G` `(I, I)` float64 as a dense tensor, computed in blocks of rows."""
        diagonal = self.diagonal()
        n = len(diagonal)
        gram = diagonal.new_zeros(n, n)
        if self.history is not None:
            by_user = csr_of(self.history.double().cpu())
            by_item = by_user.T.tocsr()
        for rows in torch.arange(n, device=gram.device).split(512):
            if self.history is not None:
                gram[rows] = torch.from_numpy((by_item[rows.cpu().numpy()] @ by_user).toarray()).to(gram.device)
            if self.features is not None:
                gram[rows] += self.features[rows] @ self.features.T
        return gram


def dense_weights(gram: Tensor, regularization: float) -> Tensor:
    """Return the item-item weights `B` `(I, I)` float64 of one regression.

    Args:
        gram: its Gram matrix `(I, I)` float64, which is overwritten.
        regularization: λ.
    """
    gram.diagonal().add_(regularization)
    factor = torch.linalg.cholesky(gram)
    del gram
    p = torch.cholesky_inverse(factor)
    del factor
    weights = p.div_(-p.diagonal().clone())  # column j by -P_jj
    weights.diagonal().zero_()
    return weights


def low_rank_weights(gram: Gram, regularization: float, rank: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Return the low-rank factors of the item-item weights: `Y` and `Y_j / P_jj`, `(I, rank)` float64 each.

    `B_ij` is the inner product of row i of the first and row j of the second. The arguments are those of
    `low_rank_inverse`.
    """
    sources, targets, _ = low_rank_inverse(gram, regularization, rank, generator)
    return sources, targets


def low_rank_inverse(
    gram: Gram, regularization: float, rank: int, generator: torch.Generator
) -> tuple[Tensor, Tensor, Tensor]:
    """Return `Y` `(I, rank)`, `Y_j / P_jj` `(I, rank)` and the diagonal of `D` `(I,)` of `P = D^-1 - Y Yᵀ`; float64.

    Args:
        gram: the Gram matrix of the regression.
        regularization: λ.
        rank: at most the number of items.
        generator: on the CPU, for the start of the subspace iteration.
    """
    diagonal = gram.diagonal()
    n = len(diagonal)
    q = torch.randn(n, min(rank + OVERSAMPLING, n), generator=generator, dtype=torch.float64).to(diagonal.device)
    for _ in range(ITERATIONS):
        q = torch.linalg.qr(gram.times(q)).Q
    inner = q.T @ gram.times(q)
    values, vectors = torch.linalg.eigh((inner + inner.T) / 2)  # ascending
    z = (q @ vectors[:, -rank:]) * values[-rank:].clamp(min=0).sqrt()
    d = regularization + (diagonal - z.square().sum(1)).clamp(min=0)
    scaled = z / d[:, None]
    inner = z.T @ scaled
    inner.diagonal().add_(1)
    y = torch.linalg.solve_triangular(torch.linalg.cholesky(inner), scaled.T, upper=False).T  # (I, r)
    p = 1 / d - y.square().sum(1)
    return y, y / p[:, None], d
