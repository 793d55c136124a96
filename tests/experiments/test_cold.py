"""Cold start: unseen items stay unseen, each way is what it says, and features that tell the taste beat chance."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from lirdrec.data.dataset import Dataset
from lirdrec.data.synthetic import make_synthetic_dataset
from lirdrec.experiments import worker
from lirdrec.experiments.results import Results
from lirdrec.experiments.studies import cold
from lirdrec.experiments.studies.gradient_probe import random_features
from lirdrec.experiments.trial import TrialResult, TrialSpec
from lirdrec.experiments.vault import Preregistration

from .helpers import assert_facts, between, emphasized

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
        seen.append((self.cell.work, data.n_items, len(data.test)))
        return fit(self, dataset, **options)

    monkeypatch.setattr(worker.Job, "fit", watched)
    settings = context(datasets=(str(whole.save(tmp_path / "d")),), training=TRAINING, models=("vbpr", "lirdrec"))
    results = inline(cold.plan, settings)
    assert all(one.done for one in results), [one.error for one in results]
    by = {(one.cell.model, one.cell.variant): one for one in results}
    assert set(by) == {(model, mode) for model in ("vbpr", "lirdrec") for mode in cold.MODES}
    # a fifth of 120 items is unseen: with the features in training, or added afterwards
    assert {(work, items) for work, items, _ in seen} == {("cold:transductive", 120), ("cold:inductive", 96)}
    assert all(tests == 0 for _, _, tests in seen)
    chance = cold.expected_recall(list(results), "recall@10")
    assert chance == pytest.approx(10 / 24)
    for one in results:
        assert one.figures["test"]["recall@10"] > chance + 0.15, one.cell.variant
        assert one.figures["test_all"]["recall@10"] <= one.figures["test"]["recall@10"]
    for model in ("vbpr", "lirdrec"):
        assert by[model, "inductive"].epochs == by[model, "transductive"].best_epoch
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
    assert [cell.split for cell in cells] == [{"split": "cold_items", "seed": seed} for seed in (0, 1)]
    results = Results(TrialResult(cell, best_epoch=3 + cell.seed, data={"unseen": 16, "items": 80}) for cell in cells)
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
    assert len(trials) == 5 and all(one.cell.extra["candidates"] == "cold" for one in trials)
    best = max(one.figure("recall@20") for one in trials)
    final = next(iter(results.where(work="cold:transductive")))
    assert final.figure("recall@20") == pytest.approx(best)
    vault = next((settings.output / "sealed").iterdir())
    assert len(Preregistration(vault).declarations()) == 2


def test_a_model_that_cannot_take_new_items_says_so(context, inline, answer, words):
    settings = context(models=("bm3",))
    compute = lambda cell: TrialResult(
        cell, figures={"test": {"recall@20": 0.1}, "test_all": {"recall@20": 0.0}}, data={"unseen": 40, "items": 80}
    )
    results = inline(cold.plan, settings, compute)
    assert [one.cell.variant for one in results] == ["transductive"]
    page = cold.report(settings, results)
    assert f"BM3 inductive {cold.CANNOT}" in words(page)
    # random ranking would find 20 of 40; BM3 is named beside it as no better, then as the best among all items
    assert_facts(answer(page), ["BM3", "0.1000", "0.5000", "BM3", "transductive", "0.0000", "BM3"])


def test_the_answer_compares_the_two_ways(context, inline, answer):
    settings = context(models=("vbpr", "lirdrec"))
    value = {("vbpr", "transductive"): 0.2, ("vbpr", "inductive"): 0.1, ("lirdrec", "transductive"): 0.3}

    def compute(cell: TrialSpec) -> TrialResult:
        v = value.get((cell.model, cell.variant), 0.33)
        figures = {"valid": {"recall@20": v}, "test": {"recall@20": v}, "test_all": {"recall@20": v / 10}}
        return TrialResult(cell, figures=figures, best_epoch=1, data={"unseen": 200, "items": 1000})

    page = cold.report(settings, inline(cold.plan, settings, compute))
    said = answer(page)
    assert emphasized(page) == ["LIRDRec", "LIRDRec"]  # the best of each way
    ways = ["transductive", "LIRDRec", "0.3000", "VBPR", "0.2000", "inductive", "LIRDRec", "0.3300"]
    # what random ranking finds and who is no better, what the second way changes, the best among all items
    assert_facts(said, [*ways, "0.1000", {"VBPR", "inductive"}, "VBPR", "−50.0", "LIRDRec", "+10.0"])
    assert "LIRDRec" not in between(said, "0.1000", "−50.0")
    assert_facts(said, ["+10.0", "0.0330", {"LIRDRec", "inductive"}, "10"])
