r"""LIRDRec: item vectors learned directly from multimodal features.

Zhou et al., "Learning Item Representations Directly from Multimodal Features for Effective Recommendation",
arXiv 2505.04960 (2025). There are `U` users, `I` items, `M` modalities and `K = M + 1` branches: one for each modality,
and one *shared*. `e = embedding_size`, `h = 4e`, `P` and `θ` have a row per user, `Â` and `S` are the user-item and the
item-item graph (graphs/), and `‖_k` puts the vectors of all branches side by side:

    z_m = leaky_relu(F_m W_m + b_m) W'_m                                     modality branch, Eq. 11
    z_s = leaky_relu([DCT(F_1) | … | DCT(F_M)] W_s + b_s) W'_s               shared branch, Eqs. 12-13
    X0  = ‖_k [normalize(P_k) ; normalize(z_k)]                              (U+I) × K·e
    X   = Σ_{l=0..L} a_l Â^l X0                                              LightGCN, Eqs. 15-16, a_l = 1
    V   = X_items + S^Lm X_items                                             item vectors, Eq. 17
    a_k = leaky_relu(c_k A_k + b_k) q_k + β_k,  X_users = [c_1 | … | c_K]
    α   = softmax(w1·a + w2·θ)                                               progressive weight copying (PWC)
    u   = ‖_k α_k c_k                                                        user vectors
    loss = -mean log σ(⟨u, V_i⟩ - ⟨u, V_j⟩) + λ (mean(u²) + mean(V²))        or softmax instead of BPR: nn/losses.py

`layer_weights` chooses the weights a_l; in the paper they are equal. The sum over the layers multiplies the component
of eigenvalue x of Â by Σ a_l x^l. With equal weights and odd L, this factor is 0 at x = -1. Then the model cannot learn
how users and items differ in the leading component, which contains popularity, and this harms cosines. Any weights with
Σ a_l (-1)^l ≠ 0 avoid it; models/graph_layer_weights.py explains why.

Users have one more part, *content*, which only the scores of new items use (models/history_content_score.py). User
vectors are `[u | q]` and item vectors `[V | 0]`. Items that are added after training get `[(1 - w) v | w S f]` (here
`S` is a scale, see recommender/new_item_encoder.py). `q` and `f` come from features alone. The scores of trained items
are ⟨u, V⟩.

The DCT (discrete cosine transform) is linear and orthonormal, so `DCT(F) W_s = F IDCT(W_s)`. One product
`F_m [W_m | IDCT(W_s,m)]` serves both branches, and no transformed copy of the features is kept.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lirdrec.config import check_minimum, check_share, option, validated
from lirdrec.errors import CapabilityError, ConfigError
from lirdrec.graphs.item_item import fuse, nearest_among
from lirdrec.graphs.sparse_matrix import SparseMatrix, product
from lirdrec.graphs.user_item import UserItemGraph, drop_edges, folded
from lirdrec.models.base import Capabilities, Features, Model, ModelInputs
from lirdrec.models.feature_reduction import reduced, reduced_widths, reductions
from lirdrec.models.feature_size_option import FeatureSizeOptions
from lirdrec.models.graph_layer_weights import LayerWeighting, LayerWeights, check_layer_weights
from lirdrec.models.history_content_score import (
    CONTENT,
    ITEM_CONTENT,
    content_of_histories,
    content_of_users,
    content_vectors,
)
from lirdrec.models.interaction_matrices import interaction_matrix, item_degrees, user_item_graph
from lirdrec.models.item_branches import branch_vectors
from lirdrec.models.modality_options import check_modality_weights, chosen_modalities, modality_weights
from lirdrec.nn.dct import dct
from lirdrec.nn.init import torch_linear_, uniform_, xavier_normal_, xavier_uniform_
from lirdrec.nn.losses import RankingLoss, RankingOptions
from lirdrec.nn.normalize_and_dropout import mean_square, normalize
from lirdrec.ranking.scorers import Scorer, VectorScorer
from lirdrec.ranking.sharded_scorer import Rankable
from lirdrec.row_buffers import append_rows

# when a training is continued; chosen on validation (docs/updating.md)
SHORTENED = 0.3  # factor of the length of each user's parameters
PRIOR = 10  # interactions: with so many, a user's own parameters and those of similar users have equal weights


@dataclass(frozen=True)
@validated
class LIRDRecConfig(FeatureSizeOptions, RankingOptions):
    """Hyper-parameters of LIRDRec; the defaults are those of the released code, in the middle of its grid.

    >>> LIRDRecConfig(n_layers=2, loss="softmax", scoring="cosine").n_layers
    2
    """

    model: ClassVar[str] = "lirdrec"
    before: ClassVar = {"content_columns": 0}  # runs that were saved before new items had content in their scores

    embedding_size: int = option(64, "e, width of each branch; user and item vectors have K·e columns")
    n_layers: int = option(3, "L, user-item propagation layers (grid of the paper: 2, 3, 4)")
    layer_weights: LayerWeighting = option(
        "equal", "weight a_l of layer l in the sum of the layers; equal: 1; decaying: 1/(l+1); learned; or L+1 numbers"
    )
    n_item_layers: int = option(1, "Lm, item-item propagation layers")
    n_neighbors: int = option(10, "neighbors per item and modality in the item-item graph, itself included")
    hidden_multiplier: int = option(4, "h / e, width of the hidden layer of each branch")
    modalities: tuple[str, ...] | None = option(None, "which feature matrices to use, in order; none: all")
    modality_weights: dict[str, float] | None = option(
        None, "weights w_m of the item-item graph; none: image .1 and text .9 for exactly these two, else 1/M"
    )
    feature_columns: int | None = option(
        None,
        "number of columns to which PCA reduces features, except for finding neighbors (feature_size: there too); none:"
        " all columns",
    )
    regularization: float = option(1e-3, "λ of the mean squared user and item vectors")
    dct: Literal["features", "matrix"] | None = option(
        "features",
        "DCT of the shared branch; features: per item (released code); matrix: over the matrix (Eq. 12); none: no"
        " shared branch",
    )
    pwc: Literal["released", "logits", "uniform"] | None = option(
        "released",
        "what is copied into θ each epoch; released: the weights α; logits: their logits; uniform: all α are 1/K; none:"
        " branches without weights",
    )
    pwc_weight: float = option(0.9, "w, weight of the learned logits in the first epoch (grid: .9, .95, .99)")
    pwc_base: float = option(0.9, "base of the decay of w1 (Eq. 19)")
    init: Literal["torch", "xavier"] = option("torch", "initialization of the linear layers")
    edge_dropout: float = option(0.0, "share of training edges left out of the graph in each epoch")
    content_columns: int = option(
        64, "principal components of each modality that the scores of new items compare; 0: no content"
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        check_minimum(self, 1, "embedding_size", "n_neighbors", "hidden_multiplier")
        check_minimum(self, 0, "n_layers", "n_item_layers", "regularization", "content_columns")
        if self.pwc in ("released", "logits") and self.embedding_size < 4:
            raise ConfigError(
                "embedding_size must be 4 or more, because the hidden layer of the weighting network has a quarter of"
                " its columns"
            )
        check_share(self, "edge_dropout")
        for name in ("pwc_weight", "pwc_base"):
            if not 0 < getattr(self, name) <= 1:
                raise ConfigError(f"{name} is {getattr(self, name)}; it must be more than 0 and at most 1")
        if self.feature_columns is not None:
            check_minimum(self, 1, "feature_columns")
            if isinstance(self.feature_size, int) and self.feature_columns > self.feature_size:
                raise ConfigError(
                    f"feature_columns is {self.feature_columns}, but feature_size leaves {self.feature_size} columns;"
                    " set feature_size to none, or feature_columns to a smaller number"
                )
        check_modality_weights(self.modality_weights)
        check_layer_weights(self.layer_weights, self.n_layers)


class LIRDRec(Model):
    """LIRDRec: user vectors, and item vectors learned directly from features.

    The formulas are at the top of this file; shapes are in the comments of the code.
    """

    name = LIRDRecConfig.model
    Config = LIRDRecConfig
    capabilities = Capabilities(
        needs_features=True, cold_items=True, new_users=True, training="gradient", weights=True, several_devices=True
    )

    published: ClassVar = {"learning_rate": 1e-4, "batch_size": 2048, "epochs": 1000, "patience": 20}
    grid: ClassVar = {
        "n_layers": (2, 3, 4),
        "regularization": (1e-2, 1e-3, 1e-4),
        "pwc_weight": (0.9, 0.95, 0.99),
        "pwc": ("released", "uniform"),  # the control, which the paper does not search
    }

    user_rows = ("user_embedding", "theta", "copied")
    item_rows = ()  # item vectors come from features
    fitted = ("content_reductions",)

    copied: Tensor
    schedule: Tensor

    def __init__(self, inputs: ModelInputs, config: LIRDRecConfig):
        super().__init__(inputs, config)
        self.config: LIRDRecConfig = config
        self.has_content = config.content_columns > 0 and config.dct != "matrix"  # "matrix" takes no new items
        reserved = ("shared", CONTENT) if self.has_content else ("shared",)
        self.modalities = chosen_modalities(inputs, config.modalities, reserved=reserved)
        self.branches = self.modalities + (("shared",) if config.dct is not None else ())
        self.weights = modality_weights(self.modalities, config.modality_weights)
        self.shards = inputs.shards
        self._check_one_device()
        self.ranking = RankingLoss(config, inputs.items, inputs.n_items, inputs.pair_weights, self.shards)
        self.features = [inputs.features[m] for m in self.modalities]
        dtype, device = self.features[0].values.dtype, inputs.device
        dims = [f.values.shape[1] for f in self.features]
        self.reductions = reductions(dims, config.feature_columns, dtype, device)
        if self.has_content:
            self.content_reductions = reductions(dims, config.content_columns, dtype, device, whiten=True)
        dims = reduced_widths(dims, config.feature_columns)
        k, e = len(self.branches), config.embedding_size
        h, g = e * config.hidden_multiplier, e // 4

        def table(*shape: int) -> nn.Parameter:
            return nn.Parameter(torch.empty(*shape, dtype=dtype, device=device))

        n_users = self.shards.users.length
        self.user_embedding = table(n_users, k, e)  # P
        self.hidden_weight = nn.ParameterList([table(h, d) for d in dims])  # W_m
        if config.dct is not None:
            self.shared_weight = nn.ParameterList([table(h, d) for d in dims])  # W_s, one block per modality
        self.hidden_bias = table(k, h)
        self.output_weight = table(k, e, h)  # W'_k
        if self._learns_weights:
            self.attention_weight = table(k, g, e)  # A_k
            self.attention_bias = table(k, g)
            self.attention_vector = table(k, g)  # q_k
            self.attention_offset = table(k)  # β_k
            self.theta = table(n_users, k)
            # `copied` is what the next epoch copies into theta; before the first training forward that is theta itself
            self.register_buffer("copied", torch.zeros(n_users, k, dtype=dtype, device=device))
            # kept on the host: the schedule is arithmetic of Python floats
            self.register_buffer(
                "schedule", torch.tensor([config.pwc_weight, 1 - config.pwc_weight], dtype=torch.float64)
            )
        self.layer_weights = LayerWeights(config.layer_weights, config.n_layers, dtype, device)
        self._reset_parameters(inputs.seed)

    def _check_one_device(self) -> None:
        """Check that the options allow training on several devices, each of which has only a part of the item rows.

        Raises:
            CapabilityError: training uses several devices, and an option needs the rows of all items at once.
        """
        if self.inputs.ranks.size > 1 and self.config.dct == "matrix":
            raise CapabilityError(
                'dct="matrix" mixes all items and is trained on one device only; use one device, or dct="features"'
            )
        if self.inputs.ranks.size > 1 and self.config.feature_columns is not None:
            raise CapabilityError(
                "feature_columns is fitted to the features of all items, which works on one device only; use one"
                " device, or leave out feature_columns"
            )

    @property
    def _learns_weights(self) -> bool:
        return self.config.pwc in ("released", "logits")

    @torch.no_grad()
    def _reset_parameters(self, seed: int) -> None:
        generator = torch.Generator().manual_seed(seed)

        def linear(parameter: Tensor, fan_in: int, fan_out: int | None = None) -> None:
            # fan_out None: a bias
            if self.config.init == "torch":
                torch_linear_(parameter, generator, fan_in)
            elif fan_out is not None:
                xavier_uniform_(parameter, generator, fan_in, fan_out)
            else:
                uniform_(parameter, generator, 0.0)

        n_users, rows = self.inputs.n_users, self.shards.users
        _, k, e = self.user_embedding.shape
        h = self.hidden_bias.shape[1]
        xavier_normal_(self.user_embedding, generator, n_users, e, rows)
        dims = [w.shape[1] for w in self.hidden_weight]
        for weight, d in zip(self.hidden_weight, dims, strict=True):
            linear(weight, d, h)
        for weight in self.shared_weight if self.config.dct is not None else ():
            linear(weight, sum(dims), h)
        for row, branch in enumerate(self.branches):
            linear(self.hidden_bias[row], sum(dims) if branch == "shared" else dims[row])
        linear(self.output_weight, h, e)
        if self._learns_weights:
            g = e // 4
            linear(self.attention_weight, e, g)
            linear(self.attention_bias, e)
            linear(self.attention_vector, g, 1)
            linear(self.attention_offset, g)
            xavier_normal_(self.theta, generator, n_users, k, rows)
            self.copied.copy_(self.theta)

    # Graphs: built at first use, so that a model made only to load weights costs nothing.

    @cached_property
    def user_item(self) -> UserItemGraph:
        return user_item_graph(self.inputs, self.user_embedding.dtype)

    @cached_property
    def item_item(self) -> SparseMatrix:
        tables = {m: self.inputs.neighbors(m, self.config.n_neighbors) for m in self.modalities}
        return fuse(tables, self.weights, self.inputs.n_items, self.user_embedding.dtype)

    @cached_property
    def _reduced(self) -> list[Features]:
        """The features of the items of training, one entry per modality, as `reduced` returns them."""
        return self.reduced(self.features)

    def reduced(self, features: Sequence[Features]) -> list[Features]:
        """Return the features of any items as the branches read them, one entry per modality.

        They are reduced by PCA to `feature_columns` columns; with `feature_columns=None` they do not change.
        """
        return reduced(self.reductions, self.features, features, self.inputs.known_items)

    @cached_property
    def _mixed(self) -> list[Tensor]:
        # Eq. 12 read literally: the transform also runs down the items, so row i is no longer item i
        return [dct(f.values.T.contiguous()).T.contiguous() for f in self._reduced]

    # Forward

    def item_branches(self, features: Sequence[Features], mixed: Sequence[Tensor] | None = None) -> Tensor:
        """Return the normalized outputs `z` `(n, K, e)` of the branches for `n` items (§3, Eqs. 11-13).

        Args:
            features: one entry per modality of the model, in its order, as `reduced` returns them.
            mixed: one matrix per modality that the shared branch reads instead of the features (`dct="matrix"`).
        """
        shared = self.shared_weight if self.config.dct is not None else None
        return branch_vectors(features, self.hidden_weight, shared, self.hidden_bias, self.output_weight, mixed)

    def _propagated(self, graph: UserItemGraph) -> tuple[Tensor, Tensor]:
        """Return `X` as users `(U, K·e)` and items `(I, K·e)`.

        With several ranks, these are all rows, but only the columns of this rank.
        """
        mixed = self._mixed if self.config.dct == "matrix" else None
        items = self.item_branches(self._reduced, mixed).flatten(1)  # (I, K·e)
        users = normalize(self.user_embedding).flatten(1)  # (U, K·e)
        users, items = self.shards.to_columns(users, items)
        return graph.propagate(users, items, self.config.n_layers, self.layer_weights())

    def _smooth(self, items: Tensor) -> Tensor:
        """Return `V = X + S^Lm X` (Eq. 17) for the item rows `X`."""
        smoothed = items
        for _ in range(self.config.n_item_layers):
            smoothed = self.item_item.matmul(smoothed)
        return items + smoothed

    def logits(self, chunks: Tensor, theta: Tensor) -> Tensor:
        """Return the logits `w1·a + w2·θ` `(n, K)` of PWC for `n` users, from their vectors `(n, K, e)` per branch."""
        hidden = torch.bmm(chunks.transpose(0, 1), self.attention_weight.transpose(1, 2))  # (K, n, g)
        hidden = F.leaky_relu(hidden + self.attention_bias[:, None])
        a = (hidden * self.attention_vector[:, None]).sum(-1).T + self.attention_offset  # (n, K)
        w1, w2 = self.schedule.tolist()
        return w1 * a + w2 * theta

    def _weigh(self, users: Tensor, theta: Tensor | None) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """Return user vectors `(n, K·e)` with weighted branches, the weights α `(n, K)`, and their logits `(n, K)`.

        α is None with `pwc=None`. The logits are None unless `pwc` is "released" or "logits".
        """
        chunks = users.unflatten(1, (len(self.branches), -1))
        if self.config.pwc is None:
            return users, None, None
        if theta is None:  # pwc="uniform"
            return users / len(self.branches), users.new_full(chunks.shape[:2], 1 / len(self.branches)), None
        logits = self.logits(chunks, theta)
        alpha = logits.softmax(-1)
        return (alpha[:, :, None] * chunks).flatten(1), alpha, logits

    def forward(self, graph: UserItemGraph | None = None) -> tuple[Tensor, Tensor, Tensor | None, Tensor | None]:
        """Return user vectors `(U, K·e)`, item vectors `(I, K·e)`, the weights α `(U, K)`, and their logits `(U, K)`.

        α and logits can be None, as in `_weigh`. With several ranks (processes), the rows are those of this rank.
        `graph` is the graph of users and items; None: all training pairs. This changes no state.
        """
        users, items = self._propagated(graph or self.user_item)
        users, items = self.shards.to_rows(users, self._smooth(items), len(self.branches) * self.config.embedding_size)
        vectors, alpha, logits = self._weigh(users, self.theta if self._learns_weights else None)
        return vectors, items, alpha, logits

    # Training

    @torch.no_grad()
    def start_again(self) -> None:
        """Mix each user's row of P with the rows of similar users, and shorten all rows, before training continues.

        The rows are those of an earlier run. The fewer interactions a user has, the larger is the share of the others.

        For each user and branch (a modality, or the shared DCT branch), with P the user's row and p = norm(P):

            P ← 0.3 ‖P‖ · norm(n/(n + 10) · p + 10/(n + 10) · s)        `SHORTENED` = 0.3, `PRIOR` = 10

        n is the number of the user's interactions (the sum of their relative weights, if they have weights). s is
        the direction of similar users: for each item of the user, the p of all users of the item are added and
        normalized; then these vectors are added over the items and normalized. The row of a user without interactions
        is only shortened. The row of a user with few interactions fits only these interactions; mixed with similar
        users, it generalizes better. Rows are shortened because only their direction counts in a score, and the same
        step of the optimizer turns a short row further.
        """
        taken = interaction_matrix(self.inputs, self.user_embedding.dtype)
        own, k = normalize(self.user_embedding), len(self.branches)
        items = normalize(taken.transposed().matmul(own.flatten(1)).unflatten(1, (k, -1)))
        similar = normalize(taken.matmul(items.flatten(1)).unflatten(1, (k, -1)))
        count = taken.row_sums()[:, None, None]
        share = torch.where(count > 0, count / (count + PRIOR), 1.0)
        direction = normalize(share * own + (1 - share) * similar)
        self.user_embedding.copy_(SHORTENED * self.user_embedding.norm(dim=-1, keepdim=True) * direction)

    def start_epoch(self, epoch: int) -> None:
        """Prepare the model for an epoch.

        With `pwc` "released" or "logits", copy into θ what the last epoch stored for it (after the first epoch), and
        change w1 and w2 by the schedule (Eq. 19). With `edge_dropout`, sample the edges that the epoch uses.
        """
        super().start_epoch(epoch)
        if self._learns_weights:
            with torch.no_grad():
                if epoch > 1:
                    self.theta.copy_(self.copied)
                w1, w2 = self.schedule.tolist()
                w1 *= self.config.pwc_base**epoch
                self.schedule.copy_(torch.tensor([w1 / (w1 + w2), w2 / (w1 + w2)], dtype=torch.float64))
        self._epoch_graph = self._draw_graph() if self.config.edge_dropout > 0 else None

    _epoch_graph: UserItemGraph | None = None

    def _draw_graph(self) -> UserItemGraph:
        i = self.inputs
        kept = drop_edges(i.users, i.items, i.n_users, i.n_items, self.config.edge_dropout, self.generator)
        return user_item_graph(i, self.user_embedding.dtype, kept)

    def loss(self, users: Tensor, positives: Tensor, negatives: Tensor) -> dict[str, Tensor]:
        """Return the ranking loss and the penalty, λ times the mean squares of all user and item vectors (§6).

        With `pwc` "released" (or "logits"), also store the weights α (or their logits) of all users, which the next
        epoch copies into θ.
        """
        user_vectors, item_vectors, alpha, logits = self(self._epoch_graph)
        if self._learns_weights:
            self.copied.copy_((alpha if self.config.pwc == "released" else logits).detach())
        ranking = self.ranking(user_vectors, item_vectors, users, positives, negatives)
        penalty = self.config.regularization * (
            mean_square(user_vectors, self.inputs.n_users) + mean_square(item_vectors, self.inputs.n_items)
        )
        return {"loss": ranking + penalty, "ranking": ranking.detach(), "regularization": penalty.detach()}

    # Serving

    @torch.no_grad()
    def vectors(self) -> tuple[Tensor, Tensor]:
        users, items, _, _ = self()
        return self.ranking.transform_for_scoring(users), self.ranking.transform_for_scoring(items)

    @torch.no_grad()
    def validation_scorer(self) -> Rankable:
        """Return the scorer for validation. It has no columns of content, which are 0 for all items of training."""
        return self._trained_scorer() if self.inputs.ranks.size == 1 else super().validation_scorer()

    @torch.no_grad()
    def scorer(self) -> Scorer:
        """Return the scorer of the current parameters over all training pairs, with the columns of content, if any.

        Its memory has what `add_items` and `fold_in` need.
        """
        trained = self._trained_scorer()
        if not self.has_content:
            return trained
        content = self.content_vectors(self.features)
        users, items = trained.user_vectors, trained.item_vectors
        return trained.replaced(
            users=torch.cat([users, content_of_users(self.user_item, trained.memory["item_degrees"], content)], dim=1),
            items=torch.cat([items, torch.zeros_like(content)], dim=1),
            branch_names=(*self.branches, CONTENT),
            widths=(*trained.widths, content.shape[1]),
            n_similarity_parts=len(self.branches),
            memory=trained.memory | {ITEM_CONTENT: content},
        )

    def content_vectors(self, features: Sequence[Features]) -> Tensor:
        """Return the content vectors `f` `(n, C)` of `n` items: rows of length 1, or 0 for items without features."""
        known = self.inputs.known_items
        return content_vectors(self.content_reductions, self.features, features, known, self.weights)

    def _trained_scorer(self) -> VectorScorer:
        """Return the scorer of the learned vectors, without content."""
        mixed = self._mixed if self.config.dct == "matrix" else None
        ego_items = self.item_branches(self._reduced, mixed).flatten(1)
        ego_users = normalize(self.user_embedding).flatten(1)
        layers, graph, weights = self.config.n_layers, self.user_item, self.layer_weights.numbers()
        # the last step of Horner's rule is written out: fold_in needs its item input Y = Σ_{l<L} a_{l+1} x_items^(l)
        states = torch.zeros_like(ego_items)
        users, items = weights[0] * ego_users, weights[0] * ego_items
        if layers > 0:
            before_users, states = graph.sums(ego_users, ego_items, layers - 1, weights[1:])
            users = product(graph.matrix.csr, states, plus=ego_users, plus_factor=weights[0])
            items = product(graph.matrix.csr_t, before_users, plus=ego_items, plus_factor=weights[0])
        vectors, alpha, _ = self._weigh(users, self.theta if self._learns_weights else None)
        memory = {
            "item_states": states,
            "item_degrees": item_degrees(self.inputs, states.dtype),
        }
        smoothed = items
        for layer in range(self.config.n_item_layers):
            memory[f"item_smoothed_{layer}"] = smoothed
            smoothed = product(self.item_item.csr, smoothed)
        if self._learns_weights:
            memory["mean_theta"] = self.theta.mean(0, keepdim=True)
        vectors, items = (
            self.ranking.transform_for_scoring(vectors),
            self.ranking.transform_for_scoring(items + smoothed),
        )
        return VectorScorer(vectors, items, self.branches, alpha, memory)

    @torch.no_grad()
    def add_items(
        self, scorer: Scorer, catalog: Sequence[Mapping[str, Features]], new: Mapping[str, Features]
    ) -> VectorScorer:
        """Return the scorer with new items, whose vectors come from their features alone (§8).

        The vectors are those of a full forward pass in which the new items are present without interactions. Existing
        rows of the item graph S do not change; the row of a new item has its nearest items, old and new. The columns of
        content are 0 here; `recommender/new_item_encoder.py` sets them.

        Raises:
            CapabilityError: the model has `dct="matrix"`, which takes no new items.
        """
        assert isinstance(scorer, VectorScorer)
        if self.config.dct == "matrix":
            raise CapabilityError(
                'dct="matrix" mixes the items of training, so it cannot take new items; train with dct="features"'
            )
        n = len(next(iter(new.values())).values)
        own = self.item_branches(self.reduced([new[m] for m in self.modalities])).flatten(1)  # (n, K·e)
        tables = {}
        for m in self.modalities:
            blocks = [(block[m].values, block[m].present) for block in [*catalog, new]]
            tables[m] = nearest_among(new[m].values, new[m].present, blocks, self.config.n_neighbors)
        total = scorer.n_items + n
        rows = fuse(tables, self.weights, total, own.dtype)
        weights = self.layer_weights.numbers()
        states = weights[1] * own if self.config.n_layers > 0 else torch.zeros_like(own)
        own = weights[0] * own  # a node without edges keeps its layer 0 only
        memory = dict(scorer.memory)
        memory["item_states"] = append_rows(memory["item_states"], states)
        memory["item_degrees"] = append_rows(memory["item_degrees"], own.new_zeros(n))
        smoothed = own
        for layer in range(self.config.n_item_layers):
            level = append_rows(memory[f"item_smoothed_{layer}"], smoothed)
            memory[f"item_smoothed_{layer}"] = level
            smoothed = product(rows.csr, level)
        vectors = self.ranking.transform_for_scoring(own + smoothed)
        if self.has_content:
            content = self.content_vectors([new[m] for m in self.modalities])
            memory[ITEM_CONTENT] = append_rows(memory[ITEM_CONTENT], content)
            vectors = torch.cat([vectors, torch.zeros_like(content)], dim=1)
        return scorer.with_items(vectors, memory)

    @torch.no_grad()
    def fold_in(self, scorer: Scorer, histories: Sequence[Tensor]) -> Tensor:
        """Return the vectors `(B, K·e + C)` of new users (§8) from the items `H` they like; C: the columns of content.

        A new user has `P_k = 0`, the mean θ of all users, and `c = Σ_{i∈H} Y_i / √(|H|·deg_i)` (`graphs/user_item.py`).
        An item without an edge in training counts as an item with one edge, which this history would give it.
        """
        assert isinstance(scorer, VectorScorer)
        chunks = folded(histories, scorer.memory["item_states"], scorer.memory["item_degrees"])
        theta = scorer.memory["mean_theta"].expand(len(histories), -1) if self._learns_weights else None
        vectors = self.ranking.transform_for_scoring(self._weigh(chunks, theta)[0])
        if not self.has_content:
            return vectors
        return torch.cat([vectors, content_of_histories(histories, scorer.memory[ITEM_CONTENT])], dim=1)
