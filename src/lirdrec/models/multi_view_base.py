r"""Base of MGCN and SMORE: item vectors gated by features and smoothed over frozen item graphs, a view per modality.

`P` `(U, e)` and `Q` `(I, e)` are ID tables, `Â` and `R̂` those of `graphs/user_item.py`, `K` and `N` those of
`latent_graph_base.py`, and `z_m = W_m F_m + b_m` `(I, e)` for each modality m:

    S_m = N(K(F_m))                                     frozen, the cosines of the k nearest items of each item
    C = [C_users ; C_items] = (1/(L+1)) Σ_{l=0..L} Â^l [P ; Q]
    V_c = S_c^Lm (Q ⊙ σ(G_c y_c + g_c)),   x_c = [R̂ V_c ; V_c]      for each view c; a model computes y_c from the z_m
    X = C + side,   a model computes side from the x_c and C;   score = ⟨X_u, X_i⟩
    loss = -mean log σ(⟨X_u, X_i⟩ - ⟨X_u, X_j⟩) + λ (‖X_u‖² + ‖X_i‖² + ‖X_j‖²) / 2B + γ Σ_{users, items} contrast

The contrast is InfoNCE of the batch's rows: `side` of a row must find `C` of the same row among the rows of the batch,
by cosine at temperature τ. Its cost grows with the square of the batch, so batches that are larger than the published
ones use a sample of their pairs (`n_contrasted`).

An item that lacks a modality has no links in the graph of this modality, so its `V_m` is 0, and its `side` is computed
from its other modalities.

**New items** have no row of `Q` and no edge: `C_n = 0`, and `V_c,n` comes from their row of `S_c`, whose neighbors are
found among all items, old and new. Rows of old items do not change. **New users** have no row of `P`: they get `C` and
`R̂ V_c` as a new node of the graph (`folded` in `graphs/user_item.py`).
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lirdrec.config import check_minimum, option, validated
from lirdrec.errors import ConfigError
from lirdrec.graphs.differentiable_item_graph import WeightedEdges, cosines, nearest_edges, pairs
from lirdrec.graphs.sparse_matrix import SparseMatrix, product
from lirdrec.graphs.user_item import UserItemGraph, folded
from lirdrec.models.base import Features, Model, ModelInputs
from lirdrec.models.feature_size_option import FeatureSizeOptions
from lirdrec.models.interaction_matrices import item_degrees, user_item_graph
from lirdrec.models.modality_options import chosen_modalities
from lirdrec.nn.init import linear_layers, xavier_uniform_
from lirdrec.nn.losses import RankingLoss, RankingOptions, batch_penalty, batch_rows, info_nce
from lirdrec.ranking.scorers import Scorer, VectorScorer
from lirdrec.row_buffers import append_rows


@dataclass(frozen=True)
@validated
class MultiViewOptions(FeatureSizeOptions, RankingOptions):
    """Hyper-parameters of both MGCN and SMORE."""

    embedding_size: int = option(64, "e, columns of user and item vectors and of projected features")
    n_layers: int = option(2, "L, user-item propagation layers")
    n_item_layers: int = option(1, "Lm, item-item propagation layers")
    n_neighbors: int = option(10, "k, neighbors per item and modality in the item graphs, itself included")
    modalities: tuple[str, ...] | None = option(None, "which feature matrices to use, in order; none: all")
    regularization: float = option(1e-4, "λ of the squared vectors of a batch")
    contrast_weight: float = option(0.01, "γ of the contrast between the two parts of a vector")
    contrast_temperature: float = option(0.2, "τ, temperature of that contrast")
    n_contrasted: int | None = option(
        2048, "largest number of pairs of a batch in that contrast, drawn at random from more pairs; none: all"
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        check_minimum(self, 1, "n_layers", "n_item_layers", "n_neighbors")
        check_minimum(self, 2, "embedding_size")
        check_minimum(self, 0, "regularization", "contrast_weight")
        if not self.contrast_temperature > 0:
            raise ConfigError(f"contrast_temperature is {self.contrast_temperature}; it must be more than 0")
        if self.n_contrasted is not None and self.n_contrasted < 2:
            raise ConfigError(f"n_contrasted is {self.n_contrasted}; it must be 2 or more, or none for all pairs")


@dataclass(frozen=True)
class Vectors:
    """The two parts of the vectors of users or items, `(n, e)` each: `content` (`C`, from ID tables) and `side`."""

    content: Tensor
    side: Tensor

    @property
    def whole(self) -> Tensor:
        """The whole vectors, `X = C + side`."""
        return self.content + self.side


class MultiViewModel(Model):
    """Base class of MGCN and SMORE, which gate and smooth item vectors for each modality.

    The formulas are at the top of this file.
    """

    config: MultiViewOptions

    def __init__(self, inputs: ModelInputs, config: MultiViewOptions, views: Sequence[str] = ()):
        """Build the model, with one view for each modality and one for each name in `views`."""
        super().__init__(inputs, config)
        self.modalities = chosen_modalities(inputs, config.modalities, reserved=views)
        self.views = (*self.modalities, *views)
        self.ranking = RankingLoss(config, inputs.items, inputs.n_items, inputs.pair_weights)
        self.features = [inputs.features[m] for m in self.modalities]
        self.initial = torch.Generator().manual_seed(inputs.seed)
        e = config.embedding_size
        self.user_embedding = self.table(inputs.n_users, e)  # P
        self.item_embedding = self.table(inputs.n_items, e)  # Q
        xavier_uniform_(self.user_embedding, self.initial, inputs.n_users, e)
        xavier_uniform_(self.item_embedding, self.initial, inputs.n_items, e)
        widths = [f.values.shape[1] for f in self.features]
        self.projection_weight, self.projection_bias = self.linears([(e, d) for d in widths])  # W_m, b_m
        self.gate_weight, self.gate_bias = self.linears([(e, e)] * len(self.views))  # G_c, g_c

    def table(self, *shape: int) -> nn.Parameter:
        """Return a parameter of this shape, not initialized."""
        return nn.Parameter(torch.empty(*shape, dtype=self.features[0].values.dtype, device=self.inputs.device))

    def linears(self, shapes: Sequence[tuple[int, int]]) -> tuple[nn.ParameterList, nn.ParameterList]:
        """Return initialized weights and biases of linear layers; a shape is (rows, columns)."""
        return linear_layers(shapes, self.initial, self.features[0].values.dtype, self.inputs.device)

    # What a model adds

    @abstractmethod
    def contents(self, projected: Sequence[Tensor]) -> list[Tensor]:
        """Return `y_c` `(I, e)` of each view, which its gate reads, from `z_m` `(I, e)` of each modality."""

    @abstractmethod
    def fused(self, views: Sequence[Tensor], content: Tensor, present: Tensor | None, p: float = 0.0) -> Tensor:
        """Return `side` `(n, e)` of users or items.

        Args:
            views: `x_c` `(n, e)` of each view.
            content: `C` `(n, e)`.
            present: `(n, M)` bool, which modalities an item has; None: all.
            p: the dropout of this model, in training; 0: none.
        """

    def graphs_of(self, links: Sequence[WeightedEdges], n_items: int) -> list[WeightedEdges]:
        """Return the graph `S_c` of each view from `S_m` of each modality; the graphs have `n_items` columns."""
        return list(links)

    def neighbors_of(self, modality: str) -> int:
        """Return k of the graph of a modality: how many neighbors an item has, itself included."""
        return self.config.n_neighbors

    # Graphs

    @cached_property
    def user_item(self) -> UserItemGraph:
        return user_item_graph(self.inputs, self.user_embedding.dtype)

    @cached_property
    def cosine_edges(self) -> list[WeightedEdges]:
        """The graph `K(F_m)` of each modality, not normalized: cosines of the features of neighbors."""
        links = []
        for name, feature in zip(self.modalities, self.features, strict=True):
            rows, columns = pairs(self.inputs.neighbors(name, self.neighbors_of(name)))
            values = cosines(feature.values, [feature.values], rows, columns)
            links.append(WeightedEdges(rows, columns, values.to(self.user_embedding.dtype)))
        return links

    @cached_property
    def item_item(self) -> list[SparseMatrix]:
        """The item graph `S_c` of each view."""
        n = self.inputs.n_items
        normalized = [links.normalized(links.degrees(n)) for links in self.cosine_edges]
        return [SparseMatrix(s.rows, s.columns, s.values, (n, n)) for s in self.graphs_of(normalized, n)]

    @cached_property
    def present(self) -> Tensor | None:
        return _present(self.features)

    # Forward

    def gated(self) -> list[Tensor]:
        """Return `Q ⊙ σ(G_c y_c + g_c)` `(I, e)` of each view."""
        dtype = self.user_embedding.dtype
        layers = zip(self.features, self.projection_weight, self.projection_bias, strict=True)
        contents = self.contents([F.linear(f.values, w, b).to(dtype) for f, w, b in layers])
        gates = zip(contents, self.gate_weight, self.gate_bias, strict=True)
        return [self.item_embedding * F.linear(y, w, b).to(dtype).sigmoid() for y, w, b in gates]

    def item_views(self) -> list[Tensor]:
        """Return `V_c` `(I, e)` of each view."""
        views = self.gated()
        for _ in range(self.config.n_item_layers):
            views = [graph.matmul(view) for graph, view in zip(self.item_item, views, strict=True)]
        return views

    def forward(self, p: float = 0.0) -> tuple[Vectors, Vectors]:
        """Return the vectors of all users and of all items; `p` is the dropout in training."""
        layers = self.config.n_layers
        users, items = self.user_item.propagate(self.user_embedding, self.item_embedding, layers)
        users, items = users / (layers + 1), items / (layers + 1)
        views = self.item_views()
        of_users = [self.user_item.matrix.matmul(view) for view in views]
        return (
            Vectors(users, self.fused(of_users, users, None, p)),
            Vectors(items, self.fused(views, items, self.present, p)),
        )

    def loss(self, users: Tensor, positives: Tensor, negatives: Tensor) -> dict[str, Tensor]:
        """Return the ranking loss, the penalty of the batch's vectors, and the contrast of the two parts of vectors."""
        c = self.config
        of_users, of_items = self(self.dropout)
        user_vectors, item_vectors = of_users.whole, of_items.whole
        gathered = batch_rows(user_vectors, item_vectors, users, positives, negatives)
        terms = {
            "ranking": self.ranking(user_vectors, item_vectors, users, positives, negatives),
            "regularization": c.regularization * batch_penalty("squared", gathered),
        }
        if c.contrast_weight > 0:
            terms["contrast"] = c.contrast_weight * self.contrast(of_users, of_items, users, positives)
        return {"loss": torch.stack(list(terms.values())).sum(), **{k: term.detach() for k, term in terms.items()}}

    def contrast(self, of_users: Vectors, of_items: Vectors, users: Tensor, items: Tensor) -> Tensor:
        """Return the contrast of the batch's users plus the contrast of its items."""
        n, total = self.config.n_contrasted, of_users.side.new_zeros(())
        if n is not None and n < len(users):
            drawn = torch.randperm(len(users), generator=self.generator)[:n].to(users.device)
            users, items = users[drawn], items[drawn]
        for vectors, rows in ((of_users, users), (of_items, items)):
            a, b = (x.index_select(0, rows) for x in (vectors.side, vectors.content))
            total = total + info_nce(a, b, self.config.contrast_temperature)
        return total

    @property
    def dropout(self) -> float:
        """The dropout `p` of `fused` in training: the share of entries that are set to 0."""
        return 0.0

    # Serving

    @torch.no_grad()
    def scorer(self) -> Scorer:
        """Return the scorer of the current parameters, with what `add_items` and `fold_in` need."""
        c = self.config
        _, states = self.user_item.sums(self.user_embedding, self.item_embedding, c.n_layers - 1)
        memory = {
            "item_states": states.detach().clone(),
            "item_degrees": item_degrees(self.inputs, states.dtype),
        }
        for name, links in zip(self.modalities, self.cosine_edges, strict=True):
            memory[f"item_degree_{name}"] = links.degrees(self.inputs.n_items)
        for name, graph, level in zip(self.views, self.item_item, self.gated(), strict=True):
            for layer in range(c.n_item_layers):
                memory[f"item_smoothed_{name}_{layer}"] = level
                level = product(graph.csr, level)
            memory[f"item_view_{name}"] = level
        users, items = (self.ranking.transform_for_scoring(v.whole) for v in self())
        return VectorScorer(users, items, memory=memory)

    @torch.no_grad()
    def add_items(
        self, scorer: Scorer, catalog: Sequence[Mapping[str, Features]], new: Mapping[str, Features]
    ) -> VectorScorer:
        """Return the scorer with new items, made from their rows of the item graphs, with `C_n = 0`."""
        assert isinstance(scorer, VectorScorer)
        memory, old, links = dict(scorer.memory), scorer.n_items, []
        n = len(new[self.modalities[0]].values)
        zeros = scorer.item_vectors.new_zeros(n, self.config.embedding_size)
        for m in self.modalities:
            blocks = [(block[m].values, block[m].present) for block in [*catalog, new]]
            raw = nearest_edges(new[m].values, new[m].present, blocks, self.neighbors_of(m))
            own = WeightedEdges(raw.rows, raw.columns, raw.values.to(zeros.dtype))
            # the links start at new items only, so the sums of the old ones are still zero
            degrees = own.degrees(old + n)
            degrees[:old] = memory[f"item_degree_{m}"]
            memory[f"item_degree_{m}"] = degrees
            links.append(own.normalized(degrees))
        memory["item_states"] = append_rows(memory["item_states"], zeros)
        memory["item_degrees"] = append_rows(memory["item_degrees"], zeros.new_zeros(n))
        views = []
        for name, s in zip(self.views, self.graphs_of(links, old + n), strict=True):
            rows = SparseMatrix(s.rows - old, s.columns, s.values, (n, old + n)).csr
            view = zeros
            for layer in range(self.config.n_item_layers):
                level = append_rows(memory[f"item_smoothed_{name}_{layer}"], view)
                memory[f"item_smoothed_{name}_{layer}"] = level
                view = product(rows, level)
            memory[f"item_view_{name}"] = append_rows(memory[f"item_view_{name}"], view)
            views.append(view)
        vectors = self.fused(views, zeros, _present([new[m] for m in self.modalities]))
        return scorer.with_items(self.ranking.transform_for_scoring(vectors), memory)

    @torch.no_grad()
    def fold_in(self, scorer: Scorer, histories: Sequence[Tensor]) -> Tensor:
        """Return vectors `(B, e)` of new users, which have no row of `P`, from their items as for other users."""
        assert isinstance(scorer, VectorScorer)
        memory, degrees = scorer.memory, scorer.memory["item_degrees"]
        content = folded(histories, memory["item_states"], degrees) / (self.config.n_layers + 1)
        views = [folded(histories, memory[f"item_view_{name}"], degrees) for name in self.views]
        return self.ranking.transform_for_scoring(content + self.fused(views, content, None))


def _present(features: Sequence[Features]) -> Tensor | None:
    """Return which modalities each item has, `(n, M)` bool; None: all items have all modalities."""
    present = torch.stack([f.present for f in features], 1)
    return None if bool(present.all()) else present


def counts(present: Tensor | None, n_modalities: int, like: Tensor) -> Tensor | float:
    """Return the number of modalities of each item, `(n, 1)` in the dtype of `like`.

    With `present=None` (all items have all modalities), return `n_modalities` as a float.
    """
    return float(n_modalities) if present is None else present.sum(1, keepdim=True).to(like.dtype)
