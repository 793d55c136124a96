"""Features without content: what they keep, what they destroy, and what a model that needs content then reaches."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from lirdrec.data.dataset import Dataset
from lirdrec.data.features import FeatureMatrix
from lirdrec.data.synthetic import make_synthetic_dataset
from lirdrec.errors import ConfigError
from lirdrec.evaluation.evaluator import evaluate
from lirdrec.experiments.feature_controls import control_features, knocked_out, with_control, without_modality
from lirdrec.experiments.results import Results
from lirdrec.experiments.studies import modality
from lirdrec.experiments.trial import TrialSpec
from lirdrec.recommender.fit import fit
from lirdrec.training.config import TrainConfig

from ..helpers import assert_error
from .conftest import SMALL, assert_facts


def matrix(n: int, d: int, missing: int = 0) -> FeatureMatrix:
    rng = np.random.default_rng(0)
    values = rng.normal(size=(n, d)) @ np.diag(np.geomspace(9, 0.1, d)) @ rng.normal(size=(d, d)) + 2
    values[rng.permutation(n)[:missing]] = 0
    return FeatureMatrix(values)


@pytest.mark.parametrize(("n", "d"), [(60, 8), (6, 40)])
def test_noise_has_the_mean_and_the_singular_values_and_nothing_else(n, d):
    real = matrix(n, d, missing=2)
    noise = control_features(real, "noise", 5)
    assert np.array_equal(noise.present, real.present) and noise.values.shape == real.values.shape
    a, b = (one.values[real.present].astype(float) for one in (real, noise))
    np.testing.assert_allclose(b.mean(0), a.mean(0), atol=1e-4)
    np.testing.assert_allclose(
        np.linalg.svd(b - b.mean(0), compute_uv=False), np.linalg.svd(a - a.mean(0), compute_uv=False), atol=1e-3
    )
    assert not np.allclose(a, b, atol=0.1)
    assert np.array_equal(control_features(real, "noise", 5).values, noise.values)
    assert not np.array_equal(control_features(real, "noise", 6).values, noise.values)


def test_noise_does_not_know_which_items_are_alike():
    real = matrix(200, 10)
    noise = control_features(real, "noise", 1)
    gram = [(one.values - one.values.mean(0)) @ (one.values - one.values.mean(0)).T for one in (real, noise)]
    upper = np.triu_indices(200, 1)
    assert abs(np.corrcoef(gram[0][upper], gram[1][upper])[0, 1]) < 0.1


def test_shuffled_vectors_are_those_of_other_items():
    real = matrix(60, 8, missing=5)
    shuffled = control_features(real, "shuffled", 3)
    assert np.array_equal(shuffled.present, real.present)
    assert sorted(map(tuple, shuffled.values.tolist())) == sorted(map(tuple, real.values.astype(np.float32).tolist()))
    same = (shuffled.values == real.values.astype(np.float32)).all(1)[real.present]
    assert same.sum() < 6
    with assert_error(ConfigError, mentions=["constant", "shuffled", "noise"]):
        control_features(real, "constant", 0)


@pytest.fixture(scope="module")
def mixed() -> Dataset:
    """The text tells what users like, the picture is noise."""
    whole = make_synthetic_dataset(150, 100, 1800, {"image": 8, "text": 8}, groups=5, noise=0.3, seed=4)
    return with_only_text(whole)


def with_only_text(whole: Dataset) -> Dataset:
    image = control_features(whole.features["image"], "noise", 9)
    return dataclasses.replace(whole, features={**whole.features, "image": image}, folder=None)


def test_a_modality_is_knocked_out_of_a_trained_model(mixed):
    from lirdrec.models.lirdrec import LIRDRecConfig

    training = TrainConfig(epochs=12, batch_size=256, learning_rate=5e-3)
    trained = fit(mixed, LIRDRecConfig(**SMALL), training, device="cpu", progress=False, cache=False)
    before = {name: tensor.clone() for name, tensor in trained.scorer.tensors().items()}
    figures = {
        name: evaluate(knocked_out(trained, mixed, name), mixed, k=20)["recall@20"] for name in ("image", "text")
    }
    whole = evaluate(trained, mixed, k=20)["recall@20"]
    assert figures["text"] < figures["image"] - 0.05 and figures["text"] < whole - 0.05
    assert all((trained.scorer.tensors()[name] == tensor).all() for name, tensor in before.items())
    assert not without_modality(mixed, "text").features["text"].present.any()
    assert with_control(mixed, "noise", 0).train is mixed.train


def test_the_report_says_that_content_matters_where_it_does(mixed, context, inline, answer, tmp_path):
    settings = context(
        datasets=(str(mixed.save(tmp_path / "mixed")),),
        training={"epochs": 12, "batch_size": 256, "learning_rate": 5e-3},
        seeds=1,
    )
    results = inline(modality.plan, settings)
    assert all(one.done for one in results), [one.error for one in results]
    figures = {one.cell.variant: one.figures["test"]["recall@20"] for one in results}
    controls = [modality.SHUFFLED, modality.NOISE]
    assert max(figures[name] for name in controls) < figures["all modalities"] - 0.03
    assert figures["text knocked out after training"] < figures["image knocked out after training"] - 0.05
    text = answer(modality.report(settings, results))
    assert_facts(text, [f"{figures['all modalities']:.4f}"])
    for name in figures:
        assert_facts(text.lower(), [name, f"{figures[name]:.4f}"])


@pytest.mark.parametrize(("loss", "bold"), [(0.3, True), (0.0, False)])
def test_the_sentence_follows_the_figures(context, inline, scored, answer, loss, bold):
    settings = context(seeds=2)

    def value(cell: TrialSpec) -> float:
        return 0.5 - loss * (cell.variant in (modality.SHUFFLED, modality.NOISE))

    compute = scored(value, settings.output)
    results = inline(modality.plan, settings, compute)
    page = modality.report(settings, results)
    html = page.read_text(encoding="utf-8")
    found = [word for word in ("The model uses the content", "No use of content is shown") if word in html]
    assert len(found) == 1 and (found[0].startswith("The model")) == bold
    assert len(results) == 2 * 7


def test_controls_can_be_left_out(context):
    plain = list(modality.plan(context(settings={"controls": False}), Results()))
    assert [cell.variant for cell in plain] == ["all modalities", "image only", "text only"]
    assert all(cell.work == "train" for cell in plain)
