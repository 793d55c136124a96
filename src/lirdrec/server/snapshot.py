"""Snapshots: what the server recommends from, immutable, with all changes since the training."""

from __future__ import annotations

from collections import ChainMap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor

from lirdrec.data.features import FeatureMatrix
from lirdrec.ranking.scorers import VectorScorer
from lirdrec.recommender.recommender import Recommender
from lirdrec.server.cache import ByteCache

K = TypeVar("K")
V = TypeVar("V")
Id = str | int
CACHE_BYTES = 32 * 2**20  # of the vectors of users who are folded in
RECENT = 4096  # changed entries that are copied with each update, before they are merged into the base


class PersistentMap(ChainMap[K, V]):
    """Immutable mapping with cheap updated copies: the few entries changed since, before a large shared base.

    Args:
        maps: recent entries and the base, or the base only; they must not be changed afterwards.
    """

    def updated(self, entries: Mapping[K, V]) -> PersistentMap[K, V]:
        """A copy with these entries added or replaced."""
        recent = {**dict(*self.maps[:-1]), **entries}
        base = self.maps[-1]
        return PersistentMap(recent, base) if len(recent) <= RECENT else PersistentMap({**base, **recent})


@dataclass(eq=False)
class UserState:
    """A user with new likes or dislikes since training."""

    history: Tensor  # (n,) int64 item rows, those of training included; oldest first for ordered models, else ascending
    is_folded: bool  # whether the vector is folded in from them; not every model can do that
    disliked: Tensor = field(default_factory=lambda: torch.empty(0, dtype=torch.int64))  # (m,) rows never recommended
    times: tuple[float, ...] | None = None  # of `history`, ascending, for ordered models; -inf: from the training


@dataclass(frozen=True, eq=False)
class Snapshot:
    """Immutable state to recommend from, so that a request sees one state from start to end.

    Attributes:
        recommender: the run with the items that were added.
        number: last change of the store that is included.
        removed: `(I,)` bool, removed items.
        user_rows, item_rows: id → row.
        likers: users who like an item that was added after training, by its row.
        user_states: users with likes that the run does not have, or with dislikes.
        run: folder of the run.
        added_at: Unix seconds at which items of the store were added, by row.
        vectors: cached vectors `(D,)` of users who are folded in; shared by all snapshots of a run.
    """

    recommender: Recommender
    number: int
    removed: Tensor
    user_rows: PersistentMap[Id, int]
    item_rows: PersistentMap[Id, int]
    user_states: PersistentMap[Id, UserState]
    run: Path
    likers: PersistentMap[int, frozenset[Id]] = field(default_factory=PersistentMap)
    added_at: PersistentMap[int, float] = field(default_factory=PersistentMap)
    vectors: ByteCache[UserState, Tensor] = field(default_factory=lambda: ByteCache(CACHE_BYTES))

    @cached_property
    def removed_rows(self) -> Tensor:
        """Rows `(n,)` int64 of the removed items."""
        return self.removed.nonzero().squeeze(1)

    @cached_property
    def n_available(self) -> int:
        """Number of items that can be recommended."""
        return len(self.removed) - len(self.removed_rows)

    @property
    def trained_features(self) -> Mapping[str, FeatureMatrix]:
        """Name → features of the trained items; empty if the run does not have them."""
        features = self.recommender.features
        return (None if features is None else features.trained) or {}

    def item_row(self, item: Id) -> int:
        """The row of an item that can be recommended, else -1."""
        row = self.item_rows.get(item, -1)
        return row if row >= 0 and not bool(self.removed[row]) else -1

    def queries(self, users: Sequence[UserState]) -> Tensor:
        """Vectors `(n, D)` of users who are folded in, computed at first use: a start reads years of likes.

        Those of a scorer without item vectors are not cached: they are as wide as the catalog, and cheap.
        """
        scorer = self.recommender.scorer
        if not isinstance(scorer, VectorScorer):
            return self.recommender.model().fold_in(scorer, [user.history for user in users])
        cached = {user: vector for user in users if (vector := self.vectors.get(user)) is not None}
        if new := [user for user in dict.fromkeys(users) if user not in cached]:
            folded = self.recommender.model().fold_in(scorer, [user.history for user in new])
            for user, vector in zip(new, folded, strict=True):
                cached[user] = vector
                self.vectors.put(user, vector.clone(), vector.nbytes + user.history.nbytes)
        return torch.stack([cached[user] for user in users])

    def liked_rows(self, user: Id) -> Tensor:
        """Item rows `(n,)` int64 that the user liked, in training and since; empty for an unknown user."""
        if (state := self.user_states.get(user)) is not None:
            return state.history
        row = self.user_rows.get(user, -1)
        if row < 0 or self.recommender.is_slim:
            return torch.empty(0, dtype=torch.int64)
        return torch.tensor(self.recommender.liked_rows(row))

    def disliked_rows(self, user: Id) -> Tensor:
        """Item rows `(n,)` int64 that are never recommended to the user."""
        state = self.user_states.get(user)
        return torch.empty(0, dtype=torch.int64) if state is None else state.disliked
