"""Vectors and item columns of a recommender, converted for other search engines."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl

from lirdrec.data.titles import as_texts
from lirdrec.errors import CapabilityError, DataError
from lirdrec.ranking.scorers import VectorScorer, all_finite
from lirdrec.recommender.recommender import Recommender

BLOCK_ROWS = 8192


@dataclass(frozen=True)
class Vectors:
    """`users` `(U, D)` and `items` `(I, D)`, float32; the score is their inner product."""

    users: np.ndarray
    items: np.ndarray

    @property
    def width(self) -> int:
        """Number of columns, D."""
        return self.items.shape[1]


def vectors_of(recommender: Recommender) -> Vectors:
    """The vectors of a recommender.

    Raises:
        CapabilityError: its model scores without vectors.
        DataError: a vector has a number that is not finite.
    """
    scorer = recommender.scorer
    if not isinstance(scorer, VectorScorer):
        model = recommender.info.get("model", "this model")
        raise CapabilityError(
            f"{model} scores by an item-item matrix, so it has no vectors to export;"
            " lirdrec recommend --all writes its lists"
        )
    arrays = []
    for name, tensor in (("users", scorer.user_vectors), ("items", scorer.item_vectors)):
        if not all_finite(tensor):
            raise DataError(f"the vectors of the {name} contain numbers that are not finite; train again")
        arrays.append(np.ascontiguousarray(tensor.detach().float().cpu().numpy()))
    return Vectors(*arrays)


def item_columns(recommender: Recommender) -> pl.DataFrame:
    """Convert the item table to types that other programs support.

    Categories, decimals, durations (ISO 8601) and integers beyond 64 bits become texts. Bytes, and lists and
    structs of bytes, are dropped.
    """
    table = recommender.item_table
    columns = []
    for name, kind in table.schema.items():
        if _holds_bytes(kind):
            continue
        plain = kind.is_numeric() and not kind.is_decimal() and not str(kind).endswith("Int128")
        plain = plain or kind.is_nested() or kind.base_type() in (pl.Boolean, pl.String, pl.Date, pl.Datetime)
        columns.append(table[name] if plain else as_texts(table[name]))
    return pl.DataFrame(columns)


def _holds_bytes(kind: Any) -> bool:
    if isinstance(kind, pl.Struct):
        return any(_holds_bytes(field.dtype) for field in kind.fields)
    if isinstance(kind, (pl.List, pl.Array)):
        return _holds_bytes(kind.inner)
    return kind in (pl.Binary, pl.Object)


def with_vectors(frame: pl.DataFrame, vectors: np.ndarray, name: str) -> Iterator[pl.DataFrame]:
    """The rows in blocks, with their vectors as the last column, a list of float32."""
    for start in range(0, frame.height, BLOCK_ROWS):
        block = pl.Series(name, vectors[start : start + BLOCK_ROWS]).arr.to_list()
        yield frame[start : start + BLOCK_ROWS].with_columns(block.alias(name))
