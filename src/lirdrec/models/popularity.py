"""Popularity baseline: recommends the items with the most training users, or the most weight, to every user."""

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
    """Score of an item = its number of training users, or the sum of their weights.

    As vectors of one column: user 1, item count.
    """

    name = PopularityConfig.model
    Config = PopularityConfig
    capabilities = Capabilities(
        needs_features=False, cold_items=False, new_users=True, training="closed_form", weights=True
    )

    def solve(self) -> None:
        """Nothing to solve: the counts are in the inputs."""

    def scorer(self) -> Scorer:
        counts = torch.bincount(self.inputs.items, self.inputs.weights, minlength=self.inputs.n_items).float()
        users = torch.ones(self.inputs.n_users, 1, device=counts.device)
        return VectorScorer(users, counts[:, None], ("popularity",))

    def fold_in(self, scorer: Scorer, histories: Sequence[torch.Tensor]) -> torch.Tensor:
        """The same query `(B, 1)` for all users."""
        return torch.ones(len(histories), 1, device=self.inputs.device)
