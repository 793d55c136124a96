"""Add items, likes and events to a snapshot: pure functions from a snapshot and changes to the next snapshot.

A snapshot is the state that the server recommends from: the run with its changes.
"""

from __future__ import annotations

import bisect
import copy
import logging
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import polars as pl
import torch
from torch import Tensor

from lirdrec.data.column_names import ITEM
from lirdrec.data.ids import LARGEST, IdMap
from lirdrec.errors import CapabilityError, DataError, LirdrecError
from lirdrec.ranking.scorers import VectorScorer
from lirdrec.recommender.recommender import Recommender
from lirdrec.row_buffers import append_rows
from lirdrec.server.snapshot import Id, Snapshot, UserState
from lirdrec.server.store import Change, Event, NewItem

log = logging.getLogger(__name__)

LIKERS = 200  # most users whose likes change the vector of a new item; more users would hardly change their mean


@dataclass(frozen=True, slots=True)
class RowEvent:
    """A like or dislike, with the row of the item instead of its id; the user is stored beside it."""

    row: int
    is_like: bool
    timestamp: float | None


@dataclass
class _Group:
    """Successive changes of the store that can be applied in this order: first items, then events, then removals."""

    items: list[NewItem] = field(default_factory=list)
    events: list[Event] = field(default_factory=list)
    removed: list[Id] = field(default_factory=list)
    ids: set[Id] = field(default_factory=set)  # ids of all items in these changes


def independent_groups(changes: Sequence[Change]) -> Iterator[_Group]:
    """Split changes into groups, so that all items of a group are added at once: one at a time takes much longer."""
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


def with_stored(snapshot: Snapshot, items: Sequence[NewItem]) -> Snapshot:
    """Return a snapshot with items of the store added, except items that the run has already.

    An item that does not fit the run is logged and left out.
    """
    new = [item for item in items if snapshot.item_row(item.id) < 0]
    if not new:
        return snapshot
    try:
        return with_items(snapshot, new)
    except LirdrecError as error:
        if len(new) == 1:
            log.warning("item %r from the store is left out: %s", new[0].id, error)
            return snapshot
        middle = len(new) // 2
        return with_stored(with_stored(snapshot, new[:middle]), new[middle:])


def with_items(snapshot: Snapshot, items: Sequence[NewItem]) -> Snapshot:
    """Return a snapshot of the server's state with new items added; raise a LirdrecError if they do not fit the run."""
    recommender = copy.copy(snapshot.recommender)
    if recommender.features is None:
        raise CapabilityError("a slim run has only vectors and ids, so it cannot take new items; use the full run")
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
    """Change the ids of removed items whose id is added again to unused ids, so that ids stay unique."""
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
        kinds = ("integers", "a text") if is_integer else ("texts", "an integer")
        raise DataError(f"the item ids of this run are {kinds[0]}, but the id {misfits[0]!r} is {kinds[1]}")
    existing = set(recommender.item_table.columns)
    columns: dict[str, list[Any]] = {ITEM: [item.id for item in items]}
    for name in dict.fromkeys(name for item in items for name in item.columns):
        if name not in existing:
            raise DataError(f"the item table has no column '{name}'; it has {', '.join(sorted(existing - {ITEM}))}")
        columns[name] = [item.columns.get(name) for item in items]
    try:
        return pl.DataFrame(columns, strict=True)
    except (TypeError, OverflowError, pl.exceptions.PolarsError):
        raise DataError(
            "a column of the new items has values of different types, or too large ones; send values of one type"
        ) from None


def with_likes(snapshot: Snapshot, events: Mapping[Id, Sequence[RowEvent]]) -> Snapshot:
    """Return a snapshot with more likes and dislikes, for a model that does not read histories in order.

    Args:
        snapshot: the state before.
        events: id of a user → events in the order in which they were sent.
    """
    recommender = snapshot.recommender
    has_model = recommender.has_model and not recommender.is_slim
    can_fold = has_model and recommender.model().capabilities.new_users
    states: dict[Id, UserState] = {}
    times: dict[Id, dict[int, float]] = {}
    for user, of_user in events.items():
        times[user] = dict(snapshot.event_times.get(user, {}))
        liked, unliked = _by_opinion(_newest(of_user, times[user]))
        before, disliked_before = torch.unique(snapshot.liked_rows(user)), snapshot.disliked_rows(user)
        history, disliked = _changed(before, liked, unliked), _changed(disliked_before, unliked, liked)
        if torch.equal(history, before) and torch.equal(disliked, disliked_before):
            continue
        # if the likes are the same as in training, the trained vector is better
        trained = _trained_rows(snapshot, user)
        is_folded = can_fold and len(history) > 0 and not (len(trained) and torch.equal(history, trained))
        states[user] = UserState(history, is_folded, disliked)
    return _with_states(snapshot, states, times, can_move=has_model and recommender.model().can_warm_up)


def with_events(snapshot: Snapshot, events: Mapping[Id, Sequence[RowEvent]]) -> Snapshot:
    """Return a snapshot with more events, for a model that reads histories in order.

    Likes are appended to the history of the training in the order of their times; a like without a time is the latest.
    A user whose history does not differ from the training keeps the trained vector.

    Args:
        snapshot: the state before.
        events: id of a user → events in the order in which they were sent.
    """
    states: dict[Id, UserState] = {}
    times: dict[Id, dict[int, float]] = {}
    for user, of_user in events.items():
        known = snapshot.event_times.get(user, {})
        times[user] = dict(known)
        newest = _newest(of_user, times[user])
        before, disliked_before = snapshot.liked_rows(user), snapshot.disliked_rows(user)
        rows = before.tolist()
        history = torch.tensor(_appended(rows, [known.get(row, -math.inf) for row in rows], newest), dtype=torch.int64)
        liked, unliked = _by_opinion(newest)
        disliked = _changed(disliked_before, unliked, liked)
        if torch.equal(history, before) and torch.equal(disliked, disliked_before):
            continue
        row = snapshot.user_rows.get(user, -1)
        trained = row >= 0 and torch.equal(history, torch.from_numpy(snapshot.recommender.liked_rows(row)))
        states[user] = UserState(history, len(history) > 0 and not trained, disliked)
    return _with_states(snapshot, states, times, can_move=snapshot.recommender.model().can_warm_up)


def _with_states(
    snapshot: Snapshot, states: Mapping[Id, UserState], times: Mapping[Id, Mapping[int, float]], can_move: bool
) -> Snapshot:
    """Return a snapshot with new states and event times of users; added items are moved if the model can do that."""
    times = {user: of_user for user, of_user in times.items() if of_user}
    if times:
        snapshot = replace(snapshot, event_times=snapshot.event_times.updated(times))
    if not states:
        return snapshot
    grown = replace(snapshot, user_states=snapshot.user_states.updated(states))
    return _with_moved_items(grown, states) if can_move else grown


def _newest(events: Sequence[RowEvent], times: dict[int, float]) -> list[tuple[RowEvent, float]]:
    """Return the events that are not older than an earlier one of the same item, each with its time.

    An event without a time gets the time of the user's newest event so far, -inf if no event had a time.

    Args:
        events: events of one user, in the order in which they were sent.
        times: row of an item → time of its newest event before; it is changed.
    """
    newest, latest = [], max(times.values(), default=-math.inf)
    for event in events:
        time = latest if event.timestamp is None else event.timestamp
        if time < times.get(event.row, -math.inf):  # it was sent late: a newer event of the item is known
            continue
        latest = max(latest, time)
        if time > -math.inf:
            times[event.row] = time
        newest.append((event, time))
    return newest


def _by_opinion(events: Sequence[tuple[RowEvent, float]]) -> tuple[Tensor, Tensor]:
    """Return the rows `(n,)` int64 of the items whose last event is a like, and of those whose last is a dislike."""
    is_liked = {event.row: event.is_like for event, _ in events}
    liked, unliked = ([row for row, like in is_liked.items() if like is kept] for kept in (True, False))
    return torch.tensor(liked, dtype=torch.int64), torch.tensor(unliked, dtype=torch.int64)


def _appended(rows: list[int], times: list[float], events: Sequence[tuple[RowEvent, float]]) -> list[int]:
    """Add events with their times to a history; return its item rows, in the order of the times.

    An item occurs once, at the time of its latest like. A disliked item is removed. `rows` and `times`, the times of
    the rows, ascending, are changed.
    """
    for event, time in events:
        if event.row in rows:
            index = rows.index(event.row)
            del rows[index], times[index]
        if event.is_like:
            index = bisect.bisect_right(times, time)
            rows.insert(index, event.row)
            times.insert(index, time)
    return rows


def _changed(rows: Tensor, added: Tensor, removed: Tensor) -> Tensor:
    """Return the rows `(n,)` int64 after some rows were added and others removed, ascending."""
    joined = torch.unique(torch.cat([rows, added]))
    return joined[~torch.isin(joined, removed)]


def _trained_rows(snapshot: Snapshot, user: Id) -> Tensor:
    """Return the item rows `(n,)` int64 that the user liked in the run as it was saved, ascending."""
    row = snapshot.user_rows.get(user, -1)
    if row < 0 or snapshot.recommender.is_slim:
        return torch.empty(0, dtype=torch.int64)
    return torch.unique(torch.tensor(snapshot.recommender.liked_rows(row)))


def likers_of(recommender: Recommender) -> dict[int, frozenset[Id]]:
    """Return row of an item that was added after training → ids of the users who like it in the run.

    It is empty unless the run was saved with likes that were added after training.
    """
    train, found = recommender.train, dict[int, set[Id]]()
    if train is not None and recommender.n_trained_pairs is not None:
        added = np.flatnonzero(train.items >= recommender.n_trained_items)
        ids = recommender.users.series.gather(train.users[added]).to_list()
        for item, user in zip(train.items[added].tolist(), ids, strict=True):
            found.setdefault(item, set()).add(user)
    return {item: frozenset(users) for item, users in found.items()}


def _with_moved_items(snapshot: Snapshot, changed: Mapping[Id, UserState]) -> Snapshot:
    """Return a snapshot in which added items are moved: their vectors are nearer to the users who like them.

    An item that nobody likes any more gets its first vector again.

    Args:
        snapshot: the state, which has the changed likes and dislikes already.
        changed: id of a user whose likes or dislikes changed → the state after the change.
    """
    likers, moved = dict[int, frozenset[Id]](), set[int]()
    for user, state in changed.items():
        # a user of the training counts with the trained vector, any other user with a vector made of all likes
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
    assert isinstance(scorer, VectorScorer)  # true for all models that can move items
    back = torch.tensor(sorted(moved - queries.keys()), dtype=torch.int64)
    if len(back := back[torch.isin(back, scorer.moved_items)]):  # nobody likes these items any more
        scorer = scorer.with_moved_items(back, scorer.vectors_before(back))
    if queries:
        scorer = recommender.model().fold_in_items(scorer, torch.tensor(list(queries)), list(queries.values()))
    recommender.scorer = scorer
    return replace(snapshot, recommender=recommender)


def _liker_queries(snapshot: Snapshot, row: int) -> Tensor | None:
    """Return the vectors `(n, D)` of at most `LIKERS` users who like an item, in the order of their ids.

    The vector of a new user is made of the likes of other items. The result is None if no user has a vector. Each
    vector is computed alone, so that its bits do not depend on which likes arrived together.
    """
    recommender = snapshot.recommender
    vectors = []
    for user in sorted(snapshot.likers[row], key=lambda id: (isinstance(id, str), id))[:LIKERS]:
        if (index := snapshot.user_rows.get(user, -1)) >= 0:
            vectors.append(recommender.scorer.queries(torch.tensor([index])))
            continue
        others = (liked := snapshot.liked_rows(user))[liked != row]
        if len(others) and recommender.model().capabilities.new_users:
            vectors.append(recommender.model().fold_in(recommender.scorer, [others]))
    return torch.cat(vectors) if vectors else None
