"""`Histories`: the item rows of each user, as one CSR table."""

from __future__ import annotations

import torch
from torch import Tensor

torch.sparse.check_sparse_tensor_invariants.disable()  # in range by construction; files are checked explicitly


class Histories:
    """Lists of item rows per user.

    Args:
        users, items: `(n,)` int64 pairs in any order.
        n_users: number of users; users without a pair have an empty list.
    """

    def __init__(self, users: Tensor, items: Tensor, n_users: int):
        order = torch.argsort(users, stable=True)
        self.items = items[order]
        self.start = torch.zeros(n_users + 1, dtype=torch.int64, device=users.device)
        self.start[1:] = torch.bincount(users, minlength=n_users).cumsum(0)

    def counts(self) -> Tensor:
        """Length `(U,)` int64 of each list."""
        return self.start.diff()

    def of(self, user: int) -> Tensor:
        """Item rows of one user, `(n_u,)` int64."""
        return self.items[int(self.start[user]) : int(self.start[user + 1])]

    def pairs(self, users: Tensor) -> tuple[Tensor, Tensor]:
        """For the users `(B,)`: position `b` of the user and item row, `(n,)` int64 each."""
        owner, entry = expand(self.start, users)
        return owner, self.items[entry]

    def to(self, device: torch.device | str) -> Histories:
        moved = object.__new__(Histories)
        moved.items, moved.start = self.items.to(device), self.start.to(device)
        return moved


def history_matrix(users: Tensor, items: Tensor, n_users: int, n_items: int) -> Tensor:
    """The pairs `(E,)` as a CSR matrix `(U, I)` of float32 ones."""
    ones = torch.ones(len(users), device=users.device)
    pairs = torch.sparse_coo_tensor(torch.stack([users, items]), ones, (n_users, n_items))
    return pairs.coalesce().to_sparse_csr()


def expand(start: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
    """Entries of the CSR rows `rows` `(B,)`: position in `rows` and position in the entries, `(n,)` int64 each."""
    first = start[rows].long()
    lengths = start[rows + 1].long() - first
    owner = torch.repeat_interleave(torch.arange(len(rows), device=rows.device), lengths)
    offset = torch.arange(len(owner), device=rows.device) - (lengths.cumsum(0) - lengths)[owner]
    return owner, first[owner] + offset
