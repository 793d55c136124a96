"""Features without variance: refused where a model has no others, else one warning, and no part of any score."""

from __future__ import annotations

import logging
from dataclasses import replace

import numpy as np
import pytest
import torch

from lirdrec.data.dataset import Dataset
from lirdrec.data.features import FeatureMatrix
from lirdrec.data.synthetic import make_synthetic_dataset
from lirdrec.errors import ConfigError, DataError
from lirdrec.models.history_content_score import CONTENT
from lirdrec.models.registry import config_type, model_names, model_type
from lirdrec.nn.principal_components import Projection
from lirdrec.recommender.fit import fit
from lirdrec.training.config import TrainConfig

from ..helpers import assert_error, assert_mentions

QUIET = {"progress": False, "device": "cpu", "cache": False}
TRAINING = TrainConfig(epochs=1, learning_rate=0.02, batch_size=512, seed=3)
N_ITEMS, WIDTH = 80, 12
READ_FEATURES = [name for name in model_names() if model_type(name).capabilities.needs_features]
SMALL = {
    "lirdrec": {"embedding_size": 8},
    "lirdrec_seq": {"embedding_size": 8, "n_heads": 2, "content_weight": 0.3},
}


def _alike(kind: str) -> np.ndarray:
    """Features `(I, WIDTH)` float32 of all items that differ by nothing or by rounding."""
    draw = np.random.default_rng(5)
    row = draw.normal(size=WIDTH) + 2
    values = {
        "same": np.tile(row, (N_ITEMS, 1)),
        "around 1000": 1000 + 1e-4 * draw.normal(size=(N_ITEMS, WIDTH)),
        "to length 1": np.tile(row, (N_ITEMS, 1)),
    }[kind].astype(np.float32)
    if kind == "to length 1":  # by numbers of this precision: the last bits differ
        values *= draw.uniform(0.1, 10, (N_ITEMS, 1)).astype(np.float32)
        values /= np.sqrt(np.square(values).sum(1, dtype=np.float32, keepdims=True))
        assert len(np.unique(values, axis=0)) > 2
    return values


@pytest.fixture(scope="module")
def data() -> Dataset:
    return make_synthetic_dataset(
        90, N_ITEMS, 1500, {"image": WIDTH, "text": WIDTH}, groups=8, seed=3, timestamps=True, name="shop"
    )


def with_features(data: Dataset, **values: np.ndarray) -> Dataset:
    return replace(data, features={**data.features, **{name: FeatureMatrix(v) for name, v in values.items()}})


def config(name: str, **options):
    return config_type(name)(**SMALL.get(name, {}), **options)


@pytest.mark.parametrize("kind", ["same", "around 1000", "to length 1"])
@pytest.mark.parametrize("name", ["lirdrec", "lirdrec_seq"])
def test_a_model_whose_features_are_all_alike_is_refused(data, name, kind, tmp_path):
    alike = with_features(data, image=_alike(kind), text=_alike("same"))
    with assert_error(DataError, mentions=["'image'", "'text'", "shop", name]):
        fit(alike, config(name), TRAINING, run=tmp_path / "run", **QUIET)
    assert not (tmp_path / "run").exists()
    with assert_error(DataError, mentions=["'image'"]):
        fit(with_features(data, image=_alike(kind)), config(name, modalities=("image",)), TRAINING, **QUIET)


@pytest.mark.parametrize("name", READ_FEATURES)
def test_every_model_that_needs_features_refuses_those_without_variance(data, name):
    alike = with_features(data, image=_alike("same"), text=_alike("around 1000"))
    with assert_error(DataError, mentions=["'image'", "'text'", name]):
        fit(alike, config(name), **QUIET)


def test_models_without_features_do_not_ask(data):
    fit(with_features(data, image=_alike("same"), text=_alike("same")), "ease", **QUIET)


@pytest.mark.parametrize("kind", ["same", "around 1000", "to length 1"])
@pytest.mark.parametrize("name", ["lirdrec", "lirdrec_seq"])
def test_one_modality_without_variance_gets_one_warning_and_is_no_content(data, name, kind, caplog):
    """The content of all items is then that of the other modality alone."""
    with caplog.at_level(logging.WARNING, "lirdrec"):
        found = fit(with_features(data, image=_alike(kind)), config(name), TRAINING, **QUIET)
    messages = [record.getMessage() for record in caplog.records if "'image'" in record.getMessage()]
    assert len(messages) == 1
    assert_mentions(messages[0], ["shop", name])
    assert "'text'" not in messages[0]
    model = found.model()
    content = model.content_vectors(model.features)
    other = fit(data, config(name, modalities=("text",)), TRAINING, **QUIET).model()
    assert not content[:, :WIDTH].any()
    torch.testing.assert_close(content[:, WIDTH:], other.content_vectors(other.features), rtol=0, atol=1e-6)
    assert CONTENT in found.scorer.branch_names


def test_features_of_no_item_of_training_count_as_alike(data, caplog):
    """The image is there only for an item that nobody has in training."""
    items = data.train.items
    never = int(items[0])
    kept = items != never
    weights = None if data.train.weights is None else data.train.weights[kept]
    train = replace(
        data.train,
        users=data.train.users[kept],
        items=items[kept],
        weights=weights,
        timestamps=data.train.timestamps[kept],
    )
    values = np.zeros((N_ITEMS, WIDTH), np.float32)
    values[never] = 1
    with caplog.at_level(logging.WARNING, "lirdrec"):
        fit(replace(with_features(data, image=values), train=train), config("lirdrec"), TRAINING, **QUIET)
    assert sum("'image'" in record.getMessage() for record in caplog.records) == 1


def test_ordinary_features_get_no_warning(data, caplog):
    with caplog.at_level(logging.WARNING, "lirdrec"):
        fit(data, config("lirdrec"), TRAINING, **QUIET)
    assert not [record for record in caplog.records if "image" in record.getMessage()]


@pytest.mark.parametrize("kind", ["same", "around 1000", "to length 1"])
def test_whitening_refuses_a_modality_without_variance(data, kind):
    with assert_error(ConfigError, mentions=["whiten", "'image'", "shop"]):
        fit(with_features(data, image=_alike(kind)), config("content_knn", whiten=True), **QUIET)


def test_the_models_that_whiten_give_rounding_no_weight(data):
    """WhitenRec's features of the modality are 0, and not as large as those of the other one."""
    model = fit(with_features(data, image=_alike("around 1000")), config("whitenrec"), TRAINING, **QUIET).model()
    (values,) = model.projection_inputs(model.features)
    assert not values[:, :WIDTH].any() and bool(values[:, WIDTH:].any())


def test_projections_to_fewer_columns_keep_the_mean_and_no_rounding():
    values = torch.from_numpy(_alike("around 1000"))
    found = Projection.fit(values, torch.ones(N_ITEMS, dtype=torch.bool), 3)
    assert found.n_columns == 1
    torch.testing.assert_close(found(values), torch.full((N_ITEMS, 1), 1000 * WIDTH**0.5), rtol=1e-6, atol=0)
