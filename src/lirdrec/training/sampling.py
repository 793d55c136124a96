"""Sample training triples (user, positive, negative) for an epoch at once; a negative is never a positive."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor


class TripleSampler:
    """Shuffled pairs with one negative each, sampled uniformly from the items that occur in training.

    A negative is resampled while it is one of the user's training positives; users with all items are left out.
    Sampling runs on the CPU, so that all devices train on the same triples.

    Args:
        users, items: `(E,)` int64, the distinct training pairs.
        n_items: number of item rows.
        seed: of all epochs; epoch `t` does not depend on which epochs were sampled before.
        order: "pairs": shuffle pairs; "users": shuffle users and keep each user's pairs together.
    """

    def __init__(
        self, users: Tensor, items: Tensor, n_items: int, seed: int, order: Literal["pairs", "users"] = "pairs"
    ):
        users, items = users.cpu(), items.cpu()
        self.n_items, self.seed, self.order = n_items, seed, order
        self.pool = items.unique()
        self.positive_keys = (users * n_items + items).sort().values  # one key per positive pair
        full = torch.bincount(users) == len(self.pool)
        keep = ~full[users]
        self.users, self.items = users[keep], items[keep]

    def __len__(self) -> int:
        return len(self.users)

    def epoch(self, number: int) -> tuple[Tensor, Tensor, Tensor]:
        """Users, positives and negatives of epoch `number`, `(E,)` int64 each, in random order."""
        generator = torch.Generator().manual_seed((self.seed * 1_000_003 + number) % 2**63)
        order = torch.randperm(len(self), generator=generator)
        if self.order == "users":
            rank = torch.randperm(int(self.users.max()) + 1, generator=generator)
            order = order[rank[self.users[order]].argsort(stable=True)]
        users, positives = self.users[order], self.items[order]
        return users, positives, self.negatives(users, generator)

    def negatives(self, users: Tensor, generator: torch.Generator) -> Tensor:
        """One item `(n,)` int64 for each of `users`, none of them a training positive of that user."""
        sampled = self._sample(len(users), generator)
        wrong = self._is_positive(users, sampled).nonzero().squeeze(1)
        while len(wrong):
            resampled = self._sample(len(wrong), generator)
            sampled[wrong] = resampled
            wrong = wrong[self._is_positive(users[wrong], resampled)]
        return sampled

    def _sample(self, n: int, generator: torch.Generator) -> Tensor:
        return self.pool[torch.randint(len(self.pool), (n,), generator=generator)]

    def _is_positive(self, users: Tensor, items: Tensor) -> Tensor:
        keys = users * self.n_items + items
        index = torch.searchsorted(self.positive_keys, keys).clamp(max=len(self.positive_keys) - 1)
        return self.positive_keys[index] == keys
