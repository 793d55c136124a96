"""`ShardedScorer`: ranks items for a validation during a training whose vectors are split over processes (ranks)."""

from __future__ import annotations

from torch import Tensor

from lirdrec.parallel.ranks_and_shards import Shards
from lirdrec.ranking.scorers import Scorer, VectorScorer


class ShardedScorer:
    """Scores items by inner products: each rank scores its own items, and `ranking.top_k` merges the lists of all.

    All ranks must rank the same queries, block by block. No rank has the scores of all items, so this is not a
    `Scorer`; `top_k` and `rank_users` accept both classes (`Rankable`).

    Args:
        users: `(U_r, D)` float, the vectors of the rows `shards.users` of this rank.
        items: `(I_r, D)` float, the vectors of the rows `shards.items` of this rank.
        shards: the rows of users and items that this rank has.
    """

    def __init__(self, users: Tensor, items: Tensor, shards: Shards):
        self.shards, self._users = shards, users.detach()
        self.n_users, self.n_items = shards.users.total, shards.items.total
        self.own = VectorScorer(users.detach()[:0], items.detach())

    def queries(self, users: Tensor) -> Tensor:
        """Return the vectors `(B, D)` of the users `(B,)`, gathered from the ranks that have them."""
        return self.shards.users.gather(self._users, users)

    def tensors(self) -> dict[str, Tensor]:
        """Return the vectors of this rank."""
        return {"users": self._users, "items": self.own.item_vectors}


Rankable = Scorer | ShardedScorer  # what `top_k` and `rank_users` accept
