r"""SMORE: features denoised and multiplied in the frequency domain, with an item graph of their fusion.

Ong & Khong, "Spectrum-based Modality Representation Fusion Graph Convolutional Network for Multimodal Recommendation",
WSDM 2025, arXiv 2412.14978. The notation is that of `multi_view_base.py`, which has what SMORE shares with MGCN.
`ẑ = 𝓕(z)` is the real Fourier transform over the columns (orthonormal, `e/2 + 1` complex numbers), and `ω` are free
complex weights:

    y_m = 𝓕⁻¹(ω_m ⊙ ẑ_m),   y_f = 𝓕⁻¹(ω_f ⊙ Π_m ẑ_m)                  denoised modalities and their fusion, a view f
    S_f = max_m S_m                                                    entry by entry, over the entries that exist
    a_m = softmax over columns(B_m tanh(A_m x_f + b_m))
    side = (σ(K_f C + k_f) ⊙ x_f + Σ_m σ(K_m C + k_m) ⊙ a_m ⊙ x_m) / (1 + M)

for users and items, with the same parameters. Training sets some entries of the gates `σ(K C + k)` to 0. For an item
that lacks a modality, the product, `S_f` and `side` use only the `M` modalities that it has.

**Differs from public code** (the authors' github.com/kennethorq/SMORE and MMRec's, which are the same): fixed features,
degrees and divisor as in `mgcn.py`. Dropout is drawn for users and items in turn. `n_neighbors` is one k for all
modalities; `modality_neighbors` gives some of them another k.

**Published training**: `configs/overall.yaml` and `configs/model/SMORE.yaml`: rate 1e-3 · 0.96^(epoch/50), with epochs
counted from 0; the grid is that of the public code (which has one k for images and one for texts).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lirdrec.config import check_share, option, validated
from lirdrec.errors import ConfigError
from lirdrec.graphs.differentiable_item_graph import WeightedEdges
from lirdrec.models.base import Capabilities, ModelInputs
from lirdrec.models.multi_view_base import MultiViewModel, MultiViewOptions, counts
from lirdrec.nn.init import torch_linear_
from lirdrec.nn.normalize_and_dropout import dropout

FUSION = "fusion"


@dataclass(frozen=True)
@validated
class SMOREConfig(MultiViewOptions):
    """Hyper-parameters of SMORE.

    >>> SMOREConfig(n_layers=3).n_layers
    3
    """

    model: ClassVar[str] = "smore"

    n_layers: int = option(3, "L, user-item propagation layers")
    modality_neighbors: dict[str, int] | None = option(None, "k of single modalities, instead of n_neighbors")
    gate_dropout: float = option(0.0, "share of entries of the gates set to 0 in training")

    def __post_init__(self) -> None:
        super().__post_init__()
        check_share(self, "gate_dropout")
        if self.modality_neighbors is not None and not all(k >= 1 for k in self.modality_neighbors.values()):
            raise ConfigError("modality_neighbors must be 1 or more")


class SMORE(MultiViewModel):
    """SMORE: features filtered in the frequency domain.

    The formulas are at the top of this file and of `multi_view_base.py`.
    """

    name = SMOREConfig.model
    Config = SMOREConfig
    capabilities = Capabilities(needs_features=True, cold_items=True, new_users=True, training="gradient", weights=True)
    grid: ClassVar = {
        "n_layers": (3, 4),
        "n_neighbors": (10, 15, 20, 40),
        "regularization": (1e-5, 1e-4),
        "gate_dropout": (0.0, 0.1),
    }
    published: ClassVar = {
        "learning_rate": 1e-3,
        "batch_size": 2048,
        "epochs": 1000,
        "patience": 20,
        "schedule": "exponential",
        "decay": 0.96,
        "decay_epochs": 50,
    }
    config: SMOREConfig

    def __init__(self, inputs: ModelInputs, config: SMOREConfig):
        super().__init__(inputs, config, (FUSION,))
        for name in config.modality_neighbors or {}:
            if name not in self.modalities:
                raise ConfigError(
                    f"modality_neighbors: there is no modality '{name}'; the model uses {', '.join(self.modalities)}"
                )
        e, n_modalities = config.embedding_size, len(self.modalities)
        self.query_weight, self.query_bias = self.linears([(e, e)] * n_modalities)  # A_m, b_m
        self.column_weight = nn.ParameterList([self.table(e, e) for _ in self.modalities])  # B_m
        for weight in self.column_weight:
            torch_linear_(weight, self.initial, e)
        self.preference_weight, self.preference_bias = self.linears([(e, e)] * len(self.views))  # K_c, k_c
        # ω_c, real and imaginary parts; the weights of the public code are normal, too
        self.spectrum = nn.ParameterList([self.table(e // 2 + 1, 2) for _ in self.views])
        with torch.no_grad():
            for weight in self.spectrum:
                weight.copy_(torch.randn(weight.shape, generator=self.initial, dtype=torch.float64))

    @property
    def dropout(self) -> float:
        """Share of entries of the gates that are set to 0 in training."""
        return self.config.gate_dropout

    def neighbors_of(self, modality: str) -> int:
        """Return k of the graph of a modality: that in `modality_neighbors`, else `n_neighbors`."""
        return (self.config.modality_neighbors or {}).get(modality, self.config.n_neighbors)

    def graphs_of(self, links: Sequence[WeightedEdges], n_items: int) -> list[WeightedEdges]:
        """Return the graphs of the modalities, and `S_f`, which has the largest of their entries at each position."""
        joined = WeightedEdges.joined(list(links))
        keys, inverse = torch.unique(joined.rows * n_items + joined.columns, return_inverse=True)
        largest = joined.values.new_full((len(keys),), -torch.inf).scatter_reduce(0, inverse, joined.values, "amax")
        return [*links, WeightedEdges(keys // n_items, keys % n_items, largest)]

    def contents(self, projected: Sequence[Tensor]) -> list[Tensor]:
        """Return `y_c` of each modality and of their fusion."""
        e = self.config.embedding_size
        waves = [torch.fft.rfft(z, dim=1, norm="ortho") for z in projected]
        factors = [
            wave if f.is_complete else torch.where(f.present[:, None], wave, torch.ones_like(wave))
            for wave, f in zip(waves, self.features, strict=True)
        ]
        spectra = zip([*waves, reduce(torch.mul, factors)], self.spectrum, strict=True)
        return [torch.fft.irfft(x * torch.view_as_complex(w), n=e, dim=1, norm="ortho") for x, w in spectra]

    def fused(self, views: Sequence[Tensor], content: Tensor, present: Tensor | None, p: float = 0.0) -> Tensor:
        """Return `side` `(n, e)`: the sum of the views, divided by one plus the number of modalities.

        Each view is multiplied by its gate, the preference of a user or item; those of modalities also by `a_m`.
        """
        gates = [
            dropout(F.linear(content, weight, bias).to(content.dtype).sigmoid(), p, self.generator)
            for weight, bias in zip(self.preference_weight, self.preference_bias, strict=True)
        ]
        *own, fusion = views
        total = gates[-1] * fusion
        for row, x in enumerate(own):  # the view of a modality that an item lacks is zero
            hidden = F.linear(fusion, self.query_weight[row], self.query_bias[row]).tanh()
            columns = F.linear(hidden, self.column_weight[row]).to(x.dtype).softmax(1)
            total = total + gates[row] * columns * x
        return total / (1 + counts(present, len(own), fusion))
