r"""Last-item kNN: recommend items that other users took after, or together with, the last items of a history.

It has a closed form and no vectors:

    score(u, j) = Σ_{i ∈ H_u} q_ui W[i, j],   q_ui = history_decay^(items of u after i)

The exponent is the number of items that the user took after i. So `history_decay=0` counts the last item only, and
`history_decay=1` the whole history without order. For each item `i`, `W` keeps the `k` largest entries (`i ≠ j`) of

    relation="transitions"   n_ij / (n_i + shrinkage),   n_ij = Σ 1/d over pairs "j is d ≤ window items after i"
    relation="cosine"        |U_i ∩ U_j| / (√(|U_i|·|U_j|) + shrinkage), as in models/item_knn.py

where `n_i` is the number of users of item `i`. Transitions with `window=1` are a Markov chain of the first order;
with a larger window they are the sequential rules of Ludewig & Jannach (UMUAI 2018). If the interactions have weights
`w`, these are divided by their mean over the training pairs. Then a pair counts `√(w_ui w_uj)`, `n_i` and `|U_i|` are
`Σ_u w_ui`, and `q_ui` is multiplied by `w_ui`. New users have weights of 1.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from lirdrec.config import check_minimum, option, validated
from lirdrec.errors import ConfigError
from lirdrec.models.base import Capabilities, ModelInputs
from lirdrec.models.interaction_matrices import item_degrees
from lirdrec.models.item_knn import ItemKNN, ItemKNNConfig
from lirdrec.ranking.histories import Histories, history_matrix
from lirdrec.ranking.item_weight_scorer import ItemWeightScorer
from lirdrec.ranking.scorers import Scorer


@dataclass(frozen=True)
@validated
class LastItemKNNConfig(ItemKNNConfig):
    """Hyper-parameters of last-item kNN.

    >>> LastItemKNNConfig(history_decay=0.5).relation
    'transitions'
    """

    model: ClassVar[str] = "last_item_knn"

    relation: Literal["transitions", "cosine"] = option(
        "transitions", "transitions: items taken soon after an item; cosine: items taken by the same users"
    )
    window: int = option(1, "largest distance of a transition, in items")
    history_decay: float = option(0.0, "weight of an item relative to the one after it; 0: only the last item counts")

    def __post_init__(self) -> None:
        super().__post_init__()
        check_minimum(self, 1, "window")
        check_decay(self.history_decay)


class LastItemKNN(ItemKNN):
    """Last-item kNN: score items by how often they follow the user's last items, or occur together with them.

    The formulas are at the top of this file.
    """

    name = LastItemKNNConfig.model
    Config = LastItemKNNConfig
    capabilities = Capabilities(
        needs_features=False, cold_items=False, new_users=True, training="closed_form", weights=True, ordered=True
    )
    grid: ClassVar = {
        "relation": ("transitions", "cosine"),
        "window": (1, 3, 10),
        "history_decay": (0.0, 0.3, 0.5, 0.7, 0.9),
        "n_neighbors": (100, 1000),
        "shrinkage": (0.0, 10.0, 100.0),
    }

    config: LastItemKNNConfig

    def solve(self) -> None:
        """Fill `neighbours` and `similarity`, `(I, k)` each; -1: unused.

        Row i has the items j that get a score if item i is in the history, and their weights `W[i, j]`.
        """
        if self.config.relation == "cosine":
            super().solve()
            return
        n_items, k = self.neighbours.shape
        counts = transition_counts(self.inputs, self.config.window)
        (earlier, later), n = counts.indices(), counts.values()
        confidence = n / (item_degrees(self.inputs, torch.float32)[earlier] + self.config.shrinkage)
        order = confidence.argsort(descending=True, stable=True)
        order = order[earlier[order].argsort(stable=True)]  # by item, the most frequent ones first
        earlier, later, confidence = earlier[order], later[order], confidence[order]
        counted = torch.bincount(earlier, minlength=n_items)
        rank = torch.arange(len(earlier), device=earlier.device) - (counted.cumsum(0) - counted)[earlier]
        kept = rank < k
        self.neighbours.fill_(-1)
        self.similarity.zero_()
        self.neighbours[earlier[kept], rank[kept]] = later[kept]
        self.similarity[earlier[kept], rank[kept]] = confidence[kept]

    def scorer(self) -> Scorer:
        row, slot = (self.neighbours >= 0).nonzero(as_tuple=True)
        indices = torch.stack([row, self.neighbours[row, slot]])
        shape = self.inputs.n_items, self.inputs.n_items
        weights = torch.sparse_coo_tensor(indices, self.similarity[row, slot], shape).coalesce().to_sparse_csr()
        return ItemWeightScorer(decayed_history(self.inputs, self.config.history_decay), weights)

    def fold_in(self, scorer: Scorer, histories: Sequence[Tensor]) -> Tensor:
        """Return the histories, which have the oldest item first, as rows `(B, I)` of decayed weights."""
        assert isinstance(scorer, ItemWeightScorer)
        return decayed_rows(scorer, histories, self.config.history_decay)


def check_decay(decay: float) -> None:
    """Check that `decay`, the option `history_decay`, is from 0 to 1.

    Raises:
        ConfigError: `decay` is not from 0 to 1.
    """
    if not 0 <= decay <= 1:
        raise ConfigError(f"history_decay is {decay}; it must be from 0 to 1")


def transition_counts(inputs: ModelInputs, window: int) -> Tensor:
    """Return how often users took item j soon after item i: the sum of 1/d over users who took j d items after i.

    Distances d from 1 to `window` count.

    If the interactions have weights, each term is multiplied by `√(w_ui w_uj)`.

    Returns:
        Coalesced sparse `(I, I)` float32, with i as row and j as column.
    """
    order = _ordered_pairs(inputs).items
    users, items = inputs.users[order], inputs.items[order]
    roots = None if inputs.relative_weights is None else inputs.relative_weights[order].sqrt()
    indices, values = [], []
    for distance in range(1, window + 1):
        same = (users[:-distance] == users[distance:]).nonzero().squeeze(1)
        if not len(same):
            break
        indices.append(torch.stack([items[same], items[same + distance]]))
        value = torch.full((len(same),), 1 / distance, device=items.device)
        values.append(value if roots is None else value * roots[same] * roots[same + distance])
    shape = inputs.n_items, inputs.n_items
    if not indices:
        return torch.sparse_coo_tensor(items.new_empty(2, 0), torch.empty(0, device=items.device), shape).coalesce()
    return torch.sparse_coo_tensor(torch.cat(indices, dim=1), torch.cat(values), shape).coalesce()


def decayed_history(inputs: ModelInputs, decay: float) -> Tensor:
    """Return the training pairs as CSR `(U, I)` float32 with the values `w_ui · decay^(items of u after i)`.

    A pair with the value 0 (`decay=0`) is stored as well, because the entries also say what a user has taken.
    """
    histories = _ordered_pairs(inputs)
    order = histories.items
    users = inputs.users[order]
    age = histories.start[users + 1] - 1 - torch.arange(len(order), device=inputs.device)
    values = _powers(decay, age)
    if inputs.relative_weights is not None:
        values = values * inputs.relative_weights[order]
    return history_matrix(users, inputs.items[order], inputs.n_users, inputs.n_items, values)


def decayed_rows(scorer: ItemWeightScorer, histories: Sequence[Tensor], decay: float) -> Tensor:
    """Return the queries `(B, I)` of histories that have the oldest item first: the decayed weights of their items.

    An item that occurs twice counts where it occurs last.
    """
    rows = scorer.history.values().new_zeros(len(histories), scorer.n_items)
    for row, items in enumerate(histories):
        items = torch.as_tensor(items, device=rows.device)
        rows[row].scatter_reduce_(0, items, decay_weights(items, decay), "amax")
    return rows


def decay_weights(items: Tensor, decay: float) -> Tensor:
    """Return the weights `(n,)` float32 of the items of a history, oldest first: `decay^(number of items after it)`."""
    return _powers(decay, torch.arange(len(items) - 1, -1, -1, device=items.device))


def _ordered_pairs(inputs: ModelInputs) -> Histories:
    """Return all users' histories, oldest first, whose entries are positions of training pairs instead of items."""
    assert inputs.timestamps is not None
    positions = torch.arange(len(inputs.users), device=inputs.device)
    return Histories(inputs.users, positions, inputs.n_users, inputs.timestamps)


def _powers(decay: float, exponents: Tensor) -> Tensor:
    return torch.tensor(decay, device=exponents.device) ** exponents
