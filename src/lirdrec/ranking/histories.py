"""`Histories`: the item rows of each user, as one CSR table."""

from __future__ import annotations

import numpy as np
import torch
from scipy.sparse import csr_matrix
from torch import Tensor

torch.sparse.check_sparse_tensor_invariants.disable()  # indices are in range; files are checked when they are read


class Histories:
    """Lists of item rows per user.

    Args:
        users, items: `(n,)` int64 pairs in any order.
        n_users: number of users; users without a pair have an empty list.
        timestamps: `(n,)` int64; each list is then in the order of time, oldest first, and pairs with equal
            timestamps stay in the order given. None: all pairs stay in the order given.

    Attributes:
        items: `(n,)` int64, the lists one after the other.
        start: `(n_users + 1,)` int64, where each list begins in `items`.
        times: `(n,)` int64, the timestamps of `items`, or None.
    """

    def __init__(self, users: Tensor, items: Tensor, n_users: int, timestamps: Tensor | None = None):
        if timestamps is None:
            order = _stable_order(users)
        else:
            by_time = _stable_order(timestamps)
            order = by_time[_stable_order(users[by_time])]
        self.items = items[order]
        self.times = None if timestamps is None else timestamps[order]
        self.start = torch.zeros(n_users + 1, dtype=torch.int64, device=users.device)
        self.start[1:] = torch.bincount(users, minlength=n_users).cumsum(0)

    def counts(self) -> Tensor:
        """Return the length `(U,)` int64 of each list."""
        return self.start.diff()

    def of(self, user: int) -> Tensor:
        """Return the item rows of one user, `(n_u,)` int64."""
        return self.items[int(self.start[user]) : int(self.start[user + 1])]

    def pairs(self, users: Tensor) -> tuple[Tensor, Tensor]:
        """Return all pairs of the users `(B,)`: the user's position in `users`, and the item row, `(n,)` int64 each."""
        owner, entry = expand(self.start, users)
        return owner, self.items[entry]

    def to(self, device: torch.device | str) -> Histories:
        moved = object.__new__(Histories)
        moved.items, moved.start = self.items.to(device), self.start.to(device)
        moved.times = None if self.times is None else self.times.to(device)
        return moved


def _stable_order(keys: Tensor) -> Tensor:
    """Return the positions `(n,)` that sort the keys; equal keys stay in order. Sorted keys are not sorted again."""
    if bool((keys[1:] >= keys[:-1]).all()):
        return torch.arange(len(keys), device=keys.device)
    return torch.argsort(keys, stable=True)


class PairWeights:
    """Finds the weights of training pairs by their users and items.

    Args:
        users, items: `(E,)` int64, the distinct training pairs.
        n_items: number of item rows.
        weights: `(E,)` float.
    """

    def __init__(self, users: Tensor, items: Tensor, n_items: int, weights: Tensor):
        self._n_items = n_items
        self._keys, order = (users * n_items + items).sort()
        self._weights = weights[order]

    def of(self, users: Tensor, items: Tensor) -> Tensor:
        """Return the weights `(B,)` of pairs `(B,)`, which must be training pairs."""
        return self._weights[torch.searchsorted(self._keys, users * self._n_items + items)]


def history_matrix(users: Tensor, items: Tensor, n_users: int, n_items: int, values: Tensor | None = None) -> Tensor:
    """Return the pairs of users and items `(E,)` as a CSR matrix `(U, I)` with float32 values.

    `values` `(E,)` are the entries at the pairs; None: all are 1.
    """
    entries = torch.ones(len(users), device=users.device) if values is None else values.float()
    if entries.is_cpu:  # without a sort of all pairs
        table = csr_matrix((entries.numpy(), (users.numpy(), items.numpy())), shape=(n_users, n_items))
        table.sort_indices()
        start, columns = (torch.from_numpy(part.astype(np.int64, copy=False)) for part in (table.indptr, table.indices))
        return torch.sparse_csr_tensor(start, columns, torch.from_numpy(table.data), (n_users, n_items))
    pairs = torch.sparse_coo_tensor(torch.stack([users, items]), entries, (n_users, n_items))
    return pairs.coalesce().to_sparse_csr()


def expand(start: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
    """Return the entries of some rows of a CSR matrix, as two positions `(n,)` of each entry.

    These are the position of its row in `rows`, and its own position among all entries of the matrix.

    Args:
        start: `(m + 1,)`, where each row begins among the entries.
        rows: `(B,)` int64.
    """
    first = start[rows].long()
    lengths = start[rows + 1].long() - first
    owner = torch.repeat_interleave(torch.arange(len(rows), device=rows.device), lengths)
    offset = torch.arange(len(owner), device=rows.device) - (lengths.cumsum(0) - lengths)[owner]
    return owner, first[owner] + offset
