"""Export vectors as NumPy arrays or as a faiss index."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from lirdrec.data.schema import USER
from lirdrec.errors import ConfigError
from lirdrec.export.vectors import Vectors, item_columns
from lirdrec.recommender.recommender import Recommender

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


def write_npy(recommender: Recommender, vectors: Vectors, folder: Path) -> str:
    """Write users.npy, items.npy, users.parquet and items.parquet; returns the text for README.txt."""
    np.save(folder / "items.npy", vectors.items, allow_pickle=False)
    _write_users_and_tables(recommender, vectors, folder)
    return NPY_README


def write_faiss(recommender: Recommender, vectors: Vectors, folder: Path) -> str:
    """Write items.faiss (an exact index of inner products), users.npy, users.parquet and items.parquet.

    Returns:
        The text for README.txt.

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
