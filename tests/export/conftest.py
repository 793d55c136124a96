"""Recommenders of planted data: LIRDRec with the weights that it starts with, enough for whatever follows from them."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import polars as pl
import pytest
import torch

from lirdrec.data.column_names import ITEM, RANK, SCORE, USER
from lirdrec.data.dataset import Dataset
from lirdrec.data.ids import IdMap
from lirdrec.data.synthetic import make_synthetic_dataset
from lirdrec.models.lirdrec import LIRDRec, LIRDRecConfig
from lirdrec.recommender.feature_pca import fit_projections
from lirdrec.recommender.model_inputs import make_model_inputs
from lirdrec.recommender.new_item_encoder import NewItemEncoder
from lirdrec.recommender.recommender import Recommender


@pytest.fixture(scope="session")
def data() -> Dataset:
    return make_synthetic_dataset(
        45, 60, 700, {"image": 12, "text": 8}, groups=5, noise=0.5, seed=1, missing={"image": 0.2}
    )


@pytest.fixture(scope="session")
def made(data) -> Callable[..., Recommender]:
    """`made(n_layers=2)`: a recommender whose model has these options."""

    def make(**options) -> Recommender:
        torch.manual_seed(0)
        config = LIRDRecConfig(**({"embedding_size": 8, "n_layers": 2, "n_neighbors": 4} | options))
        inputs = make_model_inputs(data, "cpu", seed=3, projections=fit_projections(data, config))
        return Recommender.from_training(LIRDRec(inputs, config), data)

    return make


@pytest.fixture
def recommender(made) -> Recommender:
    return made()


@pytest.fixture
def grown(made, data) -> Recommender:
    """A recommender with three new items, whose offset brings them into some lists."""
    found = made()
    found.info["new_items"] = NewItemEncoder(0.5, 5, 0.3, similarity=0.35).to_info()
    found.add_items([900, 901, 902], {name: np.array(matrix.values[40:43]) for name, matrix in data.features.items()})
    return found


@pytest.fixture
def shop(made) -> Recommender:
    """A catalog with ids and columns that a file format could trip over."""
    found = made()
    n = found.n_items
    found.items = IdMap([f'{i}: "ü", it\'s\n{{}}\\' for i in range(n)], "item")
    found.item_table = pl.DataFrame(
        {
            "item": found.items.series,
            "title": [None if i % 5 == 0 else "" if i % 5 == 1 else f'a "thing",\n\\N {i}\\' for i in range(n)],
            "price": [None if i % 6 == 0 else float("nan") if i == 1 else i / 4 for i in range(n)],
            "in_stock": [i % 3 == 0 for i in range(n)],
            "Tags": [["red", 'b"l,u\\e{}'][: i % 3] for i in range(n)],
            "added": [None if i % 7 == 0 else f"2024-05-{i % 28 + 1:02d}" for i in range(n)],
            "embedding": list(range(n)),
        }
    ).with_columns(pl.col("added").str.to_date())
    return found


def rankings(recommender: Recommender, k: int = 10) -> dict:
    """User → ids and scores of its best items, seen ones included: what a search elsewhere must find."""
    frame = recommender.recommend(k=k, exclude_seen=False).sort(USER, RANK, maintain_order=True)
    return {
        user: (part[ITEM].to_list(), part[SCORE].to_list())
        for (user,), part in frame.group_by(USER, maintain_order=True)
    }


def compare(found: dict, recommender: Recommender, k: int = 10) -> None:
    """The same ids in the same order; scores, where they are given, to 1e-5."""
    wanted = rankings(recommender, k)
    assert found.keys() == wanted.keys()
    for user, (items, scores) in wanted.items():
        assert found[user][0] == items, user
        assert found[user][1] is None or found[user][1] == pytest.approx(scores, abs=1e-5), user
