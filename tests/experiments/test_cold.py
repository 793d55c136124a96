"""The experiments cold and launch: items that training has not seen."""

from __future__ import annotations

import dataclasses

import numpy as np
import polars as pl
import pytest

from lirdrec.data.cold_start import LaunchedItems, draw_launch, with_launched_items
from lirdrec.data.dataset import Dataset
from lirdrec.data.synthetic import make_synthetic_dataset
from lirdrec.errors import ConfigError
from lirdrec.experiments import worker
from lirdrec.experiments.result_collection import Results
from lirdrec.experiments.sealed_test_set import Preregistration
from lirdrec.experiments.studies import cold, new_item_launch
from lirdrec.experiments.studies.gradient_probe import random_features
from lirdrec.experiments.trial_spec_and_result import TrialResult, TrialSpec
from lirdrec.experiments.trial_store import TrialStore

from ..helpers import assert_error
from .conftest import assert_facts, between, emphasized

TRAINING = {"epochs": 8, "batch_size": 256, "learning_rate": 5e-3}


@pytest.fixture(scope="module")
def whole() -> Dataset:
    return make_synthetic_dataset(150, 120, 1800, {"image": 8, "text": 8}, groups=5, noise=0.2, seed=4, off_taste=0.0)


def test_both_ways_beat_chance_by_far_and_no_training_sees_too_much(
    whole, context, inline, answer, words, tmp_path, monkeypatch
):
    seen: list[tuple[str, int, int]] = []
    fit = worker.Job.fit

    def watched(self, dataset=None, **options):
        data = self.dataset if dataset is None else dataset
        seen.append((self.trial.work, data.n_items, len(data.test)))
        return fit(self, dataset, **options)

    monkeypatch.setattr(worker.Job, "fit", watched)
    settings = context(datasets=(str(whole.save(tmp_path / "d")),), training=TRAINING, models=("vbpr", "lirdrec"))
    results = inline(cold.plan, settings)
    assert all(one.done for one in results), [one.error for one in results]
    by = {(one.trial.model, one.trial.variant): one for one in results}
    assert set(by) == {(model, mode) for model in ("vbpr", "lirdrec") for mode in cold.MODES}
    # a fifth of 120 items is unseen: with the features in training, or added afterwards
    assert {(work, items) for work, items, _ in seen} == {("cold:transductive", 120), ("cold:inductive", 96)}
    assert all(tests == 0 for _, _, tests in seen)
    chance = cold.expected_recall(list(results), "recall@10")
    assert chance == pytest.approx(10 / 24)
    for one in results:
        assert one.figures["test"]["recall@10"] > chance + 0.15, one.trial.variant
        assert one.figures["test_all"]["recall@10"] <= one.figures["test"]["recall@10"]
    for model in ("vbpr", "lirdrec"):
        assert by[model, "inductive"].epochs == by[model, "transductive"].best_epoch
    # only the number of epochs of the transductive trainings was free, and the limit ended them
    assert {one.trial.variant for one in results if one.data.get("stopped") == "epochs"} == {"transductive"}
    capped = [dataclasses.replace(one, best_epoch=one.epochs) for one in results]
    assert_facts("".join(Results(capped).remarks()), ["2 of 2", "--epochs"])
    page = cold.report(dataclasses.replace(settings, metric="recall@10"), results)
    assert_facts(answer(page), ["0.4167"])


def test_random_features_are_no_better_than_chance(whole, context, inline, tmp_path):
    noise = random_features(whole, seed=1).save(tmp_path / "noise")
    settings = context(datasets=(str(noise),), training=TRAINING, seeds=3)
    results = inline(cold.plan, settings)
    found = np.mean([one.figures["test"]["recall@10"] for one in results])
    assert abs(found - 10 / 24) < 0.1


def test_each_seed_draws_its_own_items_and_has_its_own_declarations(context):
    settings = context(models=("vbpr",), seeds=2)
    cells = list(cold.plan(settings, Results()))
    assert [trial.split for trial in cells] == [{"split": "cold_items", "seed": seed} for seed in (0, 1)]
    results = Results(
        TrialResult(trial, best_epoch=3 + trial.seed, data={"unseen": 16, "items": 80}) for trial in cells
    )
    again = list(cold.plan(settings, results))
    assert [(c.variant, c.seed, c.training["epochs"]) for c in again] == [
        ("transductive", 0, 2),
        ("inductive", 0, 3),
        ("transductive", 1, 2),
        ("inductive", 1, 4),
    ]


def test_closed_forms_are_tuned_on_the_unseen_items_of_validation(whole, context, inline, tmp_path):
    given = {"models": ("content_knn",), "model_options": {}, "training": {}, "trials": 5}
    settings = context(datasets=(str(whole.save(tmp_path / "d")),), **given)
    results = inline(cold.plan, settings)
    trials = results.where(work="trial")
    assert len(trials) == 5 and all(one.trial.extra["candidates"] == "cold" for one in trials)
    best = max(one.figure("recall@20") for one in trials)
    final = next(iter(results.where(work="cold:transductive")))
    assert final.figure("recall@20") == pytest.approx(best)
    sealed_folder = next((settings.output / "sealed").iterdir())
    assert len(Preregistration(sealed_folder).declarations()) == 2


def test_a_model_that_cannot_take_new_items_says_so(context, inline, answer, words):
    settings = context(models=("bm3",))
    compute = lambda trial: TrialResult(
        trial, figures={"test": {"recall@20": 0.1}, "test_all": {"recall@20": 0.0}}, data={"unseen": 40, "items": 80}
    )
    results = inline(cold.plan, settings, compute)
    assert [one.trial.variant for one in results] == ["transductive"]
    page = cold.report(settings, results)
    assert f"BM3 inductive {cold.CANNOT}" in words(page)
    # random ranking would find 20 of 40; BM3 is named beside it as no better, then as the best among all items
    assert_facts(answer(page), ["BM3", "0.1000", "0.5000", "BM3", "transductive", "0.0000", "BM3"])


def test_the_answer_compares_the_two_ways(context, inline, answer):
    settings = context(models=("vbpr", "lirdrec"))
    value = {("vbpr", "transductive"): 0.2, ("vbpr", "inductive"): 0.1, ("lirdrec", "transductive"): 0.3}

    def compute(trial: TrialSpec) -> TrialResult:
        v = value.get((trial.model, trial.variant), 0.33)
        figures = {"valid": {"recall@20": v}, "test": {"recall@20": v}, "test_all": {"recall@20": v / 10}}
        return TrialResult(trial, figures=figures, best_epoch=1, data={"unseen": 200, "items": 1000})

    page = cold.report(settings, inline(cold.plan, settings, compute))
    said = answer(page)
    assert emphasized(page) == ["LIRDRec", "LIRDRec"]  # the best of each way
    ways = ["transductive", "LIRDRec", "0.3000", "VBPR", "0.2000", "inductive", "LIRDRec", "0.3300"]
    # what random ranking finds and who is no better, what the second way changes, the best among all items
    assert_facts(said, [*ways, "0.1000", {"VBPR", "inductive"}, "VBPR", "−50.0", "LIRDRec", "+10.0"])
    assert "LIRDRec" not in between(said, "0.1000", "−50.0")
    assert_facts(said, ["+10.0", "0.0330", {"LIRDRec", "inductive"}, "10"])


LAUNCH_TRAINING = {"epochs": 6, "batch_size": 512, "learning_rate": 5e-3}


@pytest.fixture(scope="module")
def dataset():
    return make_synthetic_dataset(200, 120, 2600, {"image": 8, "text": 8}, groups=6, noise=0.3, seed=4)


def test_the_policies_trade_new_items_against_known_ones(dataset, context, inline, answer, tmp_path):
    settings = context(
        datasets=(str(dataset.save(tmp_path / "d")),),
        training=LAUNCH_TRAINING,
        models=("content_knn", "lirdrec"),
        settings={"likes": (1, 3), "retrain": True},
    )
    results = inline(new_item_launch.plan, settings)
    assert all(result.done for result in results), [result.error for result in results]
    works = [(r.trial.model, r.trial.work) for r in results]
    assert works == [
        ("content_knn", "launch:launched"),
        ("lirdrec", "launch:launched"),
        ("lirdrec", "launch:retrained"),
        ("lirdrec", "launch:retrained"),
    ]
    figures = next(r for r in results if works[1] == (r.trial.model, r.trial.work)).figures
    boosts = [figures[f"test boost={cost:g}"]["share"] for cost in new_item_launch.COSTS]
    assert boosts == sorted(boosts) and boosts[-1] > boosts[0]
    assert figures["test share=0.1"]["share"] == pytest.approx(0.1)  # 2 of 20 places
    # chosen at 3 % with a margin of at most 1.5 %
    least, most = (figures[f"test boost={cost:g}"]["share"] for cost in (0.015, 0.03))
    assert least <= figures["test calibrated"]["share"] <= most
    for name in ("known", "alone", "among", "together"):
        assert 0 < figures["test calibrated"][name] <= 1
    # new items without likes are measured on all of their interactions
    assert figures["test after 0"] == figures["test calibrated"]
    page = new_item_launch.report(settings, results)
    assert_facts(answer(page), [f"{figures['test calibrated']['among']:.4f}"])
    ended = [dataclasses.replace(r, best_epoch=r.epochs) for r in results]
    assert [r.was_still_improving for r in ended] == [False, True, True, True]  # a closed form has no epochs
    text = page.with_suffix(".md").read_text()
    ceiling = next(r for r in results if r.trial.variant == "3 likes").figures["test retrained 3"]["alone"]
    assert f"{ceiling:.4f}" in text


def test_a_launch_takes_the_best_trial_of_an_earlier_tuning(context, tmp_path):
    settings = context(
        tuned=tmp_path / "tuned", models=("lirdrec", "content_knn"), model_options={}, training={"epochs": 2}, seeds=1
    )
    store = TrialStore(tmp_path / "tuned")
    for value, n_layers in ((0.3, 2), (0.2, 4)):
        trial = TrialSpec("trial", settings.datasets[0], "lirdrec", {"n_layers": n_layers}, {"epochs": 9})
        store.record(TrialResult(trial, figures={"valid": {settings.metric: value}}))
    tuned, untuned = new_item_launch.plan(settings, Results())
    assert tuned.model_options == {"n_layers": 2} and tuned.training["epochs"] == 2
    (preset,) = new_item_launch.plan(dataclasses.replace(settings, tuned=None, models=("content_knn",)), Results())
    assert untuned == preset


def test_an_experiment_without_results_has_a_report(context):
    page = new_item_launch.report(context(), Results())
    assert "no results" in page.read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("settings", "mentions"),
    [({"by": "weight"}, ["by", "weight"]), ({"likes": (0,)}, ["likes", 0]), ({"likes": "few"}, ["likes", "few"])],
)
def test_wrong_settings_are_refused(context, settings, mentions):
    with assert_error(ConfigError, mentions=mentions):
        list(new_item_launch.plan(context(settings=settings), Results()))


def test_models_that_cannot_add_items_are_refused(context):
    with assert_error(ConfigError, mentions=["mf"]):
        list(new_item_launch.plan(context(models=("mf",)), Results()))


def test_likes_are_revealed_once_and_the_others_stay_hidden():
    rng = np.random.default_rng(0)
    users, items = np.nonzero(rng.random((40, 6)) < 0.3)
    launched = LaunchedItems(table=pl.DataFrame({"item": range(6)}), features={}, users=users, items=items)
    for number in (0, 2, 12, 100):
        liked, rest = new_item_launch._reveal(launched, number, seed=3)
        pairs = [set(zip(part.users.tolist(), part.items.tolist(), strict=True)) for part in (liked, rest)]
        assert not pairs[0] & pairs[1]
        assert pairs[0] | pairs[1] == set(zip(users.tolist(), items.tolist(), strict=True))
        totals = np.bincount(items, minlength=6)
        expected = np.where(totals > number, number, 0)
        assert np.bincount(liked.items, minlength=6).tolist() == expected.tolist()


def test_a_dataset_with_launched_items_has_them_in_its_last_rows(dataset):
    drawn = draw_launch(dataset, seed=1)
    liked, _ = new_item_launch._reveal(drawn.test, 2, seed=0)
    together = with_launched_items(drawn.dataset, liked)
    n = drawn.dataset.n_items
    assert together.items.series.to_list()[n:] == drawn.test.table["item"].to_list()
    added = together.train.items >= n
    assert list(zip(together.train.users[added], together.train.items[added] - n, strict=True)) == list(
        zip(liked.users, liked.items, strict=True)
    )
    for name, matrix in together.features.items():
        np.testing.assert_array_equal(matrix.values[n:], drawn.test.features[name].values)
