r"""Content kNN of the last item: recommend items whose features are similar to those of the last items of a history.

`z_i` (the fused features of item `i`) and `W` are those of `models/content_knn.py`:

    score(u, j) = Σ_{i ∈ H_u} q_ui W[i, j],   q_ui = history_decay^(items of u after i)

The exponent is the number of items that the user took after i. So `history_decay=0` ranks by the similarity to the last
item, and `history_decay=1` is content kNN. By default all items of a history count (`n_neighbors=None`), and with
`history_decay=0` the score is the cosine of the last item and `j`. If the interactions have weights `w`, these are
divided by their mean over the training pairs, and `q_ui` is multiplied by `w_ui`. New users have weights of 1.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from lirdrec.config import option, validated
from lirdrec.models.base import Capabilities
from lirdrec.models.content_knn import ContentKNN, ContentKNNConfig
from lirdrec.models.last_item_knn import check_decay, decay_weights, decayed_history, decayed_rows
from lirdrec.ranking.item_weight_scorer import ItemWeightScorer
from lirdrec.ranking.scorers import Scorer, VectorScorer


@dataclass(frozen=True)
@validated
class LastContentKNNConfig(ContentKNNConfig):
    """Hyper-parameters of content kNN of the last item.

    >>> LastContentKNNConfig(history_decay=0.5).n_neighbors is None
    True
    """

    model: ClassVar[str] = "last_content_knn"

    n_neighbors: int | None = option(None, "k, similar liked items that count for each item; none: all")
    history_decay: float = option(0.0, "weight of an item relative to the one after it; 0: only the last item counts")

    def __post_init__(self) -> None:
        super().__post_init__()
        check_decay(self.history_decay)


class LastContentKNN(ContentKNN):
    """Content kNN of the last items: score items by the similarity of their features to the user's last items.

    The formulas are at the top of this file.
    """

    name = LastContentKNNConfig.model
    Config = LastContentKNNConfig
    capabilities = Capabilities(
        needs_features=True, cold_items=True, new_users=True, training="closed_form", weights=True, ordered=True
    )
    grid: ClassVar = {"history_decay": (0.0, 0.3, 0.5, 0.7, 0.9), "n_neighbors": (None, 20, 100, 500)}

    config: LastContentKNNConfig

    def _history(self) -> Tensor:
        return decayed_history(self.inputs, self.config.history_decay)

    def fold_in(self, scorer: Scorer, histories: Sequence[Tensor]) -> Tensor:
        """Return the histories as rows `(B, I)` of decayed weights.

        With `n_neighbors=None`, return sums of item vectors `(B, Σ d_m)` with these weights.

        A history has the oldest item first.
        """
        if isinstance(scorer, ItemWeightScorer):
            return decayed_rows(scorer, histories, self.config.history_decay)
        assert isinstance(scorer, VectorScorer)
        vectors, queries = scorer.item_vectors, []
        for history in histories:
            items = torch.as_tensor(history, device=vectors.device)
            weights = decay_weights(items, self.config.history_decay).to(vectors)
            queries.append((weights[:, None] * vectors[items]).sum(0))
        return torch.stack(queries)
