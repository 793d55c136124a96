"""Small saved runs, a small dataset with a trained run, and a user at a terminal."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch

from lirdrec.cli import confirm_cost
from lirdrec.data.dataset import Interactions
from lirdrec.data.ids import IdMap
from lirdrec.data.synthetic import make_synthetic_dataset
from lirdrec.ranking.scorers import VectorScorer
from lirdrec.recommender.new_item_encoder import LaunchStep, NewItemEncoder
from lirdrec.recommender.recommender import Recommender

QUICK = ["--set", "epochs=2", "--set", "embedding_size=8"]


@pytest.fixture
def data(tmp_path) -> Path:
    """A prepared dataset of 40 users and 60 items, with two modalities."""
    made = make_synthetic_dataset(
        40, 60, 600, {"image": 6, "text": 8}, groups=4, noise=0.3, seed=2, missing={"image": 0.2}
    )
    return made.save(tmp_path / "data")


@pytest.fixture
def trained(lirdrec, data) -> Path:
    result = lirdrec("--quiet", "train", "data", "--run", "runs/one", *QUICK)
    assert result.exit_code == 0, result.stderr
    return Path("runs/one")


@pytest.fixture
def run(tmp_path) -> Path:
    """A saved run of two users and three films. Scores of user 1: 1, 2, 3; of user 2: 3, 2, 1; user 1 liked film 30."""
    scorer = VectorScorer(
        torch.tensor([[1.0, 0.0], [0.0, 1.0]]),
        torch.tensor([[1.0, 3.0], [2.0, 2.0], [3.0, 1.0]]),
        ("image", "text"),
        torch.tensor([[0.75, 0.25], [0.5, 0.5]]),
    )
    table = pl.DataFrame({"item": [10, 20, 30], "title": ["Alien", "Brazil", "Casablanca"]})
    train = Interactions(np.array([0]), np.array([2]))
    made = Recommender(
        scorer, IdMap([1, 2], "user"), IdMap([10, 20, 30], "item"), table, train, info={"dataset": "d", "model": "m"}
    )
    return made.save(tmp_path / "run")


@pytest.fixture
def grown(tmp_path) -> Path:
    """The run with film 40 added: score 1.8 for both users, plus the offset: .5 calibrated, 2 as boost=0.1."""
    scorer = VectorScorer(
        torch.tensor([[1.0, 0.0], [0.0, 1.0]]),
        torch.tensor([[1.0, 3.0], [2.0, 2.0], [3.0, 1.0], [1.8, 1.8]]),
        offsets=torch.tensor([0.0, 0.0, 0.0, 0.5]),
    )
    frontier = tuple(
        LaunchStep(*step) for step in [(0.0, 0.0, 0.01, 0.0), (0.5, 0.02, 0.05, 0.1), (2.0, 0.1, 0.5, 0.3)]
    )
    info = {"dataset": "d", "model": "m", "new_items": NewItemEncoder(1.0, 0, 0.5, frontier).to_info()}
    users, items = IdMap([1, 2], "user"), IdMap([10, 20, 30, 40], "item")
    train = Interactions(np.array([0]), np.array([2]))
    return Recommender(scorer, users, items, train=train, info=info, n_trained_items=3).save(tmp_path / "grown")


@pytest.fixture
def person(monkeypatch):
    """A user at a terminal; `person(True, False)` gives the answers, `person.asked` has the questions."""

    class Person:
        def __call__(self, *answers: bool) -> None:
            left = list(answers)
            self.asked: list[str] = []

            def asked(question: str) -> bool:
                self.asked.append(question)
                return left.pop(0)

            monkeypatch.setattr(confirm_cost, "_ask", asked)
            monkeypatch.setattr(confirm_cost, "_is_terminal", lambda: True)

    return Person()
