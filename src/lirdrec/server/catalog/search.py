"""Search for items by title or id, and search for users by id."""

from __future__ import annotations

from weakref import WeakKeyDictionary

import polars as pl
import torch

from lirdrec.data.titles import titles
from lirdrec.recommender.recommender import Recommender
from lirdrec.server.snapshot import Id, Snapshot

_ROW, _ID, _TEXT, _LIKES = "row", "id", "text", "likes"


class Search:
    """Search for items and users, ignoring case. A table of titles is cached for each state of the catalog."""

    def __init__(self) -> None:
        self._items: WeakKeyDictionary[Recommender, pl.DataFrame] = WeakKeyDictionary()

    def items(self, snapshot: Snapshot, query: str, offset: int = 0, limit: int = 20) -> tuple[int, list[int]]:
        """Find the items with all words of the query in their title or id; an empty query finds all items.

        The order is: the item whose id is the query, titles that start with the query, titles in which a later word
        starts with the query, other matches. Among equal matches, items with more likes are first. Removed items are
        left out.

        Returns:
            The number of all matches, and the item rows of one page: at most `limit` matches from the match `offset`.
        """
        table = self._table(snapshot.recommender)
        if bool(snapshot.removed.any()):
            table = table.filter(pl.Series((~snapshot.removed).numpy()))
        text = " ".join(query.lower().split())
        for word in text.split():
            table = table.filter(
                pl.col(_TEXT).str.contains(word, literal=True) | pl.col(_ID).str.contains(word, literal=True)
            )
        if text:
            is_id, is_start = pl.col(_ID) == text, pl.col(_TEXT).str.starts_with(text)
            is_word = pl.col(_TEXT).str.contains(f" {text}", literal=True)
            table = table.sort(~is_id, ~is_start, ~(is_start | is_word), -pl.col(_LIKES), _ROW)
        else:
            table = table.sort(-pl.col(_LIKES), _ROW)
        return table.height, table[_ROW].slice(offset, limit).to_list()

    def users(
        self, snapshot: Snapshot, query: str, offset: int = 0, limit: int = 20
    ) -> tuple[int, list[tuple[Id, int]]]:
        """Find the users with the query in their id, also new users; an empty query finds all users.

        The order is: the exact id, ids that start with the query, other ids; among these, short ids first.

        Returns:
            The number of all matches, and the id and the number of likes of each user of one page.
        """
        trained = snapshot.recommender.users.series.cast(pl.String)
        new = [str(user) for user in snapshot.user_states if user not in snapshot.user_rows]
        table = pl.DataFrame({_ID: pl.concat([trained, pl.Series(new, dtype=pl.String)])}).with_row_index(_ROW)
        text = query.strip()
        if text:
            lower = pl.col(_ID).str.to_lowercase()
            table = table.filter(lower.str.contains(text.lower(), literal=True))
            is_start = lower.str.starts_with(text.lower())
            table = table.sort(pl.col(_ID) != text, ~is_start, pl.col(_ID).str.len_bytes(), _ROW)
        ids = table[_ID].slice(offset, limit)
        is_integer = snapshot.recommender.users.is_integer
        users: list[Id] = [int(id) if is_integer else id for id in ids]
        return table.height, [(user, len(snapshot.liked_rows(user))) for user in users]

    def _table(self, recommender: Recommender) -> pl.DataFrame:
        table = self._items.get(recommender)
        if table is None:
            items = recommender.item_table
            names = titles(items)
            texts = pl.Series([""] * items.height) if names is None else names.fill_null("")
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
