"""The experiment fusion and the scorer that it mixes models with."""

from __future__ import annotations

import json

import numpy as np
import pytest
import scipy.stats
import torch

from lirdrec.errors import CapabilityError, ConfigError
from lirdrec.evaluation.scorer_evaluation import GroundTruth, evaluate_scorer
from lirdrec.experiments.result_collection import Results
from lirdrec.experiments.studies import fusion
from lirdrec.experiments.studies.fusion_scorer import FusedScorer, grid_figures, normalized, simplex, try_mixes
from lirdrec.experiments.trial_spec_and_result import TrialResult, TrialSpec
from lirdrec.ranking.scorers import VectorScorer

from ..helpers import assert_error
from .conftest import assert_facts

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
    alone = {one.trial.seed: one for one in results.where(model="item_knn", work="train")}
    for one in mixed:
        own = alone[one.trial.seed]
        # on validation the mix was chosen as the best; on the test it may fall a little behind
        assert one.figures["valid"]["recall@20"] >= own.figures["valid"]["recall@20"] - 1e-9
        assert one.figures["test"]["recall@20"] > own.figures["test"]["recall@20"] - 0.05
    chosen = ["MF", f"{weights['mf']:g}", "Item kNN", f"{weights['item_knn']:g}"]
    figure = np.mean([one.figures["test"]["recall@20"] for one in alone.values()])
    # the weights, then the best model alone
    assert_facts(answer(fusion.report(settings, results)), [*chosen, "Item kNN", f"{figure:.4f}"])
    # the mix is declared once, for all seeds
    sealed_folder = next((settings.output / "sealed").iterdir())
    declared = json.loads((sealed_folder / "declarations.json").read_text())
    assert sum("fusion:score_mix" in name for name in declared) == 1
    assert len(list((sealed_folder / "scores").glob("*.json"))) == 6


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
    assert [trial.model for trial in members] == ["mf", "item_knn"] and all(trial.extra["keep"] for trial in members)
    one_failed = Results([TrialResult(members[0]), TrialResult(members[1], "failed", "no")])
    assert list(fusion.plan(settings, one_failed)) == members


def test_what_cannot_be_mixed(context):
    with assert_error(ConfigError, mentions=["models"]):
        list(fusion.plan(context(models=("mf",)), Results()))
    with assert_error(ConfigError, mentions=["steps", 0]):
        list(fusion.plan(context(**SMALL, settings={"steps": 0}), Results()))


def random_scores(n_users: int, n_items: int, seed: int = 0) -> VectorScorer:
    generator = torch.Generator().manual_seed(seed)
    return VectorScorer(
        torch.randn(n_users, 6, generator=generator), torch.randn(n_items, 6, generator=generator) * (seed + 1) * 10
    )


@pytest.fixture
def good() -> VectorScorer:
    return random_scores(40, 60, seed=0)


@pytest.fixture
def truth(good) -> GroundTruth:
    """Each user's five items that `good` scores highest are held out, its lowest two were seen."""
    order = good.scores(good.queries(torch.arange(40))).argsort(1, descending=True)
    users = torch.arange(40)
    held = users.repeat_interleave(5), order[:, :5].flatten()
    seen = users.repeat_interleave(2), order[:, -2:].flatten()
    return GroundTruth.from_pairs(seen, held, 40)


def test_normalized_scores_are_those_of_scipy():
    scores = torch.tensor([[3.0, 1.0, 1.0, 10.0], [2.0, 2.0, 2.0, 2.0]])
    expected = scipy.stats.zscore(scores[0].numpy())
    np.testing.assert_allclose(normalized(scores, "z-score")[0], expected, atol=1e-6)
    ranks = scipy.stats.zscore(scipy.stats.rankdata(scores[0].numpy()))
    np.testing.assert_allclose(normalized(scores, "rank")[0], ranks, atol=1e-6)
    for how in ("z-score", "rank"):
        assert not normalized(scores, how)[1].any()  # a model that says nothing adds nothing


def test_scale_and_shift_of_a_member_change_nothing(good):
    loud = VectorScorer(good.user_vectors * 1000, good.item_vectors)
    users = torch.arange(5)
    for how in ("z-score", "rank"):
        one, other = (FusedScorer([m], ["m"], [1.0], how) for m in (good, loud))
        torch.testing.assert_close(one.scores(one.queries(users)), other.scores(other.queries(users)))


@pytest.mark.parametrize("how", ["z-score", "rank"])
def test_parts_sum_to_the_scores(how, good):
    mix = FusedScorer([good, random_scores(40, 60, 1)], ["a", "b"], [0.3, 0.7], how)
    queries = mix.queries(torch.arange(7))
    items = torch.tensor([0, 5, 9, 11, 30, 31, 59])
    scores = mix.scores(queries)[torch.arange(7), items]
    torch.testing.assert_close(mix.parts(queries, items).sum(1), scores, rtol=1e-5, atol=1e-6)
    alone = FusedScorer([good], ["a"], [0.3], how)
    torch.testing.assert_close(mix.parts(queries, items)[:, 0], alone.scores(queries[:, :6])[torch.arange(7), items])


def test_the_simplex_is_complete():
    assert simplex(2, 2) == [(0.0, 1.0), (0.5, 0.5), (1.0, 0.0)]
    assert len(simplex(3, 10)) == 66 and all(sum(mix) == pytest.approx(1) for mix in simplex(3, 10))


@pytest.mark.parametrize("how", ["z-score", "rank"])
def test_the_grid_gives_what_evaluation_gives(how, good, truth):
    members = [good, random_scores(40, 60, 1), random_scores(40, 60, 2)]
    grid = simplex(3, 2)
    found = grid_figures(members, truth, grid, how, cutoffs=(3, 20), memory_limit=4000)  # blocks of a few users
    for mix, figures in zip(grid, found, strict=True):
        expected = evaluate_scorer(
            FusedScorer(members, list("abc"), mix, how), truth, ("recall", "ndcg"), (3, 20)
        ).values
        assert figures == pytest.approx(expected, abs=1e-9)


def test_tried_mixes_give_the_good_model_the_weight(good, truth):
    tried = try_mixes([random_scores(40, 60, 1), good, random_scores(40, 60, 2)], truth, steps=5, cutoffs=(5,))
    best = max(tried, key=lambda mix: mix["figures"]["recall@5"])
    assert best["weights"] == (0.0, 1.0, 0.0) and best["figures"]["recall@5"] == 1
    assert len(tried) == 2 * len(simplex(3, 5))


def test_two_noisy_views_of_one_truth_are_better_together(good, truth):
    def noisy(seed: int) -> VectorScorer:
        generator = torch.Generator().manual_seed(seed)
        noise = torch.randn(good.user_vectors.shape, generator=generator)
        return VectorScorer(good.user_vectors + noise, good.item_vectors)

    tried = try_mixes([noisy(1), noisy(2)], truth, steps=10, cutoffs=(5,), hows=("z-score",))
    recall = {mix["weights"][0]: mix["figures"]["recall@5"] for mix in tried}
    assert max(recall, key=recall.__getitem__) in (0.3, 0.4, 0.5, 0.6, 0.7)
    assert recall[0.5] > max(recall[0.0], recall[1.0]) + 0.02


def test_what_cannot_be_mixed_is_said(good):
    with assert_error(ConfigError):
        FusedScorer([good, random_scores(40, 61)], ["a", "b"], [0.5, 0.5], "z-score")
    with assert_error(ConfigError, mentions=["log", "z-score", "rank"]):
        FusedScorer([good], ["a"], [1.0], "log")
    with assert_error(CapabilityError):
        FusedScorer([good], ["a"], [1.0], "rank").similar_items(torch.tensor([0]))
