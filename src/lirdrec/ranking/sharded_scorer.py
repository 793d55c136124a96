"""`ShardedScorer`: a scorer whose user and item vectors are split over the ranks of a training."""

from __future__ import annotations

from typing import NoReturn

import torch
from torch import Tensor

from lirdrec.parallel.ranks import Shards
from lirdrec.ranking.scorers import Scorer, VectorScorer


class ShardedScorer(Scorer):
    """Score = inner product; each rank scores its own items, and `ranking.top_k` merges the lists of all ranks.

    All ranks must rank the same queries, block by block. It serves the validation during a training and nothing else.

    Args:
        users: `(U_r, D)` float, the rows `shards.users` of this rank; items: `(I_r, D)`, the rows `shards.items`.
    """

    kind = "sharded"
    part_names = ("score",)

    def __init__(self, users: Tensor, items: Tensor, shards: Shards):
        self.shards, self._users = shards, users.detach()
        self.n_users, self.n_items = shards.users.total, shards.items.total
        self.own = VectorScorer(users.detach()[:0], items.detach())

    def queries(self, users: Tensor) -> Tensor:
        return self.shards.users.gather(self._users, users)

    def tensors(self) -> dict[str, Tensor]:
        return {"users": self._users, "items": self.own.item_vectors}

    def scores(self, queries: Tensor) -> NoReturn:
        raise NotImplementedError("each rank has the scores of its own items only; rank with top_k")

    def parts(self, queries: Tensor, items: Tensor) -> NoReturn:
        raise NotImplementedError("only for validation")

    def similar_items(self, items: Tensor) -> NoReturn:
        raise NotImplementedError("only for validation")

    def similar_users(self, users: Tensor) -> NoReturn:
        raise NotImplementedError("only for validation")

    def to(self, device: torch.device | str) -> NoReturn:
        raise NotImplementedError("only for validation")
