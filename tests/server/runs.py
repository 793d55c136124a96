"""Small runs with planted truth for the tests of the server."""

from __future__ import annotations

import zlib
from pathlib import Path

import numpy as np
import polars as pl
import torch

from lirdrec.data.dataset import Interactions
from lirdrec.data.ids import IdMap
from lirdrec.data.synthetic import make_synthetic_dataset
from lirdrec.models.lirdrec import LIRDRec, LIRDRecConfig
from lirdrec.ranking.scorers import VectorScorer
from lirdrec.recommender.inputs import make_model_inputs
from lirdrec.recommender.recommender import Recommender
from lirdrec.server.store import NewItem

USERS, ITEMS = 60, 50
DIMS = {"image": 12, "text": 8}


def growing(folder: Path, seed: int = 1, items: int = ITEMS, dims: dict[str, int] = DIMS) -> Path:
    """LIRDRec with the weights that it starts with: takes new items and new users. Users 0…59, items 0…49."""
    data = make_synthetic_dataset(USERS, items, 12 * items, dims, groups=5, noise=0.3, seed=seed)
    torch.manual_seed(0)
    config = LIRDRecConfig(embedding_size=8, n_layers=2, n_neighbors=4)
    return Recommender.from_training(LIRDRec(make_model_inputs(data, "cpu", seed=3), config), data).save(folder)


def whole_numbers(n_users: int = 40, n_items: int = 300, seed: int = 0) -> Recommender:
    """Vectors of small integers, so that any way to add up a score gives the same bits, and many scores are equal."""
    draw = np.random.default_rng(seed)
    vectors = [torch.tensor(draw.integers(-2, 3, (n, 6)), dtype=torch.float32) for n in (n_users, n_items)]
    pairs = np.unique(draw.integers(0, n_users * n_items, 8 * n_users))
    table = pl.DataFrame(
        {
            "item": [f"i{row}" for row in range(n_items)],
            "price": [None if row % 7 == 3 else float(row % 50) for row in range(n_items)],
            "kind": [("tent", "lamp", "boot")[row % 3] for row in range(n_items)],
        }
    )
    return Recommender(
        VectorScorer(*vectors, ("image", "text")),
        IdMap([f"u{row}" for row in range(n_users)], "user"),
        IdMap(table["item"], "item"),
        table,
        Interactions(pairs // n_items, pairs % n_items),
        info={"dataset": "whole numbers", "model": "lirdrec"},
    )


def new_item(id: int | str, seed: int | None = None, dims: dict[str, int] = DIMS, **more: object) -> NewItem:
    """An item with random features, always the same for one seed."""
    own = id % 2**32 if isinstance(id, int) else zlib.crc32(id.encode())  # hash() differs from process to process
    draw = np.random.default_rng(own if seed is None else seed)
    features = {name: draw.normal(size=width).astype(np.float32) for name, width in dims.items()}
    return NewItem(id, features=features, **more)  # type: ignore[arg-type]
