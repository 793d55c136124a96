"""From what a caller writes (one id, many ids, pairs, histories) to rows, with one sentence where an id is unknown."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import polars as pl
from torch import Tensor

from lirdrec.data.columns import ITEM, USER
from lirdrec.data.frames import to_polars
from lirdrec.data.identifiers import IdMap, describe_ids
from lirdrec.errors import ConfigError, DataError, UnknownIdError
from lirdrec.ranking.scorers import LARGEST_QUERY, sound_rows

NEAREST_AMONG = 50_000  # comparing an id with more names than these would take longer than the answer is worth

FEW = 5  # ids that a message names
MODES = ("raise", "skip", "popular")  # what unknown users get


def as_list(ids: Any) -> list[Any]:
    """One id or many as a list."""
    if isinstance(ids, (str, int, np.integer)):
        return [ids]
    if hasattr(ids, "to_list"):  # polars and pandas series
        return list(ids.to_list())
    if hasattr(ids, "to_pylist"):  # Arrow arrays
        return list(ids.to_pylist())
    if isinstance(ids, Tensor):
        ids = ids.numpy(force=True)
    if isinstance(ids, np.ndarray):
        if ids.ndim > 1:
            raise UnknownIdError(f"an array of shape {ids.shape} is no list of ids; give one with a single dimension")
        return list(ids.ravel().tolist())
    if isinstance(ids, Mapping) or hasattr(ids, "columns"):
        raise UnknownIdError(f"a {type(ids).__name__} is no list of ids; give one of its columns")
    if isinstance(ids, Iterable):
        return list(ids)
    raise UnknownIdError(f"{ids!r} is not an id: ids are strings or integers")


def known_rows(ids: list[Any], known: IdMap) -> np.ndarray:
    """Rows of the ids.

    Raises:
        UnknownIdError: some are unknown; names the nearest known ones, or how many there are.
    """
    rows = known.rows(ids)
    if (rows < 0).any():
        raise UnknownIdError(unknown_sentence([one for one, row in zip(ids, rows, strict=True) if row < 0], known))
    return rows


def unknown_sentence(unknown: list[Any], known: IdMap) -> str:
    """What to tell a person who asked for ids that are not there."""
    kind = "integers" if known.is_integer else "strings"
    if len(unknown) > 1:
        told = f"{len(unknown)} of the {known.what} ids are unknown: {describe_ids(unknown)}"
        alike = [one for one in map(known.alike, unknown[:FEW]) if one is not None]
        return f"{told}; did you mean {', '.join(map(repr, alike))}?" if alike else told
    one = unknown[0]
    twin = known.alike(one)
    if isinstance(one, str) is known.is_integer:
        hint = f"for instance {_first(known)}" if twin is None else f"did you mean {twin!r}?"
        return f"no {known.what} has the id {one!r}: the {known.what} ids are {kind}, {hint}"
    if twin is not None:
        return f"no {known.what} has the id {one!r}; did you mean {twin!r}?"
    near = _nearest(one, known)
    if near:
        return f"no {known.what} has the id {one!r}; the nearest are {', '.join(near)}"
    return f"no {known.what} has the id {one!r}; {len(known):,} are known, for instance {_first(known)}"


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


def _nearest(one: Any, known: IdMap) -> list[str]:
    if isinstance(one, str):
        if len(known) > NEAREST_AMONG:
            return []
        return [repr(near) for near in difflib.get_close_matches(one, known.series.to_list(), n=3)]
    ids = known.ids.astype(np.float64)
    return [str(known.ids[row]) for row in np.argsort(np.abs(ids - float(one)), kind="stable")[:3]]


def _first(known: IdMap) -> str:
    return ", ".join(repr(one) for one in known.series.head(3).to_list()) or "none"
