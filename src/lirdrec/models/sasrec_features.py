r"""SASRec on features: next items by self-attention, with item vectors projected from feature vectors.

This is SASRec (Kang & McAuley, ICDM 2018) with a projection of the items' features in place of free vectors. It is the
baseline "SASRec with text" of UniSRec (KDD 2022) and WhitenRec (ICDE 2024). With `x_i` `(Σ d_m)` the features of item
`i`, all modalities side by side (0 for a modality that the item lacks), and `H` hidden layers (`n_hidden`):

    g_0 = x_i,   g_n = relu(W_n g_{n-1} + b_n),   V_i = W_{H+1} g_H + b_{H+1}
    h = CausalTransformer(V_{i_1}, …, V_{i_T})        nn/transformer.py
    score(u, i) = ⟨h_T, V_i⟩, or their cosine

In training, `feature_dropout` is applied to the input of each layer of the projection, once for all uses of an item in
a batch. The public codes of UniSRec and DWSRec have 0.2, which is worse on validation (docs/models.md).

**Published training**: the defaults of RecBole, with which UniSRec's authors train.

A new item has the vector of its features. `models/unisrec.py` and `models/whitenrec.py` change the projection.
"""

from __future__ import annotations

import abc
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lirdrec.config import check_minimum, check_share, option, validated
from lirdrec.models.base import Capabilities, Features, ModelInputs
from lirdrec.models.feature_size_option import FeatureSizeOptions
from lirdrec.models.modality_options import chosen_modalities
from lirdrec.models.sequential import TransformerModel, TransformerOptions
from lirdrec.nn.init import xavier_normal_
from lirdrec.nn.normalize_and_dropout import dropout
from lirdrec.ranking.scorers import VectorScorer


@dataclass(frozen=True)
@validated
class FeatureSequenceOptions(FeatureSizeOptions, TransformerOptions):
    """Options of transformers whose item vectors are projected from features."""

    feature_dropout: float = option(0.0, "share of the inputs of the projection set to 0 in training")
    modalities: tuple[str, ...] | None = option(None, "which feature matrices to use, in order; none: all")

    def __post_init__(self) -> None:
        super().__post_init__()
        check_share(self, "feature_dropout")


@dataclass(frozen=True)
@validated
class SASRecFeaturesConfig(FeatureSequenceOptions):
    """Hyper-parameters of SASRec on features.

    >>> SASRecFeaturesConfig(n_hidden=0).n_hidden
    0
    """

    model: ClassVar[str] = "sasrec_features"

    n_hidden: int = option(1, "H, hidden layers of the projection, of e columns each; 0: one matrix")

    def __post_init__(self) -> None:
        super().__post_init__()
        check_minimum(self, 0, "n_hidden")


class FeatureSequenceModel(TransformerModel):
    """Base class of transformers whose item vectors are projected from features; a model adds `project`."""

    capabilities = Capabilities(
        needs_features=True, cold_items=True, new_users=True, training="gradient", weights=True, ordered=True
    )
    # as in the public code of UniSRec, which has this model as a baseline
    published: ClassVar = {"learning_rate": 1e-3, "batch_size": 2048, "epochs": 300, "patience": 10}
    item_rows: ClassVar[tuple[str, ...]] = ()  # item vectors come from features

    def __init__(self, inputs: ModelInputs, config: FeatureSequenceOptions):
        super().__init__(inputs, config)
        self.modalities = chosen_modalities(inputs, config.modalities)
        self.features = [inputs.features[m] for m in self.modalities]
        self.widths = [f.values.shape[1] for f in self.features]
        generator = torch.Generator().manual_seed(inputs.seed)
        self.network = self.make_network(generator)
        self._make_projection(generator)

    @abc.abstractmethod
    def _make_projection(self, generator: torch.Generator) -> None:
        """Create the parameters of the projection."""

    def projection_inputs(self, features: Sequence[Features]) -> list[Tensor]:
        """Return the matrices `(n, …)` from which `project` makes the vectors of `n` items.

        They depend on no trained parameters, so for the items of training they are computed only once.

        Args:
            features: the features of the items, one entry per modality.
        """
        return [torch.cat([feature.values for feature in features], dim=1)]

    @abc.abstractmethod
    def project(self, inputs: Sequence[Tensor]) -> Tensor:
        """Return the vectors `(n, e)` of items from their `projection_inputs`; differentiable."""

    @cached_property
    def _own_inputs(self) -> list[Tensor]:
        return self.projection_inputs(self.features)

    def dropped(self, x: Tensor) -> Tensor:
        """Return `x` with the dropout `feature_dropout` in training, else `x` itself."""
        return dropout(x, self.config.feature_dropout, self.generator) if self.training else x

    def item_table(self) -> Tensor:
        return self.project(self._own_inputs)

    def new_item_vectors(
        self, scorer: VectorScorer, catalog: Sequence[Mapping[str, Features]], new: Mapping[str, Features]
    ) -> tuple[Tensor, dict[str, Tensor]]:
        return self.project(self.projection_inputs([new[m] for m in self.modalities])), dict(scorer.memory)


class SASRecFeatures(FeatureSequenceModel):
    """SASRec on features: self-attention over projected feature vectors.

    The formulas are at the top of this file.
    """

    name = SASRecFeaturesConfig.model
    Config: ClassVar[type] = SASRecFeaturesConfig
    config: Any
    grid: ClassVar = {"n_hidden": (0, 1), "feature_dropout": (0.0, 0.2)}

    def _make_projection(self, generator: torch.Generator) -> None:
        e = self.config.embedding_size
        widths = [sum(self.widths), *[e] * (self.config.n_hidden + 1)]
        device = self.inputs.device
        self.projection_weight = nn.ParameterList(
            nn.Parameter(torch.empty(b, a, device=device)) for a, b in itertools.pairwise(widths)
        )
        self.projection_bias = nn.ParameterList(nn.Parameter(torch.zeros(e, device=device)) for _ in widths[1:])
        for weight in self.projection_weight:
            xavier_normal_(weight, generator, *weight.shape)

    def project(self, inputs: Sequence[Tensor]) -> Tensor:
        return self.head(inputs[0])

    def head(self, x: Tensor) -> Tensor:
        """Return the projection `(n, e)` of inputs `(n, Σ d_m)`."""
        for layer, (weight, bias) in enumerate(zip(self.projection_weight, self.projection_bias, strict=True)):
            x = F.linear(self.dropped(x if layer == 0 else F.relu(x)), weight, bias)
        return x
