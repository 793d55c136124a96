"""The report on gradients: whether the inequality holds is read from the figures, and random features tell nothing."""

from __future__ import annotations

import pytest

from lirdrec.experiments.results import Results
from lirdrec.experiments.studies import gradients
from lirdrec.experiments.trial import TrialResult, TrialSpec

from .helpers import assert_facts


def test_the_epochs_in_which_the_inequality_holds_are_counted(context, inline, answer):
    settings = context(models=("vbpr",), seeds=2)

    def compute(cell: TrialSpec) -> TrialResult:
        lines = []
        for epoch in range(1, 6):
            small = {1: 0.9, 2: 0.95, 3: 1.2, 4: 1.3, 5: 1.4}[epoch]  # against 1: holds in the first two epochs
            recall = (0.1 if cell.extra.get("random") else 0.4) + epoch / 100
            parts = {"loss_total": 0.5, "loss_id": 0.6, "loss_features": 0.7 - epoch / 20, "recall_total": recall}
            sizes = {"id_per_item": small, "features_per_item": 1.0, "id_table": 1.0, "projection": 2.0}
            lines.append({"epoch": epoch, "loss": 1.0, **sizes, **parts})
        return TrialResult(cell, data=lines)

    said = answer(gradients.report(settings, inline(gradients.plan, settings, compute)))
    inequality = ["9.00e-01", "1.00e+00", "2", "5", "2", "5", "5"]  # per item in the first 2 of 5; as a whole in all
    losses = ["3", "5", "0.450", "0.600"]  # .65, .60, .55, .50, .45 against .6
    recalls = ["0.1500", "0.4500", "−66.7"]
    assert_facts(said, [*inequality, *losses, *recalls])
    assert "Lemma 2" not in said  # only an answer that finds nothing for it names it


def test_no_claim_is_made_of_a_difference_within_the_seeds(context, inline, answer):
    settings = context(models=("vbpr",), seeds=2)

    def compute(cell: TrialSpec) -> TrialResult:
        recall = 0.3 + (0.02 if cell.seed else -0.02) - (0.001 if cell.extra.get("random") else 0.0)
        sizes = {"id_per_item": 1.0, "features_per_item": 0.5, "id_table": 1.0, "projection": 0.5}
        return TrialResult(cell, data=[{"epoch": 1, "loss": 1.0, **sizes, "loss_total": 0.5, "recall_total": recall}])

    said = answer(gradients.report(settings, inline(gradients.plan, settings, compute)))
    assert_facts(said, ["1.00e+00", "5.00e-01", "0", "1", "0", "1", "0.2990", "0.3000", "Lemma 2"])


def test_trained_for_real(context, inline, answer):
    """Both models, with their features and without: features tell the planted taste; FREEDOM's weight is told."""
    options = {"embedding_size": 8, "n_neighbors": 5, "regularization": 0.001}
    training = {"epochs": 6, "batch_size": 256, "learning_rate": 1e-2}
    settings = context(models=gradients.MODELS, model_options=options, training=training)
    results = inline(gradients.plan, settings)
    assert all(one.done for one in results), [one.error for one in results]
    assert not any(one.cell.final for one in results)
    last = {(one.cell.model, one.cell.variant): one.data[-1] for one in results}
    for model in gradients.MODELS:
        real, random = last[model, "features"], last[model, "random features"]
        assert real["recall_total"] > random["recall_total"] + 0.02
        assert real["loss_features"] < random["loss_features"]
    # BPR pulls an item's two halves by the halves of the same users: the same order of magnitude
    first = next(one.data[0] for one in results if one.cell.model == "vbpr")
    assert 0.5 < first["id_per_item"] / first["features_per_item"] < 2
    said = answer(gradients.report(settings, results))
    assert_facts(said, ["regularization", "0.001"])


def test_the_paper_s_loss_whatever_is_asked_for(context):
    cells = list(gradients.plan(context(models=("vbpr",), losses=("softmax",), seeds=2), Results()))
    assert [(c.variant, c.seed) for c in cells] == [
        ("features", 0),
        ("features", 1),
        ("random features", 0),
        ("random features", 1),
    ]
    assert all(c.model_options["loss"] == "bpr" and not c.final for c in cells)


def test_a_model_without_item_ids_fails_with_a_sentence(context, inline, words):
    settings = context(models=("lirdrec",))
    results = inline(gradients.plan, settings)
    assert {one.status for one in results} == {"failed"}
    page = gradients.report(settings, results)
    for one in results:
        assert one.error is not None and "lirdrec" in one.error and one.error in words(page)


@pytest.mark.parametrize("small, large, expected", [([1, 3], [2, 2], [True, False]), ([2, 2], [2, 1], [True, False])])
def test_equal_gradients_fulfil_the_inequality(small, large, expected):
    lines = [{"id": a, "f": b} for a, b in zip(small, large, strict=True)]
    assert gradients.holds([TrialResult(TrialSpec("w", "d", "m"), data=lines)], "id", "f") == expected
