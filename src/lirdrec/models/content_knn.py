r"""Content kNN: recommend items with features similar to those of the user's items, in closed form.

`z_i` are the fused features of item `i` (`models/modality_options.py`): the row of each modality is normalized to
length 1 and multiplied by `√w_m`; these rows are put side by side and normalized to length 1.

    sim(i, j) = ⟨z_i, z_j⟩ = Σ_m w_m cos(f_im, f_jm)       if both items have all modalities
    score(u, j) = Σ_{i ∈ H_u} W[i, j]

`H_u` are the items of user u. `W` keeps, for each `j`, the `k` most similar `i` with `i ≠ j`, `sim > 0` and a training
pair (an item without a pair is in no history). With `n_neighbors=None` it keeps everything, and the score is the inner
product of `Σ_{i ∈ H_u} z_i` and `z_j`; a seen item then contributes to its own score, but is never recommended.

If the interactions have weights `w`, these are divided by their mean over the training pairs, and the score is
`Σ_{i ∈ H_u} w_ui W[i, j]`. New users have weights of 1.

The idea is that of item-based collaborative filtering (Sarwar et al., WWW 2001) with features in place of users.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from lirdrec.config import option, validated
from lirdrec.errors import ConfigError
from lirdrec.models.base import Capabilities, Features, Model, ModelInputs
from lirdrec.models.feature_size_option import FeatureSizeOptions
from lirdrec.models.interaction_matrices import weighted_history
from lirdrec.models.modality_options import check_modality_weights, chosen_modalities, fused_features, modality_weights
from lirdrec.ranking.item_weight_scorer import ItemWeightScorer
from lirdrec.ranking.scorers import Scorer, VectorScorer


@dataclass(frozen=True)
@validated
class ContentKNNConfig(FeatureSizeOptions):
    """Hyper-parameters of content kNN.

    >>> ContentKNNConfig(n_neighbors=50).n_neighbors
    50
    """

    model: ClassVar[str] = "content_knn"

    n_neighbors: int | None = option(100, "k, similar liked items that count for each item; none: all")
    modalities: tuple[str, ...] | None = option(None, "which feature matrices to use, in order; none: all")
    modality_weights: dict[str, float] | None = option(
        None, "weights w_m of the similarity; none: image .1 and text .9 for exactly these two, else 1/M"
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.n_neighbors is not None and self.n_neighbors < 1:
            raise ConfigError(f"n_neighbors is {self.n_neighbors}; it must be 1 or more, or none for all")
        check_modality_weights(self.modality_weights)


class ContentKNN(Model):
    """Content kNN: score items by the similarity of their features to those of the user's items.

    Computed in blocks, without an `I×I` matrix; the formulas are at the top of this file.
    """

    name = ContentKNNConfig.model
    Config = ContentKNNConfig
    capabilities = Capabilities(
        needs_features=True, cold_items=True, new_users=True, training="closed_form", weights=True
    )
    grid: ClassVar = {"n_neighbors": (20, 100, 200, 500, 1000)}

    neighbours: Tensor  # spelled like the key in saved weights
    similarity: Tensor

    def __init__(self, inputs: ModelInputs, config: ContentKNNConfig):
        super().__init__(inputs, config)
        self.config: ContentKNNConfig = config
        self.weights = modality_weights(
            chosen_modalities(inputs, config.modalities, model=self.name), config.modality_weights
        )
        if config.n_neighbors is not None:
            shape = inputs.n_items, min(config.n_neighbors, inputs.n_items)
            self.register_buffer("neighbours", torch.full(shape, -1, device=inputs.device))
            self.register_buffer("similarity", torch.zeros(shape, device=inputs.device))

    def _history(self) -> Tensor:
        return weighted_history(self.inputs)

    def solve(self) -> None:
        """Fill `neighbours` and `similarity`, `(I, k)` each: the most similar items of each item; -1: unused.

        With `n_neighbors=None` there is nothing to compute.
        """
        if self.config.n_neighbors is None:
            return
        items = fused_features(self.inputs.features, self.weights)
        liked = torch.bincount(self.inputs.items, minlength=len(items)) > 0
        nearest, similarity = _nearest(items, items, liked, self.config.n_neighbors, first=0)
        self.neighbours.copy_(nearest)
        self.similarity.copy_(similarity)

    def scorer(self) -> Scorer:
        history = self._history()
        if self.config.n_neighbors is not None:
            return ItemWeightScorer.of_nearest(history, self.neighbours, self.similarity)
        items = fused_features(self.inputs.features, self.weights)
        return VectorScorer(torch.sparse.mm(history, items), items)

    def add_items(
        self, scorer: Scorer, catalog: Sequence[Mapping[str, Features]], new: Mapping[str, Features]
    ) -> VectorScorer | ItemWeightScorer:
        """Return the scorer with new items, which get their scores from their nearest liked items, as other items do.

        New items do not become neighbors of other items.
        """
        items = fused_features(new, self.weights)
        if isinstance(scorer, VectorScorer):
            return scorer.with_items(items)
        assert isinstance(scorer, ItemWeightScorer) and self.config.n_neighbors is not None
        existing = torch.cat([fused_features(block, self.weights) for block in catalog])
        liked = torch.bincount(scorer.history.col_indices().long(), minlength=len(existing)) > 0
        return scorer.with_items(*_nearest(items, existing, liked, self.config.n_neighbors, first=len(existing)))

    def fold_in(self, scorer: Scorer, histories: Sequence[Tensor]) -> Tensor:
        """Return the histories as 0/1 rows `(B, I)`; with `n_neighbors=None`, sums of item vectors `(B, Σ d_m)`."""
        if isinstance(scorer, ItemWeightScorer):
            return scorer.queries_of(histories)
        assert isinstance(scorer, VectorScorer)
        return torch.stack([scorer.item_vectors[torch.as_tensor(liked)].sum(0) for liked in histories])


def _nearest(queries: Tensor, items: Tensor, liked: Tensor, k: int, first: int) -> tuple[Tensor, Tensor]:
    """Find, for each query, the `k` rows of `items` with the largest positive inner products, in blocks of queries.

    Args:
        queries: `(n, D)`, the vectors of `n` consecutive items of the catalog; an item is not its own neighbor.
        items: `(I, D)`.
        liked: `(I,)` bool, the rows of `items` that may be neighbors: items that some user has taken.
        k: number of neighbors.
        first: row of the first query in the catalog.

    Returns:
        Rows `(n, k)` int64, with -1 in unused entries, and their inner products `(n, k)`.
    """
    k = min(k, len(items))
    found, products = [], []
    for block in torch.arange(len(queries), device=queries.device).split(max(1, 128 * 2**20 // (8 * len(items)))):
        sim = queries[block] @ items.T  # (b, I)
        sim[:, ~liked] = 0
        own = block + first < len(items)
        sim[own.nonzero().squeeze(1), (block + first)[own]] = 0
        top = sim.topk(k, dim=1)
        found.append(torch.where(top.values > 0, top.indices, -1))
        products.append(top.values)
    return torch.cat(found), torch.cat(products)
