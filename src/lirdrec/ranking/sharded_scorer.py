"""`ShardedScorer`: ranks items for a validation during a training whose vectors are split over its ranks."""

from __future__ import annotations

from torch import Tensor

from lirdrec.parallel.ranks import Shards
from lirdrec.ranking.scorers import Scorer, VectorScorer


class ShardedScorer:
    """Score = inner product; each rank scores its own items, and `ranking.top_k` merges the lists of all ranks.

    All ranks must rank the same queries, block by block. No rank has the scores of all items, so this is no `Scorer`:
    `top_k` and `rank_users` take both (`Rankable`).

    Args:
        users: `(U_r, D)` float, the rows `shards.users` of this rank; items: `(I_r, D)`, the rows `shards.items`.
    """

    def __init__(self, users: Tensor, items: Tensor, shards: Shards):
        self.shards, self._users = shards, users.detach()
        self.n_users, self.n_items = shards.users.total, shards.items.total
        self.own = VectorScorer(users.detach()[:0], items.detach())

    def queries(self, users: Tensor) -> Tensor:
        """Rows `(B, D)` of the users `(B,)`, gathered from the ranks that have them."""
        return self.shards.users.gather(self._users, users)

    def tensors(self) -> dict[str, Tensor]:
        """The vectors of this rank."""
        return {"users": self._users, "items": self.own.item_vectors}


Rankable = Scorer | ShardedScorer  # what ranks items
