r"""MGCN: features purified by ID vectors, smoothed in one view for each modality, fused by attention and preference.

Yu et al., "Multi-View Graph Convolutional Network for Multimedia Recommendation", MM 2023, arXiv 2308.03588. The
notation is that of `multi_view_base.py`, which has what MGCN shares with SMORE:

    y_m = z_m                                                       the gate is the paper's behavior-guided purifier
    a = softmax_m(⟨q, tanh(A x_m + b)⟩),   x̄ = Σ_m a_m x_m             shared part
    side = (x̄ + Σ_m σ(K_m C + k_m) ⊙ (x_m - x̄)) / (1 + M)             the behavior-aware fuser

for users and items, with the same parameters. For an item that lacks a modality, `M` counts only the modalities that it
has, and `side` uses only these. With one modality `x̄ = x_m`, so that `side = x_m / 2`, and there are no parameters of
attention and preference.

**Differs from public code** (the authors' github.com/demonph10/MGCN and MMRec's, which have the same formulas): fixed
features, as in the paper; the public codes train copies, which the item graphs do not follow. Degrees of `Â` have 1e-7
added, in the public codes nothing: a relative difference of at most 1e-7. The penalty is divided by the number of pairs
in the batch, in the public codes by the configured batch size, which differs in the last batch only. `R̂` and the τ of
the contrast (0.2) are as in the public codes.

**Published training**: the authors' `configs/overall.yaml` and `configs/model/MGCN.yaml`: rate 1e-3 · 0.96^(epoch/50),
with epochs counted from 0; the grid is the authors'. MMRec has a patience of 20 instead of 10.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from lirdrec.config import validated
from lirdrec.models.base import Capabilities, ModelInputs
from lirdrec.models.multi_view_base import MultiViewModel, MultiViewOptions, counts
from lirdrec.nn.init import torch_linear_


@dataclass(frozen=True)
@validated
class MGCNConfig(MultiViewOptions):
    """Hyper-parameters of MGCN.

    >>> MGCNConfig(n_layers=1).n_layers
    1
    """

    model: ClassVar[str] = "mgcn"


class MGCN(MultiViewModel):
    """MGCN: features gated by ID vectors, fused by attention.

    The formulas are at the top of this file and of `multi_view_base.py`.
    """

    name = MGCNConfig.model
    Config = MGCNConfig
    capabilities = Capabilities(needs_features=True, cold_items=True, new_users=True, training="gradient", weights=True)
    grid: ClassVar = {"contrast_weight": (0.001, 0.01, 0.1)}
    published: ClassVar = {
        "learning_rate": 1e-3,
        "batch_size": 2048,
        "epochs": 1000,
        "patience": 10,
        "schedule": "exponential",
        "decay": 0.96,
        "decay_epochs": 50,
    }
    config: MGCNConfig

    def __init__(self, inputs: ModelInputs, config: MGCNConfig):
        super().__init__(inputs, config)
        e, n_modalities = config.embedding_size, len(self.modalities)
        if n_modalities > 1:
            self.attention_weight = self.table(e, e)  # A
            self.attention_bias = self.table(e)  # b
            self.attention_vector = self.table(e)  # q
            for parameter in (self.attention_weight, self.attention_bias, self.attention_vector):
                torch_linear_(parameter, self.initial, e)
            self.preference_weight, self.preference_bias = self.linears([(e, e)] * n_modalities)  # K_m, k_m

    def contents(self, projected: Sequence[Tensor]) -> list[Tensor]:
        """Return the projected features themselves: `y_m = z_m`."""
        return list(projected)

    def fused(self, views: Sequence[Tensor], content: Tensor, present: Tensor | None, p: float = 0.0) -> Tensor:
        """Return `side` `(n, e)`: the mean of the shared part and of what each modality adds to it.

        What a modality adds is weighted by the preference for it. With one modality, return half of its view.
        """
        if len(views) == 1:
            return views[0] / 2
        x = torch.stack(list(views), 1)  # (n, M, e)
        hidden = F.linear(x, self.attention_weight, self.attention_bias).tanh()
        logits = F.linear(hidden, self.attention_vector[None]).squeeze(2).to(x.dtype)  # (n, M)
        if present is not None:
            logits = logits.masked_fill(~present, -1e9)  # finite: the views of an item without features are zero anyway
        shared = (logits.softmax(1)[:, :, None] * x).sum(1)
        total = shared
        for row, (weight, bias) in enumerate(zip(self.preference_weight, self.preference_bias, strict=True)):
            own = F.linear(content, weight, bias).to(x.dtype).sigmoid() * (views[row] - shared)
            total = total + (own if present is None else own * present[:, row, None])
        return total / (1 + counts(present, len(views), x))
