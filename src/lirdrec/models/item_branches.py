"""Item vectors from features for LIRDRec and its sequential form: one branch per modality, and a shared branch."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from lirdrec.models.base import Features
from lirdrec.nn.dct import idct
from lirdrec.nn.normalize_and_dropout import normalize


def branch_vectors(
    features: Sequence[Features],
    hidden_weight: Iterable[Tensor],
    shared_weight: Iterable[Tensor] | None,
    hidden_bias: Tensor,
    output_weight: Tensor,
    mixed: Sequence[Tensor] | None = None,
) -> Tensor:
    """Return the normalized outputs `z` `(n, K, e)` of the `K` branches for `n` items (LIRDRec §3, Eqs. 11-13).

    The output of a modality that an item lacks is 0.

    Args:
        features: the features of the items, one entry per modality.
        hidden_weight: `W_m` `(h, d_m)` of each modality.
        shared_weight: the blocks `W_s,m` `(h, d_m)` of the shared branch; None: there is no shared branch.
        hidden_bias: `b_k` `(K, h)`.
        output_weight: `W'_k` `(K, e, h)`.
        mixed: one matrix per modality that the shared branch reads instead of the features (`dct="matrix"`), or None.
    """
    hidden: list[Tensor] = []
    shared: Tensor | None = None
    h = hidden_bias.shape[1]
    shared_parts = [None] * len(features) if shared_weight is None else list(shared_weight)
    for row, (feature, weight, shared_part) in enumerate(zip(features, hidden_weight, shared_parts, strict=True)):
        if shared_part is None:
            hidden.append(F.linear(feature.values, weight))
            continue
        rotated = idct(shared_part)
        if mixed is None:  # one product for the two branches that read the same features
            own, common = F.linear(feature.values, torch.cat([weight, rotated])).split(h, dim=1)
        else:
            own, common = F.linear(feature.values, weight), F.linear(mixed[row], rotated)
        hidden.append(own)
        shared = common if shared is None else shared + common
    if shared is not None:
        hidden.append(shared)
    outputs = []
    for row, pre in enumerate(hidden):
        z = F.linear(F.leaky_relu(pre + hidden_bias[row]), output_weight[row])  # (n, e)
        if row < len(features) and not features[row].is_complete:
            z = z * features[row].present[:, None]
        outputs.append(z)
    return normalize(torch.stack(outputs, dim=1).to(output_weight.dtype))
