"""What users liked in training, ready to be looked up by user."""

from __future__ import annotations

import numpy as np

from lirdrec.data.dataset import Interactions


class History:
    """Training pairs in compressed rows: one run of item rows per user.

    Args:
        train: the pairs, in any order.
        n_users: users without a pair are counted too.
    """

    def __init__(self, train: Interactions, n_users: int):
        order = np.argsort(train.users, kind="stable")
        self._items = train.items[order]
        self._starts = np.concatenate([[0], np.cumsum(np.bincount(train.users, minlength=n_users))])

    def liked(self, user: int) -> np.ndarray:
        """Item rows `(n,)` of one user, in the order of the training pairs."""
        return self._items[self._starts[user] : self._starts[user + 1]]

    def seen(self, users: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """All pairs of the users `(B,)`, as (position in `users`, item row), `(n,)` int64 each."""
        starts, lengths = self._starts[users], np.diff(self._starts)[users]
        owner = np.repeat(np.arange(len(users)), lengths)
        offset = np.arange(lengths.sum()) - (np.cumsum(lengths) - lengths)[owner]
        return owner, self._items[starts[owner] + offset]

    def popular(self, n_items: int, k: int, candidates: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
        """The k items with the most training users, as (scores `(k,)`, rows `(k,)`); -inf and -1 where fewer remain."""
        counts = np.bincount(self._items, minlength=n_items)
        allowed = np.arange(n_items) if candidates is None else candidates
        best = allowed[np.argsort(-counts[allowed], kind="stable")][:k]
        scores, rows = np.full(k, -np.inf), np.full(k, -1)
        scores[: len(best)], rows[: len(best)] = counts[best], best
        return scores, rows
