"""Users as if new: the vectors are those that `recommend_for_history` would use, and nobody else changes."""

from __future__ import annotations

import pytest
import torch

import lirdrec
from lirdrec.data.synthetic import make_synthetic_dataset
from lirdrec.errors import CapabilityError
from lirdrec.models.item_knn import ItemKNNConfig
from lirdrec.models.lirdrec import LIRDRecConfig
from lirdrec.models.mf import MFConfig
from lirdrec.recommender.new_users import as_new_users
from lirdrec.training.config import TrainConfig

from ..helpers import assert_error


@pytest.fixture(scope="module")
def data():
    return make_synthetic_dataset(120, 60, 1500, {"text": 8}, groups=4, noise=0.3, seed=2)


def test_each_is_recommended_what_a_stranger_with_the_same_likes_would_be(data):
    config = LIRDRecConfig(embedding_size=8, n_layers=2, n_neighbors=5, loss="softmax")
    training = TrainConfig(epochs=15, batch_size=512, learning_rate=0.02)
    known = lirdrec.fit(data, config, training, progress=False, cache=False)
    new = as_new_users(known)
    for user in known.users.series.to_list()[:10]:
        stranger = known.recommend_for_history(known.liked(user), k=5)["item"].to_list()
        assert new.recommend(user, k=5)["item"].to_list() == stranger
    own = known.scorer.user_vectors.clone()
    before, after, popular = (lirdrec.evaluate(one, data)["recall@20"] for one in (known, new, _popular(data)))
    assert after > 0.9 * before > popular
    assert torch.equal(known.scorer.user_vectors, own) and not torch.equal(new.scorer.user_vectors, own)


def test_models_without_vectors_know_users_by_their_likes_anyway(data):
    knn = lirdrec.fit(data, ItemKNNConfig(), progress=False, cache=False)
    assert as_new_users(knn) is knn


def test_a_model_that_cannot_says_so(data):
    fitted = lirdrec.fit(data, MFConfig(embedding_size=8), TrainConfig(epochs=1), progress=False, cache=False)
    with assert_error(CapabilityError, mentions=["users"]):
        as_new_users(fitted)


def _popular(data):
    from lirdrec.models.popularity import PopularityConfig

    return lirdrec.fit(data, PopularityConfig(), progress=False, cache=False)
