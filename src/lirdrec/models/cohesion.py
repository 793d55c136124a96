r"""COHESION: features refined by ID vectors early, fused by concatenation late, over three graphs.

Xu et al., "COHESION: Composite Graph Convolutional Network with Dual-Stage Fusion for Multimodal Recommendation",
SIGIR 2025, arXiv 2504.04452. The channels c are the item IDs (`F_id = Q`, `(I, e)`) and the modalities; each has free
preferences `p_c` `(U, e)` of users. `Â` is the graph of `graphs/user_item.py`, `S` that of `graphs/item_item.py`, `T`
that of `user_user_graph`; `‖_c` puts the channels side by side:

    t_c = W_c leaky_relu(V_c F_c + v_c) + w_c                              V_c with 4e rows, slope 0.01
    f_c = √((Q² + t_c²)/2 + 1e-8)                                          early fusion, entry by entry
    x_c^0 = normalize([p_c ; f_c]),   x_c^l = cos(y, x_c^0) y  with  y = Â x_c^(l-1)           row by row
    r = ‖_c Σ_{l=0..L} x_c^l                                               late fusion: (C·e) columns
    X_users = r_users + T r_users,   X_items = r_items + S^Lm r_items,   score = ⟨X_u, X_i⟩
    loss = -mean log2 σ(Σ_c a_c d_c) + λ Σ_m mean(p_m,u²)    m the modalities, u the users of the batch

`d_c` is the score of the positive minus the score of the negative in channel c. The adaptive weights
`a = 1 - softmax(d)` over the channels have no gradient, and are large for channels that rank the pair worse than
others. They are part of BPR: with `loss = "softmax"`, whole vectors are compared.

`T` holds, for each user, the softmax of the numbers of common items over the 40 users with the most common items. An
item that lacks a modality has zeros in the channel of the modality before `S`. A new item has features only: its
channel of IDs is zero before `S`, and `Q_n = 0` in the other channels. A new user has no preferences to compare `y`
with, so the mean cosine of all users with interactions in this layer and channel is used; the row of `T` comes from the
user's common items.

**Differs from public code** (the authors' github.com/Jinfeng-Xu/COHESION): the public code cuts the gradient of the
channel of IDs (`.data`), so that the preferences and the layers of this channel keep their initial values; here they
are trained, as the paper describes. The table `weight_u` of the public code only occurs in its own penalty, and is left
out. In the public code, users with fewer than 40 neighbors have some neighbors several times, drawn at random in each
epoch; here each neighbor occurs once. Users with equal numbers of common items are ordered by row. `S` has `1/k`, in
the public code `1/(k + 1e-7)`. Scores are those of the current parameters; the public code uses the vectors that the
last training step computed before it changed the parameters.

**Published training**: `configs/overall.yaml`; the grid (and rates of 1e-4 to 0.1): `configs/model/COHESION.yaml`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lirdrec.config import check_minimum, option, validated
from lirdrec.graphs.item_item import fuse, nearest_among
from lirdrec.graphs.sparse_matrix import SparseMatrix, product
from lirdrec.graphs.user_item import UserItemGraph, folded
from lirdrec.graphs.user_user import user_user_graph, weighted_users
from lirdrec.models.base import Capabilities, Features, Model, ModelInputs
from lirdrec.models.feature_size_option import FeatureSizeOptions
from lirdrec.models.interaction_matrices import item_degrees, user_item_graph
from lirdrec.models.modality_options import check_modality_weights, chosen_modalities, modality_weights
from lirdrec.nn.init import linear_layers, xavier_normal_
from lirdrec.nn.losses import RankingLoss, RankingOptions, weighted_mean
from lirdrec.nn.normalize_and_dropout import normalize
from lirdrec.ranking.histories import history_matrix
from lirdrec.ranking.scorers import Scorer, VectorScorer
from lirdrec.row_buffers import append_rows

HIDDEN = 4  # times e: columns between the two linear layers of a channel


@dataclass(frozen=True)
@validated
class COHESIONConfig(FeatureSizeOptions, RankingOptions):
    """Hyper-parameters of COHESION.

    >>> COHESIONConfig(n_layers=1).n_layers
    1
    """

    model: ClassVar[str] = "cohesion"

    embedding_size: int = option(64, "e, columns of each channel")
    n_layers: int = option(2, "L, user-item propagation layers")
    n_item_layers: int = option(1, "Lm, item-item propagation layers")
    n_neighbors: int = option(10, "neighbors per item and modality in the item-item graph, itself included")
    n_user_neighbors: int = option(40, "neighbors per user in the user-user graph")
    modalities: tuple[str, ...] | None = option(None, "which feature matrices to use, in order; none: all")
    modality_weights: dict[str, float] | None = option(
        None, "weights w_m of the item-item graph; none: image .1 and text .9 for exactly these two, else 1/M"
    )
    regularization: float = option(1e-3, "λ of the penalty on the preferences of the batch's users")

    def __post_init__(self) -> None:
        super().__post_init__()
        check_minimum(self, 1, "embedding_size", "n_layers", "n_item_layers", "n_neighbors", "n_user_neighbors")
        check_minimum(self, 0, "regularization")
        check_modality_weights(self.modality_weights)


class COHESION(Model):
    """COHESION: features refined by ID vectors and fused over three graphs.

    The formulas are at the top of this file.
    """

    name = COHESIONConfig.model
    Config = COHESIONConfig
    capabilities = Capabilities(needs_features=True, cold_items=True, new_users=True, training="gradient", weights=True)
    grid: ClassVar = {"n_layers": (1, 2, 3, 4), "regularization": (1e-4, 1e-3, 1e-2, 0.1)}
    published: ClassVar = {"learning_rate": 1e-3, "batch_size": 2048, "epochs": 1000, "patience": 20}
    user_rows = ("preference",)

    def __init__(self, inputs: ModelInputs, config: COHESIONConfig):
        super().__init__(inputs, config)
        self.config: COHESIONConfig = config
        self.modalities = chosen_modalities(inputs, config.modalities, reserved=("id",))
        self.weights = modality_weights(self.modalities, config.modality_weights)
        self.ranking = RankingLoss(config, inputs.items, inputs.n_items, inputs.pair_weights)
        self.features = [inputs.features[m] for m in self.modalities]
        dtype, e = self.features[0].values.dtype, config.embedding_size
        generator = torch.Generator().manual_seed(inputs.seed)

        def table(*shape: int) -> nn.Parameter:
            return nn.Parameter(torch.empty(*shape, dtype=dtype, device=inputs.device))

        widths = [e, *(f.values.shape[1] for f in self.features)]
        self.item_embedding = table(inputs.n_items, e)  # Q
        self.preference = nn.ParameterList([table(inputs.n_users, e) for _ in widths])  # p_c
        for parameter in (self.item_embedding, *self.preference):
            xavier_normal_(parameter, generator, *parameter.shape)
        options = generator, dtype, inputs.device
        self.first_weight, self.first_bias = linear_layers([(HIDDEN * e, d) for d in widths], *options)  # V_c, v_c
        self.second_weight, self.second_bias = linear_layers([(e, HIDDEN * e)] * len(widths), *options)  # W_c, w_c

    # Graphs

    @cached_property
    def user_item(self) -> UserItemGraph:
        return user_item_graph(self.inputs, self.item_embedding.dtype)

    @cached_property
    def item_item(self) -> SparseMatrix:
        tables = {m: self.inputs.neighbors(m, self.config.n_neighbors) for m in self.modalities}
        return fuse(tables, self.weights, self.inputs.n_items, self.item_embedding.dtype)

    @cached_property
    def history(self) -> Tensor:
        """The CSR matrix `(U, I)` with 1 at the training pairs, also where these have weights."""
        return history_matrix(self.inputs.users, self.inputs.items, self.inputs.n_users, self.inputs.n_items)

    @cached_property
    def user_user(self) -> SparseMatrix:
        return user_user_graph(self.history, self.config.n_user_neighbors, self.item_embedding.dtype)

    # Forward

    def refined(self, channel: int, values: Tensor, ids: Tensor) -> Tensor:
        """Return `f_c / ‖f_c‖` `(n, e)`: the vectors of `n` items in one channel, after early fusion.

        Args:
            channel: c, as an index: 0 for the item IDs, then the modalities.
            values: `F_c` `(n, d)` of the items.
            ids: `(n, e)`, the rows of `Q` of the items.
        """
        hidden = F.leaky_relu(F.linear(values, self.first_weight[channel], self.first_bias[channel]))
        t = F.linear(hidden, self.second_weight[channel], self.second_bias[channel]).to(ids.dtype)
        return normalize(((ids.square() + t.square()) / 2 + 1e-8).sqrt())

    def start(self) -> tuple[Tensor, Tensor]:
        """Return the vectors of layer 0, `x^0`, of all users `(U, C, e)` and items `(I, C, e)`."""
        items = [self.refined(0, self.item_embedding, self.item_embedding)]
        for row, feature in enumerate(self.features):
            own = self.refined(row + 1, feature.values, self.item_embedding)
            items.append(own if feature.is_complete else own * feature.present[:, None])
        return torch.stack([normalize(p) for p in self.preference], 1), torch.stack(items, 1)

    def layers(self) -> tuple[list[tuple[Tensor, Tensor]], list[Tensor]]:
        """Return the vectors `x^l` of users and items for each layer l = 0 … L, and the cosines of the users.

        The cosines `cos(y, x^0)` `(U, C)` are a list for the layers 1 … L.
        """
        first_users, first_items = self.start()
        layers, cosines = [(first_users, first_items)], []
        for _ in range(self.config.n_layers):
            users, items = layers[-1]
            users, items = self.user_item.last(users.flatten(1), items.flatten(1), 1)
            users, items = users.view_as(first_users), items.view_as(first_items)
            cosines.append(F.cosine_similarity(users, first_users, dim=-1))
            of_items = F.cosine_similarity(items, first_items, dim=-1)
            layers.append((cosines[-1][:, :, None] * users, of_items[:, :, None] * items))
        return layers, cosines

    def forward(self) -> tuple[Tensor, Tensor]:
        """Return user vectors `(U, C·e)` and item vectors `(I, C·e)`."""
        layers, _ = self.layers()
        users, items = (torch.stack(side).sum(0).flatten(1) for side in zip(*layers, strict=True))
        smoothed = items
        for _ in range(self.config.n_item_layers):
            smoothed = self.item_item.matmul(smoothed)
        return users + self.user_user.matmul(users), items + smoothed

    def loss(self, users: Tensor, positives: Tensor, negatives: Tensor) -> dict[str, Tensor]:
        """Return the ranking loss (adaptive over the channels with BPR), and the penalty of the preferences."""
        user_vectors, item_vectors = self()
        if self.config.loss == "bpr":
            ranking = self.adaptive_bpr(user_vectors, item_vectors, users, positives, negatives)
        else:
            ranking = self.ranking(user_vectors, item_vectors, users, positives, negatives)
        squares = [p.index_select(0, users).square().mean() for p in list(self.preference)[1:]]
        penalty = self.config.regularization * torch.stack(squares).sum()
        return {"loss": ranking + penalty, "ranking": ranking.detach(), "regularization": penalty.detach()}

    def adaptive_bpr(
        self, user_vectors: Tensor, item_vectors: Tensor, users: Tensor, positives: Tensor, negatives: Tensor
    ) -> Tensor:
        """Return the BPR loss in bits (log2); channels that rank a pair worse than the others have larger weights."""
        difference = item_vectors.index_select(0, positives) - item_vectors.index_select(0, negatives)
        by_column = user_vectors.index_select(0, users) * difference
        margins = by_column.view(len(users), len(self.preference), -1).sum(2)  # d_c
        adaptive = 1 - margins.detach().softmax(1)
        values = F.softplus(-(adaptive * margins).sum(1)) / math.log(2)
        return weighted_mean(values, self.ranking.weights_of(users, positives))

    # Serving

    @torch.no_grad()
    def scorer(self) -> Scorer:
        """Return the scorer of the current parameters, with what `add_items` and `fold_in` need."""
        layers, cosines = self.layers()
        users, items = (torch.stack(side).sum(0).flatten(1) for side in zip(*layers, strict=True))
        has_edges = torch.bincount(self.inputs.users, minlength=self.inputs.n_users) > 0
        memory = {
            "users_before": users,
            "mean_cosines": torch.stack([c[has_edges].mean(0) for c in cosines]),  # (L, C)
            "item_degrees": item_degrees(self.inputs, items.dtype),
        }
        for layer, (_, states) in enumerate(layers[:-1]):
            memory[f"item_state_{layer}"] = states.flatten(1).clone()
        level = items
        for layer in range(self.config.n_item_layers):
            memory[f"item_smoothed_{layer}"] = level
            level = product(self.item_item.csr, level)
        return VectorScorer(
            self.ranking.transform_for_scoring(users + product(self.user_user.csr, users)),
            self.ranking.transform_for_scoring(items + level),
            memory=memory,
        )

    @torch.no_grad()
    def add_items(
        self, scorer: Scorer, catalog: Sequence[Mapping[str, Features]], new: Mapping[str, Features]
    ) -> VectorScorer:
        """Return the scorer with new items, made from their features and their rows of the item-item graph."""
        assert isinstance(scorer, VectorScorer)
        memory, tables = dict(scorer.memory), {}
        n = len(new[self.modalities[0]].values)
        ids = self.item_embedding.new_zeros(n, self.config.embedding_size)
        own = [ids]
        for row, m in enumerate(self.modalities):
            own.append(self.refined(row + 1, new[m].values, ids) * new[m].present[:, None])
            blocks = [(block[m].values, block[m].present) for block in [*catalog, new]]
            tables[m] = nearest_among(new[m].values, new[m].present, blocks, self.config.n_neighbors)
        rows = fuse(tables, self.weights, scorer.n_items + n, scorer.item_vectors.dtype).csr
        items = torch.cat(own, 1)
        for layer in range(self.config.n_layers):  # without edges, only layer 0 is not zero
            states = items if layer == 0 else torch.zeros_like(items)
            memory[f"item_state_{layer}"] = append_rows(memory[f"item_state_{layer}"], states)
        memory["item_degrees"] = append_rows(memory["item_degrees"], items.new_zeros(n))
        smoothed = items
        for layer in range(self.config.n_item_layers):
            level = append_rows(memory[f"item_smoothed_{layer}"], smoothed)
            memory[f"item_smoothed_{layer}"] = level
            smoothed = product(rows, level)
        return scorer.with_items(self.ranking.transform_for_scoring(items + smoothed), memory)

    @torch.no_grad()
    def fold_in(self, scorer: Scorer, histories: Sequence[Tensor]) -> Tensor:
        """Return vectors `(B, C·e)` of new users from the items they like.

        A vector is the sum of two parts: what propagation gives from the liked items, each layer times the mean cosine
        of the users of training; and the weighted vectors of the users with the most common items (`T`).
        """
        assert isinstance(scorer, VectorScorer)
        memory, e = scorer.memory, self.config.embedding_size
        own = torch.zeros(len(histories), len(self.preference) * e).to(scorer.user_vectors)
        for layer, cosines in enumerate(memory["mean_cosines"]):
            received = folded(histories, memory[f"item_state_{layer}"], memory["item_degrees"])
            own += received * cosines.repeat_interleave(e)
        liked = torch.zeros(self.inputs.n_items, len(histories), device=own.device)
        for column, history in enumerate(histories):
            rows = torch.as_tensor(history, device=own.device)
            liked[rows[rows < self.inputs.n_items], column] = 1  # no user of training has an added item
        common = product(self.history, liked).T
        queries, users, weights = weighted_users(common, self.config.n_user_neighbors, own.dtype)
        similar = memory["users_before"].index_select(0, users) * weights[:, None]
        return self.ranking.transform_for_scoring(own.index_add(0, queries, similar))
