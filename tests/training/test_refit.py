"""Training on everything for the number of epochs that validation chose."""

from __future__ import annotations

import logging
from dataclasses import replace

import numpy as np
import pytest
import torch

from lirdrec.data.synthetic import make_synthetic_dataset
from lirdrec.errors import ConfigError, RunFolderError
from lirdrec.evaluation.evaluator import evaluate
from lirdrec.models.ease import EASEConfig
from lirdrec.models.lightgcn import LightGCNConfig
from lirdrec.recommender.fit import fit
from lirdrec.recommender.recommender import Recommender
from lirdrec.recommender.refit import merge_splits
from lirdrec.training.config import TrainConfig

from ..helpers import assert_error, assert_mentions

QUIET = {"progress": False, "device": "cpu"}


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    made = make_synthetic_dataset(40, 60, 900, {"image": 6}, groups=4, noise=0.3, seed=2)
    return type(made).load(made.save(tmp_path_factory.mktemp("refit") / "data"))


def test_all_pairs_are_trained_on_for_the_best_number_of_epochs(dataset, tmp_path, caplog):
    training = TrainConfig(epochs=8, learning_rate=0.05, batch_size=64, patience=1, seed=3)
    config = LightGCNConfig(embedding_size=8)
    first = fit(dataset, config, training, run=tmp_path / "first", **QUIET)
    best = first.info["metrics"]["best_epoch"]
    found = fit(dataset, refit=tmp_path / "first", run=tmp_path / "second", **QUIET)
    loaded = Recommender.load(tmp_path / "second")
    assert loaded.info["refit"] == str(tmp_path / "first")
    assert (loaded.info["metrics"]["epochs"], loaded.info["training"]["epochs"]) == (best, best)
    parts = (dataset.train, dataset.valid, dataset.test)
    pairs = {pair for part in parts for pair in zip(part.users.tolist(), part.items.tolist(), strict=True)}
    assert set(zip(loaded.train.users.tolist(), loaded.train.items.tolist(), strict=True)) == pairs
    # nothing that anybody took, in validation or test either, is recommended
    for row, user in enumerate(dataset.users.ids[:10].tolist()):
        taken = {dataset.items.ids[item] for who, item in pairs if who == row}
        assert not taken & set(loaded.recommend(user, 10)["item"])
    # the same bits as a training on those pairs for so many epochs
    own = fit(merge_splits(dataset), config, replace(training, epochs=best), **QUIET)
    assert torch.equal(own.scorer.user_vectors, found.scorer.user_vectors)
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        evaluate(loaded, dataset)
    (warning,) = caplog.messages
    assert_mentions(warning, ["test"])
    with assert_error(RunFolderError, mentions=[tmp_path / "second"]):
        fit(dataset, refit=tmp_path / "second", **QUIET)


def test_a_closed_form_is_solved_on_all_pairs(dataset, tmp_path):
    fit(dataset, EASEConfig(regularization=7.0), run=tmp_path / "first", **QUIET)
    found = fit(dataset, refit=tmp_path / "first", **QUIET)
    assert found.info["model_config"]["regularization"] == 7.0
    assert len(found.train.users) == sum(len(dataset.split(name)) for name in ("train", "valid", "test"))


def test_a_cosine_schedule_is_that_of_the_run(dataset, tmp_path):
    training = TrainConfig(epochs=12, learning_rate=0.01, batch_size=64, patience=2, schedule="cosine", seed=3)
    config = LightGCNConfig(embedding_size=8)
    first = fit(dataset, config, training, run=tmp_path / "first", **QUIET)
    best = first.info["metrics"]["best_epoch"]
    assert 1 < best < 12
    found = fit(dataset, refit=first, **QUIET)
    assert (found.info["training"]["epochs"], found.info["metrics"]["epochs"]) == (12, best)
    # had the rate fallen to zero within the best epochs, other parameters would be found
    shrunk = fit(merge_splits(dataset), config, replace(training, epochs=best), **QUIET)
    assert not torch.equal(shrunk.scorer.user_vectors, found.scorer.user_vectors)


def test_a_closed_form_keeps_its_seed(dataset):
    first = fit(dataset, EASEConfig(), TrainConfig(seed=9), **QUIET)
    assert fit(dataset, refit=first, **QUIET).info["seed"] == 9


def test_settings_of_its_own_are_refused(dataset, tmp_path):
    fit(dataset, EASEConfig(), run=tmp_path / "first", **QUIET)
    with assert_error(ConfigError, mentions=["refit"]):
        fit(dataset, EASEConfig(), refit=tmp_path / "first", **QUIET)
    with assert_error(RunFolderError, mentions=[tmp_path / "nothing"]):
        fit(dataset, refit=tmp_path / "nothing", **QUIET)


def test_everything_keeps_times_and_items(dataset):
    whole = merge_splits(dataset)
    assert len(whole.test) == len(whole.valid) == 0 and whole.folder == dataset.folder
    assert np.array_equal(whole.items.ids, dataset.items.ids)
