r"""LightGCN: matrix factorization smoothed over the user-item graph (He et al., SIGIR 2020).

With `e = embedding_size`, free parameters `X0 = [P ; Q]`, `(U+I) × e`, and `Â` of `graphs/user_item.py`:

    X = (1/Σ_l a_l) Σ_{l=0..L} a_l Â^l X0,   a_l = 1 unless `layer_weights` says otherwise
    score(u, i) = ⟨X_u, X_i⟩
    loss = -mean log σ(⟨X_u, X_i⟩ - ⟨X_u, X_j⟩) + λ · penalty(P_u, Q_i, Q_j)

The penalty takes the parameters, not the propagated vectors: squared in the paper (`penalty="squared"`), unsquared in
the MMRec code (the default; the grid of λ is for it). A new user with liked items `H` has `P = 0` and the vector

    (1/Σ_l a_l) Σ_{i∈H} Y_i / √(|H|·deg_i)

where `Y` is the sum of the item states of the layers `0 .. L-1`, the state of layer l times `a_{l+1}`. With equal
weights, an odd L and cosines, the model cannot learn the difference of users and items in the leading component
(models/graph_layer_weights.py explains why).

**Differs from public code** (MMRec): the loss has no `γ = 1e-10` inside the logarithm (`bpr` in losses.py).

**Published training**: MMRec (`src/configs/overall.yaml`; the grid: `model/LightGCN.yaml`). The authors'
github.com/gusye1234/LightGCN-PyTorch has the same values for what it sets (`code/parse.py`: rate, batch, epochs, L,
λ 1e-4).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

import torch
from torch import Tensor, nn

from lirdrec.config import check_minimum, option, validated
from lirdrec.errors import ConfigError
from lirdrec.graphs.user_item import UserItemGraph, folded
from lirdrec.models.base import Capabilities, Model, ModelInputs
from lirdrec.models.graph_layer_weights import LayerWeighting, LayerWeights, check_layer_weights, fixed_weights
from lirdrec.models.interaction_matrices import item_degrees, user_item_graph
from lirdrec.nn.init import xavier_uniform_
from lirdrec.nn.losses import PenaltyOptions, RankingLoss, batch_penalty, batch_rows
from lirdrec.ranking.scorers import Scorer, VectorScorer


@dataclass(frozen=True)
@validated
class LightGCNConfig(PenaltyOptions):
    """Hyper-parameters of LightGCN.

    >>> LightGCNConfig(n_layers=2).n_layers
    2
    """

    model: ClassVar[str] = "lightgcn"

    embedding_size: int = option(64, "e, columns of user and item vectors")
    n_layers: int = option(3, "L, user-item propagation layers")
    layer_weights: LayerWeighting = option(
        "equal", "weight a_l of layer l in the mean; equal: 1; decaying: 1/(l+1); learned; or L+1 numbers"
    )
    regularization: float = option(1e-4, "λ of the penalty on the parameters of a batch")

    def __post_init__(self) -> None:
        super().__post_init__()
        check_minimum(self, 1, "embedding_size", "n_layers")
        check_layer_weights(self.layer_weights, self.n_layers)
        if not isinstance(self.layer_weights, str) and not sum(self.layer_weights) > 0:
            raise ConfigError(
                f"layer_weights sum to {sum(self.layer_weights):g}; the sum must be more than 0, because layers are"
                " averaged"
            )


class LightGCN(Model):
    """LightGCN: ID vectors smoothed over the user-item graph, averaged over the layers.

    The formulas are at the top of this file.
    """

    name = LightGCNConfig.model
    Config = LightGCNConfig
    capabilities = Capabilities(
        needs_features=False, cold_items=False, new_users=True, training="gradient", weights=True, several_devices=True
    )
    grid: ClassVar = {"n_layers": (1, 2, 3, 4), "regularization": (1e-2, 1e-3, 1e-4, 1e-5, 1e-6)}
    published: ClassVar = {"learning_rate": 1e-3, "batch_size": 2048, "epochs": 1000, "patience": 20}

    def __init__(self, inputs: ModelInputs, config: LightGCNConfig):
        super().__init__(inputs, config)
        self.config: LightGCNConfig = config
        self.shards = inputs.shards
        self.ranking = RankingLoss(config, inputs.items, inputs.n_items, inputs.pair_weights, self.shards)
        e, rows = config.embedding_size, self.shards
        self.user_embedding = nn.Parameter(torch.empty(rows.users.length, e, device=inputs.device))  # P
        self.item_embedding = nn.Parameter(torch.empty(rows.items.length, e, device=inputs.device))  # Q
        self.layer_weights = LayerWeights(config.layer_weights, config.n_layers, device=inputs.device)
        generator = torch.Generator().manual_seed(inputs.seed)
        xavier_uniform_(self.user_embedding, generator, inputs.n_users, e, rows.users)
        xavier_uniform_(self.item_embedding, generator, inputs.n_items, e, rows.items)

    @cached_property
    def user_item(self) -> UserItemGraph:
        return user_item_graph(self.inputs, self.user_embedding.dtype)

    def forward(self) -> tuple[Tensor, Tensor]:
        """Return user vectors `(U, e)` and item vectors `(I, e)`: the rows that this rank (process) holds."""
        users, items = self.shards.to_columns(self.user_embedding, self.item_embedding)
        users, items = self.user_item.propagate(users, items, self.config.n_layers, self.layer_weights())
        users, items = self.shards.to_rows(users, items, self.config.embedding_size)
        return users / self._total, items / self._total

    @property
    def _total(self) -> float:
        # learned weights keep their sum, L + 1
        start = fixed_weights(self.config.layer_weights, self.config.n_layers)
        return math.fsum(start)

    def loss(self, users: Tensor, positives: Tensor, negatives: Tensor) -> dict[str, Tensor]:
        """Return the ranking loss of the propagated vectors, and the penalty of the batch's rows of `P` and `Q`."""
        user_vectors, item_vectors = self()
        ranking = self.ranking(user_vectors, item_vectors, users, positives, negatives)
        gathered = batch_rows(self.user_embedding, self.item_embedding, users, positives, negatives, self.shards)
        penalty = self.config.regularization * batch_penalty(self.config.penalty, gathered, self.shards.ranks)
        return {"loss": ranking + penalty, "ranking": ranking.detach(), "regularization": penalty.detach()}

    @torch.no_grad()
    def vectors(self) -> tuple[Tensor, Tensor]:
        users, items = (self.ranking.transform_for_scoring(vectors) for vectors in self())
        return users, items

    @torch.no_grad()
    def scorer(self) -> Scorer:
        """Return the scorer of the current parameters, with what `fold_in` needs."""
        users, items = self.vectors()
        _, states = self.user_item.sums(
            self.user_embedding, self.item_embedding, self.config.n_layers - 1, self.layer_weights.numbers()[1:]
        )
        degrees = item_degrees(self.inputs, states.dtype)
        # clones: with one layer the states are the parameters themselves, which further training changes
        memory = {"item_states": states.detach().clone(), "item_degrees": degrees}
        return VectorScorer(users, items, memory=memory)

    @torch.no_grad()
    def fold_in(self, scorer: Scorer, histories: Sequence[Tensor]) -> Tensor:
        """Return vectors `(B, e)` of new users from the items they like: what propagation gives a node with `P = 0`."""
        assert isinstance(scorer, VectorScorer)
        received = folded(histories, scorer.memory["item_states"], scorer.memory["item_degrees"])
        return self.ranking.transform_for_scoring(received / self._total)
