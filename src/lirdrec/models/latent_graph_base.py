r"""Base of LATTICE and MICRO: item graphs learned from projected features, mixed with frozen graphs of raw features.

With ID tables `P` `(U, e)`, `Q` `(I, e)` and, for each modality m, `z_m = W_m F_m + b_m` `(I, e)`:

    K(X)[i, j] = cos(X_i, X_j) if j is one of the k nearest of i (i itself included), else 0
    N(A) = D^-½ A D^-½,   D the row sums of A, on both sides
    a model mixes learned graphs from K(z_m) with frozen graphs N(K(F_m)) into graphs G, the frozen ones with weight λ
    h = fused(G^Lm Q)
    [X_users ; X_items] = (1/(L+1)) Σ_{l=0..L} R^l [P ; Q],   R = D^-1 (A + I)     rows of the user-item graph
    V = X_items + h / ‖h‖,   users are X_users
    loss = -mean log σ(⟨u, V_i⟩ - ⟨u, V_j⟩) + ρ (‖u‖² + ‖V_i‖² + ‖V_j‖²) / 2B + further terms

The choice of the k nearest has no gradient; the cosines of the chosen pairs and the row sums have one. Since all other
entries are 0, this gives the same as the dense computation of the public code, in O(I·k + I·e) memory: neighbors are
found in blocks, and products and gradients are computed only at the entries (`graphs/graph_attention.py`).

**Epochs.** The first batch of an epoch builds the graphs with their gradient. The other batches use these graphs as
constants, and give no gradient to the projections. `scorer()` builds the graphs from the current parameters.

**New items** have no ID row (`Q_n = 0`) and no edge: `V_n = h_n / ‖h_n‖`. Their rows of the graphs are made as above
from their k nearest among all items, old and new; old items keep their degrees and their rows. **New users** have
`P = 0` and get the layers of `R` from the states of their items (`row_folded` in `graphs/user_item.py`).

`R` has self-loops and is normalized by rows only, as in the public codes and unlike the papers. The features are fixed,
as in the papers and unlike the public codes, which train a copy, from which only the learned graph is made. An item
that lacks a modality has no entry in the graphs of this modality.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lirdrec.config import check_minimum, check_share, option, validated
from lirdrec.graphs.differentiable_item_graph import (
    EdgeMatrix,
    WeightedEdges,
    cosines,
    nearest_edges,
    own_cosines,
    pairs,
)
from lirdrec.graphs.item_item import nearest_items
from lirdrec.graphs.user_item import RowGraph, row_folded
from lirdrec.models.base import Features, Model, ModelInputs
from lirdrec.models.feature_size_option import FeatureSizeOptions
from lirdrec.models.modality_options import chosen_modalities
from lirdrec.nn.init import torch_linear_, xavier_uniform_
from lirdrec.nn.losses import RankingLoss, RankingOptions, batch_penalty, batch_rows
from lirdrec.nn.normalize_and_dropout import normalize
from lirdrec.ranking.scorers import Scorer, VectorScorer
from lirdrec.row_buffers import append_rows

Degrees = Callable[[str, WeightedEdges], Tensor]


@dataclass(frozen=True)
@validated
class LatentGraphOptions(FeatureSizeOptions, RankingOptions):
    """Hyper-parameters of both LATTICE and MICRO."""

    embedding_size: int = option(64, "e, columns of user and item vectors and of projected features")
    n_layers: int = option(2, "L, user-item propagation layers")
    n_item_layers: int = option(1, "Lm, item-item propagation layers")
    n_neighbors: int = option(10, "k, neighbors per item and modality in the item graphs, itself included")
    modalities: tuple[str, ...] | None = option(None, "which feature matrices to use, in order; none: all")
    frozen_weight: float = option(0.9, "λ, weight of the frozen graphs; the learned graphs have 1 - λ")
    regularization: float = option(1e-5, "ρ of the squared vectors of a batch")

    def __post_init__(self) -> None:
        super().__post_init__()
        check_minimum(self, 1, "embedding_size", "n_layers", "n_item_layers", "n_neighbors")
        check_share(self, "frozen_weight")
        check_minimum(self, 0, "regularization")


class LatentGraphModel(Model):
    """Base class of LATTICE and MICRO, which learn item graphs.

    The formulas are at the top of this file.
    """

    config: LatentGraphOptions

    def __init__(self, inputs: ModelInputs, config: LatentGraphOptions, at_least: int):
        super().__init__(inputs, config)
        self.config = config
        self.modalities = chosen_modalities(inputs, config.modalities, at_least=at_least, model=self.name)
        self.ranking = RankingLoss(config, inputs.items, inputs.n_items, inputs.pair_weights)
        self.features = [inputs.features[m] for m in self.modalities]
        dims = [f.values.shape[1] for f in self.features]
        e = config.embedding_size
        self.user_embedding = self._table(inputs.n_users, e)  # P
        self.item_embedding = self._table(inputs.n_items, e)  # Q
        self.projection_weight = nn.ParameterList([self._table(e, d) for d in dims])  # W_m
        self.projection_bias = nn.ParameterList([self._table(e) for _ in dims])
        self.initial = torch.Generator().manual_seed(inputs.seed)  # of the initialization, also in derived classes
        xavier_uniform_(self.user_embedding, self.initial, inputs.n_users, e)
        xavier_uniform_(self.item_embedding, self.initial, inputs.n_items, e)
        for weight, bias, d in zip(self.projection_weight, self.projection_bias, dims, strict=True):
            torch_linear_(weight, self.initial, d)
            torch_linear_(bias, self.initial, d)

    def _table(self, *shape: int) -> nn.Parameter:
        return nn.Parameter(torch.empty(*shape, dtype=self.features[0].values.dtype, device=self.inputs.device))

    # What a model adds

    @abstractmethod
    def blended(
        self, learned: Sequence[WeightedEdges], frozen: Sequence[WeightedEdges], degrees: Degrees
    ) -> list[WeightedEdges]:
        """Return the model's graphs G.

        Args:
            learned: `K(z_m)` of each modality, not normalized.
            frozen: `K(F_m)` of each modality, not normalized.
            degrees: function `(name, links) -> (n,)` that returns the row sums of `links` and keeps them as `name`.
        """

    @abstractmethod
    def fused(self, smoothed: Sequence[Tensor], features: Sequence[Features]) -> Tensor:
        """Return `h` `(n, e)` of items with these features, from `G^Lm Q` `(n, e)` of each graph."""

    def further_terms(self, smoothed: Sequence[Tensor], fused: Tensor) -> dict[str, Tensor]:
        """Return the model's own terms of the loss by name, already multiplied by their weights in the loss."""
        return {}

    # Graphs

    @cached_property
    def user_item(self) -> RowGraph:
        i = self.inputs
        return RowGraph(i.users, i.items, i.n_users, i.n_items, self.user_embedding.dtype, i.relative_weights)

    @cached_property
    def frozen(self) -> list[WeightedEdges]:
        """The graph `K(F_m)` of each modality, not normalized: cosines of the raw features of neighbors."""
        graphs = []
        for name, feature in zip(self.modalities, self.features, strict=True):
            rows, columns = pairs(self.inputs.neighbors(name, self.config.n_neighbors))
            values = cosines(feature.values, [feature.values], rows, columns)
            graphs.append(WeightedEdges(rows, columns, values.to(self.user_embedding.dtype)))
        return graphs

    def projected(self, row: int, values: Tensor) -> Tensor:
        """Return `z_m / ‖z_m‖` `(n, e)` of items with the features `values` `(n, d)`; `row`: index of the modality."""
        z = F.linear(values, self.projection_weight[row], self.projection_bias[row])
        return normalize(z.to(self.user_embedding.dtype))

    def item_graphs(self) -> tuple[list[EdgeMatrix], dict[str, Tensor]]:
        """Return the graphs G of the current parameters, and by name the row sums `(I,)` that normalize them."""
        n, degrees, learned = self.inputs.n_items, dict[str, Tensor](), []
        for row, feature in enumerate(self.features):
            z = self.projected(row, feature.values)
            learned.append(own_cosines(z, nearest_items(z.detach(), feature.present, self.config.n_neighbors)))

        def sums(name: str, links: WeightedEdges) -> Tensor:
            degrees[name] = links.degrees(n)
            return degrees[name]

        return [links.matrix((n, n)) for links in self.blended(learned, self.frozen, sums)], degrees

    # Forward and training

    def forward(self, graphs: Sequence[EdgeMatrix]) -> tuple[Tensor, Tensor, list[Tensor], Tensor]:
        """Return user vectors `(U, e)`, item vectors `(I, e)`, `G^Lm Q` `(I, e)` of each graph, and `h` `(I, e)`."""
        users, items = (
            torch.stack(layers).mean(0)
            for layers in zip(
                *self.user_item.layers(self.user_embedding, self.item_embedding, self.config.n_layers), strict=True
            )
        )
        smoothed: list[Tensor] = [self.item_embedding for _ in graphs]
        for _ in range(self.config.n_item_layers):
            smoothed = [graph.matmul(x) for graph, x in zip(graphs, smoothed, strict=True)]
        h = self.fused(smoothed, self.features)
        return users, items + normalize(h), smoothed, h

    def start_epoch(self, epoch: int) -> None:
        """Discard the graphs; the epoch's first batch builds new ones."""
        super().start_epoch(epoch)
        self._epoch_graphs = None

    _epoch_graphs: list[EdgeMatrix] | None = None

    def loss(self, users: Tensor, positives: Tensor, negatives: Tensor) -> dict[str, Tensor]:
        """Return the ranking loss, the penalty of the batch's vectors, and the model's further terms.

        The first batch of an epoch builds the item graphs, which the other batches use without gradient.
        """
        graphs = self._epoch_graphs
        if graphs is None:
            graphs, _ = self.item_graphs()
            self._epoch_graphs = [graph.detached() for graph in graphs]
        user_vectors, item_vectors, smoothed, h = self(graphs)
        ranking = self.ranking(user_vectors, item_vectors, users, positives, negatives)
        gathered = batch_rows(user_vectors, item_vectors, users, positives, negatives)
        terms = {
            "ranking": ranking,
            "regularization": self.config.regularization * batch_penalty("squared", gathered),
            **self.further_terms(smoothed, h),
        }
        return {"loss": torch.stack(list(terms.values())).sum(), **{k: term.detach() for k, term in terms.items()}}

    # Serving

    @torch.no_grad()
    def scorer(self) -> Scorer:
        """Return the scorer of the current parameters, whose item graphs are built again from these parameters.

        Its memory has what `add_items` and `fold_in` need.
        """
        graphs, degrees = self.item_graphs()
        memory = {f"item_degree_{name}": degree for name, degree in degrees.items()}
        states = self.user_item.layers(self.user_embedding, self.item_embedding, self.config.n_layers - 1)
        for layer, (_, items) in enumerate(states):  # clones: layer 0 is Q itself, which further training changes
            memory[f"item_state_{layer}"] = items.detach().clone()
        for number, graph in enumerate(graphs):
            level: Tensor = memory["item_state_0"]
            for layer in range(1, self.config.n_item_layers):
                level = memory[f"item_smoothed_{number}_{layer}"] = graph.matmul(level)
        user_vectors, item_vectors, _, _ = self(graphs)
        return VectorScorer(
            self.ranking.transform_for_scoring(user_vectors),
            self.ranking.transform_for_scoring(item_vectors),
            memory=memory,
        )

    @torch.no_grad()
    def add_items(
        self, scorer: Scorer, catalog: Sequence[Mapping[str, Features]], new: Mapping[str, Features]
    ) -> VectorScorer:
        """Return the scorer with new items, whose rows of the item graphs are applied to the ID table.

        `V_n = h_n / ‖h_n‖`, with `Q_n = 0`.
        """
        assert isinstance(scorer, VectorScorer)
        k, memory, old = self.config.n_neighbors, dict(scorer.memory), scorer.n_items
        new_features = [new[m] for m in self.modalities]
        n, dtype = len(new_features[0].values), self.user_embedding.dtype
        learned, frozen = [], []
        for row, m in enumerate(self.modalities):
            blocks = [(block[m].values, block[m].present) for block in [*catalog, new]]
            projected = [(self.projected(row, values), present) for values, present in blocks]
            learned.append(nearest_edges(projected[-1][0], new_features[row].present, projected, k))
            raw = nearest_edges(new_features[row].values, new_features[row].present, blocks, k)
            frozen.append(WeightedEdges(raw.rows, raw.columns, raw.values.to(dtype)))

        def sums(name: str, links: WeightedEdges) -> Tensor:
            # the links start at new items only, so the sums of the old ones are still zero
            degrees = links.degrees(old + n)
            degrees[:old] = memory[f"item_degree_{name}"]
            memory[f"item_degree_{name}"] = degrees
            return degrees

        zeros = scorer.item_vectors.new_zeros(n, self.config.embedding_size)
        for layer in range(self.config.n_layers):
            memory[f"item_state_{layer}"] = append_rows(memory[f"item_state_{layer}"], zeros)
        smoothed = []
        for number, links in enumerate(self.blended(learned, frozen, sums)):
            rows = links.matrix((n, old + n), first_row=old)
            x = rows.matmul(memory["item_state_0"])
            for layer in range(1, self.config.n_item_layers):
                level = append_rows(memory[f"item_smoothed_{number}_{layer}"], x)
                memory[f"item_smoothed_{number}_{layer}"] = level
                x = rows.matmul(level)
            smoothed.append(x)
        items = normalize(self.fused(smoothed, new_features))
        return scorer.with_items(self.ranking.transform_for_scoring(items), memory)

    @torch.no_grad()
    def fold_in(self, scorer: Scorer, histories: Sequence[Tensor]) -> Tensor:
        """Return vectors `(B, e)` of new users from the items they like: `X_users` of a new node with `P = 0`."""
        assert isinstance(scorer, VectorScorer)
        states = [scorer.memory[f"item_state_{layer}"] for layer in range(self.config.n_layers)]
        return self.ranking.transform_for_scoring(row_folded(histories, states) / (self.config.n_layers + 1))
