"""From what a caller writes (one id, many ids, pairs, histories) to rows, with one sentence where an id is unknown.

Rankings of blocks of users, items or histories, and the long frames that they become.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import polars as pl
import torch
from torch import Tensor

from lirdrec.data.frames import to_polars
from lirdrec.data.ids import IdMap, as_list, known_rows
from lirdrec.data.schema import ITEM, RANK, SCORE, USER
from lirdrec.errors import ConfigError, DataError
from lirdrec.ranking.histories import Histories
from lirdrec.ranking.scorers import LARGEST_QUERY, sound_rows
from lirdrec.ranking.top_k import top_k_dense

QUERY_BYTES = 128 << 20  # queries held at once; the ranker has its own limit for scores


class SimilarityScorer:
    """Lets the one ranker rank similarities: a query is the row of the item or user itself, as a float."""

    def __init__(self, n_items: int, similarity: Callable[[Tensor], Tensor]):
        self.n_items, self.similarity = n_items, similarity

    def scores(self, queries: Tensor) -> Tensor:
        return self.similarity(queries[:, 0].long())


def blocks(n: int, width: int) -> Sequence[slice]:
    """`n` queries of `width` numbers, cut so that one block stays small."""
    step = max(1, QUERY_BYTES // (4 * max(1, width)))
    return [slice(start, min(start + step, n)) for start in range(0, n, step)]


def popular(
    histories: Histories, n_items: int, k: int, candidates: Tensor | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """The k items with the most training users: scores `(k,)` and rows `(k,)`; -inf and -1 where fewer remain."""
    counts = torch.bincount(histories.items, minlength=n_items).double()
    scores, rows = top_k_dense(counts[None], k, candidates)
    return scores[0].cpu().numpy(), rows[0].cpu().numpy()


def long_frame(
    column: str, ids: pl.Series, rows: np.ndarray, scores: np.ndarray, known: IdMap, found: str = ITEM
) -> pl.DataFrame:
    """Best rows `(B, k)`, -1 where there is none, as a frame `column`, `found`, rank, score."""
    real = rows >= 0
    owner, place = np.nonzero(real)
    return pl.DataFrame(
        {
            column: ids.gather(owner),
            found: known.series.gather(rows[real]),
            RANK: pl.Series(place + 1, dtype=pl.Int64),
            SCORE: pl.Series(scores[real], dtype=pl.Float64),
        }
    )


MODES = ("raise", "skip", "popular")  # what unknown users get


def pair_rows(pairs: Any, users: IdMap, items: IdMap) -> tuple[pl.DataFrame, np.ndarray, np.ndarray]:
    """A frame with columns user and item, or pairs of ids, as a frame and the rows of both.

    Raises:
        DataError: the columns are missing, or something is not a pair.
        UnknownIdError: an id is unknown.
    """
    if isinstance(pairs, (list, tuple)):
        if len(pairs) == 2 and all(isinstance(one, (str, int, np.integer)) for one in pairs):
            pairs = [pairs]
        if not all(isinstance(pair, (list, tuple)) and len(pair) == 2 for pair in pairs):
            raise DataError("score takes pairs (user, item), or a frame with the columns 'user' and 'item'")
        asked_users, asked_items = [u for u, _ in pairs], [i for _, i in pairs]
    else:
        frame, _ = to_polars(pairs)
        for column in (USER, ITEM):
            if column not in frame.columns:
                raise DataError(f"the pairs have no column {column!r}; their columns are {', '.join(frame.columns)}")
        asked_users, asked_items = frame[USER].to_list(), frame[ITEM].to_list()
    user_rows, item_rows = known_rows(asked_users, users), known_rows(asked_items, items)
    return (
        pl.DataFrame({USER: users.series.gather(user_rows), ITEM: items.series.gather(item_rows)}),
        user_rows,
        item_rows,
    )


def histories(items_or_lists: Any) -> list[list[Any]]:
    """One list of liked items, or many lists, as a list of lists. An array with two dimensions has a list in each row.

    Raises:
        DataError: a list is empty, or an array has more dimensions.
    """
    if isinstance(items_or_lists, Tensor):
        items_or_lists = items_or_lists.numpy(force=True)
    if isinstance(items_or_lists, np.ndarray) and items_or_lists.ndim > 1:
        if items_or_lists.ndim > 2:
            raise DataError(
                f"histories of shape {items_or_lists.shape}: give a list of liked items for each person, or an array"
                " with a row for each"
            )
        items_or_lists = items_or_lists.tolist()
    outer = as_list(items_or_lists)
    nested = bool(outer) and not isinstance(outer[0], (str, int, np.integer))
    lists = [as_list(one) for one in outer] if nested else [outer]
    for number, one in enumerate(lists):
        if not one:
            where = f"history {number}" if nested else "the history"
            raise DataError(f"{where} is empty: give at least one item that the user liked")
    return lists


def check_unknown(unknown: str) -> None:
    """Refuse a word that does not say what unknown users get.

    Raises:
        ConfigError: it is none of `MODES`.
    """
    if unknown not in MODES:
        raise ConfigError(f"unknown is {unknown!r}; choose one of {', '.join(map(repr, MODES))}")


def check_k(k: int, n: int | None = None, what: str = "items") -> None:
    """Refuse a k that cannot be served; without `n`, a k that no run could serve.

    Raises:
        ConfigError: k is below 1 or above the number of items.
    """
    if isinstance(k, bool) or not isinstance(k, (int, np.integer)) or k < 1:
        raise ConfigError(f"k is {k!r}; it must be a whole number of 1 or more")
    if n is not None and k > n:
        raise ConfigError(f"k is {k:,}, but there are only {n:,} {what}; choose a k of at most {n:,}")


def check_queries(queries: Tensor, first: int = 0) -> None:
    """Refuse vectors `(B, D)` of histories `first`, `first + 1`, … by which nothing could be ranked.

    Raises:
        DataError: numbers that are not finite, or so large that scores would not be.
    """
    sound = sound_rows(queries, LARGEST_QUERY)
    if not bool(sound.all()):
        number = first + int((~sound).nonzero()[0])
        raise DataError(f"history {number}: what was liked gives no finite vector to rank by")
