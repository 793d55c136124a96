"""Likes after training: histories grow, added items move, and a run keeps it."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest
import torch

from lirdrec.data.synthetic import make_synthetic_dataset
from lirdrec.errors import CapabilityError, DataError, UnknownIdError
from lirdrec.models.ease import EASEConfig
from lirdrec.models.lirdrec import LIRDRec, LIRDRecConfig
from lirdrec.recommender.fit import fit
from lirdrec.recommender.inputs import make_model_inputs
from lirdrec.recommender.recommender import Recommender

from ..helpers import assert_error

LIKES = [(3, 100), (4, 100), (9, 101), (3, 7)]


@pytest.fixture
def data():
    return make_synthetic_dataset(30, 40, 400, {"image": 6, "text": 5}, groups=4, noise=0.3, seed=1)


@pytest.fixture
def recommender(data) -> Recommender:
    """LIRDRec as it starts, with the items 100 and 101 added; user 3 has not taken item 7."""
    assert (3, 7) not in zip(data.train.users.tolist(), data.train.items.tolist(), strict=True)
    model = LIRDRec(make_model_inputs(data, "cpu", cache=False), LIRDRecConfig(embedding_size=8))
    made = Recommender.from_training(model, data)
    made.add_items([100, 101], features_of(0))
    return made


def features_of(seed: int) -> dict[str, np.ndarray]:
    draw = np.random.default_rng(seed)
    return {"image": draw.normal(size=(2, 6)), "text": draw.normal(size=(2, 5))}


def test_histories_grow_and_only_added_items_move(recommender, data):
    before, users, n_pairs = recommender.scorer, recommender.users.ids.tolist(), len(recommender.train)
    ids = data.items.ids.tolist()
    pairs = [(user, item) for user in users for item in ids]
    scores = recommender.score(pairs)["score"]
    recommender.update(pl.DataFrame(LIKES, schema=["user", "item"], orient="row"))
    assert {100, 7} <= set(recommender.liked(3)) and 101 in recommender.liked(9)
    assert not {100, 7} & set(recommender.recommend(3, k=20)["item"])
    assert scores.equals(recommender.score(pairs)["score"])
    now = recommender.scorer
    assert torch.equal(now.user_vectors, before.user_vectors)
    assert now.moved_items.tolist() == [data.n_items, data.n_items + 1]
    assert len(recommender.train) == n_pairs + len(LIKES)
    own = recommender.model().fold_in_items(
        before, torch.tensor([40, 41]), [before.user_vectors[[3, 4]], before.user_vectors[[9]]]
    )
    assert torch.equal(own.item_vectors, now.item_vectors)


def test_the_order_of_likes_and_calls_does_not_matter(recommender, data):
    other = Recommender.from_state(recommender.state)
    recommender.update(LIKES)
    for like in [*reversed(LIKES), LIKES[0]]:
        other.update(like)
    assert torch.equal(recommender.scorer.item_vectors, other.scorer.item_vectors)
    known = len(other.train)
    other.update([(int(data.train.users[0]), int(data.train.items[0])), *LIKES])
    assert len(other.train) == known


def test_a_saved_run_keeps_the_likes_and_still_takes_items(recommender, tmp_path):
    plain = Recommender.from_state(recommender.state)
    recommender.update(LIKES)
    loaded = Recommender.load(recommender.save(tmp_path / "run"), verify=True)
    assert loaded.recommend(k=5).equals(recommender.recommend(k=5))
    assert set(loaded.liked(3)) == set(recommender.liked(3))
    for one in (plain, loaded):  # its model is that of the training, and neighbors are found by features alone
        one.add_items([102, 103], features_of(1))
    assert torch.equal(loaded.scorer.item_vectors[-2:], plain.scorer.item_vectors[-2:])
    loaded.update([(5, 100)])
    plain.update([*LIKES, (5, 100)])
    assert torch.equal(loaded.scorer.item_vectors, plain.scorer.item_vectors)


def test_a_model_without_movable_items_only_keeps_the_likes(data):
    recommender = fit(data, EASEConfig(), progress=False, cache=False)
    scores = recommender.score([(3, 1), (3, 2)])
    recommender.update((3, 7))
    assert 7 in recommender.liked(3) and scores.equals(recommender.score([(3, 1), (3, 2)]))


def test_bad_likes_change_nothing(recommender, tmp_path):
    n_pairs = len(recommender.train)
    for likes, kind, fact in (
        ([(3, 100), (3, 999)], UnknownIdError, 999),
        ([(300, 100)], UnknownIdError, 300),
        ([(3, 100, 1)], DataError, "user"),
        (pl.DataFrame({"user": [3]}), DataError, "item"),
    ):
        with assert_error(kind, mentions=[fact]):
            recommender.update(likes)
    assert len(recommender.train) == n_pairs and not len(recommender.scorer.moved_items)
    slim = Recommender.load(recommender.slim(tmp_path / "slim"))
    with assert_error(CapabilityError):
        slim.update([(3, 100)])
