"""What models make from the training pairs and their weights: the user-item graph, degrees and histories.

`w` are the weights divided by their mean. So the unit of weights does not matter, and equal weights have no effect.

    graph        R̂_ui = w_ui / √((d_u + ε)(d_i + ε)),   d: the sums of w of the user and of the item
    degrees      d_i = Σ_u w_ui
    histories    X_ui = w_ui, or √w_ui where a product of two histories must count a pair with w_ui
"""

from __future__ import annotations

import torch
from torch import Tensor

from lirdrec.graphs.sparse_matrix import SparseMatrix
from lirdrec.graphs.user_item import UserItemGraph
from lirdrec.models.base import ModelInputs
from lirdrec.ranking.histories import history_matrix


def training_pairs(inputs: ModelInputs, kept: Tensor | None) -> tuple[Tensor, Tensor, Tensor | None]:
    """Return users, items and relative weights of the training pairs, `(n,)` each; weights None: all are equal.

    `kept` (a mask or positions) selects pairs; None: all.
    """
    users, items, weights = inputs.users, inputs.items, inputs.relative_weights
    if kept is None:
        return users, items, weights
    return users[kept], items[kept], None if weights is None else weights[kept]


def user_item_graph(inputs: ModelInputs, dtype: torch.dtype, kept: Tensor | None = None) -> UserItemGraph:
    """Return the user-item graph of the training pairs, or of the training pairs `kept` (a mask or positions).

    >>> user_item_graph(inputs, torch.float32).matrix.shape == (inputs.n_users, inputs.n_items)
    True
    """
    users, items, weights = training_pairs(inputs, kept)
    return UserItemGraph(users, items, inputs.n_users, inputs.n_items, dtype, weights)


def item_degrees(inputs: ModelInputs, dtype: torch.dtype, kept: Tensor | None = None) -> Tensor:
    """Return the sum `(I,)` of the relative weights of each item's training pairs; without weights, their number.

    `kept` (a mask or positions) selects training pairs; None: all.
    """
    _, items, weights = training_pairs(inputs, kept)
    return torch.bincount(items, weights, minlength=inputs.n_items).to(dtype)


def interaction_matrix(inputs: ModelInputs, dtype: torch.dtype, kept: Tensor | None = None) -> SparseMatrix:
    """Return the sparse matrix `(U, I)` with the relative weight of each training pair, or 1 without weights.

    `kept` (a mask or positions) selects training pairs; None: all.
    """
    users, items, weights = training_pairs(inputs, kept)
    values = torch.ones(len(users), dtype=dtype, device=inputs.device) if weights is None else weights.to(dtype)
    return SparseMatrix(users, items, values, (inputs.n_users, inputs.n_items))


def weighted_history(inputs: ModelInputs, power: float = 1.0) -> Tensor:
    """Return the CSR matrix `(U, I)` float32 with `w ** power` at each training pair; 1 without weights `w`."""
    weights = inputs.relative_weights
    values = None if weights is None else weights**power
    return history_matrix(inputs.users, inputs.items, inputs.n_users, inputs.n_items, values)
