"""Rebuild scorers of any kind from their saved tensors and settings."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from lirdrec.errors import DataError
from lirdrec.ranking.item_weight_scorer import ItemWeightScorer
from lirdrec.ranking.scorers import Scorer, VectorScorer, all_finite


def scorer_from_tensors(tensors: Mapping[str, Tensor], settings: Mapping[str, Any]) -> Scorer:
    """Rebuild a scorer from the results of `Scorer.tensors()` and `Scorer.settings()`.

    Raises:
        DataError: tensors do not fit together, or a number is not finite.

    >>> import torch
    >>> scorer = VectorScorer(torch.ones(1, 2), torch.ones(3, 2))
    >>> scorer_from_tensors(scorer.tensors(), scorer.settings()).n_items
    3
    """
    for name, tensor in tensors.items():
        if not all_finite(tensor):
            raise DataError(f"its tensor '{name}' has numbers that are not finite")
    kinds: dict[str, type[VectorScorer] | type[ItemWeightScorer]]
    kinds = {VectorScorer.kind: VectorScorer, ItemWeightScorer.kind: ItemWeightScorer}
    return kinds[settings["kind"]].rebuild(dict(tensors), settings)
