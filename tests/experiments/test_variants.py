"""Ablation, modalities with their controls, and layers: variants are what they are called, answers follow."""

from __future__ import annotations

import dataclasses
import re

import numpy as np
import polars as pl
import pytest

from lirdrec.data.dataset import Dataset
from lirdrec.data.features import FeatureMatrix
from lirdrec.data.synthetic import make_synthetic_dataset
from lirdrec.errors import ConfigError, DataError
from lirdrec.evaluation.evaluator import evaluate
from lirdrec.experiments.feature_controls import control_features, knocked_out, with_control, without_modality
from lirdrec.experiments.result_collection import Results
from lirdrec.experiments.sealed_test_set import declaration_name
from lirdrec.experiments.search_spaces import space_of
from lirdrec.experiments.studies import ablation, layers, modality
from lirdrec.experiments.studies.gradient_probe import random_features
from lirdrec.experiments.trial_spec_and_result import TrialResult, TrialSpec
from lirdrec.experiments.trial_store import TrialStore
from lirdrec.recommender.fit import fit
from lirdrec.training.config import TrainConfig

from ..helpers import assert_error
from .conftest import SMALL, after_numbers, assert_facts, emphasized


class TestAblation:
    def test_each_variant_changes_one_option(self, context):
        cells = list(ablation.plan(context(seeds=2), Results()))
        assert len(cells) == 12 and all(trial.final and trial.work == "train" for trial in cells)
        full = cells[0]
        changed = {
            trial.variant: {k: v for k, v in trial.model_options.items() if full.model_options.get(k, "") != v}
            for trial in cells
        }
        assert changed == {
            "full": {},
            "w/o PWC": {"pwc": None},
            "uniform weights": {"pwc": "uniform"},
            "PWC on logits": {"pwc": "logits"},
            "w/o DCT": {"dct": None},
            "DCT over matrix": {"dct": "matrix"},
        }
        assert {trial.seed for trial in cells} == {0, 1}

    def test_the_full_model_learns_its_weights_whatever_tuning_chose(self, context):
        full = next(iter(ablation.plan(context(model_options={"pwc": "uniform", "dct": None}), Results())))
        assert (full.variant, full.model_options["pwc"], full.model_options["dct"]) == ("full", "released", "features")

    def test_the_sequential_model_has_variants_of_its_own(self, context):
        cells = list(ablation.plan(context(models=("lirdrec_seq",), seeds=1), Results()))
        full = cells[0]
        changed = [
            {k: v for k, v in trial.model_options.items() if full.model_options.get(k, "") != v} for trial in cells
        ]
        assert {trial.model for trial in cells} == {"lirdrec_seq"} and changed[0] == {}
        assert [len(one) for one in changed[1:]] == [1] * 8
        assert {next(iter(one)) for one in changed[1:]} == {"pwc", "item_graph", "whiten", "encoder"}

    def test_with_both_losses_every_declaration_has_a_name_of_its_own(self, context):
        cells = list(ablation.plan(context(losses=("bpr", "softmax")), Results()))
        assert len(cells) == 12
        assert len({declaration_name(trial) for trial in cells}) == 12
        assert [trial.model_options["loss"] for trial in cells] == ["bpr"] * 6 + ["softmax"] * 6

    def test_only_what_is_worse_is_called_worse(self, context, inline, scored, answer):
        """All variants have the full model's users and figure but for noise; without PWC each user loses a tenth."""
        settings = context(seeds=2)
        value = lambda trial: 0.5 + (-0.1 if trial.variant == "w/o PWC" else 0.0)
        results = inline(ablation.plan, settings, scored(value, settings.output))
        page = ablation.report(settings, results)
        said = answer(page)
        assert emphasized(page) == ["0.5000 ± 0.0000"]
        assert_facts(said, ["test", "recall@20", "0.5000", "0.0000", "2", "PWC", "0.4000", "0.0000", "−20.0"])
        worse = after_numbers(said)  # the conclusion names the variants that are shown to be worse
        assert "PWC" in worse and not any(name in worse for name in ("DCT", "uniform", "logits"))
        table = pl.read_csv(settings.output / "tables" / "ablation.csv")
        (noted,) = [name for name in table.columns if name.endswith("R@20 note")]
        marks = dict(zip(table[table.columns[0]], table[noted], strict=True))
        assert [name for name, mark in marks.items() if mark] == ["w/o PWC"]

    def test_a_variant_that_ran_out_of_memory_is_a_row(self, context, inline, scored, answer, words):
        settings = context()
        fine = scored(lambda trial: 0.5)
        broken = lambda trial: TrialResult(trial, "out of memory") if trial.variant == "w/o DCT" else fine(trial)
        page = ablation.report(settings, inline(ablation.plan, settings, broken))
        assert_facts(answer(page), ["DCT", "out of memory"])
        assert_facts(words(page).rpartition("w/o DCT")[2], ["0", "out of memory"])  # the list of failures: which seed

    def test_other_models_are_refused(self, context):
        with assert_error(ConfigError, mentions=["freedom"]):
            list(ablation.plan(context(models=("freedom",)), Results()))


class TestModality:
    def test_two_modalities_make_three_sets_and_three_make_seven(self):
        two = {one.label: one.modalities for one in modality.sets_of(("image", "text"))}
        assert two == {"all modalities": None, "image only": ("image",), "text only": ("text",)}
        three = {one.label: one.modalities for one in modality.sets_of(("audio", "image", "text"))}
        assert len(three) == 7 and three["w/o image"] == ("audio", "text")

    def test_one_modality_cannot_be_left_out(self):
        with assert_error(DataError, mentions=["text"]):
            modality.sets_of(("text",))

    def test_the_modality_that_decides_the_taste_is_missed(self, context, inline, answer, tmp_path):
        """Trained for real: the text tells the groups, the image is noise."""
        whole = make_synthetic_dataset(150, 100, 1800, {"image": 8, "text": 8}, groups=5, noise=0.3, seed=4)
        noise = random_features(whole, seed=1)
        mixed = dataclasses.replace(whole, features={**whole.features, "image": noise.features["image"]})
        settings = context(
            datasets=(str(mixed.save(tmp_path / "mixed")),),
            training={"epochs": 12, "batch_size": 256, "learning_rate": 5e-3},
            settings={"controls": False},
        )
        results = inline(modality.plan, settings)
        figures = {one.trial.variant: one.figures["test"]["recall@20"] for one in results}
        assert figures["text only"] > figures["image only"] + 0.05
        assert figures["all modalities"] > figures["image only"] + 0.05
        page = modality.report(settings, results)
        assert "text" in emphasized(page) and "image" not in emphasized(page)  # the modality that is missed most
        remain = f"{figures['image only']:.4f}"
        assert_facts(answer(page), [remain, "text only", f"{figures['text only']:.4f}", "text", remain])
        assert [one.trial.modalities for one in results] == [None, ("image",), ("text",)]


class TestLayers:
    def test_the_best_number_and_the_choice_of_validation_are_reported(self, context, inline, answer):
        settings = context(settings={"layers": [1, 2, 4]}, seeds=2)

        def compute(trial: TrialSpec) -> TrialResult:
            n = trial.model_options["n_layers"]
            figures = {"valid": {"recall@20": n / 10}, "test": {"recall@20": {1: 0.2, 2: 0.4, 4: 0.3}[n]}}
            return TrialResult(trial, figures=figures)

        results = inline(layers.plan, settings, compute)
        assert len(results) == 6
        page = layers.report(settings, results)
        best, figure = emphasized(page)
        assert_facts(best, ["2"])
        assert figure == "0.4000 ± 0.0000"
        # the best on test, the worst, how much less that is, and the choice of validation
        assert_facts(answer(page), ["2", "test", "recall@20", "0.4000", {"1", "0.2000"}, "50.0", "4"])

    @pytest.mark.parametrize("given", ["two", [1.5], []])
    def test_what_is_no_number_of_layers_is_refused(self, context, given):
        with assert_error(ConfigError, mentions=["layers", given]):
            list(layers.plan(context(settings={"layers": given}), Results()))

    def test_a_model_without_layers_is_refused(self, context):
        with assert_error(ConfigError, mentions=["vbpr"]):
            list(layers.plan(context(models=("vbpr",)), Results()))


class TestBaseSettings:
    """What is not said by hand comes from the folder of an earlier tuning, else from the published defaults."""

    def trial(self, context, value: float, dataset: str | None = None, **options) -> TrialResult:
        of_model = {k: v for k, v in options.items() if k != "learning_rate"}
        training = {"metric": "recall@20", "learning_rate": options["learning_rate"]}
        trial = TrialSpec("trial", dataset or context.datasets[0], "lirdrec", of_model, training)
        return TrialResult(trial, figures={"valid": {"recall@20": value}})

    def first(self, context) -> TrialSpec:
        return next(iter(ablation.plan(context, Results())))

    def test_published_where_nothing_was_tuned(self, context):
        settings = context(model_options={}, training={})
        first = space_of("lirdrec", {}, ("bpr",), ("image", "text")).first[0]
        found = self.first(settings)
        assert {**found.model_options, **found.training, "metric": 0} == {**first, "dct": "features", "metric": 0}

    def test_the_best_trial_counts_and_what_is_set_by_hand_more(self, context, tmp_path):
        settings = context(model_options={}, training={"epochs": 2}, tuned=tmp_path / "tuned")
        store = TrialStore(tmp_path / "tuned")
        store.record(self.trial(settings, 0.3, n_layers=2, loss="softmax", learning_rate=1e-3))
        store.record(self.trial(settings, 0.2, n_layers=4, loss="bpr", learning_rate=5e-3))
        other = make_synthetic_dataset(40, 30, 300, {"text": 4}, groups=3).save(tmp_path / "other")
        store.record(self.trial(settings, 0.9, str(other), n_layers=1, loss="bpr", learning_rate=0.1))
        found = self.first(settings)
        assert (found.model_options["n_layers"], found.model_options["loss"]) == (2, "softmax")
        assert found.training == {"metric": "recall@20", "learning_rate": 1e-3, "epochs": 2}
        with_bpr = self.first(dataclasses.replace(settings, losses=("bpr",)))
        assert (with_bpr.model_options["n_layers"], with_bpr.training["learning_rate"]) == (4, 5e-3)
        by_hand = self.first(dataclasses.replace(settings, training={"learning_rate": 0.5}))
        assert by_hand.training["learning_rate"] == 0.5 and by_hand.model_options["n_layers"] == 2
        # tuned with three layers in mind, nothing is known about five
        five = self.first(dataclasses.replace(settings, model_options={"n_layers": 5}))
        assert five.model_options["n_layers"] == 5 and five.training["learning_rate"] == 1e-4


def test_seeds_are_averaged_before_users_are_paired(context, inline, scored, answer):
    """Two seeds that differ by a constant each, in opposite directions: users' means are the full model's."""
    settings = context(seeds=2)
    shift = {0: 0.1, 1: -0.1}
    value = lambda trial: 0.5 + (shift[trial.seed] if trial.variant == "w/o PWC" else 0.0)
    results = inline(ablation.plan, settings, scored(value, settings.output))
    said = answer(ablation.report(settings, results))
    assert "PWC" not in after_numbers(said)  # the conclusion names no variant that is shown to be worse
    spread = f"{np.std([0.6, 0.4], ddof=1):.4f}"
    assert_facts(said, ["PWC", "0.5000", spread, "+0.0"])
    p = re.search(r"p = ([\d.]+)", said.partition(spread)[2])
    assert p is not None and float(p[1].rstrip(".")) >= 0.05


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


def test_noise_for_a_single_item_is_not_its_vector():
    real = matrix(6, 8, missing=5)
    noise = control_features(real, "noise", 5)
    assert np.array_equal(noise.present, real.present) and not np.allclose(noise.values, real.values, atol=0.1)
    assert np.linalg.norm(noise.values) == pytest.approx(np.linalg.norm(real.values))


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
    """The text tells what users like, the image is noise."""
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
    figures = {one.trial.variant: one.figures["test"]["recall@20"] for one in results}
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

    def value(trial: TrialSpec) -> float:
        return 0.5 - loss * (trial.variant in (modality.SHUFFLED, modality.NOISE))

    compute = scored(value, settings.output)
    results = inline(modality.plan, settings, compute)
    page = modality.report(settings, results)
    html = page.read_text(encoding="utf-8")
    found = [word for word in ("The model uses the content", "No use of content is shown") if word in html]
    assert len(found) == 1 and (found[0].startswith("The model")) == bold
    assert len(results) == 2 * 7


def test_controls_can_be_left_out(context):
    plain = list(modality.plan(context(settings={"controls": False}), Results()))
    assert [trial.variant for trial in plain] == ["all modalities", "image only", "text only"]
    assert all(trial.work == "train" for trial in plain)
