"""The mix of models: the good one gets the weight, the choice is validation's, and each is scored once as declared."""

from __future__ import annotations

import json

import numpy as np
import pytest

from lirdrec.errors import ConfigError
from lirdrec.experiments.results import Results
from lirdrec.experiments.studies import fusion
from lirdrec.experiments.trial import TrialResult, TrialSpec

from ..helpers import assert_error
from .helpers import assert_facts

# MF that hardly moves from its random start, beside item-kNN, which needs no training
SMALL = {"models": ("mf", "item_knn"), "training": {"epochs": 1, "learning_rate": 1e-9}, "model_options": {}}


def test_the_good_model_gets_the_weight(context, inline, answer, words):
    settings = context(**SMALL, seeds=2, settings={"steps": 4})
    results = inline(fusion.plan, settings)
    assert all(one.done for one in results), [one.error for one in results]
    assert len(results) == 4 + 2 + 2
    mixed = list(results.where(work="fusion:score_mix"))
    weights = dict(zip(("mf", "item_knn"), mixed[0].data["weights"], strict=True))
    assert weights["item_knn"] >= 0.75
    alone = {one.cell.seed: one for one in results.where(model="item_knn", work="train")}
    for one in mixed:
        own = alone[one.cell.seed]
        # on validation the mix was chosen as the best; on the test it may fall a little behind
        assert one.figures["valid"]["recall@20"] >= own.figures["valid"]["recall@20"] - 1e-9
        assert one.figures["test"]["recall@20"] > own.figures["test"]["recall@20"] - 0.05
    chosen = ["MF", f"{weights['mf']:g}", "Item kNN", f"{weights['item_knn']:g}"]
    figure = np.mean([one.figures["test"]["recall@20"] for one in alone.values()])
    # the weights, then the best model alone
    assert_facts(answer(fusion.report(settings, results)), [*chosen, "Item kNN", f"{figure:.4f}"])
    # the mix is declared once, for all seeds
    vault = next((settings.output / "sealed").iterdir())
    declared = json.loads((vault / "declarations.json").read_text())
    assert sum("fusion:score_mix" in name for name in declared) == 1
    assert len(list((vault / "scores").glob("*.json"))) == 6


def test_a_mix_with_all_weight_on_one_model_is_that_model(context, inline):
    """The figures of the grid's corners are those that the models themselves got on validation."""
    settings = context(**SMALL, settings={"steps": 1})
    results = inline(fusion.plan, settings)
    tried = next(iter(results.where(work="fusion:try_mixes"))).data
    for place, model in enumerate(("mf", "item_knn")):
        own = next(iter(results.where(model=model, work="train"))).figures["valid"]
        corner = next(e for e in tried if e["weights"][place] == 1 and e["how"] == "z-score")
        assert corner["figures"]["recall@20"] == pytest.approx(own["recall@20"], abs=1e-9)


def grid(*values: float, seed: int = 0) -> TrialResult:
    entries = [
        {"weights": [1 - n / 2, n / 2], "how": "z-score", "figures": {"recall@20": v}} for n, v in enumerate(values)
    ]
    return TrialResult(TrialSpec("fusion:try_mixes", "d", "mf", seed=seed), data=entries)


def test_the_mean_over_the_seeds_chooses():
    # seed 0 likes the first mix best, seed 1 the last; the second is best on average
    found = fusion.choose([grid(0.30, 0.28, 0.10), grid(0.10, 0.28, 0.30, seed=1)], "recall@20")
    assert found == {"weights": [0.5, 0.5], "how": "z-score", "value": pytest.approx(0.28)}
    tie = fusion.choose([grid(0.2, 0.2, 0.1)], "recall@20")
    assert tie is not None and tie["weights"] == [1.0, 0.0]
    assert fusion.choose([grid(0.2, 0.1), None], "recall@20") is None


def test_nothing_is_mixed_before_all_models_are_there(context):
    settings = context(**SMALL)
    members = list(fusion.plan(settings, Results()))
    assert [cell.model for cell in members] == ["mf", "item_knn"] and all(cell.extra["keep"] for cell in members)
    one_failed = Results([TrialResult(members[0]), TrialResult(members[1], "failed", "no")])
    assert list(fusion.plan(settings, one_failed)) == members


def test_what_cannot_be_mixed(context):
    with assert_error(ConfigError, mentions=["models"]):
        list(fusion.plan(context(models=("mf",)), Results()))
    with assert_error(ConfigError, mentions=["steps", 0]):
        list(fusion.plan(context(**SMALL, settings={"steps": 0}), Results()))
