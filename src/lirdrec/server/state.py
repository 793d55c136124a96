"""State of the server: a run with all live changes, as immutable snapshots that follow the store."""

from __future__ import annotations

import bisect
import copy
import logging
import math
import threading
from collections import ChainMap
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import polars as pl
import torch
from torch import Tensor

from lirdrec.data.features import FeatureMatrix
from lirdrec.data.ids import LARGEST, IdMap
from lirdrec.data.schema import ITEM
from lirdrec.errors import CapabilityError, DataError, LirdrecError
from lirdrec.ranking.scorers import VectorScorer
from lirdrec.recommender.recommender import Recommender
from lirdrec.row_buffers import append_rows
from lirdrec.server.cache import ByteCache
from lirdrec.server.store import DISLIKES, Change, ConflictError, Event, NewItem, Store, check_unique_ids

K = TypeVar("K")
V = TypeVar("V")
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


log = logging.getLogger(__name__)

Id = str | int
LIKERS = 200  # users at most whose likes move a new item; the mean of more of them is hardly another one
CACHE_BYTES = 32 * 2**20  # of the vectors of users who are folded in


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


class LiveState:
    """The current snapshot, which follows the store. Safe to use from several threads.

    Args:
        run: a run folder.
        store: log of changes, all of which are applied.
        dislikes: further types of events that are dislikes, beside "dislike"; all others are likes.

    Raises:
        LirdrecError: the run or the store cannot be read.
    """

    def __init__(self, run: str | Path, store: Store, dislikes: Sequence[str] = DISLIKES):
        self.store = store
        self._dislikes = frozenset((*DISLIKES, *dislikes))
        self._lock = threading.RLock()
        self._snapshot = self._load(Path(run))

    @property
    def snapshot(self) -> Snapshot:
        """The current state."""
        return self._snapshot

    def catch_up(self) -> Snapshot:
        """The snapshot after all changes in the store, of this and other servers."""
        if self.store.latest() > self._snapshot.number:
            with self._lock:
                self._snapshot = self._followed(self._snapshot)
        return self._snapshot

    def swap(self, run: str | Path, prepare: Callable[[Snapshot], None] = lambda snapshot: None) -> Snapshot:
        """Serve another run folder, with all changes of the store; `prepare` gets the snapshot before it is served."""
        fresh = self._load(Path(run))
        prepare(fresh)
        with self._lock:
            self._snapshot = self._followed(fresh)
        return self._snapshot

    def is_like(self, event: Event) -> bool:
        """Whether an event is a like: whatever is not a dislike."""
        return event.type not in self._dislikes

    # ------------------------------------------------------------ changes

    def add_items(self, items: Sequence[NewItem]) -> Snapshot:
        """Store new items durably and recommend them from now on; all of them or none.

        Raises:
            ConflictError: an id exists already.
            DataError, CapabilityError: features or columns do not fit, or the model does not support new items.
            StoreError: they could not be written.
        """
        with self._lock:
            snapshot = self.catch_up()
            for item in items:
                if snapshot.item_row(item.id) >= 0:
                    raise ConflictError(f"item {item.id!r} exists already; remove it first")
            check_unique_ids(items)
            extended = _with_items(snapshot, items)  # raises before anything is written
            number = self.store.add_items(items)
            # another server may have written in between; then its change is applied first
            if number == snapshot.number + len(items):
                self._snapshot = replace(extended, number=number)
            return self.catch_up()

    def remove_item(self, item: Id) -> Snapshot:
        """Stop recommending an item; raises a ConflictError if there is none, a StoreError if it cannot be written."""
        with self._lock:
            # the store may hold an item that did not fit this run; it can be removed too
            if self.catch_up().item_row(item) < 0 and not self.store.holds(item):
                raise ConflictError(f"there is no item {item!r}")
            self.store.remove_item(item)
            return self.catch_up()

    def add_events(self, events: Sequence[Event]) -> Snapshot:
        """Store new events of users; raises a ConflictError for an unknown item, a StoreError if it cannot write."""
        with self._lock:
            snapshot = self.catch_up()
            for event in events:
                if snapshot.item_row(event.item) < 0:
                    raise ConflictError(f"there is no item {event.item!r}")
            self.store.add_events(events)
            return self.catch_up()

    # ------------------------------------------------------------ inside

    def _load(self, run: Path) -> Snapshot:
        recommender = Recommender.load(run)
        users, items = (
            PersistentMap({id: row for row, id in enumerate(ids.series)})
            for ids in (recommender.users, recommender.items)
        )
        removed = torch.zeros(recommender.n_items, dtype=torch.bool)
        likers = PersistentMap(_likers(recommender))
        return self._followed(Snapshot(recommender, 0, removed, users, items, PersistentMap(), run, likers))

    def _followed(self, snapshot: Snapshot) -> Snapshot:
        ordered = snapshot.recommender.is_ordered
        opinions: dict[Id, dict[int, bool]] = {}  # user → item row → whether it is liked; applied once, at the end
        events: dict[Id, list[_RowEvent]] = {}  # of ordered models, all of them instead
        while changes := self.store.changes(snapshot.number):
            for group in _independent_groups(changes):
                snapshot = _with_stored(snapshot, group.items)
                for event in group.events:
                    row = snapshot.item_rows.get(event.item, -1)
                    if row >= 0 and ordered:
                        like = _RowEvent(row, self.is_like(event), event.timestamp)
                        events.setdefault(event.user, []).append(like)
                    elif row >= 0:
                        opinions.setdefault(event.user, {})[row] = self.is_like(event)
                if rows := [snapshot.item_rows[item] for item in group.removed if item in snapshot.item_rows]:
                    removed = snapshot.removed.clone()
                    removed[rows] = True
                    snapshot = replace(snapshot, removed=removed)
            snapshot = replace(snapshot, number=changes[-1].number)
        return _with_events(snapshot, events) if ordered else _with_likes(snapshot, opinions)


@dataclass(frozen=True)
class _RowEvent:
    """An event of a user, by the item's row."""

    row: int
    is_like: bool
    timestamp: float | None


@dataclass
class _Group:
    """Successive changes that can be applied as items first, then events, then removals."""

    items: list[NewItem] = field(default_factory=list)
    events: list[Event] = field(default_factory=list)
    removed: list[Id] = field(default_factory=list)
    ids: set[Id] = field(default_factory=set)  # of all these items


def _independent_groups(changes: Sequence[Change]) -> Iterator[_Group]:
    """Split changes so that many items are added at once: one at a time, thousands would take minutes."""
    group = _Group()
    for change in changes:
        if change.item is not None and change.item.id in group.ids:  # an id that is added again
            yield group
            group = _Group()
        if change.item is not None:
            group.items.append(change.item)
        elif change.event is not None:
            group.events.append(change.event)
        else:
            group.removed.append(change.subject)
        group.ids.add(change.subject if change.event is None else change.event.item)
    yield group


def _with_stored(snapshot: Snapshot, items: Sequence[NewItem]) -> Snapshot:
    """The snapshot with items from the store, except those that the run has already or that do not fit."""
    new = [item for item in items if snapshot.item_row(item.id) < 0]
    if not new:
        return snapshot
    try:
        return _with_items(snapshot, new)
    except LirdrecError as error:
        if len(new) == 1:
            log.warning("item %r from the store is left out: %s", new[0].id, error)
            return snapshot
        middle = len(new) // 2
        return _with_stored(_with_stored(snapshot, new[:middle]), new[middle:])


def _with_items(snapshot: Snapshot, items: Sequence[NewItem]) -> Snapshot:
    """A snapshot with items added."""
    recommender = copy.copy(snapshot.recommender)
    if recommender.features is None:
        raise CapabilityError("a slim run holds vectors and ids only, so it cannot take new items; use the full run")
    ids = [item.id for item in items]
    features: dict[str, list[Any]] = {  # in the type of the store, so that a restart gives the same vectors
        name: [None if (row := item.features.get(name)) is None else np.asarray(row, np.float32) for item in items]
        for name in dict.fromkeys(name for item in items for name in item.features)
    }
    _rename_removed(recommender, ids)
    recommender.add_items(_item_table(items, recommender), features)
    first = snapshot.recommender.n_items
    rows = snapshot.item_rows.updated(dict(zip(ids, range(first, first + len(ids)), strict=True)))
    removed = append_rows(snapshot.removed, torch.zeros(len(items), dtype=torch.bool))
    added_at = snapshot.added_at.updated({first + index: item.at for index, item in enumerate(items)})
    return replace(snapshot, recommender=recommender, removed=removed, item_rows=rows, added_at=added_at)


def _rename_removed(recommender: Recommender, new: Sequence[Id]) -> None:
    """Replace the ids of removed items that are added again by unused ones, so that ids stay unique."""
    rows = recommender.items.rows(list(new))
    rows = rows[rows >= 0]
    if not len(rows):
        return
    ids = recommender.items.series.to_list()
    used = {*ids, *new}
    unused = (id for id in range(LARGEST, -1, -1) if id not in used)
    for row in rows.tolist():
        ids[row] = next(unused) if recommender.items.is_integer else f"\x00removed {row}"
    recommender.items = IdMap(pl.Series(ITEM, ids, dtype=recommender.items.series.dtype), recommender.items.entity)
    recommender.item_table = recommender.item_table.with_columns(recommender.items.series.alias(ITEM))


def _item_table(items: Sequence[NewItem], recommender: Recommender) -> pl.DataFrame:
    is_integer = recommender.items.is_integer
    if misfits := [item.id for item in items if isinstance(item.id, str) is is_integer]:
        raise DataError(f"the item ids of this run are {'integers' if is_integer else 'texts'}, {misfits[0]!r} is not")
    existing = set(recommender.item_table.columns)
    columns: dict[str, list[Any]] = {ITEM: [item.id for item in items]}
    for name in dict.fromkeys(name for item in items for name in item.columns):
        if name not in existing:
            raise DataError(f"the item table has no column '{name}'; it has {', '.join(sorted(existing - {ITEM}))}")
        columns[name] = [item.columns.get(name) for item in items]
    try:
        return pl.DataFrame(columns, strict=True)
    except (TypeError, OverflowError, pl.exceptions.PolarsError):
        raise DataError("a column of the new items has values of different types, or too large ones") from None


def _with_likes(snapshot: Snapshot, opinions: Mapping[Id, Mapping[int, bool]]) -> Snapshot:
    """A snapshot with more likes and dislikes: user → item row → whether the last event was a like."""
    if not opinions:
        return snapshot
    recommender = snapshot.recommender
    has_model = recommender.has_model and not recommender.is_slim
    can_fold = has_model and recommender.model().capabilities.new_users
    states: dict[Id, UserState] = {}
    for user, of_rows in opinions.items():
        rows = torch.tensor(list(of_rows))
        is_liked = torch.tensor(list(of_rows.values()))
        before, disliked_before = torch.unique(snapshot.liked_rows(user)), snapshot.disliked_rows(user)
        history = _changed(before, rows[is_liked], rows[~is_liked])
        disliked = _changed(disliked_before, rows[~is_liked], rows[is_liked])
        if torch.equal(history, before) and torch.equal(disliked, disliked_before):
            continue
        # if all likes are those of the training, the trained vector is the better one
        trained = _trained_rows(snapshot, user)
        is_folded = can_fold and len(history) > 0 and not (len(trained) and torch.equal(history, trained))
        states[user] = UserState(history, is_folded, disliked)
    if not states:
        return snapshot
    liked = replace(snapshot, user_states=snapshot.user_states.updated(states))
    return _with_moved_items(liked, states) if has_model and recommender.model().can_warm_up else liked


def _with_events(snapshot: Snapshot, events: Mapping[Id, Sequence[_RowEvent]]) -> Snapshot:
    """A snapshot with more events of users of an ordered model: user → events in the order in which they were sent.

    Likes follow the history of the training, in the order of their times; one without a time is the latest. A user
    whose history is that of the training keeps the trained vector.
    """
    if not events:
        return snapshot
    states: dict[Id, UserState] = {}
    for user, of_user in events.items():
        before = snapshot.liked_rows(user)
        known = snapshot.user_states.get(user)
        start = known.times if known is not None and known.times is not None else (-math.inf,) * len(before)
        rows, times = _appended(before.tolist(), list(start), of_user)
        history, disliked_before = torch.tensor(rows, dtype=torch.int64), snapshot.disliked_rows(user)
        is_liked = {event.row: event.is_like for event in of_user}  # the last event of an item decides
        sent, liked = torch.tensor(list(is_liked)), torch.tensor(list(is_liked.values()))
        disliked = _changed(disliked_before, sent[~liked], sent[liked])
        if tuple(times) == start and torch.equal(history, before) and torch.equal(disliked, disliked_before):
            continue
        row = snapshot.user_rows.get(user, -1)
        trained = row >= 0 and torch.equal(history, torch.from_numpy(snapshot.recommender.liked_rows(row)))
        states[user] = UserState(history, len(history) > 0 and not trained, disliked, tuple(times))
    if not states:
        return snapshot
    grown = replace(snapshot, user_states=snapshot.user_states.updated(states))
    return _with_moved_items(grown, states) if snapshot.recommender.model().can_warm_up else grown


def _appended(rows: list[int], times: list[float], events: Sequence[_RowEvent]) -> tuple[list[int], list[float]]:
    """Item rows in the order of their times after further events; a repeated item has its latest time."""
    for event in events:
        latest = times[-1] if times else -math.inf
        time = latest if event.timestamp is None else event.timestamp
        if event.row in rows:
            place = rows.index(event.row)
            if event.is_like and time < times[place]:  # sent late: it has been taken again since
                continue
            del rows[place], times[place]
        if event.is_like:
            place = bisect.bisect_right(times, time)
            rows.insert(place, event.row)
            times.insert(place, time)
    return rows, times


def _changed(rows: Tensor, added: Tensor, removed: Tensor) -> Tensor:
    """Rows `(n,)` int64, ascending, with some added and others removed."""
    joined = torch.unique(torch.cat([rows, added]))
    return joined[~torch.isin(joined, removed)]


def _trained_rows(snapshot: Snapshot, user: Id) -> Tensor:
    """Item rows `(n,)` int64, ascending, that the user liked in training."""
    row = snapshot.user_rows.get(user, -1)
    if row < 0 or snapshot.recommender.is_slim:
        return torch.empty(0, dtype=torch.int64)
    return torch.unique(torch.tensor(snapshot.recommender.liked_rows(row)))


def _likers(recommender: Recommender) -> dict[int, frozenset[Id]]:
    """Users who like each item that was added after training, in a run that took in likes."""
    train, found = recommender.train, dict[int, set[Id]]()
    if train is not None and recommender.n_trained_pairs is not None:
        added = np.flatnonzero(train.items >= recommender.n_trained_items)
        ids = recommender.users.series.gather(train.users[added]).to_list()
        for item, user in zip(train.items[added].tolist(), ids, strict=True):
            found.setdefault(item, set()).add(user)
    return {item: frozenset(users) for item, users in found.items()}


def _with_moved_items(snapshot: Snapshot, changed: Mapping[Id, UserState]) -> Snapshot:
    """The snapshot with the items that were added after training moved by the likes of users who changed."""
    likers, moved = dict[int, frozenset[Id]](), set[int]()
    for user, state in changed.items():
        # a user of the training counts with the vector of the training, another one with that of all likes
        for row in state.history[state.history >= snapshot.recommender.n_trained_items].tolist():
            before = likers.get(row, snapshot.likers.get(row, frozenset()))
            if user not in before or snapshot.user_rows.get(user, -1) < 0:
                likers[row] = before | {user}
                moved.add(row)
        for row in state.disliked.tolist():
            before = likers.get(row, snapshot.likers.get(row, frozenset()))
            if user in before:
                likers[row] = before - {user}
                moved.add(row)
    snapshot = replace(snapshot, likers=snapshot.likers.updated(likers))
    queries = {row: vectors for row in sorted(moved) if (vectors := _liker_queries(snapshot, row)) is not None}
    scorer, recommender = snapshot.recommender.scorer, copy.copy(snapshot.recommender)
    assert isinstance(scorer, VectorScorer)  # of models that can move items
    back = torch.tensor(sorted(moved - queries.keys()), dtype=torch.int64)
    if len(back := back[torch.isin(back, scorer.moved_items)]):  # nobody likes these any more
        scorer = scorer.with_moved_items(back, scorer.vectors_before(back))
    if queries:
        scorer = recommender.model().fold_in_items(scorer, torch.tensor(list(queries)), list(queries.values()))
    recommender.scorer = scorer
    return replace(snapshot, recommender=recommender)


def _liker_queries(snapshot: Snapshot, row: int) -> Tensor | None:
    """Queries `(n, D)` of the users who like an item, in the order of their ids; None where no one likes another item.

    Each is computed alone, so that its bits do not depend on which likes came together.
    """
    recommender = snapshot.recommender
    vectors = []
    for user in sorted(snapshot.likers[row], key=lambda id: (isinstance(id, str), id))[:LIKERS]:
        if (at := snapshot.user_rows.get(user, -1)) >= 0:
            vectors.append(recommender.scorer.queries(torch.tensor([at])))
            continue
        others = (liked := snapshot.liked_rows(user))[liked != row]
        if len(others) and recommender.model().capabilities.new_users:
            vectors.append(recommender.model().fold_in(recommender.scorer, [others]))
    return torch.cat(vectors) if vectors else None
