r"""UniSRec: next items from text vectors by parametric whitening and a mixture of experts (Hou et al., KDD 2022).

This is the model of the paper's section 3.1, trained from scratch on one dataset. There is no pre-training on other
domains, and therefore neither the paper's second contrastive loss nor its augmented texts. With `x_i` `(Σ d_m)` the
features of item `i`, all modalities side by side (0 for a modality that the item lacks), and `K = n_experts`:

    y_ik = (x_i - b_k) W_k                              parametric whitening
    g_i = softmax(x_i G + δ),  δ ~ N(0, s²),  s = softplus(x_i S) + 0.01      in training; else δ = 0
    V_i = Σ_k g_ik y_ik                                 inductive: from features alone
    V_i = Σ_k g_ik y_ik + v_i                           transductive (`item_ids`), v_i a free vector
    h = CausalTransformer(V_{i_1}, …, V_{i_T})          nn/transformer.py
    score(u, i) = cos(h_T, V_i)

Differences from the public code (github.com/RUCAIBox/UniSRec): the transformer is the one of all sequential models
here (pre-norm instead of post-norm, no dropout of attention weights); all positions of a history are targets of one
pass, where the public code makes an example of each; noise and dropout are sampled once for each item and batch, not
again for each occurrence in a history, and the dropout is the same for all experts. As in the public code, random
initial values have a standard deviation of 0.02.

**Published training**: the fine-tuning of the public code, which has RecBole's defaults.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lirdrec.config import check_minimum, option, validated
from lirdrec.errors import CapabilityError
from lirdrec.models.base import Features
from lirdrec.models.sasrec_features import FeatureSequenceModel, FeatureSequenceOptions
from lirdrec.nn.init import normal_
from lirdrec.ranking.scorers import VectorScorer

INITIAL_STD = 0.02
SMALLEST_NOISE = 0.01


@dataclass(frozen=True)
@validated
class UniSRecConfig(FeatureSequenceOptions):
    """Hyper-parameters of UniSRec.

    >>> UniSRecConfig(n_experts=4).item_ids
    False
    """

    model: ClassVar[str] = "unisrec"

    n_experts: int = option(8, "K, experts of the mixture")
    item_ids: bool = option(False, "add a free vector for each item (transductive); then no new items")

    def __post_init__(self) -> None:
        super().__post_init__()
        check_minimum(self, 1, "n_experts")


class UniSRec(FeatureSequenceModel):
    """UniSRec without pre-training: predict the next item from whitened text vectors.

    The formulas are at the top of this file.
    """

    name = UniSRecConfig.model
    Config = UniSRecConfig
    grid: ClassVar = {"n_experts": (1, 4, 8), "feature_dropout": (0.0, 0.2)}
    item_rows = ("item_embedding",)

    def _make_projection(self, generator: torch.Generator) -> None:
        k, d, e = self.config.n_experts, sum(self.widths), self.config.embedding_size
        device = self.inputs.device

        def normal(*shape: int) -> nn.Parameter:
            parameter = nn.Parameter(torch.empty(*shape, device=device))
            normal_(parameter, generator, INITIAL_STD)
            return parameter

        self.expert_weight = normal(k, e, d)  # W_k, transposed
        self.expert_bias = nn.Parameter(torch.zeros(k, d, device=device))  # b_k
        self.gate_weight = nn.Parameter(torch.zeros(k, d, device=device))  # G, transposed
        self.noise_weight = nn.Parameter(torch.zeros(k, d, device=device))  # S, transposed
        if self.config.item_ids:
            self.item_embedding = normal(self.inputs.n_items, e)

    def project(self, inputs: Sequence[Tensor]) -> Tensor:
        (x,) = inputs
        k, e, d = self.expert_weight.shape
        experts = F.linear(self.dropped(x), self.expert_weight.view(k * e, d)).view(-1, k, e)
        experts = experts - torch.einsum("kd,ked->ke", self.expert_bias, self.expert_weight)
        return (self.gates(x)[..., None] * experts).sum(1)

    def gates(self, x: Tensor) -> Tensor:
        """Return the weights `(n, K)` of the experts for items with features `(n, Σ d_m)`, in training with noise."""
        if not self.training:
            return F.linear(x, self.gate_weight).softmax(-1)
        logits, spread = F.linear(x, torch.cat([self.gate_weight, self.noise_weight])).chunk(2, dim=-1)
        noise = self.draw_noise(len(x)).to(logits)
        return (logits + noise * (F.softplus(spread) + SMALLEST_NOISE)).softmax(-1)

    def draw_noise(self, n: int) -> Tensor:
        """Draw standard normal noise `(n, K)`, which `gates` adds to the logits of K experts for `n` items."""
        return torch.randn(n, self.config.n_experts, generator=self.generator)

    def item_table(self) -> Tensor:
        table = super().item_table()
        return table + self.item_embedding if self.config.item_ids else table

    def new_item_vectors(
        self, scorer: VectorScorer, catalog: Sequence[Mapping[str, Features]], new: Mapping[str, Features]
    ) -> tuple[Tensor, dict[str, Tensor]]:
        if self.config.item_ids:
            raise CapabilityError(
                "unisrec with item_ids=True has a free vector for each item of training, and none for new items; train"
                " it with item_ids=False"
            )
        return super().new_item_vectors(scorer, catalog, new)
