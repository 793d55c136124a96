"""`fit`: what it validates on, what it refuses, and that a refusal leaves nothing behind."""

from __future__ import annotations

import logging
import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from lirdrec.data.dataset import Dataset, Interactions
from lirdrec.data.synthetic import make_synthetic_dataset
from lirdrec.errors import CapabilityError, ConfigError, RunFolderError
from lirdrec.evaluation.evaluator import evaluate
from lirdrec.models.ease import EASEConfig
from lirdrec.models.item_knn import ItemKNNConfig
from lirdrec.models.lirdrec import LIRDRecConfig
from lirdrec.models.popularity import PopularityConfig
from lirdrec.models.registry import model_names, model_type
from lirdrec.option_names import command_line
from lirdrec.recommender.fit import fit
from lirdrec.recommender.model_inputs import make_model_inputs
from lirdrec.recommender.presets import preset
from lirdrec.recommender.recommender import Recommender
from lirdrec.recommender.training_job import make_job
from lirdrec.training.config import TrainConfig

from ..helpers import assert_error, assert_mentions

CONFIG = LIRDRecConfig(embedding_size=8, n_layers=2, n_neighbors=5)
TRAINING = TrainConfig(epochs=4, batch_size=512, learning_rate=5e-3, metric="ndcg@10")
QUIET = {"progress": False, "cache": False, "device": "cpu"}
SIZES = (100, 120, 2000, {"text": 5, "image": 6})


@pytest.fixture(scope="module")
def dataset() -> Dataset:
    return make_synthetic_dataset(*SIZES, groups=8, noise=0.5, seed=1)


@pytest.mark.parametrize("config", [CONFIG, PopularityConfig(), ItemKNNConfig()], ids=lambda c: type(c).__name__)
def test_the_recorded_validation_figures_are_those_of_evaluate(dataset, config):
    found = fit(dataset, config, TRAINING, **QUIET)
    expected = evaluate(found, dataset, "valid", k=10, metrics=("recall", "ndcg"))
    assert found.info["metrics"]["valid"] == pytest.approx(expected.values, abs=1e-12)


def test_a_cold_start_split_is_validated_on_the_cold_items():
    data = make_synthetic_dataset(*SIZES, groups=8, noise=0.5, seed=1, split="cold_items")
    found = fit(data, CONFIG, TRAINING, **QUIET)
    expected = evaluate(found, data, "valid", k=10, metrics=("recall", "ndcg"), candidates="cold")
    assert found.info["metrics"]["valid"] == pytest.approx(expected.values, abs=1e-12)
    everything = evaluate(found, data, "valid", k=10, metrics=("recall",))
    assert expected["recall@10"] > everything["recall@10"]
    assert expected["recall@10"] > 1.5 * 10 / 24  # chance is 10 of 24: unseen items are found by their features


@pytest.mark.parametrize(
    ("items", "k", "shown"), [(10, 5, {"recall@5"}), (15, 7, {"recall@10"}), (20, 20, {"recall@10", "recall@20"})]
)
def test_fewer_items_than_the_cut_off(items, k, shown, caplog):
    data = make_synthetic_dataset(60, items, 300, {"text": 4}, groups=2, noise=0.5, seed=1)
    found = fit(data, ItemKNNConfig(), TrainConfig(metric="recall@20"), **QUIET)
    assert set(found.info["metrics"]["valid"]) == {f"recall@{k}", f"ndcg@{k}"}
    assert [f"recall@{k}" in text and "recall@20" in text for text in caplog.messages] == [True] * (k != 20)
    assert set(evaluate(found, data, metrics=("recall",)).values) == shown
    with assert_error(ConfigError, mentions=["k", 21, 1, f"{items} items"]):
        evaluate(found, data, k=21)


def test_without_validation_pairs_the_last_epoch_is_taken(dataset, caplog):
    none = Interactions(np.empty(0, np.int64), np.empty(0, np.int64))
    with caplog.at_level(logging.WARNING):
        found = fit(replace(dataset, valid=none), CONFIG, replace(TRAINING, patience=0), **QUIET)
    assert found.info["metrics"] == {"best_epoch": 4, "epochs": 4, "valid": {}}
    assert_mentions(caplog.text, ["planted", "validation"])


def test_modalities_come_in_one_order_and_item_rows_as_they_are(dataset):
    inputs = make_model_inputs(dataset, cache=False)
    assert list(inputs.features) == ["image", "text"]
    for name, feature in inputs.features.items():
        assert feature.values.dtype == torch.float32
        np.testing.assert_array_equal(feature.values, dataset.features[name].values)
    again = fit(replace(dataset, features=dict(reversed(dataset.features.items()))), CONFIG, TRAINING, **QUIET)
    found = fit(dataset, CONFIG, TRAINING, **QUIET)
    assert torch.equal(again.scorer.item_vectors, found.scorer.item_vectors)


def test_half_precision_features_are_widened(dataset):
    halves = make_synthetic_dataset(*SIZES, groups=8, noise=0.5, seed=1, dtype=np.float16)
    inputs = make_model_inputs(halves, cache=False)
    assert inputs.features["text"].values.dtype == torch.float32
    np.testing.assert_array_equal(inputs.features["text"].values, halves.features["text"].values.astype(np.float32))


def test_the_graph_cache_is_in_the_given_folder(dataset, tmp_path, monkeypatch):
    options = {"progress": False, "device": "cpu"}
    fit(dataset, CONFIG, TRAINING, cache=tmp_path / "given", **options)
    monkeypatch.setenv("LIRDREC_CACHE", str(tmp_path / "variable"))
    fit(dataset, CONFIG, TRAINING, **options)
    assert len(list((tmp_path / "given").iterdir())) == 2
    assert {f.name for f in (tmp_path / "given").iterdir()} == {f.name for f in (tmp_path / "variable").iterdir()}


@pytest.mark.parametrize(
    "config, training, options, facts",
    [
        (
            CONFIG,
            replace(TRAINING, metric="recal@20"),
            {},
            ["'recal'", "recall, ndcg, precision, map, mrr, hit, coverage, popularity, gini"],
        ),
        (CONFIG, TRAINING, {"device": "cuda:99"}, ["device", "'cuda:99'", "cpu", "auto"]),
        (CONFIG, TRAINING, {"device": "gpu"}, ["device", "'gpu'", "cpu", "cuda", "mps", "auto"]),
        (CONFIG, TRAINING, {"preset": "quick"}, ["preset", "'quick'", "fast, paper"]),
        (3, TRAINING, {}, ["int", '"ease"', "lirdrec.EASEConfig()"]),
        ("eas", TRAINING, {}, ["'eas'", "'ease'"]),
        (replace(CONFIG, modalities=("sound",)), TRAINING, {}, ["modalities", "'sound'", "image, text"]),
    ],
    ids=["metric", "device", "no device", "preset", "no config", "name", "modality"],
)
def test_what_cannot_be_is_refused_before_anything_is_written(dataset, tmp_path, config, training, options, facts):
    with assert_error(ConfigError, mentions=facts):
        fit(dataset, config, training, run=tmp_path / "run", **(QUIET | options))
    assert not (tmp_path / "run").exists()


def test_a_model_of_features_without_features(dataset, tmp_path):
    with pytest.raises(CapabilityError):
        fit(replace(dataset, features={}), CONFIG, TRAINING, run=tmp_path / "run", **QUIET)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    "arguments, loss, layers, scoring, size, batch, rate",
    [
        (("lirdrec",), "softmax", 4, "cosine", 256, "auto", 2e-3),
        (("lirdrec", "fast", "bpr"), "bpr", 3, "product", 256, 8192, 2e-4),
        (("lirdrec", "paper"), "bpr", 3, "product", None, 2048, 1e-4),
        (("lirdrec", "paper", "softmax"), "softmax", 4, "cosine", None, "auto", 2e-3),
        (("lightgcn",), "softmax", 3, "product", None, "auto", 2e-3),
        (("lightgcn", "fast", "bpr"), "bpr", 3, "product", None, 8192, 2e-3),
        (("lightgcn", "paper"), "bpr", 3, "product", None, 2048, 1e-3),
        (("slmrec",), None, 3, "product", None, 2048, 1e-3),
        (("gru4rec",), None, 1, None, None, 1024, 1e-3),
        (("gru4rec", "paper"), None, 1, None, None, 2048, 1e-3),
    ],
    ids=str,
)
def test_what_a_preset_sets_suits_the_loss(arguments, loss, layers, scoring, size, batch, rate):
    config, training = preset(*arguments)
    given = tuple(getattr(config, name, None) for name in ("loss", "n_layers", "scoring", "feature_size"))
    assert (*given, training.batch_size, training.learning_rate) == (loss, layers, scoring, size, batch, rate)


def test_damaged_features_are_refused_before_a_training_that_reads_them(dataset, tmp_path):
    folder = dataset.save(tmp_path / "data")
    path = folder / "features" / "text.npy"
    content = bytearray(path.read_bytes())
    content[-5] ^= 64
    path.write_bytes(content)
    loaded = Dataset.load(folder)
    with assert_error(RunFolderError, mentions=[path, "checksum"]):
        fit(loaded, CONFIG, TRAINING, run=tmp_path / "run", **QUIET)
    assert not (tmp_path / "run").exists()
    fit(loaded, replace(CONFIG, modalities=("image",)), replace(TRAINING, epochs=1), **QUIET)
    fit(loaded, ItemKNNConfig(), **QUIET)


DECAY = {"schedule": "exponential", "decay": 0.96, "decay_epochs": 50}
LATENT = {"patience": 10, "evaluate_every": 5, **DECAY}


@pytest.mark.parametrize(
    "model, rate, batch, epochs, others",
    [
        ("lirdrec", 1e-4, 2048, 1000, {}),
        ("mf", 1e-3, 2048, 1000, {}),
        ("lightgcn", 1e-3, 2048, 1000, {}),
        ("vbpr", 1e-3, 2048, 1000, {}),
        ("freedom", 1e-3, 2048, 1000, {}),
        ("bm3", 1e-3, 2048, 1000, {}),
        ("lgmrec", 1e-3, 2048, 1000, {}),
        ("grcn", 1e-4, 1024, 1000, {"patience": 21}),
        ("slmrec", 1e-2, 2048, 1000, {"patience": 50}),
        ("lattice", 5e-4, 1024, 200, LATENT),
        ("cohesion", 1e-3, 2048, 1000, {}),
        ("mgcn", 1e-3, 2048, 1000, DECAY | {"patience": 10}),
        ("smore", 1e-3, 2048, 1000, DECAY),
        ("micro", 5e-4, 1024, 1000, LATENT),
        ("gru4rec", 1e-3, 2048, 300, {"patience": 10}),
        ("sasrec", 1e-3, 1024, 200, {}),
        ("bsarec", 1e-3, 256, 200, {"patience": 10}),
        ("hstu", 1e-3, 1024, 200, {}),
        ("sasrec_features", 1e-3, 2048, 300, {"patience": 10}),
        ("unisrec", 1e-3, 2048, 300, {"patience": 10}),
        ("whitenrec", 1e-3, 1024, 300, {"patience": 50}),
        ("whitenrec_plus", 1e-3, 1024, 300, {"patience": 50}),
        ("lirdrec_seq", 1e-3, 1024, 200, {"patience": 10}),
    ],
)
def test_the_published_training_of_each_model(model, rate, batch, epochs, others):
    _, training = preset(model, "paper")
    assert training == TrainConfig(learning_rate=rate, batch_size=batch, epochs=epochs, **others)


def test_every_model_trained_by_gradients_has_a_published_training():
    for name in model_names():
        trained = model_type(name).capabilities.training == "gradient"
        assert trained == bool(model_type(name).published), name


def test_stopped_and_resumed_while_the_learning_rate_falls(dataset, tmp_path):
    """The rate depends on the epoch alone, so the resumed training has the bits of one that was never stopped."""
    falling = replace(TRAINING, epochs=6, schedule="exponential", decay=0.5, decay_epochs=2, patience=20)
    whole = fit(dataset, CONFIG, falling, run=tmp_path / "whole", **QUIET)
    fit(dataset, CONFIG, replace(falling, epochs=3), run=tmp_path / "run", **QUIET)
    resumed = fit(dataset, CONFIG, falling, run=tmp_path / "run", resume=True, **QUIET)
    assert torch.equal(resumed.scorer.item_vectors, whole.scorer.item_vectors)
    with assert_error(RunFolderError, mentions=[tmp_path / "run", "training.decay = 0.5", 0.9]):
        fit(dataset, CONFIG, replace(falling, epochs=9, decay=0.9), run=tmp_path / "run", resume=True, **QUIET)


def test_a_config_alone_gets_the_training_that_suits_its_loss(dataset, monkeypatch):
    seen = []
    monkeypatch.setattr("lirdrec.recommender.fit._train", lambda job, *a, **k: seen.append(job.training))
    for loss in ("bpr", "softmax"):
        fit(dataset, replace(CONFIG, loss=loss), **QUIET)
    assert [one.learning_rate for one in seen] == [2e-4, 2e-3]


def test_an_automatic_batch_size_is_kept_as_a_number_and_trains_as_that_number(dataset, tmp_path, monkeypatch):
    monkeypatch.setattr("lirdrec.training.config.AUTO_BATCH", 20)
    n = len(dataset.train.users)
    size = math.ceil(n / 10)
    rate = 5e-3 * (size / 20) ** 0.3
    automatic = replace(TRAINING, batch_size="auto", learning_rate=5e-3)
    found = fit(dataset, CONFIG, automatic, run=tmp_path / "run", **QUIET)
    info = Recommender.load(tmp_path / "run").info
    assert info["training"]["batch_size"] == size > 20
    assert info["training"]["learning_rate"] == pytest.approx(rate)
    assert info["automatic"] == {key: info["training"][key] for key in ("batch_size", "learning_rate")}
    given = fit(dataset, CONFIG, automatic.resolved(n), **QUIET)
    assert "automatic" not in given.info
    assert torch.equal(found.scorer.item_vectors, given.scorer.item_vectors)


def test_the_papers_preset_is_the_papers_setting():
    config, training = preset("lirdrec", "paper")
    assert (training.batch_size, training.learning_rate, training.epochs, training.patience) == (2048, 1e-4, 1000, 20)
    assert training.metric == "recall@20" and training.schedule == "constant" and training.gradient_clip is None
    assert (config.embedding_size, config.n_item_layers, config.n_neighbors, config.hidden_multiplier) == (
        64,
        1,
        10,
        4,
    )
    assert (config.dct, config.pwc, config.pwc_base, config.init, config.edge_dropout) == (
        "features", "released", 0.9, "torch", 0.0,
    )  # fmt: skip


def test_a_model_is_chosen_by_its_name(dataset):
    by_config = fit(dataset, EASEConfig(), **QUIET).scorer.tensors()
    for named in (fit(dataset, "ease", **QUIET), fit(dataset, model="ease", **QUIET)):
        assert named.info["model"] == "ease"
        assert all(torch.equal(tensor, by_config[name]) for name, tensor in named.scorer.tensors().items())


def test_the_warning_without_validation_has_the_option_of_the_interface(dataset, caplog):
    untested = replace(dataset, valid=dataset.valid.take([]))
    make_job(untested, CONFIG, TRAINING, False, ())
    with command_line():
        make_job(untested, CONFIG, TRAINING, False, ())
    in_python, in_shell = caplog.messages
    assert_mentions(in_python, [dataset.name, "refit='RUN'"])
    assert_mentions(in_shell, [dataset.name, "--refit RUN"])
