"""The run and all that was added since, as one snapshot that answers are computed from.

A mapping that grows by copies that are cheap, so that who holds an older one sees no change.
"""

from __future__ import annotations

import copy
import logging
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar, overload

import numpy as np
import polars as pl
import torch
from torch import Tensor

from lirdrec.data.ids import LARGEST, IdMap
from lirdrec.data.schema import ITEM
from lirdrec.errors import CapabilityError, DataError, LirdrecError
from lirdrec.ranking.scorers import VectorScorer
from lirdrec.recommender.recommender import Recommender
from lirdrec.row_buffers import append_rows
from lirdrec.server.cache import ByteCache
from lirdrec.server.store import Change, ConflictError, Event, NewItem, Store, check_distinct

K = TypeVar("K")
V = TypeVar("V")
T = TypeVar("T")

RECENT = 4096  # entries that are copied with every change, before they join the rest


class PersistentMap(Mapping[K, V]):
    """A large mapping that is shared and the few entries that were changed since; never changed itself.

    Args:
        base: the entries; whoever passes them changes them no more.
        recent: entries that hide those of `base`.
    """

    __slots__ = ("_base", "_recent")

    def __init__(self, base: Mapping[K, V] | None = None, recent: Mapping[K, V] | None = None):
        self._base: Mapping[K, V] = {} if base is None else base
        self._recent: Mapping[K, V] = {} if recent is None else recent

    def updated(self, entries: Mapping[K, V]) -> PersistentMap[K, V]:
        """A mapping with these entries too."""
        recent = {**self._recent, **entries}
        return PersistentMap(self._base, recent) if len(recent) <= RECENT else PersistentMap({**self._base, **recent})

    @overload
    def get(self, key: K, default: None = None, /) -> V | None: ...
    @overload
    def get(self, key: K, default: V | T, /) -> V | T: ...
    def get(self, key: K, default: Any = None, /) -> Any:
        return self._recent[key] if key in self._recent else self._base.get(key, default)

    def __getitem__(self, key: K) -> V:
        return self._recent[key] if key in self._recent else self._base[key]

    def __contains__(self, key: object) -> bool:
        return key in self._recent or key in self._base

    def __iter__(self) -> Iterator[K]:
        yield from self._base
        yield from (key for key in self._recent if key not in self._base)

    def __len__(self) -> int:
        return len(self._base) + sum(key not in self._base for key in self._recent)


log = logging.getLogger(__name__)

Id = str | int
KEPT_BYTES = 32 * 2**20  # of the vectors of people who are folded in


@dataclass(eq=False)
class UserState:
    """A user whose likes grew while serving.

    Attributes:
        liked: `(n,)` int64 item rows, those of training included.
        is_folded: whether the vector is folded in from them; the model may not be able to.
    """

    liked: Tensor
    is_folded: bool


@dataclass(frozen=True, eq=False)
class Snapshot:
    """What is recommended from. Replaced as a whole, so a request sees one state from beginning to end.

    Attributes:
        recommender: the run with the items that were added; nobody changes it.
        number: the last change of the store that is in it.
        gone: `(I,)` bool, removed items.
        user_rows, item_rows: id → row; nobody changes them.
        people: users who liked what the run does not know of; nobody changes it.
        run: the folder.
        vectors: `(D,)` of people who are folded in, of those who were asked for last; shared by all snapshots of a run.
    """

    recommender: Recommender
    number: int
    gone: Tensor
    user_rows: PersistentMap[Id, int]
    item_rows: PersistentMap[Id, int]
    people: PersistentMap[Id, UserState]
    run: Path
    vectors: ByteCache[UserState, Tensor] = field(default_factory=lambda: ByteCache(KEPT_BYTES))

    @cached_property
    def gone_rows(self) -> Tensor:
        """Rows `(n,)` int64 of the items that were removed."""
        return self.gone.nonzero().squeeze(1)

    def item_row(self, item: Id) -> int:
        """The row of an item that can be recommended, else -1."""
        row = self.item_rows.get(item, -1)
        return row if row >= 0 and not bool(self.gone[row]) else -1

    def queries(self, people: Sequence[UserState]) -> Tensor:
        """Vectors `(n, D)` of people who are folded in. Each is computed when it is first asked for, and kept.

        Not when the like comes: a server that starts goes through years of likes. Histories as rows over all items
        are not kept: they would be of the wrong width after the next item, and are quickly made.
        """
        scorer = self.recommender.scorer
        if not isinstance(scorer, VectorScorer):
            return self.recommender.model().fold_in(scorer, [one.liked for one in people])
        found = {one: self.vectors.get(one) for one in people}
        new = [one for one, vector in found.items() if vector is None]
        if new:
            vectors = self.recommender.model().fold_in(scorer, [one.liked for one in new])
            for one, vector in zip(new, vectors, strict=True):
                found[one] = vector
                self.vectors.put(one, vector.clone(), vector.nbytes + one.liked.nbytes)
        return torch.stack([vector for one in people if (vector := found[one]) is not None])

    def liked_rows(self, user: Id) -> Tensor:
        """Item rows `(n,)` int64 that the user liked, in training and since; empty for a stranger."""
        person = self.people.get(user)
        if person is not None:
            return person.liked
        row = self.user_rows.get(user, -1)
        if row < 0 or self.recommender.is_slim:
            return torch.empty(0, dtype=torch.int64)
        return torch.tensor(self.recommender.liked_rows(row))


class LiveState:
    """The current snapshot, and how it follows the store. Safe to use from several threads.

    Args:
        run: a run folder.
        store: where changes are kept; those that are there already are taken over.

    Raises:
        LirdrecError: the run or the store cannot be read.
    """

    def __init__(self, run: str | Path, store: Store):
        self.store = store
        self._lock = threading.RLock()
        self._snapshot = self._load(Path(run))

    @property
    def snapshot(self) -> Snapshot:
        """The state as it is now."""
        return self._snapshot

    def catch_up(self) -> Snapshot:
        """The snapshot after all changes that anyone has made by now."""
        if self.store.latest() > self._snapshot.number:
            with self._lock:
                self._snapshot = self._followed(self._snapshot)
        return self._snapshot

    def swap(self, run: str | Path, prepare: Callable[[Snapshot], None] = lambda snapshot: None) -> Snapshot:
        """Serve another run, with all changes since the store began; requests go on meanwhile on the old one.

        Args:
            run: a run folder.
            prepare: what else must be ready before the first request is answered from it.
        """
        fresh = self._load(Path(run))
        prepare(fresh)
        with self._lock:
            self._snapshot = self._followed(fresh)
        return self._snapshot

    # ------------------------------------------------------------ changes

    def add_items(self, items: Sequence[NewItem]) -> Snapshot:
        """Keep new items durably and recommend them from now on; all of them or none.

        Raises:
            ConflictError: an id is there already.
            DataError, CapabilityError: features or columns do not fit, or the model cannot take new items.
            StoreError: they could not be written.
        """
        with self._lock:
            snapshot = self.catch_up()
            for one in items:
                if snapshot.item_row(one.id) >= 0:
                    raise ConflictError(f"item {one.id!r} is there already; remove it first")
            check_distinct(items)
            grown = _with_items(snapshot, items)  # before anything is written: what does not fit is refused here
            number = self.store.add_items(items)
            # another server may have written in between: then its change comes first
            if number == snapshot.number + len(items):
                self._snapshot = replace(grown, number=number)
            return self.catch_up()

    def remove_item(self, item: Id) -> Snapshot:
        """Recommend an item no more.

        Raises:
            ConflictError: there is no such item.
            StoreError: it could not be written.
        """
        with self._lock:
            # the store may hold an item that did not fit this run: it must be possible to be rid of it
            if self.catch_up().item_row(item) < 0 and not self.store.holds(item):
                raise ConflictError(f"there is no item {item!r}")
            self.store.remove_item(item)
            return self.catch_up()

    def add_events(self, events: Sequence[Event]) -> Snapshot:
        """Keep what users liked, and refresh their vectors.

        Raises:
            ConflictError: an item is unknown.
            StoreError: they could not be written.
        """
        with self._lock:
            snapshot = self.catch_up()
            for one in events:
                if snapshot.item_row(one.item) < 0:
                    raise ConflictError(f"there is no item {one.item!r}")
            self.store.add_events(events)
            return self.catch_up()

    # ------------------------------------------------------------ inside

    def _load(self, run: Path) -> Snapshot:
        recommender = Recommender.load(run)
        users, items = (
            PersistentMap(dict(zip(known.series.to_list(), range(len(known)), strict=True)))
            for known in (recommender.users, recommender.items)
        )
        gone = torch.zeros(recommender.n_items, dtype=torch.bool)
        return self._followed(Snapshot(recommender, 0, gone, users, items, PersistentMap(), run))

    def _followed(self, snapshot: Snapshot) -> Snapshot:
        liked: dict[Id, list[int]] = {}  # user → item rows; they have an effect at the end only, whatever comes between
        while changes := self.store.changes(snapshot.number):
            for stretch in _stretches(changes):
                snapshot = _with_stored(snapshot, stretch.items)
                for one in stretch.events:
                    row = snapshot.item_rows.get(one.item, -1)
                    if row >= 0:
                        liked.setdefault(one.user, []).append(row)
                snapshot = _without(snapshot, stretch.removed)
            snapshot = replace(snapshot, number=changes[-1].number)
        return _with_likes(snapshot, liked)


@dataclass
class _Stretch:
    """Changes that have the same effect in any order in which each item comes before what is said about it."""

    items: list[NewItem] = field(default_factory=list)
    events: list[Event] = field(default_factory=list)
    removed: list[Id] = field(default_factory=list)
    named: set[Id] = field(default_factory=set)


def _stretches(changes: Sequence[Change]) -> Iterator[_Stretch]:
    """Items are placed together where that can be: one at a time, thousands of them would take minutes."""
    stretch = _Stretch()
    for change in changes:
        if change.item is not None:
            if change.item.id in stretch.named:  # an id that comes again
                yield stretch
                stretch = _Stretch()
            stretch.items.append(change.item)
            stretch.named.add(change.item.id)
        elif change.event is not None:
            stretch.events.append(change.event)
            stretch.named.add(change.event.item)
        else:
            stretch.removed.append(change.subject)
            stretch.named.add(change.subject)
    yield stretch


def _without(snapshot: Snapshot, removed: Sequence[Id]) -> Snapshot:
    rows = [snapshot.item_rows[item] for item in removed if item in snapshot.item_rows]
    if not rows:
        return snapshot
    gone = snapshot.gone.clone()
    gone[rows] = True
    return replace(snapshot, gone=gone)


def _with_stored(snapshot: Snapshot, items: Sequence[NewItem]) -> Snapshot:
    """Items from the log. One that this run was trained with is not added; one that does not fit is left out."""
    fresh = [one for one in items if snapshot.item_row(one.id) < 0]
    if not fresh:
        return snapshot
    try:
        return _with_items(snapshot, fresh)
    except LirdrecError as error:
        if len(fresh) == 1:
            log.warning("item %r from the store is left out: %s", fresh[0].id, error)
            return snapshot
        middle = len(fresh) // 2
        return _with_stored(_with_stored(snapshot, fresh[:middle]), fresh[middle:])


def _with_items(snapshot: Snapshot, items: Sequence[NewItem]) -> Snapshot:
    """The snapshot with items added; the old one stays as it is."""
    recommender = copy.copy(snapshot.recommender)
    if recommender.features is None:
        raise CapabilityError("a slim run holds vectors and ids only, so it cannot take new items; use the full run")
    ids = [one.id for one in items]
    _hide_old(recommender, ids)
    recommender.add_items(_frame(items, recommender), _features(items))
    first = snapshot.recommender.n_items
    rows = snapshot.item_rows.updated(dict(zip(ids, range(first, first + len(ids)), strict=True)))
    gone = append_rows(snapshot.gone, torch.zeros(len(items), dtype=torch.bool))
    return replace(snapshot, recommender=recommender, gone=gone, item_rows=rows)


def _hide_old(recommender: Recommender, new: Sequence[Id]) -> None:
    """Give removed items, whose ids come again, ids that nobody uses: an id stands for one row only."""
    rows = recommender.items.rows(list(new))
    rows = rows[rows >= 0]
    if not len(rows):
        return
    ids = recommender.items.series.to_list()
    taken = {*ids, *new}
    unused = (id for id in range(LARGEST, -1, -1) if id not in taken)
    for row in rows.tolist():
        ids[row] = next(unused) if recommender.items.is_integer else f"\x00removed {row}"
    recommender.items = IdMap(pl.Series(ITEM, ids, dtype=recommender.items.series.dtype), recommender.items.entity)
    recommender.item_table = recommender.item_table.with_columns(recommender.items.series.alias(ITEM))


def _frame(items: Sequence[NewItem], recommender: Recommender) -> pl.DataFrame:
    is_integer = recommender.items.is_integer
    if strange := [one.id for one in items if isinstance(one.id, str) is is_integer]:
        raise DataError(f"the item ids of this run are {'integers' if is_integer else 'texts'}, {strange[0]!r} is not")
    known = set(recommender.item_table.columns)
    columns: dict[str, list[Any]] = {ITEM: [one.id for one in items]}
    for name in dict.fromkeys(name for one in items for name in one.columns):
        if name not in known:
            raise DataError(f"the item table has no column '{name}'; it has {', '.join(sorted(known - {ITEM}))}")
        columns[name] = [one.columns.get(name) for one in items]
    try:
        return pl.DataFrame(columns, strict=True)
    except (TypeError, OverflowError, pl.exceptions.PolarsError):
        raise DataError("a column of the new items holds values of different types, or too large ones") from None


def _features(items: Sequence[NewItem]) -> dict[str, list[Any]]:
    names = dict.fromkeys(name for one in items for name in one.features)
    # in the type in which the store keeps them, so that a restart gives the same vectors
    return {
        name: [None if (row := one.features.get(name)) is None else np.asarray(row, np.float32) for one in items]
        for name in names
    }


def _with_likes(snapshot: Snapshot, liked: Mapping[Id, Sequence[int]]) -> Snapshot:
    """The snapshot with users who liked these item rows."""
    recommender = snapshot.recommender
    if not liked:
        return snapshot
    is_folded = not recommender.is_slim and recommender.model().capabilities.new_users
    people: dict[Id, UserState] = {}
    for user, new in liked.items():
        before = snapshot.liked_rows(user)
        after = torch.unique(torch.cat([before, torch.tensor(new)]))
        # nothing that was not known, from training for instance: then the trained vector is the better one
        if len(after) > len(torch.unique(before)):
            people[user] = UserState(after, is_folded)
    return replace(snapshot, people=snapshot.people.updated(people)) if people else snapshot
