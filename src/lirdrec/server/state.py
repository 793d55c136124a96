"""The live state of the server: the current snapshot (the run with its changes), kept up to date with the store."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import torch

from lirdrec.recommender.recommender import Recommender
from lirdrec.server.snapshot import Id, PersistentMap, Snapshot
from lirdrec.server.snapshot_changes import (
    RowEvent,
    independent_groups,
    likers_of,
    with_events,
    with_items,
    with_likes,
    with_stored,
)
from lirdrec.server.store import DISLIKES, ConflictError, Event, NewItem, Store, check_unique_ids


class LiveState:
    """The current snapshot (the run with its changes), kept up to date with the store. Safe to use in several threads.

    Args:
        run: a run folder.
        store: the log of changes; all of them are applied.
        dislikes: types of events that are dislikes, in addition to "dislike"; all other types are likes.

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
        """Apply all new changes in the store, of this and of other servers, and return the snapshot."""
        if self.store.latest() > self._snapshot.number:
            with self._lock:
                self._snapshot = self._followed(self._snapshot)
        return self._snapshot

    def swap(self, run: str | Path, prepare: Callable[[Snapshot], None] = lambda snapshot: None) -> Snapshot:
        """Serve another run folder, with all changes of the store; return its snapshot.

        Args:
            run: the run folder.
            prepare: called with the new snapshot before it is served.

        Raises:
            LirdrecError: the run or the store cannot be read. The old run is still served.
        """
        fresh = self._load(Path(run))
        prepare(fresh)
        with self._lock:
            self._snapshot = self._followed(fresh)
        return self._snapshot

    def is_like(self, event: Event) -> bool:
        """Return whether an event is a like: any event whose type is not one of the dislikes, or that has no type."""
        return event.type not in self._dislikes

    # ------------------------------------------------------------ changes

    def add_items(self, items: Sequence[NewItem]) -> Snapshot:
        """Store new items durably, and recommend them from now on: all of them or none. Return the new snapshot.

        Raises:
            ConflictError: an id exists already.
            DataError, CapabilityError: features or columns do not fit, or the model does not support new items.
            StoreError: the items could not be written.
        """
        with self._lock:
            snapshot = self.catch_up()
            for item in items:
                if snapshot.item_row(item.id) >= 0:
                    raise ConflictError(f"item {item.id!r} exists already; remove it first")
            check_unique_ids(items)
            extended = with_items(snapshot, items)  # raises before anything is written
            number = self.store.add_items(items)
            # if another server has written in between, `catch_up` applies its change first
            if number == snapshot.number + len(items):
                self._snapshot = replace(extended, number=number)
            return self.catch_up()

    def remove_item(self, item: Id) -> Snapshot:
        """Stop recommending an item, and store this. Return the new snapshot.

        Raises:
            ConflictError: there is no such item in the run or the store.
            StoreError: the removal could not be written.
        """
        with self._lock:
            # the store may hold an item that did not fit this run; it can be removed too
            if self.catch_up().item_row(item) < 0 and not self.store.holds(item):
                raise ConflictError(f"there is no item {item!r}")
            self.store.remove_item(item)
            return self.catch_up()

    def add_events(self, events: Sequence[Event]) -> Snapshot:
        """Store new events of users, and apply them: all of them or none. Return the new snapshot.

        Raises:
            ConflictError: an item is unknown or was removed.
            StoreError: the events could not be written.
        """
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
        likers = PersistentMap(likers_of(recommender))
        return self._followed(Snapshot(recommender, 0, removed, users, items, PersistentMap(), run, likers=likers))

    def _followed(self, snapshot: Snapshot) -> Snapshot:
        events: dict[Id, list[RowEvent]] = {}  # user → all new events; applied once, at the end
        while changes := self.store.changes(snapshot.number):
            for group in independent_groups(changes):
                snapshot = with_stored(snapshot, group.items)
                for event in group.events:
                    if (row := snapshot.item_rows.get(event.item, -1)) >= 0:
                        new = RowEvent(row, self.is_like(event), event.timestamp)
                        events.setdefault(event.user, []).append(new)
                if rows := [snapshot.item_rows[item] for item in group.removed if item in snapshot.item_rows]:
                    removed = snapshot.removed.clone()
                    removed[rows] = True
                    snapshot = replace(snapshot, removed=removed)
            snapshot = replace(snapshot, number=changes[-1].number)
        if not events:
            return snapshot
        return with_events(snapshot, events) if snapshot.recommender.is_ordered else with_likes(snapshot, events)
