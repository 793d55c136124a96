r"""FREEDOM: a frozen item-item graph and a user-item graph with edge dropout in each epoch.

Zhou & Shen, "A Tale of Two Graphs: Freezing and Denoising Graph Structures for Multimodal Recommendation", MM 2023.
`P` `(U, e)` and `Q` `(I, e)` are ID tables, `Â` is the graph of `graphs/user_item.py`, and `S = Σ_m w_m S_m` that of
`graphs/item_item.py`, built once from the raw features:

    [X_users ; X_items] = (1/(L+1)) Σ_{l=0..L} Â^l [P ; Q]                  LightGCN
    V = X_items + S^Lm Q                                                    item vectors
    loss = -mean log σ(⟨u, V_i⟩ - ⟨u, V_j⟩) + λ Σ_m -mean log σ(⟨u, W_m (F_m,i - F_m,j)⟩)

Training uses an `Â` of `int(E(1-p))` edges, sampled for each epoch with probability ∝ `1/√(d_u d_i)` and normalized
by the degrees that are left; scores use all edges. The features are fixed, as in the paper; the public code trains a
copy of them, which occurs in the last term only. A bias of `W_m` would cancel in the difference, so there is none. The
last term is always BPR, also with `loss="softmax"`.

A new item `n` has no edge and no ID row: `V_n = (S^Lm Q)_n` with `Q_n = 0`. Its row of `S` has its nearest among all
items, itself included; the rows of earlier items do not change. A new user has `P = 0`, as in LightGCN.

**Differs from public code** (the authors' and MMRec's): fixed features and no biases that cancel, see above. The rows
of the item graph hold `1/k`, in the public code `1/(k + 1e-7)`, a relative difference of at most 1e-7. The 1e-7 is for
empty rows, which are left out here.

**Published training**: github.com/enoche/FREEDOM, `src/configs/overall.yaml` (the grid: `model/FREEDOM.yaml`); MMRec
has the same settings.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lirdrec.config import check_minimum, check_share, option, validated
from lirdrec.graphs.item_item import fuse, nearest_among
from lirdrec.graphs.sparse_matrix import SparseMatrix, product
from lirdrec.graphs.user_item import UserItemGraph, drop_edges, folded
from lirdrec.models.base import Capabilities, Features, Model, ModelInputs
from lirdrec.models.feature_size_option import FeatureSizeOptions
from lirdrec.models.interaction_matrices import item_degrees, user_item_graph
from lirdrec.models.modality_options import check_modality_weights, chosen_modalities, modality_weights
from lirdrec.nn.init import torch_linear_, xavier_uniform_
from lirdrec.nn.losses import RankingLoss, RankingOptions, weighted_mean
from lirdrec.ranking.scorers import Scorer, VectorScorer
from lirdrec.row_buffers import append_rows


@dataclass(frozen=True)
@validated
class FREEDOMConfig(FeatureSizeOptions, RankingOptions):
    """Hyper-parameters of FREEDOM.

    >>> FREEDOMConfig(edge_dropout=0.9).edge_dropout
    0.9
    """

    model: ClassVar[str] = "freedom"

    embedding_size: int = option(64, "e, columns of user and item vectors")
    n_layers: int = option(2, "L, user-item propagation layers")
    n_item_layers: int = option(1, "Lm, item-item propagation layers")
    n_neighbors: int = option(10, "neighbors per item and modality in the item-item graph, itself included")
    modalities: tuple[str, ...] | None = option(None, "which feature matrices to use, in order; none: all")
    modality_weights: dict[str, float] | None = option(
        None, "weights w_m of the item-item graph; none: image .1 and text .9 for exactly these two, else 1/M"
    )
    regularization: float = option(1e-3, "λ of the ranking losses on projected features")
    edge_dropout: float = option(0.8, "p, share of training edges left out of the graph in each epoch")

    def __post_init__(self) -> None:
        super().__post_init__()
        check_minimum(self, 1, "embedding_size", "n_layers", "n_item_layers", "n_neighbors")
        check_minimum(self, 0, "regularization")
        check_share(self, "edge_dropout")
        check_modality_weights(self.modality_weights)


class FREEDOM(Model):
    """FREEDOM: ID vectors over the user-item graph and a frozen item graph of features.

    The formulas are at the top of this file.
    """

    name = FREEDOMConfig.model
    Config = FREEDOMConfig
    capabilities = Capabilities(
        needs_features=True, cold_items=True, new_users=True, training="gradient", weights=True, several_devices=True
    )
    grid: ClassVar = {"edge_dropout": (0.8, 0.9), "regularization": (0.0, 1e-5, 1e-4, 1e-3)}
    published: ClassVar = {"learning_rate": 1e-3, "batch_size": 2048, "epochs": 1000, "patience": 20}

    def __init__(self, inputs: ModelInputs, config: FREEDOMConfig):
        super().__init__(inputs, config)
        self.config: FREEDOMConfig = config
        self.modalities = chosen_modalities(inputs, config.modalities)
        self.weights = modality_weights(self.modalities, config.modality_weights)
        self.shards = inputs.shards
        self.ranking = RankingLoss(config, inputs.items, inputs.n_items, inputs.pair_weights, self.shards)
        self.features = [inputs.features[m] for m in self.modalities]
        dtype, e = self.features[0].values.dtype, config.embedding_size
        generator = torch.Generator().manual_seed(inputs.seed)

        def table(rows: int, columns: int) -> nn.Parameter:
            return nn.Parameter(torch.empty(rows, columns, dtype=dtype, device=inputs.device))

        rows = self.shards
        self.user_embedding = table(rows.users.length, e)  # P
        self.item_embedding = table(rows.items.length, e)  # Q
        xavier_uniform_(self.user_embedding, generator, inputs.n_users, e, rows.users)
        xavier_uniform_(self.item_embedding, generator, inputs.n_items, e, rows.items)
        # W_m; with λ = 0 they would get no gradient
        used = self.features if config.regularization > 0 else []
        self.projection_weight = nn.ParameterList([table(e, f.values.shape[1]) for f in used])
        for weight in self.projection_weight:
            torch_linear_(weight, generator, weight.shape[1])

    @cached_property
    def user_item(self) -> UserItemGraph:
        return user_item_graph(self.inputs, self.user_embedding.dtype)

    @cached_property
    def item_item(self) -> SparseMatrix:
        tables = {m: self.inputs.neighbors(m, self.config.n_neighbors) for m in self.modalities}
        return fuse(tables, self.weights, self.inputs.n_items, self.user_embedding.dtype)

    def forward(self, graph: UserItemGraph | None = None) -> tuple[Tensor, Tensor]:
        """Return user vectors `(U, e)` and item vectors `(I, e)`: the rows that this rank (process) holds.

        `graph` is the graph of users and items; None: all training pairs.
        """
        layers = self.config.n_layers
        first_users, first_items = self.shards.to_columns(self.user_embedding, self.item_embedding)
        users, items = (graph or self.user_item).propagate(first_users, first_items, layers)
        smoothed = first_items
        for _ in range(self.config.n_item_layers):
            smoothed = self.item_item.matmul(smoothed)
        vectors = users / (layers + 1), items / (layers + 1) + smoothed
        return self.shards.to_rows(*vectors, self.config.embedding_size)

    def start_epoch(self, epoch: int) -> None:
        """Sample the edges that the epoch uses, unless `edge_dropout` is 0."""
        super().start_epoch(epoch)
        self._epoch_graph = None
        if self.config.edge_dropout > 0:
            i = self.inputs
            kept = drop_edges(i.users, i.items, i.n_users, i.n_items, self.config.edge_dropout, self.generator)
            self._epoch_graph = user_item_graph(i, self.user_embedding.dtype, kept)

    _epoch_graph: UserItemGraph | None = None

    def loss(self, users: Tensor, positives: Tensor, negatives: Tensor) -> dict[str, Tensor]:
        """Return the ranking loss of the vectors, and λ times the BPR loss of each modality's projected features.

        In the second loss, a pair counts as 0 if its positive or its negative lacks the modality.
        """
        user_vectors, item_vectors = self(self._epoch_graph)
        ranking = self.ranking(user_vectors, item_vectors, users, positives, negatives)
        content, weights = ranking.new_zeros(()), self.ranking.weights_of(users, positives)
        shard, ranks = self.shards.items, self.shards.ranks
        batch_users = self.shards.users.gather(user_vectors, users)
        for feature, weight in zip(self.features, self.projection_weight, strict=False):
            # only the batch's rows are projected, and a pair counts if both of its items have the modality
            difference = shard.take(feature.values, positives) - shard.take(feature.values, negatives)
            margin = ranks.sum((batch_users * F.linear(difference, weight)).sum(1))
            present = feature.present.to(torch.uint8)
            both = shard.gather(present, positives) & shard.gather(present, negatives)
            content = content + weighted_mean(F.softplus(-margin) * both, weights)
        content = ranks.share(self.config.regularization * content)
        return {"loss": ranking + content, "ranking": ranking.detach(), "content": content.detach()}

    @torch.no_grad()
    def vectors(self) -> tuple[Tensor, Tensor]:
        users, items = (self.ranking.transform_for_scoring(vectors) for vectors in self())
        return users, items

    @torch.no_grad()
    def scorer(self) -> Scorer:
        """Return the scorer of the current parameters over all edges, with what `add_items` and `fold_in` need."""
        _, states = self.user_item.sums(self.user_embedding, self.item_embedding, self.config.n_layers - 1)
        degrees = item_degrees(self.inputs, states.dtype)
        # clones: with one layer these are the parameters themselves, which further training changes
        memory = {"item_states": states.detach().clone(), "item_degrees": degrees}
        level = self.item_embedding.detach().clone()
        for layer in range(self.config.n_item_layers):
            memory[f"item_smoothed_{layer}"] = level
            level = product(self.item_item.csr, level)
        users, items = self.vectors()
        return VectorScorer(users, items, memory=memory)

    @torch.no_grad()
    def add_items(
        self, scorer: Scorer, catalog: Sequence[Mapping[str, Features]], new: Mapping[str, Features]
    ) -> VectorScorer:
        """Return the scorer with new items, made from their rows of the item graph: `V_n = (S^Lm Q)_n`, `Q_n = 0`."""
        assert isinstance(scorer, VectorScorer)
        tables = {}
        for m in self.modalities:
            blocks = [(block[m].values, block[m].present) for block in [*catalog, new]]
            tables[m] = nearest_among(new[m].values, new[m].present, blocks, self.config.n_neighbors)
        n = len(next(iter(tables.values())))
        rows = fuse(tables, self.weights, scorer.n_items + n, scorer.item_vectors.dtype)
        zeros = scorer.item_vectors.new_zeros(n, self.config.embedding_size)
        memory = dict(scorer.memory)
        memory["item_states"] = append_rows(memory["item_states"], zeros)
        memory["item_degrees"] = append_rows(memory["item_degrees"], zeros.new_zeros(n))
        smoothed = zeros
        for layer in range(self.config.n_item_layers):
            level = append_rows(memory[f"item_smoothed_{layer}"], smoothed)
            memory[f"item_smoothed_{layer}"] = level
            smoothed = product(rows.csr, level)
        return scorer.with_items(self.ranking.transform_for_scoring(smoothed), memory)

    @torch.no_grad()
    def fold_in(self, scorer: Scorer, histories: Sequence[Tensor]) -> Tensor:
        """Return vectors `(B, e)` of new users from the items they like: what propagation gives a node with `P = 0`."""
        assert isinstance(scorer, VectorScorer)
        received = folded(histories, scorer.memory["item_states"], scorer.memory["item_degrees"])
        return self.ranking.transform_for_scoring(received / (self.config.n_layers + 1))
