"""Losses that several models share."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def bpr(user_vectors: Tensor, item_vectors: Tensor, users: Tensor, positives: Tensor, negatives: Tensor) -> Tensor:
    r"""Bayesian personalised ranking, `-mean log σ(⟨u, i⟩ - ⟨u, j⟩)` (Rendle et al., UAI 2009).

    Args:
        user_vectors: `(U, D)`; item_vectors: `(I, D)`.
        users, positives, negatives: `(B,)` int64 rows.
    """
    # index_select has a deterministic backward on the CPU, which indexing with [] has not
    u = user_vectors.index_select(0, users)
    difference = item_vectors.index_select(0, positives) - item_vectors.index_select(0, negatives)
    return F.softplus(-(u * difference).sum(1)).mean()
