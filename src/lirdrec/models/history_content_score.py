r"""Content: the part of a score that compares the features of an item with the features of the items of a history.

Content has no parameters and is not trained, so it works as well for items without interactions. The features of each
modality are first replaced by their whitened principal components (models/feature_reduction.py), which are fitted to
the items of training. `w_m` is the weight of modality m, and `‖_m` puts the vectors of all modalities side by side:

    f_i = normalize(‖_m √w_m normalize(components of f_im))       content vectors, of length 1
    q_u = normalize(Σ_{i in the history of u} f_i)                content of a history
    content(u, i) = cos(q_u, f_i)

The models say which items have this part in their scores, and with which weight.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor, nn

from lirdrec.graphs.sparse_matrix import product
from lirdrec.graphs.user_item import EPSILON, UserItemGraph
from lirdrec.models.base import Features
from lirdrec.models.feature_reduction import reduced
from lirdrec.models.modality_options import fused_features
from lirdrec.nn.normalize_and_dropout import normalize

CONTENT = "content"  # name of the part of a score that is the similarity of features
ITEM_CONTENT = "item_content"  # key of the content vectors of all items in the memory of a scorer


def content_vectors(
    reductions: Iterable[nn.Module],
    own: Sequence[Features],
    features: Sequence[Features],
    known: Tensor,
    weights: Mapping[str, float],
) -> Tensor:
    """Return the content vectors `f` `(n, C)` of `n` items: rows of length 1, or 0 for items without features.

    Args:
        reductions: a whitening `PCA` for each modality, fitted at first use (`models.reduction.reductions`).
        own: the features of the model's `I` items, to which the reductions are fitted.
        features: the features of the `n` items, one entry per modality.
        known: `(I,)` bool, the items of `own` that are used to fit.
        weights: modality → `w_m` ≥ 0, in the order of `features`.
    """
    parts = reduced(reductions, own, features, known)
    return fused_features(dict(zip(weights, parts, strict=True)), weights)


def content_of_users(graph: UserItemGraph, degrees: Tensor, content: Tensor) -> Tensor:
    """Return the content `q` `(U, C)` of each user's training items: rows of length 1, or 0 without training items.

    An item counts with the weight of its pair.

    Args:
        graph: the user-item graph of the training pairs.
        degrees: `(I,)`, the sum of the weights of each item's pairs.
        content: `f` `(I, C)`.
    """
    # an entry of the graph is w_ui / √((d_u + ε)(d_i + ε)); d_u only changes the length of a row, which is normalized
    return normalize(product(graph.matrix.csr, content * (degrees + EPSILON).sqrt()[:, None]))


def content_of_histories(histories: Sequence[Tensor], content: Tensor) -> Tensor:
    """Return the content `q` `(B, C)` of lists of item rows: rows of length 1, or 0 for an empty list.

    All items of a list have the same weight.

    >>> content_of_histories([torch.tensor([0, 1])], torch.eye(2))
    tensor([[0.7071, 0.7071]])
    """
    lists = [torch.as_tensor(history, dtype=torch.int64, device=content.device) for history in histories]
    sizes = torch.tensor([len(rows) for rows in lists], dtype=torch.int64, device=content.device)
    owner = torch.repeat_interleave(torch.arange(len(lists), device=content.device), sizes)
    sums = content.new_zeros(len(lists), content.shape[1])
    return normalize(sums.index_add_(0, owner, content[torch.cat([owner[:0], *lists])]))
