"""Popularity baseline: recommends to every user the items with the most training pairs (or the most weight)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch

from lirdrec.config import validated
from lirdrec.models.base import Capabilities, Model
from lirdrec.ranking.scorers import Scorer, VectorScorer


@dataclass(frozen=True)
@validated
class PopularityConfig:
    """Popularity has no hyper-parameters.

    >>> PopularityConfig()
    PopularityConfig()
    """

    model: ClassVar[str] = "popularity"


class Popularity(Model):
    """Popularity: the score of an item is the number of its training pairs, or the sum of their weights.

    Vectors have one column: 1 for each user, the score for each item.
    """

    name = PopularityConfig.model
    Config = PopularityConfig
    capabilities = Capabilities(
        needs_features=False, cold_items=False, new_users=True, training="closed_form", weights=True
    )

    def solve(self) -> None:
        """Do nothing: `scorer` counts the training pairs."""

    def scorer(self) -> Scorer:
        counts = torch.bincount(self.inputs.items, self.inputs.weights, minlength=self.inputs.n_items).float()
        users = torch.ones(self.inputs.n_users, 1, device=counts.device)
        return VectorScorer(users, counts[:, None], ("popularity",))

    def fold_in(self, scorer: Scorer, histories: Sequence[torch.Tensor]) -> torch.Tensor:
        """Return the query 1 for every user, `(B, 1)`: all users have the same scores."""
        return torch.ones(len(histories), 1, device=self.inputs.device)
