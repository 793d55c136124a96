"""A run folder of a given shape, without training: random vectors, and histories of realiztic lengths."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import torch

from lirdrec.data.dataset import Interactions
from lirdrec.data.ids import IdMap
from lirdrec.ranking.scorers import VectorScorer
from lirdrec.recommender.recommender import Recommender

ELECTRONICS = (192_403, 63_001, 1_689_188)  # users, items, pairs of Amazon's Electronics, 5-core
PARTS = ("image", "text", "shared")


def write(folder: Path, users: int, items: int, pairs: int, width: int = 192, seed: int = 0) -> Path:
    """Write the run folder `folder`, if it is not there yet."""
    if (folder / "manifest.json").is_file():
        return folder
    draw = np.random.default_rng(seed)
    table = pl.DataFrame(
        {
            "item": [f"B{row:09d}" for row in range(items)],
            "title": [f"Thing number {row}" for row in range(items)],
            "price": draw.lognormal(3, 1, items).round(2),
        }
    )
    ids = [f"A{row:013d}" for row in range(users)]
    likes = histories(users, items, pairs, draw)
    scorer = VectorScorer(vectors(users, width, draw), vectors(items, width, draw), PARTS)
    made = Recommender(
        scorer,
        IdMap(ids, "user"),
        IdMap(table["item"], "item"),
        table,
        likes,
        info={"dataset": "random", "model": "lirdrec", "model_config": {}},
    )
    return made.save(folder)


def vectors(n: int, width: int, draw: np.random.Generator) -> torch.Tensor:
    """`(n, width)`, like those of a LIRDRec trained with Amazon's Sports.

    The variance of the j-th direction falls with 1 / j^0.9, and lengths differ by a tenth; an index finds about as many
    of the best items in them as in the trained vectors (measured for 18,357 items; README.md).
    """
    rows = draw.normal(size=(n, width)).astype(np.float32) * np.arange(1, width + 1, dtype=np.float32) ** -0.45
    rows *= draw.lognormal(0, 0.12, (n, 1)).astype(np.float32) / np.linalg.norm(rows, axis=1, keepdims=True)
    return torch.from_numpy(rows)


def histories(users: int, items: int, pairs: int, draw: np.random.Generator) -> Interactions:
    """Five likes or so of each user, few users with hundreds; popular items are liked most."""
    extra = draw.pareto(1.3, users)
    lengths = np.minimum(5 + (extra * (1.066 * pairs - 5 * users) / extra.sum()).astype(int), 2000)
    owner = np.repeat(np.arange(users), lengths)
    liked = np.minimum((items * draw.random(len(owner)) ** 2.5).astype(int), items - 1)
    keys = np.unique(owner * items + liked)
    return Interactions(keys // items, keys % items)
