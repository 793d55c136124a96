"""Training triples: an epoch at once, vectorised, and never a training positive as a negative."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor


class TripleSampler:
    """Shuffled pairs with one negative each, drawn uniformly from the items that occur in training.

    A negative is redrawn while it is one of the user's training positives; a user who took every item has no negative
    and is left out. Everything is drawn on the CPU, so that all devices train on the same triples.

    Args:
        users, items: `(E,)` int64, the distinct training pairs.
        n_items: number of item rows.
        seed: of all epochs; epoch `t` is the same whether or not others were drawn before it.
        order: "pairs": each pair has a random place; "users": each user has, and their pairs stay together.
    """

    def __init__(
        self, users: Tensor, items: Tensor, n_items: int, seed: int, order: Literal["pairs", "users"] = "pairs"
    ):
        users, items = users.cpu(), items.cpu()
        self.n_items, self.seed, self.order = n_items, seed, order
        self.pool = items.unique()
        self.taken = (users * n_items + items).sort().values  # one key per positive pair
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
            place = torch.randperm(int(self.users.max()) + 1, generator=generator)
            order = order[place[self.users[order]].argsort(stable=True)]
        users, positives = self.users[order], self.items[order]
        return users, positives, self.negatives(users, generator)

    def negatives(self, users: Tensor, generator: torch.Generator) -> Tensor:
        """One item `(n,)` int64 for each of `users`, none of them a training positive of that user."""
        drawn = self._draw(len(users), generator)
        wrong = self._is_taken(users, drawn).nonzero().squeeze(1)
        while len(wrong):
            again = self._draw(len(wrong), generator)
            drawn[wrong] = again
            wrong = wrong[self._is_taken(users[wrong], again)]
        return drawn

    def _draw(self, n: int, generator: torch.Generator) -> Tensor:
        return self.pool[torch.randint(len(self.pool), (n,), generator=generator)]

    def _is_taken(self, users: Tensor, items: Tensor) -> Tensor:
        keys = users * self.n_items + items
        at = torch.searchsorted(self.taken, keys).clamp(max=len(self.taken) - 1)
        return self.taken[at] == keys
