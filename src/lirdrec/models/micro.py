r"""MICRO: a latent item graph for each modality, fused by attention; each modality is contrasted with the fusion.

Zhang et al., "Latent Structure Mining with Contrastive Modality Fusion for Multimedia Recommendation", TKDE 2023. The
notation is that of `latent_graph_base.py`, which has what MICRO shares with LATTICE:

    G_m = (1-λ) N(K(z_m)) + λ N(K(F_m)),   h_m = G_m^Lm Q
    a = softmax_m(⟨q, tanh(A h_m + b)⟩),   h = Σ_m a_m h_m
    further term γ Σ_m C_m,  with s(x, y) = exp(cos(x, y) / τ) and the mean over all items i that have m
    C_m = -mean_i log( s(h_m,i, h_i) / (Σ_j s(h_m,i, h_j) + Σ_{j≠i} s(h_m,i, h_m,j)) )

The contrast compares all items with all items at every step, in blocks: `2·M·I²·e` multiplications, and twice as many
for the gradient. With `n_contrasted`, only a random sample of the items i is compared with all items (a new sample at
each step), which is the same in expectation.

**Differs from public code** (the authors' github.com/CRIPAC-DIG/MICRO; MMRec has no MICRO): fixed features (see
`latent_graph_base.py`). Training shuffles all pairs; the public code draws distinct users and one item of each user.
The penalty is divided by the number of pairs in the batch; the public code divides by the configured batch size, which
differs in the last batch only.

**Published training**: `codes/utility/parser.py` and `main.py`: rate 5e-4 · 0.96^(epoch/50), with epochs counted from
0, batches of 1,024, and validation every 5 epochs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from lirdrec.config import check_minimum, option, validated
from lirdrec.errors import ConfigError
from lirdrec.graphs.differentiable_item_graph import WeightedEdges
from lirdrec.models.base import Capabilities, Features, ModelInputs
from lirdrec.models.latent_graph_base import Degrees, LatentGraphModel, LatentGraphOptions
from lirdrec.nn.init import torch_linear_
from lirdrec.nn.losses import info_nce


@dataclass(frozen=True)
@validated
class MICROConfig(LatentGraphOptions):
    """Hyper-parameters of MICRO.

    >>> MICROConfig(n_layers=1).n_layers
    1
    """

    model: ClassVar[str] = "micro"

    contrast_weight: float = option(0.03, "γ of the contrast between modalities and their fusion")
    contrast_temperature: float = option(0.5, "τ, temperature of that contrast")
    n_contrasted: int | None = option(None, "items of each modality that a step compares with all items; none: all")

    def __post_init__(self) -> None:
        super().__post_init__()
        check_minimum(self, 0, "contrast_weight")
        if not self.contrast_temperature > 0:
            raise ConfigError(f"contrast_temperature is {self.contrast_temperature}; it must be more than 0")
        if self.n_contrasted is not None and self.n_contrasted < 1:
            raise ConfigError(f"n_contrasted is {self.n_contrasted}; it must be 1 or more, or none for all items")


class MICRO(LatentGraphModel):
    """MICRO: one learned item graph for each modality, fused by attention.

    The formulas are at the top of this file and of `latent_graph_base.py`.
    """

    name = MICROConfig.model
    Config = MICROConfig
    capabilities = Capabilities(needs_features=True, cold_items=True, new_users=True, training="gradient", weights=True)
    # its code searches nothing; the values are those of LATTICE
    grid: ClassVar = {"regularization": (0.0, 1e-5, 1e-4, 1e-3)}
    published: ClassVar = {
        "learning_rate": 5e-4,
        "batch_size": 1024,
        "epochs": 1000,
        "patience": 10,
        "evaluate_every": 5,
        "schedule": "exponential",
        "decay": 0.96,
        "decay_epochs": 50,
    }

    config: MICROConfig

    def __init__(self, inputs: ModelInputs, config: MICROConfig):
        super().__init__(inputs, config, at_least=2)
        e = config.embedding_size
        self.attention_weight = self._table(e, e)  # A
        self.attention_bias = self._table(e)  # b
        self.attention_vector = self._table(e)  # q
        for parameter in (self.attention_weight, self.attention_bias, self.attention_vector):
            torch_linear_(parameter, self.initial, e)

    def blended(
        self, learned: Sequence[WeightedEdges], frozen: Sequence[WeightedEdges], degrees: Degrees
    ) -> list[WeightedEdges]:
        """Return one graph `G_m` for each modality."""
        share, graphs = self.config.frozen_weight, []
        for name, own, raw in zip(self.modalities, learned, frozen, strict=True):
            parts = [
                own.normalized(degrees(f"learned_{name}", own)).scaled(1 - share),
                raw.normalized(degrees(name, raw)).scaled(share),
            ]
            graphs.append(WeightedEdges.joined(parts))
        return graphs

    def fused(self, smoothed: Sequence[Tensor], features: Sequence[Features]) -> Tensor:
        """Return `h` by attention over the modalities that an item has; an item without modalities gets zero."""
        h = torch.stack(list(smoothed), dim=1)  # (n, M, e)
        hidden = F.linear(h, self.attention_weight, self.attention_bias).tanh()
        logits = F.linear(hidden, self.attention_vector[None]).squeeze(2).to(h.dtype)  # (n, M)
        present = torch.stack([f.present for f in features], dim=1)
        if not bool(present.all()):
            logits = logits.masked_fill(~present, -1e9)  # finite: the rows of an item without features are zero anyway
        return (logits.softmax(1)[:, :, None] * h).sum(1)

    def further_terms(self, smoothed: Sequence[Tensor], fused: Tensor) -> dict[str, Tensor]:
        """Return γ Σ_m C_m: the contrast of each modality with the fusion, over the items that have the modality."""
        if self.config.contrast_weight == 0:
            return {}
        total = fused.new_zeros(())
        for own, feature in zip(smoothed, self.features, strict=True):
            a, b = own, fused
            if not feature.is_complete:
                there = feature.present.nonzero().squeeze(1)
                a, b = own.index_select(0, there), fused.index_select(0, there)
            n, asking = self.config.n_contrasted, None
            if n is not None and n < len(a):
                asking = torch.randperm(len(a), generator=self.generator)[:n].to(a.device)
            total = total + info_nce(a, b, self.config.contrast_temperature, asking, within=True)
        return {"contrast": self.config.contrast_weight * total}
