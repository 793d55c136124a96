"""Get the vectors and item columns of a recommender for other search engines; export them for NumPy or faiss."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from lirdrec.data.column_names import USER
from lirdrec.data.titles import as_texts
from lirdrec.errors import CapabilityError, ConfigError, DataError
from lirdrec.ranking.scorers import VectorScorer, all_finite
from lirdrec.recommender.recommender import Recommender

BLOCK_ROWS = 8192

NPY_README = """\
users.npy, items.npy          float32, a row per user and per item
users.parquet, items.parquet  their ids and the items' columns, in the same order

    import numpy as np
    import polars as pl

    users, items = np.load("users.npy", mmap_mode="r"), np.load("items.npy", mmap_mode="r")
    row = pl.read_parquet("users.parquet")["user"].index_of(user)
    scores = items @ users[row]
    best = np.argsort(-scores, kind="stable")[:10]
    print(pl.read_parquet("items.parquet")[best], scores[best])
"""

FAISS_README = """\
items.faiss                   exact index (IndexFlatIP); its ids are row numbers of items.parquet
users.npy                     float32, a row per user
users.parquet, items.parquet  ids and the items' columns, in the same order

    import faiss
    import numpy as np
    import polars as pl

    index, users = faiss.read_index("items.faiss"), np.load("users.npy", mmap_mode="r")
    row = pl.read_parquet("users.parquet")["user"].index_of(user)
    scores, best = index.search(users[row : row + 1], 10)
    print(pl.read_parquet("items.parquet")[best[0]], scores[0])

For an approximate index, add index.reconstruct_n(0, index.ntotal) to
faiss.IndexHNSWFlat(index.d, 32, faiss.METRIC_INNER_PRODUCT).
"""


@dataclass(frozen=True)
class Vectors:
    """The vectors of a recommender: `users` `(U, D)` and `items` `(I, D)`, float32.

    The score of an item for a user is the inner product of their vectors. If `has_offsets` is true, the last column of
    `items` has a number for each item that is added to all of its scores (its offset), and the last column of `users`
    is 1.
    """

    users: np.ndarray
    items: np.ndarray
    has_offsets: bool = False

    @property
    def width(self) -> int:
        """Number of columns, D."""
        return self.items.shape[1]


def vectors_of(recommender: Recommender) -> Vectors:
    """Return the vectors of a recommender.

    They have a column of offsets if added items have an offset, or would get one when they are added later.

    Raises:
        CapabilityError: the model scores without vectors.
        DataError: a vector has a number that is not finite.
    """
    scorer = recommender.scorer
    if not isinstance(scorer, VectorScorer):
        model = recommender.info.get("model", "this model")
        raise CapabilityError(
            f"{model} scores by an item-item matrix, so it has no vectors to export; write its recommendation lists"
            " with lirdrec recommend --all instead"
        )
    arrays = []
    for name, tensor in (("users", scorer.user_vectors), ("items", scorer.item_vectors)):
        if not all_finite(tensor):
            raise DataError(f"the vectors of the {name} contain numbers that are not finite; train again")
        arrays.append(np.ascontiguousarray(tensor.detach().float().cpu().numpy()))
    encoder = recommender.new_item_encoder
    users, items = arrays
    if scorer.offsets is None and (encoder is None or encoder.offset == 0):
        return Vectors(users, items)
    offsets = np.zeros(len(items), np.float32) if scorer.offsets is None else scorer.offsets.float().cpu().numpy()
    ones = np.ones(len(users), np.float32)
    return Vectors(np.column_stack([users, ones]), np.column_stack([items, offsets]), has_offsets=True)


def item_columns(recommender: Recommender) -> pl.DataFrame:
    """Return the item table with types that other programs support.

    Categories, decimals, times of day, durations (ISO 8601) and integers beyond 64 bits become texts. Columns of bytes,
    and of lists and structs with bytes, are left out.
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
    """Yield blocks of the frame's rows with a last column `name`: the vector of each row, a list of float32."""
    for start in range(0, frame.height, BLOCK_ROWS):
        block = pl.Series(name, vectors[start : start + BLOCK_ROWS]).arr.to_list()
        yield frame[start : start + BLOCK_ROWS].with_columns(block.alias(name))


def write_npy(recommender: Recommender, vectors: Vectors, folder: Path) -> str:
    """Write users.npy, items.npy, users.parquet and items.parquet; return the text for README.txt."""
    np.save(folder / "items.npy", vectors.items, allow_pickle=False)
    _write_users_and_tables(recommender, vectors, folder)
    return NPY_README


def write_faiss(recommender: Recommender, vectors: Vectors, folder: Path) -> str:
    """Write items.faiss, an exact index, and users.npy, users.parquet, items.parquet; return the text for README.txt.

    Raises:
        ConfigError: faiss is not installed.
    """
    try:
        import faiss
    except ImportError:
        raise ConfigError('an index of faiss needs faiss: pip install "lirdrec[ann]"') from None
    index = faiss.IndexFlatIP(vectors.width)
    index.add(vectors.items)
    faiss.write_index(index, str(folder / "items.faiss"))
    _write_users_and_tables(recommender, vectors, folder)
    return FAISS_README


def _write_users_and_tables(recommender: Recommender, vectors: Vectors, folder: Path) -> None:
    np.save(folder / "users.npy", vectors.users, allow_pickle=False)
    recommender.users.series.to_frame(USER).write_parquet(folder / "users.parquet")
    item_columns(recommender).write_parquet(folder / "items.parquet")
