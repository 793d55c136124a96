r"""LGMRec: local user-item graphs and a global hypergraph of item attributes (Guo et al., AAAI 2024).

`Â` and `R̂` as in `graphs/user_item.py`, `R` its 0/1 matrix, `D_u` the users' degrees, `h = n_hyperedges`.

    collaborative   C = 1/(L+1) Σ_{l=0..L} Â^l [P ; Q]                          free parameters P (U×e), Q (I×e)
    modality m      M_m = Â^Lm [D_u^-1 R F_m W_m ; F_m W_m]                     the last layer only
    hyperedges      H_i = softmax((F_m V_m + g)/τ),  H_u = softmax((R F_m V_m + g)/τ)      rows over h, g Gumbel noise
    global          x = C_items;  n times: ℓ = H_iᵀ x, x = H_i ℓ;   G_m = [H_u ℓ ; x]      H with dropout, resampled
    vectors         X = C + Σ_m normalize(M_m) + α normalize(Σ_m G_m),   score = ⟨X_u, X_i⟩
    loss = BPR + γ Σ_{m<n} (contrast of users + contrast of items) + λ · penalty(X_u, X_i, X_j)

The contrast of two modalities is InfoNCE by cosines at temperature τ: `G_m` of a row of the batch must find `G_n` of
the same row among all rows. It is summed over the batch as in the public code. With one modality there is no contrast.
Noise and dropout are used in training only.

An item that lacks a modality is not in the graph of this modality, belongs to none of its hyperedges, and takes no part
in its contrast. A new item has no edges, so with `Lm ≥ 1` it gets only `α normalize(Σ_m H_i ℓ)`: a coarse mixture of
`h` attributes for each modality. A new user has no row of `P`; all else is computed as for other users.

**Differs from public code** (the authors' and MMRec's, which are the same): the public code draws Gumbel noise for
scores too, so that its scores are random; here scores have no noise. The public code fails with one modality.
`hyper_dropout` is 1 - the `keep_rate` of the public code. Here the logits of the contrast are products of `h` columns
instead of `e`, which gives the same numbers, since `G_m` has rank `h`.

**Published training**: github.com/georgeguo-cn/LGMRec, `configs/overall.yaml`. The grid is what the comments of its
`configs/model/LGMREC.yaml` and `configs/dataset/*.yaml` list; the defaults here are the choice of that code for Baby.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations
from typing import ClassVar

import torch
from torch import Tensor, nn

from lirdrec.config import check_minimum, check_share, option, validated
from lirdrec.errors import ConfigError
from lirdrec.graphs.sparse_matrix import SparseMatrix
from lirdrec.graphs.user_item import UserItemGraph, folded
from lirdrec.models.base import Capabilities, Features, Model, ModelInputs
from lirdrec.models.feature_size_option import FeatureSizeOptions
from lirdrec.models.interaction_matrices import interaction_matrix, item_degrees, user_item_graph
from lirdrec.models.modality_options import chosen_modalities, pairs_with
from lirdrec.nn.init import xavier_uniform_
from lirdrec.nn.losses import PenaltyOptions, RankingLoss, batch_penalty, batch_rows, full_softmax
from lirdrec.nn.normalize_and_dropout import dropout, normalize
from lirdrec.ranking.scorers import Scorer, VectorScorer
from lirdrec.row_buffers import append_rows


@dataclass(frozen=True)
@validated
class LGMRecConfig(FeatureSizeOptions, PenaltyOptions):
    """Hyper-parameters of LGMRec.

    >>> LGMRecConfig(embedding_size=32).embedding_size
    32
    """

    model: ClassVar[str] = "lgmrec"

    embedding_size: int = option(64, "e, columns of user and item vectors")
    n_layers: int = option(2, "L, propagation layers of the ID vectors")
    n_modality_layers: int = option(2, "Lm, propagation layers of the features")
    n_hyper_layers: int = option(1, "n, passes over the hypergraph")
    n_hyperedges: int = option(4, "h, hyperedges of each modality")
    hyper_dropout: float = option(0.5, "share of the entries of H that are set to 0 in a training step")
    global_weight: float = option(0.3, "α, weight of the hypergraph's part of a vector")
    contrast_weight: float = option(1e-4, "γ of the contrast, which is summed over a batch")
    hyper_temperature: float = option(0.2, "τ of the hyperedges and of the contrast")
    regularization: float = option(1e-6, "λ of the penalty on the vectors of a batch")
    modalities: tuple[str, ...] | None = option(None, "feature matrices to use, in this order; none: all")

    def __post_init__(self) -> None:
        super().__post_init__()
        check_minimum(self, 1, "embedding_size", "n_hyper_layers", "n_hyperedges")
        check_minimum(self, 0, "n_layers", "n_modality_layers", "global_weight", "contrast_weight")
        check_share(self, "hyper_dropout")
        if not self.hyper_temperature > 0:
            raise ConfigError(f"hyper_temperature is {self.hyper_temperature}; it must be more than 0")


@dataclass(frozen=True)
class Hypergraph:
    """The hypergraph of one modality.

    Attributes:
        users: `H_u` `(U, h)`, in training with dropout.
        items: `H_i` `(I, h)`, in training with dropout.
        edges: the vectors ℓ `(h, e)` of the hyperedges.
    """

    users: Tensor
    items: Tensor
    edges: Tensor


class LGMRec(Model):
    """LGMRec: vectors from local user-item graphs and a hypergraph of item attributes.

    The formulas are at the top of this file.
    """

    name = LGMRecConfig.model
    Config = LGMRecConfig
    capabilities = Capabilities(needs_features=True, cold_items=True, new_users=True, training="gradient", weights=True)
    grid: ClassVar = {
        "n_layers": (1, 2, 3, 4),
        "n_modality_layers": (0, 1, 2, 3, 4),
        "n_hyper_layers": (1, 2, 3, 4),
        "n_hyperedges": (2, 4, 8, 16, 32, 64, 128, 256),
        "hyper_dropout": (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9),  # 1 - keep_rate
        "global_weight": (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0),
        "contrast_weight": (0.0, 1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 0.1),
        "regularization": (0.0, 1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 0.1),
    }
    published: ClassVar = {"learning_rate": 1e-3, "batch_size": 2048, "epochs": 1000, "patience": 20}

    def __init__(self, inputs: ModelInputs, config: LGMRecConfig):
        super().__init__(inputs, config)
        self.config: LGMRecConfig = config
        self.modalities = chosen_modalities(inputs, config.modalities)
        self.ranking = RankingLoss(config, inputs.items, inputs.n_items, inputs.pair_weights)
        self.features = [inputs.features[m] for m in self.modalities]
        dtype, e, h = self.features[0].values.dtype, config.embedding_size, config.n_hyperedges
        dims = [f.values.shape[1] for f in self.features]
        generator = torch.Generator().manual_seed(inputs.seed)

        def table(rows: int, columns: int) -> nn.Parameter:
            parameter = nn.Parameter(torch.empty(rows, columns, dtype=dtype, device=inputs.device))
            xavier_uniform_(parameter, generator, rows, columns)
            return parameter

        self.user_embedding = table(inputs.n_users, e)  # P
        self.item_embedding = table(inputs.n_items, e)  # Q
        self.feature_weight = nn.ParameterList([table(d, e) for d in dims])  # W_m
        self.hyper_weight = nn.ParameterList([table(d, h) for d in dims])  # V_m

    @cached_property
    def user_item(self) -> UserItemGraph:
        return user_item_graph(self.inputs, self.user_embedding.dtype)

    @cached_property
    def modality_graphs(self) -> list[UserItemGraph]:
        """For each modality, the user-item graph of the items that have it."""
        i, graphs = self.inputs, []
        for name, feature in zip(self.modalities, self.features, strict=True):
            complete = feature.is_complete
            graphs.append(
                self.user_item if complete else user_item_graph(i, self.user_embedding.dtype, pairs_with(i, name))
            )
        return graphs

    @cached_property
    def histories(self) -> list[SparseMatrix]:
        """For each modality, `R` `(U, I)` of the items that have it, with relative weights, or 1 without weights."""
        i, dtype = self.inputs, self.user_embedding.dtype
        return [interaction_matrix(i, dtype, pairs_with(i, name)) for name in self.modalities]

    # Forward

    def projections(self, row: int, features: Features) -> tuple[Tensor, Tensor]:
        """Return `F_m W_m` `(n, e)` and the logits `F_m V_m` `(n, h)` of n items, for the modality at position `row`.

        The rows of items that lack this modality are 0.
        """
        weight = torch.cat([self.feature_weight[row], self.hyper_weight[row]], 1)  # one product reads the features once
        both = (features.values @ weight).to(self.user_embedding.dtype)
        if not features.is_complete:
            both = both * features.present[:, None]
        own, logits = both.split([self.config.embedding_size, self.config.n_hyperedges], 1)
        return own, logits

    def assigned(self, logits: Tensor, noise: Tensor | None) -> Tensor:
        """Return how much nodes belong to each hyperedge: `H = softmax((logits + noise)/τ)` `(n, h)`."""
        return ((logits if noise is None else logits + noise) / self.config.hyper_temperature).softmax(1)

    def local(self, row: int, projected: Tensor, n_layers: int) -> tuple[Tensor, Tensor]:
        """Return `M_m` of the modality with index `row`, as users `(U, e)` and items `(I, e)`, before normalization.

        Args:
            row: index of the modality.
            projected: `F_m W_m` `(I, e)`.
            n_layers: number of propagation layers.
        """
        graph, history = self.modality_graphs[row], self.histories[row]
        users = history.matmul(projected) / (history.row_sums() + 1e-7)[:, None]
        return graph.last(users, projected, n_layers)

    def forward(self, noise: Sequence[tuple[Tensor, Tensor]] | None = None) -> tuple[Tensor, Tensor, list[Hypergraph]]:
        """Return user vectors `(U, e)`, item vectors `(I, e)` and the hypergraphs.

        Args:
            noise: for each modality the noise of items `(I, h)` and users `(U, h)`, in training; None: neither noise
                nor dropout.
        """
        c = self.config
        users, items = self.user_item.propagate(self.user_embedding, self.item_embedding, c.n_layers)
        users, items = users / (c.n_layers + 1), items / (c.n_layers + 1)  # C
        collaborative, hypergraphs = items, []
        p = 0.0 if noise is None else c.hyper_dropout
        for row, feature in enumerate(self.features):
            own, logits = self.projections(row, feature)
            m_users, m_items = self.local(row, own, c.n_modality_layers)
            users, items = users + normalize(m_users), items + normalize(m_items)
            g_items, g_users = (None, None) if noise is None else noise[row]
            of_items = self.assigned(logits, g_items)
            if not feature.is_complete:
                of_items = of_items * feature.present[:, None]
            of_users = self.assigned(self.histories[row].matmul(logits), g_users)
            of_items = dropout(of_items, p, self.generator)
            of_users = dropout(of_users, p, self.generator)
            edges = of_items.T @ collaborative
            for _ in range(c.n_hyper_layers - 1):
                edges = (of_items.T @ of_items) @ edges
            hypergraphs.append(Hypergraph(of_users, of_items, edges))
        users = users + c.global_weight * normalize(_sum([g.users @ g.edges for g in hypergraphs]))
        items = items + c.global_weight * normalize(_sum([g.items @ g.edges for g in hypergraphs]))
        return users, items, hypergraphs

    # Training

    def draw_noise(self) -> list[tuple[Tensor, Tensor]]:
        """Draw Gumbel noise for the items `(I, h)` and users `(U, h)` of each modality."""
        dtype, device, h = self.user_embedding.dtype, self.inputs.device, self.config.n_hyperedges

        def gumbel(n: int) -> Tensor:
            return -torch.empty(n, h, dtype=dtype).exponential_(generator=self.generator).log().to(device)

        return [(gumbel(self.inputs.n_items), gumbel(self.inputs.n_users)) for _ in self.modalities]

    def loss(self, users: Tensor, positives: Tensor, negatives: Tensor) -> dict[str, Tensor]:
        """Return the ranking loss, the summed contrast of the hypergraphs, and the penalty of the batch's vectors."""
        user_vectors, item_vectors, hypergraphs = self(self.draw_noise())
        ranking = self.ranking(user_vectors, item_vectors, users, positives, negatives)
        gathered = batch_rows(user_vectors, item_vectors, users, positives, negatives)
        penalty = self.config.regularization * batch_penalty(self.config.penalty, gathered)
        terms = {"loss": ranking + penalty, "ranking": ranking.detach(), "regularization": penalty.detach()}
        if len(hypergraphs) > 1 and self.config.contrast_weight > 0:
            contrast = self.config.contrast_weight * self.contrast(hypergraphs, users, positives)
            terms["loss"] = terms["loss"] + contrast
            terms["contrast"] = contrast.detach()
        return terms

    def contrast(self, hypergraphs: Sequence[Hypergraph], users: Tensor, items: Tensor) -> Tensor:
        """Return the contrast of all pairs of modalities, summed over the batch's users and items, a scalar."""
        total = hypergraphs[0].edges.new_zeros(())
        for (row, a), (other, b) in combinations(enumerate(hypergraphs), 2):
            both = self.features[row].present & self.features[other].present
            all_users = torch.ones(self.inputs.n_users, dtype=torch.bool, device=both.device)
            for first, second, rows, present in (
                (a.users, b.users, users, all_users),
                (a.items, b.items, items, both),
            ):
                total = total + self._info_nce(first, a.edges, second, b.edges, rows, present)
        return total

    def _info_nce(
        self, a: Tensor, a_edges: Tensor, b: Tensor, b_edges: Tensor, rows: Tensor, present: Tensor
    ) -> Tensor:
        """Return the contrast of two modalities, summed over nodes: each must find itself in the other modality.

        Args:
            a, b: `H` `(n, h)` of the `n` users, or of the `n` items, in the two modalities.
            a_edges, b_edges: the vectors ℓ `(h, e)` of the hyperedges of the two modalities.
            rows: `(B,)` int64, the nodes of the batch; each is compared with all nodes of `b`.
            present: `(n,)` bool, the nodes that have both modalities; only these take part.
        """
        if not bool(present.all()):
            kept = present.nonzero().squeeze(1)
            index = torch.zeros_like(present, dtype=torch.int64).index_copy_(0, kept, torch.arange(len(kept)).to(rows))
            a, b, rows = a.index_select(0, kept), b.index_select(0, kept), index[rows[present[rows]]]
        if len(rows) == 0:
            return a.new_zeros(())
        batch = a.index_select(0, rows)
        queries = batch @ (a_edges @ b_edges.T) / _length(batch @ a_edges)  # (B, h)
        keys = b / _length(b @ b_edges)  # (n, h)
        return full_softmax(queries, keys, rows, self.config.hyper_temperature) * len(rows)

    # Serving

    @torch.no_grad()
    def scorer(self) -> Scorer:
        """Return the scorer of the current parameters without noise, with what `add_items` and `fold_in` need."""
        c = self.config
        users, items, hypergraphs = self()
        states = torch.zeros_like(self.item_embedding)
        if c.n_layers > 0:
            states = self.user_item.sums(self.user_embedding, self.item_embedding, c.n_layers - 1)[1].detach().clone()
        memory = {"item_states": states, "item_degrees": item_degrees(self.inputs, states.dtype)}
        for row, name in enumerate(self.modalities):
            own, logits = self.projections(row, self.features[row])
            memory[f"item_present_{name}"] = self.features[row].present.clone()
            memory[f"item_modality_{name}"] = self.local(row, own, max(0, c.n_modality_layers - 1))[1].contiguous()
            memory[f"item_degrees_{name}"] = item_degrees(self.inputs, states.dtype, pairs_with(self.inputs, name))
            memory[f"item_logits_{name}"] = logits.contiguous()
            memory[f"hyperedges_{name}"] = hypergraphs[row].edges
        return VectorScorer(
            self.ranking.transform_for_scoring(users), self.ranking.transform_for_scoring(items), memory=memory
        )

    @torch.no_grad()
    def add_items(
        self, scorer: Scorer, catalog: Sequence[Mapping[str, Features]], new: Mapping[str, Features]
    ) -> VectorScorer:
        """Return the scorer with new items, made from the hyperedges to which their features assign them.

        New items have no edges. With `n_modality_layers=0` they also have the local part `normalize(F_m W_m)`.
        """
        assert isinstance(scorer, VectorScorer)
        c, memory = self.config, dict(scorer.memory)
        parts, local = [], []
        for row, name in enumerate(self.modalities):
            present = new[name].present
            own, logits = self.projections(row, new[name])
            if c.n_modality_layers == 0:
                local.append(normalize(own))
            parts.append(self.assigned(logits, None) * present[:, None] @ memory[f"hyperedges_{name}"])
            additions = {
                "present": present,
                "modality": own if c.n_modality_layers < 2 else torch.zeros_like(own),
                "degrees": own.new_zeros(len(own)),
                "logits": logits,
            }
            for table, rows in additions.items():
                memory[f"item_{table}_{name}"] = append_rows(memory[f"item_{table}_{name}"], rows)
        vectors = _sum([c.global_weight * normalize(_sum(parts)), *local])
        memory["item_states"] = append_rows(memory["item_states"], torch.zeros_like(vectors))
        memory["item_degrees"] = append_rows(memory["item_degrees"], vectors.new_zeros(len(vectors)))
        return scorer.with_items(self.ranking.transform_for_scoring(vectors), memory)

    @torch.no_grad()
    def fold_in(self, scorer: Scorer, histories: Sequence[Tensor]) -> Tensor:
        """Return vectors `(B, e)` of new users, which have no row of `P`, from their items as for other users."""
        assert isinstance(scorer, VectorScorer)
        c, memory = self.config, scorer.memory
        users = folded(histories, memory["item_states"], memory["item_degrees"]) / (c.n_layers + 1)
        parts = []
        for name in self.modalities:
            present = memory[f"item_present_{name}"]
            liked = [h[present[h]] for h in histories]
            states = memory[f"item_modality_{name}"]
            if c.n_modality_layers == 0:
                local = torch.stack([states[h].sum(0) / (len(h) + 1e-7) for h in liked])
            else:
                local = folded(liked, states, memory[f"item_degrees_{name}"])
            users = users + normalize(local)
            logits = torch.stack([memory[f"item_logits_{name}"][h].sum(0) for h in liked])
            parts.append(self.assigned(logits, None) @ memory[f"hyperedges_{name}"])
        return self.ranking.transform_for_scoring(users + c.global_weight * normalize(_sum(parts)))


def _sum(parts: Sequence[Tensor]) -> Tensor:
    return torch.stack(list(parts)).sum(0) if len(parts) > 1 else parts[0]


def _length(x: Tensor) -> Tensor:
    return torch.linalg.vector_norm(x, dim=1, keepdim=True).clamp(min=1e-12)
