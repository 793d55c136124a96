"""Helpers of `Recommender` queries: check arguments, turn ids and histories into rows, and results into frames."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import polars as pl
import torch
from torch import Tensor

from lirdrec.data.column_names import ITEM, RANK, SCORE, TIMESTAMP, USER
from lirdrec.data.frames import to_polars
from lirdrec.data.ids import IdMap, as_list, known_rows
from lirdrec.data.positions_or_times import last_positions
from lirdrec.errors import ConfigError, DataError
from lirdrec.models.base import Model
from lirdrec.ranking.histories import Histories
from lirdrec.ranking.scorers import LARGEST_QUERY, Scorer, finite_rows
from lirdrec.ranking.top_k import top_k, top_k_dense

QUERY_BYTES = 128 << 20  # largest size of the queries of one block; the ranker has its own limit for scores
MODES = ("raise", "skip", "popular")  # what to do with unknown users


class _SimilarityScorer:
    """Lets `top_k` rank by similarity: a query is the row number of an item or user, as a float."""

    def __init__(self, n_items: int, similarity: Callable[[Tensor], Tensor]):
        self.n_items, self.similarity = n_items, similarity

    def scores(self, queries: Tensor) -> Tensor:
        return self.similarity(queries[:, 0].long())


def most_similar(
    similarity: Callable[[Tensor], Tensor], n: int, rows: Tensor, k: int, candidates: Tensor | None
) -> tuple[np.ndarray, np.ndarray]:
    """Find the k rows most similar to each of `rows` `(B,)`, without itself; return similarities, rows `(B, k)`.

    Args:
        similarity: function from rows `(b,)` to similarities `(b, n)`, such as `Scorer.similar_items`.
        n: number of all rows.
        candidates: `(c,)` rows to choose from, or None for all.
    """
    itself = (torch.arange(len(rows), device=rows.device), rows)
    scorer: Any = _SimilarityScorer(n, similarity)
    scores, nearest = top_k(scorer, rows[:, None].float(), k, seen=itself, candidates=candidates)
    return scores.cpu().numpy(), nearest.cpu().numpy()


def query_blocks(n: int, scorer: Scorer, device: torch.device) -> list[slice]:
    """Return slices that cut `n` queries of a scorer on `device` into blocks of at most `QUERY_BYTES`."""
    width = scorer.queries(torch.zeros(1, dtype=torch.int64, device=device)).shape[1] if scorer.n_users else 1
    step = max(1, QUERY_BYTES // (4 * max(1, width)))
    return [slice(start, min(start + step, n)) for start in range(0, n, step)]


def folded_in(
    model: Model, scorer: Scorer, histories: Sequence[Tensor], name: Callable[[int], str] = "history {}".format
) -> Iterator[tuple[slice, Tensor]]:
    """Compute the queries (vectors) of histories in blocks; yield the slice of a block, and its queries `(b, D)`.

    The queries of a block have at most `QUERY_BYTES`.

    Args:
        model: computes the queries (`Model.fold_in`).
        scorer: the scorer of this model.
        histories: one or more, item rows `(n,)` int64 each, on the scorer's device.
        name: function from the position of a history to its name in messages.

    Raises:
        DataError: see `check_queries`.
    """
    for block in query_blocks(len(histories), scorer, histories[0].device):
        queries = model.fold_in(scorer, histories[block])
        check_queries(queries, name, block.start)
        yield block, queries


def popular(
    histories: Histories, n_items: int, k: int, candidates: Tensor | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Return the k items that occur in the most histories: these numbers `(k,)` and the item rows `(k,)`.

    Where there are fewer candidates than k, these are -inf and -1.
    """
    counts = torch.bincount(histories.items, minlength=n_items).double()
    scores, rows = top_k_dense(counts[None], k, candidates)
    return scores[0].cpu().numpy(), rows[0].cpu().numpy()


def long_frame(
    column: str, ids: pl.Series, rows: np.ndarray, scores: np.ndarray, id_map: IdMap, result_column: str = ITEM
) -> pl.DataFrame:
    """Return lists of ranked rows as a frame with the columns `column`, `result_column`, rank and score.

    Args:
        column: the name of the first column.
        ids: `(B,)` values of the first column, one for each list.
        rows: `(B, k)` rows of `id_map`, best first; -1 for no item.
        scores: `(B, k)`.
        id_map: gives the ids of the rows.
        result_column: the name of the column with these ids.
    """
    exists = rows >= 0
    query, rank = np.nonzero(exists)
    return pl.DataFrame(
        {
            column: ids.gather(query),
            result_column: id_map.series.gather(rows[exists]),
            RANK: pl.Series(rank + 1, dtype=pl.Int64),
            SCORE: pl.Series(scores[exists], dtype=pl.Float64),
        }
    )


def pair_rows(pairs: Any, users: IdMap, items: IdMap) -> tuple[pl.DataFrame, np.ndarray, np.ndarray]:
    """Read pairs of ids, or a frame with columns user and item; return a frame of the ids, user rows and item rows.

    Raises:
        DataError: a column is missing, or an entry is not a pair.
        UnknownIdError: an id is unknown.
    """
    if isinstance(pairs, (list, tuple)):
        if len(pairs) == 2 and all(isinstance(value, (str, int, np.integer)) for value in pairs):
            pairs = [pairs]
        if not all(isinstance(pair, (list, tuple)) and len(pair) == 2 for pair in pairs):
            raise DataError("give pairs (user, item), or a frame with the columns 'user' and 'item'")
        user_ids, item_ids = [u for u, _ in pairs], [i for _, i in pairs]
    else:
        frame, _ = to_polars(pairs)
        for column in (USER, ITEM):
            if column not in frame.columns:
                raise DataError(f"the pairs have no column {column!r}; their columns are {', '.join(frame.columns)}")
        user_ids, item_ids = frame[USER].to_list(), frame[ITEM].to_list()
    user_rows, item_rows = known_rows(user_ids, users), known_rows(item_ids, items)
    return (
        pl.DataFrame({USER: users.series.gather(user_rows), ITEM: items.series.gather(item_rows)}),
        user_rows,
        item_rows,
    )


def pair_times(pairs: Any) -> np.ndarray | None:
    """Return the column `timestamp` of a frame of pairs, `(n,)` int64; None without such a column or frame.

    Raises:
        DataError: the column has missing values, or values that are not whole numbers.
    """
    if isinstance(pairs, (list, tuple)):
        return None
    frame, _ = to_polars(pairs)
    if TIMESTAMP not in frame.columns:
        return None
    times = frame[TIMESTAMP]
    if not times.dtype.is_integer() or times.null_count():
        raise DataError(
            f"the column '{TIMESTAMP}' must have whole numbers in the unit of the training interactions, in every row;"
            " leave the column out, and the order of the rows counts"
        )
    return times.cast(pl.Int64).to_numpy()


def user_rows(ids: list[Any], users: IdMap, unknown: str) -> tuple[list[Any], np.ndarray]:
    """Return the ids of users, and their rows. `unknown` says what to do with unknown users.

    "skip" leaves them out, "popular" gives them the row -1, and "raise" raises an error.

    Raises:
        UnknownIdError: an unknown user with "raise"; an id of another type with "popular".
    """
    rows = users.rows(ids)
    is_known = rows >= 0
    if unknown == "skip":
        return list(itertools.compress(ids, is_known)), rows[is_known]
    refused = list(itertools.compress(ids, ~is_known))
    if unknown == "popular":
        refused = [id for id in refused if isinstance(id, str) is users.is_integer]
    if refused:
        known_rows(refused, users)  # raises
    return ids, rows


def owned(lists: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Join lists of item rows; return, for each entry, the number of its list and the entry, `(n,)` int64 each."""
    lengths = torch.tensor(list(map(len, lists)), device=lists[0].device)
    return torch.repeat_interleave(lengths), torch.cat(list(lists))


def history_rows(rows: np.ndarray, ordered: bool) -> np.ndarray:
    """Return the distinct item rows of a history: for ordered models in order of last occurrence, else ascending.

    >>> history_rows(np.array([4, 2, 4, 1]), ordered=True).tolist()
    [2, 4, 1]
    """
    if not ordered:
        return np.unique(rows)
    return rows[last_positions(rows)]


def as_histories(items_or_lists: Any) -> list[list[Any]]:
    """Return one list of liked items, or many lists, as a list of lists; a matrix has a list in each row.

    Raises:
        DataError: a list is empty, or an array has more than two dimensions.
    """
    if isinstance(items_or_lists, Tensor):
        items_or_lists = items_or_lists.numpy(force=True)
    if isinstance(items_or_lists, np.ndarray) and items_or_lists.ndim > 1:
        if items_or_lists.ndim > 2:
            raise DataError(
                f"histories of shape {items_or_lists.shape}: give a list of liked items for each user, or an array"
                " with a row for each user"
            )
        items_or_lists = items_or_lists.tolist()
    outer = as_list(items_or_lists)
    nested = bool(outer) and not isinstance(outer[0], (str, int, np.integer))
    lists = [as_list(inner) for inner in outer] if nested else [outer]
    for number, history in enumerate(lists):
        if not history:
            name = f"history {number}" if nested else "the history"
            raise DataError(f"{name} is empty: give at least one item that the user liked")
    return lists


def check_unknown(unknown: str) -> None:
    """Check the option `unknown` of `Recommender.recommend`, which says what to do with unknown users.

    Raises:
        ConfigError: it is not one of `MODES`.
    """
    if unknown not in MODES:
        raise ConfigError(f"unknown={unknown!r}: choose one of {', '.join(map(repr, MODES))}")


def check_k(k: int, n: int | None = None, entities: str = "items") -> None:
    """Check that k is an integer from 1 to `n` (None: no upper limit).

    Raises:
        ConfigError: k is something else.
    """
    if isinstance(k, bool) or not isinstance(k, (int, np.integer)) or k < 1:
        raise ConfigError(f"k is {k!r}; it must be an integer of 1 or more")
    if n is not None and k > n:
        raise ConfigError(f"k is {k:,}, but there are only {n:,} {entities}; choose a k of at most {n:,}")


def check_queries(queries: Tensor, name: Callable[[int], str], first: int = 0) -> None:
    """Check that the vectors `(B, D)` computed from histories are finite.

    `name` is a function from the position of a history to its name in messages, such as "history 3"; `first` is the
    position of the first of these histories.

    Raises:
        DataError: a number is not finite, or so large that scores would not be finite.
    """
    is_finite = finite_rows(queries, LARGEST_QUERY)
    if not bool(is_finite.all()):
        position = first + int((~is_finite).nonzero()[0])
        raise DataError(f"{name(position)}: the liked items give no finite vector to rank by; give other items")
