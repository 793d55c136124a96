r"""VBPR: matrix factorization whose item vectors are half learned, half projected features (He & McAuley, AAAI 2016).

With `e = embedding_size` and `f_i = [f_i1 | … | f_iM]` the raw features of all modalities, side by side:

    p_u ∈ R^2e,   q_i = [ID_i | W f_i + b]
    score(u, i) = ⟨p_u, q_i⟩
    loss = -mean log σ(⟨p_u, q_i⟩ - ⟨p_u, q_j⟩) + λ · penalty(p_u, q_i, q_j)

This is the form of the MMRec code, with which later papers compare: one projection of all modalities, with a bias. The
paper has one visual modality and no bias in the projection; it adds item biases and a visual bias `β'f` to the product,
and its penalty is squared (`penalty="squared"`). The score has two parts, "id" and "features"; a new item has `ID = 0`.

**Differs from public code** (MMRec): the loss has no `γ = 1e-10` inside the logarithm (`bpr` in losses.py), and only
the batch's items are projected.

**Published training**: MMRec, `src/configs/overall.yaml` (the grid: `model/VBPR.yaml`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lirdrec.config import check_minimum, option, validated
from lirdrec.models.base import Capabilities, Features, Model, ModelInputs
from lirdrec.models.feature_size_option import FeatureSizeOptions
from lirdrec.models.modality_options import chosen_modalities
from lirdrec.nn.init import uniform_, xavier_normal_, xavier_uniform_
from lirdrec.nn.losses import PenaltyOptions, RankingLoss, batch_penalty, batch_rows
from lirdrec.parallel.ranks_and_shards import Shards
from lirdrec.ranking.scorers import Scorer, VectorScorer


@dataclass(frozen=True)
@validated
class VBPRConfig(FeatureSizeOptions, PenaltyOptions):
    """Hyper-parameters of VBPR.

    >>> VBPRConfig(modalities=("text",)).modalities
    ('text',)
    """

    model: ClassVar[str] = "vbpr"

    embedding_size: int = option(64, "e, columns of each half of a vector: learned, and projected from features")
    modalities: tuple[str, ...] | None = option(None, "which feature matrices to use, in order; none: all")
    regularization: float = option(1e-2, "λ of the penalty on the vectors of a batch")

    def __post_init__(self) -> None:
        super().__post_init__()
        check_minimum(self, 1, "embedding_size")


class VBPR(Model):
    """VBPR: matrix factorization with half of each item vector projected from features.

    The formulas are at the top of this file.
    """

    name = VBPRConfig.model
    Config = VBPRConfig
    capabilities = Capabilities(
        needs_features=True, cold_items=True, new_users=False, training="gradient", weights=True, several_devices=True
    )
    grid: ClassVar = {"regularization": (2.0, 1.0, 1e-1, 1e-2, 1e-3, 1e-4, 1e-5)}
    published: ClassVar = {"learning_rate": 1e-3, "batch_size": 2048, "epochs": 1000, "patience": 20}  # MMRec

    def __init__(self, inputs: ModelInputs, config: VBPRConfig):
        super().__init__(inputs, config)
        self.config: VBPRConfig = config
        self.modalities = chosen_modalities(inputs, config.modalities)
        self.features = [inputs.features[m] for m in self.modalities]
        self.shards = inputs.shards
        self.ranking = RankingLoss(config, inputs.items, inputs.n_items, inputs.pair_weights, self.shards)
        dims = [f.values.shape[1] for f in self.features]
        e, dtype, device = config.embedding_size, self.features[0].values.dtype, inputs.device

        def table(*shape: int) -> nn.Parameter:
            return nn.Parameter(torch.empty(*shape, dtype=dtype, device=device))

        rows = self.shards
        self.user_embedding = table(rows.users.length, 2 * e)  # p
        self.item_embedding = table(rows.items.length, e)  # ID
        self.projection = nn.ParameterList([table(e, d) for d in dims])  # W, one block per modality
        self.bias = table(e)  # b
        generator = torch.Generator().manual_seed(inputs.seed)
        xavier_uniform_(self.user_embedding, generator, inputs.n_users, 2 * e, rows.users)
        xavier_uniform_(self.item_embedding, generator, inputs.n_items, e, rows.items)
        for weight in self.projection:
            xavier_normal_(weight, generator, sum(dims), e)
        uniform_(self.bias, generator, 0.0)

    def projected(self, features: Sequence[Tensor]) -> Tensor:
        """Return `W f + b` `(n, e)` of items, which are given by one `(n, d_m)` matrix per modality, in order."""
        projected: Tensor = self.bias
        for values, weight in zip(features, self.projection, strict=True):
            projected = projected + F.linear(values, weight)
        return projected

    def item_vectors(self, rows: Tensor | None = None) -> Tensor:
        """Return `[ID | W f + b]` `(n, 2e)` of items of this rank (process).

        `rows` `(n,)` counts from the first item that the rank holds; None: all its items.
        """
        if rows is None:
            return torch.cat([self.item_embedding, self.projected([f.values for f in self.features])], dim=1)
        features = [f.values.index_select(0, rows) for f in self.features]
        return torch.cat([self.item_embedding.index_select(0, rows), self.projected(features)], dim=1)

    def loss(self, users: Tensor, positives: Tensor, negatives: Tensor) -> dict[str, Tensor]:
        """Return the ranking loss and the penalty of the batch's vectors, which depends on `W` and `b` as well."""
        shards, among = self.shards, None
        if self.config.loss == "softmax" and self.config.n_negatives is None:
            item_vectors = self.item_vectors()
        else:  # only the batch's items are projected: features are wide, and most items are in no batch
            among = torch.unique(torch.cat([positives, negatives]))
            shards = Shards(shards.users, shards.items.among(among))
            item_vectors = self.item_vectors(among[shards.items.rows] - self.shards.items.start)
        ranking = self.ranking(self.user_embedding, item_vectors, users, positives, negatives, among)
        if among is not None:
            positives, negatives = torch.searchsorted(among, positives), torch.searchsorted(among, negatives)
        gathered = batch_rows(self.user_embedding, item_vectors, users, positives, negatives, shards)
        penalty = self.config.regularization * batch_penalty(self.config.penalty, gathered, shards.ranks)
        return {"loss": ranking + penalty, "ranking": ranking.detach(), "regularization": penalty.detach()}

    @torch.no_grad()
    def vectors(self) -> tuple[Tensor, Tensor]:
        transform = self.ranking.transform_for_scoring
        return transform(self.user_embedding), transform(self.item_vectors())

    @torch.no_grad()
    def scorer(self) -> Scorer:
        users, items = self.vectors()
        return VectorScorer(users.detach().clone(), items, ("id", "features"))

    @torch.no_grad()
    def add_items(
        self, scorer: Scorer, catalog: Sequence[Mapping[str, Features]], new: Mapping[str, Features]
    ) -> VectorScorer:
        """Return the scorer with new items, made from their features alone: `q = [0 | W f + b]`."""
        assert isinstance(scorer, VectorScorer)
        own = self.projected([new[m].values for m in self.modalities])
        vectors = self.ranking.transform_for_scoring(torch.cat([torch.zeros_like(own), own], dim=1))
        return scorer.with_items(vectors)
