"""Search among users and items as a person types."""

from __future__ import annotations

from dataclasses import dataclass
from weakref import WeakKeyDictionary

import polars as pl
import torch

from lirdrec.data.titles import titles
from lirdrec.recommender.recommender import Recommender
from lirdrec.server.state import Id, Snapshot

_ROW, _ID, _TEXT, _LIKES = "row", "id", "text", "likes"


@dataclass(frozen=True)
class Found:
    """What was found.

    Attributes:
        total: number of hits.
        rows: item rows, or ids of users, of the page that was asked for; best first.
    """

    total: int
    rows: list[int]


@dataclass(frozen=True)
class FoundUsers:
    """Users that were found, and how many items each liked."""

    total: int
    users: list[tuple[Id, int]]


class Search:
    """Looks for what a person types. Keeps one table of lower-case titles for each catalogue."""

    def __init__(self) -> None:
        self._items: WeakKeyDictionary[Recommender, pl.DataFrame] = WeakKeyDictionary()

    def items(self, snapshot: Snapshot, query: str, offset: int = 0, limit: int = 20) -> Found:
        """Items in whose title or id all words of the query occur.

        First the item with this id, then titles that begin with the query, then those in which a word does, and among
        equals what more people liked. An empty query finds everything.
        """
        table = self._table(snapshot.recommender)
        if bool(snapshot.gone.any()):
            table = table.filter(pl.Series((~snapshot.gone).numpy()))
        text = " ".join(query.lower().split())
        for word in text.split():
            hit = pl.col(_TEXT).str.contains(word, literal=True) | pl.col(_ID).str.contains(word, literal=True)
            table = table.filter(hit)
        if text:
            place = (
                pl.when(pl.col(_ID) == text)
                .then(0)
                .when(pl.col(_TEXT).str.starts_with(text))
                .then(1)
                .when(pl.col(_TEXT).str.contains(f" {text}", literal=True))
                .then(2)
                .otherwise(3)
            )
            table = table.with_columns(place.alias("place")).sort(
                "place", _LIKES, _ROW, descending=[False, True, False]
            )
        else:
            table = table.sort(_LIKES, _ROW, descending=[True, False])
        return Found(table.height, table[_ROW].slice(offset, limit).to_list())

    def users(self, snapshot: Snapshot, query: str, offset: int = 0, limit: int = 20) -> FoundUsers:
        """Users in whose id the query occurs: the one who is meant, then ids that begin so, then the rest in order."""
        known = snapshot.recommender.users.series.cast(pl.String)
        new = [str(user) for user in snapshot.people if user not in snapshot.user_rows]
        table = pl.DataFrame({_ID: pl.concat([known, pl.Series(new, dtype=pl.String)])}).with_row_index(_ROW)
        text = query.strip()
        if text:
            lower = pl.col(_ID).str.to_lowercase()
            place = pl.when(pl.col(_ID) == text).then(0).when(lower.str.starts_with(text.lower())).then(1).otherwise(2)
            table = table.filter(lower.str.contains(text.lower(), literal=True))
            table = table.with_columns(place.alias("place"), pl.col(_ID).str.len_bytes().alias("length"))
            table = table.sort("place", "length", _ROW)
        ids = table[_ID].slice(offset, limit)
        is_integer = snapshot.recommender.users.is_integer
        users: list[Id] = [int(one) if is_integer else one for one in ids]
        return FoundUsers(table.height, [(user, len(snapshot.liked_rows(user))) for user in users])

    def _table(self, recommender: Recommender) -> pl.DataFrame:
        table = self._items.get(recommender)
        if table is None:
            items = recommender.item_table
            found = titles(items)
            texts = pl.Series([""] * items.height) if found is None else found.fill_null("")
            likes = torch.zeros(recommender.n_items, dtype=torch.int64)
            if not recommender.is_slim:
                likes = torch.bincount(recommender.histories.items, minlength=recommender.n_items)
            table = pl.DataFrame(
                {
                    _ID: recommender.items.series.cast(pl.String).str.to_lowercase(),
                    _TEXT: texts.str.to_lowercase(),
                    _LIKES: likes.numpy(),
                }
            ).with_row_index(_ROW)
            self._items[recommender] = table
        return table
