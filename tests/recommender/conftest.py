"""A hand-made recommender whose right answers are known, and small trained ones."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest
import torch

from lirdrec.data.dataset import Interactions
from lirdrec.data.ids import IdMap
from lirdrec.ranking.scorers import VectorScorer
from lirdrec.recommender.recommender import Recommender

USERS = ["ann", "bob", "cy"]
ITEMS = [10, 20, 30, 40]


def hand_made(**changes) -> Recommender:
    """Three users, four items, two parts of one column each; scores can be worked out in the head.

    Scores:   10   20   30   40
        ann    1    2    3    4      liked 40, 10
        bob    4    3    2    1      liked 10
        cy     5    5    5    5      liked nothing
    """
    users = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]])
    items = torch.tensor([[1.0, 4.0], [2.0, 3.0], [3.0, 2.0], [4.0, 1.0]])
    alpha = torch.tensor([[0.75, 0.25], [0.5, 0.5], [0.25, 0.75]])
    options = {
        "scorer": VectorScorer(users, items, ("image", "text"), alpha),
        "users": IdMap(USERS, "user"),
        "items": IdMap(ITEMS, "item"),
        "item_table": pl.DataFrame({"item": ITEMS, "title": ["Ten", "Twenty", None, "Forty"]}),
        "train": Interactions(np.array([1, 0, 0]), np.array([0, 3, 0])),
        "info": {"dataset": "hand", "model": "lirdrec"},
    }
    return Recommender(**(options | changes))


@pytest.fixture
def recommender() -> Recommender:
    return hand_made()
