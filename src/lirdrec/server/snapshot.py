"""Snapshots: an immutable state that the server recommends from, the run with all changes since the training."""

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
from lirdrec.server.lru_cache import ByteCache

K = TypeVar("K")
V = TypeVar("V")
Id = str | int
CACHE_BYTES = 32 * 2**20  # size of the cache for vectors of users whose vector is computed from their likes
RECENT = 4096  # most changed entries that are copied with each update; more are merged into the base


class PersistentMap(ChainMap[K, V]):
    """An immutable mapping whose updated copies are cheap: the copies share a large base, and add the recent entries.

    Args:
        maps: the recent entries and the base, or only the base; they must not be changed afterwards.
    """

    def updated(self, entries: Mapping[K, V]) -> PersistentMap[K, V]:
        """Return a copy with these entries added or replaced."""
        recent = {**dict(*self.maps[:-1]), **entries}
        base = self.maps[-1]
        return PersistentMap(recent, base) if len(recent) <= RECENT else PersistentMap({**base, **recent})


@dataclass(eq=False)
class UserState:
    """The likes and dislikes of a user with new ones since training."""

    history: Tensor  # (n,) int64 item rows, those of training included; oldest first for ordered models, else ascending
    is_folded: bool  # whether the user's vector is computed from `history` ("folded in"), if the model can do that
    disliked: Tensor = field(default_factory=lambda: torch.empty(0, dtype=torch.int64))  # (m,) rows never recommended


@dataclass(frozen=True, eq=False)
class Snapshot:
    """An immutable state to recommend from, so that a request uses the same state from start to end.

    Attributes:
        recommender: the run with the items that were added.
        number: number of the last change of the store that is included.
        removed: `(I,)` bool, whether the item was removed.
        user_rows: id of a user → row.
        item_rows: id of an item → row.
        likers: row of an item that was added after training → the users who like it.
        user_states: id of a user who has new dislikes, or likes that the run does not have → their state.
        event_times: id of a user → row of an item → time of the newest event of the two since training; only events
            that have a time, or that were sent after events with a time.
        run: folder of the run.
        added_at: row of an item of the store → Unix seconds at which it was added.
        vectors: cached vectors `(D,)` that were computed from likes; all snapshots of a run share the cache.
    """

    recommender: Recommender
    number: int
    removed: Tensor
    user_rows: PersistentMap[Id, int]
    item_rows: PersistentMap[Id, int]
    user_states: PersistentMap[Id, UserState]
    run: Path
    event_times: PersistentMap[Id, Mapping[int, float]] = field(default_factory=PersistentMap)
    likers: PersistentMap[int, frozenset[Id]] = field(default_factory=PersistentMap)
    added_at: PersistentMap[int, float] = field(default_factory=PersistentMap)
    vectors: ByteCache[UserState, Tensor] = field(default_factory=lambda: ByteCache(CACHE_BYTES))

    @cached_property
    def removed_rows(self) -> Tensor:
        """The rows `(n,)` int64 of the removed items."""
        return self.removed.nonzero().squeeze(1)

    @cached_property
    def n_available(self) -> int:
        """Number of items that can be recommended: all but the removed ones."""
        return len(self.removed) - len(self.removed_rows)

    @property
    def trained_features(self) -> Mapping[str, FeatureMatrix]:
        """Name of features → feature vectors of the trained items; empty if the run has no features."""
        features = self.recommender.features
        return (None if features is None else features.trained) or {}

    def item_row(self, item: Id) -> int:
        """Return the row of an item; -1 if it is unknown or was removed."""
        row = self.item_rows.get(item, -1)
        return row if row >= 0 and not bool(self.removed[row]) else -1

    def queries(self, users: Sequence[UserState]) -> Tensor:
        """Return the vectors `(n, D)` of users, computed from their likes ("folded in") instead of learned in training.

        A vector is computed at its first use, because the store may have the likes of years when the server starts.
        Vectors of a scorer without item vectors are not cached: they are as wide as the catalog, and cheap.
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
        """Return the item rows `(n,)` int64 that a user liked, in training and since, also of removed items.

        The result is empty for an unknown user. A slim run has only the likes since training.
        """
        if (state := self.user_states.get(user)) is not None:
            return state.history
        row = self.user_rows.get(user, -1)
        if row < 0 or self.recommender.is_slim:
            return torch.empty(0, dtype=torch.int64)
        return torch.tensor(self.recommender.liked_rows(row))

    def disliked_rows(self, user: Id) -> Tensor:
        """Return the item rows `(n,)` int64 that the user disliked since training: never recommended to this user."""
        state = self.user_states.get(user)
        return torch.empty(0, dtype=torch.int64) if state is None else state.disliked
