r"""WhitenRec and WhitenRec+: next items from whitened text vectors (Zhang et al., ICDE 2024, arXiv 2402.10602).

`x_i` are the features of item `i` in a modality, `μ` their mean and `Σ = U Λ Uᵀ` their covariance over the items of
training. Full (ZCA) whitening `ω_1` removes all correlation between columns. *Relaxed* whitening `ω_G`, in `G` groups,
removes it within each of `G` blocks of adjacent columns only:

    ω_1(x) = (x - μ) U Λ^-½ Uᵀ,   ω_G(x) = [ω_1(x^(1)) | … | ω_1(x^(G))]
    whitenrec        V_i = f(ω_G(x_i)),               G = n_groups
    whitenrec_plus   V_i = f(ω_1(x_i)) + f(ω_G(x_i))  with the same f
    h = CausalTransformer(V_{i_1}, …, V_{i_T})        nn/transformer.py
    score(u, i) = ⟨h_T, V_i⟩, or their cosine

`f` is the projection of `models/sasrec_features.py`. Several modalities are whitened separately and then put side by
side. Whitening is fitted once, to the items of training that have the modality, and is part of the model's state. A
new item is whitened with the same mean and matrix. An item without the modality has 0, the mean.

The whitening was checked with the public code of the same authors' DWSRec (github.com/lzz0007/DWSRec). Differences from
that code: directions without variance become 0 instead of growing without bound; blocks of columns may differ by one in
width; there is no relu after the last layer of `f`; the transformer is the one of all sequential models here. DWSRec
also mixes the two views (the whitenings) inside the attention; WhitenRec+, as here, sums them before the attention.

**Published training**: that of DWSRec, `props/general.yaml` and `model.hyper`, with the epochs of RecBole.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from lirdrec.config import check_minimum, option, validated
from lirdrec.errors import ConfigError
from lirdrec.models.base import Features
from lirdrec.models.feature_reduction import PCA, reduced
from lirdrec.models.sasrec_features import SASRecFeatures, SASRecFeaturesConfig
from lirdrec.nn.normalize_and_dropout import normalize


class ZCA(PCA):
    """`(F - mean) U Λ^-½ Uᵀ`: the features rotated to principal components, scaled to variance 1, and rotated back.

    >>> zca = ZCA(3)
    >>> zca.fit(Features(torch.rand(50, 3), torch.ones(50, dtype=torch.bool)))
    >>> zca.directions.shape
    torch.Size([3, 3])
    """

    def __init__(self, width: int, dtype: torch.dtype = torch.float32, device: torch.device | str = "cpu"):
        super().__init__(width, width, dtype, device, whiten=True)

    @torch.no_grad()
    def fit(self, features: Features) -> None:
        """Fit mean and matrix to the rows that are present; directions without variance become 0."""
        super().fit(features)
        scaled = self.directions.double()  # U Λ^-½
        self.directions.copy_(scaled @ normalize(scaled.T))


@dataclass(frozen=True)
@validated
class WhitenRecConfig(SASRecFeaturesConfig):
    """Hyper-parameters of WhitenRec.

    >>> WhitenRecConfig(n_groups=4).n_groups
    4
    """

    model: ClassVar[str] = "whitenrec"

    n_groups: int = option(1, "G, blocks of columns that are whitened separately; 1: full whitening")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.whiten:
            raise ConfigError(
                f"whiten: {self.model} always whitens the features (option n_groups); leave out the option whiten"
            )
        check_minimum(self, 1, "n_groups")


@dataclass(frozen=True)
@validated
class WhitenRecPlusConfig(WhitenRecConfig):
    """Hyper-parameters of WhitenRec+.

    >>> WhitenRecPlusConfig().n_groups
    4
    """

    model: ClassVar[str] = "whitenrec_plus"

    n_groups: int = option(4, "G, blocks of columns of the relaxed whitening; a second whitening is full")


class WhitenRec(SASRecFeatures):
    """WhitenRec: predict the next item from whitened text vectors.

    The formulas are at the top of this file.
    """

    name = WhitenRecConfig.model
    Config = WhitenRecConfig
    published: ClassVar = {"learning_rate": 1e-3, "batch_size": 1024, "epochs": 300, "patience": 50}
    grid: ClassVar = {"n_groups": (1, 4, 8, 16, 32), "n_hidden": (0, 1), "feature_dropout": (0.0, 0.2)}

    @property
    def views(self) -> tuple[int, ...]:
        """For each whitening, into how many groups it divides the columns; the projections of all are summed."""
        return (self.config.n_groups,)

    def _make_projection(self, generator: torch.Generator) -> None:
        super()._make_projection(generator)
        if max(self.views) > min(self.widths):
            raise ConfigError(
                f"n_groups is {max(self.views)}; it must be at most the number of columns of each feature matrix, here"
                f" {min(self.widths)}"
            )
        dtype, device = self.features[0].values.dtype, self.inputs.device
        self.whitenings = nn.ModuleList(
            nn.ModuleList(ZCA(width, dtype, device) for width in self._block_widths(groups)) for groups in self.views
        )

    def _block_widths(self, groups: int) -> list[int]:
        """Return the widths of all blocks of columns, if the columns of each modality are divided into `groups`."""
        return [len(block) for width in self.widths for block in torch.arange(width).tensor_split(groups)]

    def projection_inputs(self, features: Sequence[Features]) -> list[Tensor]:
        """Return for each whitening in `views` the whitened features `(n, Σ d_m)` of `n` items."""
        found = []
        for groups, whitening in zip(self.views, self.whitenings, strict=True):
            assert isinstance(whitening, nn.ModuleList)
            known = self.inputs.known_items
            blocks = reduced(whitening, _blocks(self.features, groups), _blocks(features, groups), known)
            found.append(torch.cat([block.values for block in blocks], dim=1))
        return found

    def project(self, inputs: Sequence[Tensor]) -> Tensor:
        projected = self.head(inputs[0])
        for view in inputs[1:]:
            projected = projected + self.head(view)
        return projected


class WhitenRecPlus(WhitenRec):
    """WhitenRec+: WhitenRec with the sum of full and relaxed whitening.

    The formulas are at the top of this file.
    """

    name = WhitenRecPlusConfig.model
    Config = WhitenRecPlusConfig
    grid: ClassVar = {"n_groups": (4, 8, 16, 32, 64), "n_hidden": (0, 1), "feature_dropout": (0.0, 0.2)}

    @property
    def views(self) -> tuple[int, ...]:
        return (1, self.config.n_groups)


def _blocks(features: Sequence[Features], groups: int) -> list[Features]:
    """Split the features of each modality into `groups` blocks of columns."""
    return [Features(block, f.present) for f in features for block in f.values.tensor_split(groups, dim=1)]
