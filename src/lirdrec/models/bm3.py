r"""BM3: bootstrapped learning without negatives.

Zhou et al., "Bootstrap Latent Representations for Multi-modal Recommendation", WWW 2023. `P` `(U, e)` and `Q` `(I, e)`
are ID tables, and `Â` is the graph of `graphs/user_item.py`:

    [u ; x] = (1/(L+1)) Σ_{l=0..L} Â^l [P ; Q],  i = x + Q                  LightGCN, items with a residual
    t_m = W_m F_m + b_m,  g(·) = G · + c                                    projections; one predictor for all
    C(a, b) = 1 - mean cos(g(a), stop_gradient(dropout(b)))                 over the batch's pairs
    loss = C(u, i) + C(i, u) + γ Σ_m (C(t_m, i) + C(t_m, t_m)) + λ (‖u‖ + ‖i‖) / I
    score(u, i) = ⟨g(u), g(i)⟩

`‖·‖` is the Frobenius norm of all vectors (as in the public code, not squared). The terms of a modality are means over
the pairs whose item has it. The features are fixed, as in the paper; the public code trains a copy of them. Dropout is
sampled once for each user and item of a batch. A new user has `P = 0`, as in LightGCN; a new item has no vector, since
it has no row of `Q`.

**Differs from public code** (the authors' and MMRec's): fixed features, see above. Dropout is sampled for the rows of
the batch only; the public code samples it for all rows and then selects the batch, which gives the same distribution
with more random numbers.

**Published training**: github.com/enoche/BM3, `src/configs/overall.yaml` (the grid: `model/BM3.yaml`); MMRec has the
same settings.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lirdrec.config import check_minimum, check_share, option, validated
from lirdrec.errors import ConfigError
from lirdrec.graphs.user_item import UserItemGraph, folded
from lirdrec.models.base import Capabilities, Model, ModelInputs
from lirdrec.models.feature_size_option import FeatureSizeOptions
from lirdrec.models.interaction_matrices import item_degrees, user_item_graph
from lirdrec.models.modality_options import chosen_modalities
from lirdrec.nn.init import torch_linear_, xavier_normal_, xavier_uniform_
from lirdrec.ranking.scorers import Scorer, VectorScorer


@dataclass(frozen=True)
@validated
class BM3Config(FeatureSizeOptions):
    """Hyper-parameters of BM3; it has no option for the ranking loss since it uses no negatives.

    >>> BM3Config(n_layers=2).n_layers
    2
    """

    model: ClassVar[str] = "bm3"

    embedding_size: int = option(64, "e, columns of user and item vectors")
    n_layers: int = option(1, "L, user-item propagation layers")
    modalities: tuple[str, ...] | None = option(None, "which feature matrices to use, in order; none: all")
    dropout: float = option(0.3, "share of a target vector's entries set to 0")
    contrast_weight: float = option(2.0, "γ of the terms that align projected features and item vectors")
    regularization: float = option(0.1, "λ of the lengths of all user and item vectors")

    def __post_init__(self) -> None:
        super().__post_init__()
        check_minimum(self, 1, "embedding_size", "n_layers")
        check_share(self, "dropout")
        if not self.contrast_weight > 0:
            raise ConfigError(f"contrast_weight is {self.contrast_weight}; it must be more than 0")
        check_minimum(self, 0, "regularization")


class BM3(Model):
    """BM3: ID vectors and projected features, trained without negative items.

    The formulas are at the top of this file.
    """

    name = BM3Config.model
    Config = BM3Config
    capabilities = Capabilities(
        needs_features=True, cold_items=False, new_users=True, training="gradient", weights=True
    )
    grid: ClassVar = {"n_layers": (1, 2), "dropout": (0.3, 0.5), "regularization": (0.1, 0.01)}
    published: ClassVar = {"learning_rate": 1e-3, "batch_size": 2048, "epochs": 1000, "patience": 20}

    def __init__(self, inputs: ModelInputs, config: BM3Config):
        super().__init__(inputs, config)
        self.config: BM3Config = config
        self.features = [inputs.features[m] for m in chosen_modalities(inputs, config.modalities)]
        dtype, e = self.features[0].values.dtype, config.embedding_size
        dims = [f.values.shape[1] for f in self.features]

        def table(*shape: int) -> nn.Parameter:
            return nn.Parameter(torch.empty(*shape, dtype=dtype, device=inputs.device))

        self.user_embedding = table(inputs.n_users, e)  # P
        self.item_embedding = table(inputs.n_items, e)  # Q
        self.projection_weight = nn.ParameterList([table(e, d) for d in dims])  # W_m
        self.projection_bias = nn.ParameterList([table(e) for _ in dims])
        self.predictor_weight = table(e, e)  # G
        self.predictor_bias = table(e)
        generator = torch.Generator().manual_seed(inputs.seed)
        xavier_uniform_(self.user_embedding, generator, inputs.n_users, e)
        xavier_uniform_(self.item_embedding, generator, inputs.n_items, e)
        for weight, bias, d in zip(self.projection_weight, self.projection_bias, dims, strict=True):
            xavier_normal_(weight, generator, d, e)
            torch_linear_(bias, generator, d)
        xavier_normal_(self.predictor_weight, generator, e, e)
        torch_linear_(self.predictor_bias, generator, e)

    @cached_property
    def user_item(self) -> UserItemGraph:
        return user_item_graph(self.inputs, self.user_embedding.dtype)

    def predicted(self, vectors: Tensor) -> Tensor:
        """Return the predictor `g` applied to vectors `(n, e)`."""
        return F.linear(vectors, self.predictor_weight, self.predictor_bias)

    def forward(self) -> tuple[Tensor, Tensor]:
        """Return user vectors `u` `(U, e)` and item vectors `i` `(I, e)`, before the predictor."""
        layers = self.config.n_layers
        users, items = self.user_item.propagate(self.user_embedding, self.item_embedding, layers)
        return users / (layers + 1), items / (layers + 1) + self.item_embedding

    def _target(self, vectors: Tensor) -> Tensor:
        """Return a copy of the vectors `(n, e)` without gradient and with dropout."""
        if self.config.dropout == 0:
            return vectors.detach()
        kept = torch.rand(vectors.shape, generator=self.generator) >= self.config.dropout
        return vectors.detach() * kept.to(vectors.device) / (1 - self.config.dropout)

    def loss(self, users: Tensor, positives: Tensor, negatives: Tensor) -> dict[str, Tensor]:
        """Return the loss: user and item of a pair predict each other, features predict the item and themselves.

        `negatives` are not used.
        """
        all_users, all_items = self()
        # every user and item of the batch once: a repeated one has the same dropout
        batch_users, user_index = users.unique(return_inverse=True)
        batch_items, item_index = positives.unique(return_inverse=True)
        user, item = all_users.index_select(0, batch_users), all_items.index_select(0, batch_items)
        user_target = self._target(user).index_select(0, user_index)
        item_target = self._target(item).index_select(0, item_index)
        all_pairs, smallest = torch.ones_like(users, dtype=torch.bool), 1.0
        if self.inputs.pair_weights is not None:
            all_pairs, smallest = self.inputs.pair_weights.of(users, positives), 1e-12

        def distance_to(target: Tensor, vectors: Tensor, index: Tensor, counted: Tensor = all_pairs) -> Tensor:
            online = self.predicted(vectors).index_select(0, index)
            distance = 1 - F.cosine_similarity(online, target, dim=-1)
            return (distance * counted).sum() / counted.sum().clamp(min=smallest)

        pairs = distance_to(item_target, user, user_index) + distance_to(user_target, item, item_index)
        contrast = pairs.new_zeros(())
        for feature, weight, bias in zip(self.features, self.projection_weight, self.projection_bias, strict=True):
            projected = F.linear(feature.values.index_select(0, batch_items), weight, bias)
            present = feature.present[positives] * all_pairs
            projected_target = self._target(projected).index_select(0, item_index)
            contrast = contrast + distance_to(item_target, projected, item_index, present)
            contrast = contrast + distance_to(projected_target, projected, item_index, present)
        contrast = self.config.contrast_weight * contrast
        penalty = self.config.regularization * (all_users.norm() + all_items.norm()) / len(all_items)
        return {
            "loss": pairs + contrast + penalty,
            "pairs": pairs.detach(),
            "contrast": contrast.detach(),
            "regularization": penalty.detach(),
        }

    @torch.no_grad()
    def scorer(self) -> Scorer:
        """Return the scorer of the predictions `g` of the current parameters, with what `fold_in` needs."""
        users, items = self()
        _, states = self.user_item.sums(self.user_embedding, self.item_embedding, self.config.n_layers - 1)
        degrees = item_degrees(self.inputs, states.dtype)
        # clones: with one layer the states are the parameters themselves, which further training changes
        memory = {"item_states": states.detach().clone(), "item_degrees": degrees}
        return VectorScorer(self.predicted(users), self.predicted(items), memory=memory)

    @torch.no_grad()
    def fold_in(self, scorer: Scorer, histories: Sequence[Tensor]) -> Tensor:
        """Return vectors `(B, e)` of new users from the items they like: `g` of a new node with `P = 0`."""
        assert isinstance(scorer, VectorScorer)
        received = folded(histories, scorer.memory["item_states"], scorer.memory["item_degrees"])
        return self.predicted(received / (self.config.n_layers + 1))
