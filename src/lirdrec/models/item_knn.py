r"""Item-kNN on interactions (Sarwar et al., WWW 2001; Deshpande & Karypis, TOIS 2004): a closed form without vectors.

`U_i` are the users of item i, `H_u` the items of user u:

    sim(i, j) = |U_i ∩ U_j| / (√(|U_i|·|U_j|) + shrinkage)      users in common, i ≠ j
    score(u, j) = Σ_{i ∈ H_u} W[i, j],   W keeps the k most similar i of each j

If the interactions have weights `w`, these are divided by their mean over the training pairs. Then a user in common
counts `√(w_ui w_uj)`, `|U_i|` is `Σ_u w_ui`, and the score is `Σ_{i ∈ H_u} w_ui W[i, j]`. New users have weights of 1.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from lirdrec.config import option, validated
from lirdrec.errors import ConfigError
from lirdrec.models.base import Capabilities, Model, ModelInputs
from lirdrec.models.interaction_matrices import item_degrees, weighted_history
from lirdrec.ranking.item_weight_scorer import ItemWeightScorer
from lirdrec.ranking.scorers import Scorer
from lirdrec.ranking.sparse_top_k import csr_of, largest_of_rows, product_blocks

BLOCK_BYTES = 8 * 2**20  # memory that every block uses again; it is mostly in the cache of the processor


@dataclass(frozen=True)
@validated
class ItemKNNConfig:
    """Hyper-parameters of item-kNN.

    >>> ItemKNNConfig(n_neighbors=50).n_neighbors
    50
    """

    model: ClassVar[str] = "item_knn"

    n_neighbors: int = option(100, "k, similar items kept for each item")
    shrinkage: float = option(10.0, "added to the denominator, so that rare items are less similar")

    def __post_init__(self) -> None:
        if self.n_neighbors < 1 or not self.shrinkage >= 0:
            raise ConfigError("n_neighbors must be 1 or more and shrinkage 0 or more")


class ItemKNN(Model):
    """Item-kNN: score items by the users that they have in common with the user's items (cosine).

    Computed by products of sparse matrices, without a dense `I×I` matrix; the formulas are at the top of this file.
    """

    name = ItemKNNConfig.model
    Config = ItemKNNConfig
    capabilities = Capabilities(
        needs_features=False, cold_items=False, new_users=True, training="closed_form", weights=True
    )
    # within the ranges of Ferrari Dacrema et al., RecSys 2019
    grid: ClassVar = {"n_neighbors": (20, 100, 200, 500, 1000), "shrinkage": (0.0, 10.0, 100.0, 500.0, 1000.0)}

    neighbours: Tensor  # spelled like the key in saved weights
    similarity: Tensor

    def __init__(self, inputs: ModelInputs, config: ItemKNNConfig):
        super().__init__(inputs, config)
        self.config: ItemKNNConfig = config
        k = min(config.n_neighbors, max(1, inputs.n_items - 1))
        self.register_buffer("neighbours", torch.full((inputs.n_items, k), -1, device=inputs.device))
        self.register_buffer("similarity", torch.zeros(inputs.n_items, k, device=inputs.device))

    def _history(self) -> Tensor:
        return weighted_history(self.inputs)

    def solve(self) -> None:
        """Fill `neighbours` and `similarity`, `(I, k)` each: the `k` most similar items of each item, best first."""
        by_user = csr_of(weighted_history(self.inputs, 0.5).cpu())
        by_item = by_user.T.tocsr()
        degree = item_degrees(self.inputs, torch.float32).cpu().numpy()
        k = self.neighbours.shape[1]
        for first, last in product_blocks(by_item, by_user, BLOCK_BYTES):
            common = by_item[first:last] @ by_user  # (b, I), users in common
            lengths = np.diff(common.indptr)
            norms = np.repeat(degree[first:last], lengths)
            norms *= degree[common.indices]
            np.sqrt(norms, out=norms)
            norms += np.float32(self.config.shrinkage)
            common.data /= np.maximum(norms, np.float32(1e-12), out=norms)
            own = np.repeat(np.arange(first, last, dtype=common.indices.dtype), lengths)
            common.data[own == common.indices] = 0
            similarity, neighbors, _ = largest_of_rows(common, k)
            self.similarity[first:last] = torch.from_numpy(similarity)
            self.neighbours[first:last] = torch.from_numpy(neighbors)

    def scorer(self) -> Scorer:
        return ItemWeightScorer.of_nearest(self._history(), self.neighbours, self.similarity)

    def fold_in(self, scorer: Scorer, histories: Sequence[Tensor]) -> Tensor:
        """Return the histories as 0/1 rows `(B, I)`."""
        assert isinstance(scorer, ItemWeightScorer)
        return scorer.queries_of(histories)
