"""Experiment "launch": what each policy gives new items, what it costs the known ones, and new items after likes."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest

from lirdrec.data.holdout import LaunchedItems, draw_launch, with_launched_items
from lirdrec.data.synthetic import make_synthetic_dataset
from lirdrec.errors import ConfigError
from lirdrec.experiments.results import Results
from lirdrec.experiments.studies import launch

from ..helpers import assert_error
from .helpers import assert_facts

TRAINING = {"epochs": 6, "batch_size": 512, "learning_rate": 5e-3}


@pytest.fixture(scope="module")
def dataset():
    return make_synthetic_dataset(200, 120, 2600, {"image": 8, "text": 8}, groups=6, noise=0.3, seed=4)


def test_the_policies_trade_new_items_against_known_ones(dataset, context, inline, answer, tmp_path):
    settings = context(
        datasets=(str(dataset.save(tmp_path / "d")),),
        training=TRAINING,
        models=("content_knn", "lirdrec"),
        settings={"likes": (1, 3), "retrain": True},
    )
    results = inline(launch.plan, settings)
    assert all(result.done for result in results), [result.error for result in results]
    works = [(r.cell.model, r.cell.work) for r in results]
    assert works == [
        ("content_knn", "launch:launched"),
        ("lirdrec", "launch:launched"),
        ("lirdrec", "launch:retrained"),
        ("lirdrec", "launch:retrained"),
    ]
    figures = next(r for r in results if works[1] == (r.cell.model, r.cell.work)).figures
    boosts = [figures[f"test boost={cost:g}"]["share"] for cost in launch.COSTS]
    assert boosts == sorted(boosts) and boosts[-1] > boosts[0]
    assert figures["test share=0.1"]["share"] == pytest.approx(0.1)  # 2 of 20 places
    assert figures["test calibrated"] == figures["test boost=0.025"]
    for name in ("known", "alone", "among", "together"):
        assert 0 < figures["test calibrated"][name] <= 1
    # new items without likes are measured on all of their interactions
    assert figures["test after 0"] == figures["test calibrated"]
    page = launch.report(settings, results)
    assert_facts(answer(page), [f"{figures['test calibrated']['among']:.4f}"])
    text = page.with_suffix(".md").read_text()
    ceiling = next(r for r in results if r.cell.variant == "3 likes").figures["test retrained 3"]["alone"]
    assert f"{ceiling:.4f}" in text


def test_an_experiment_without_results_has_a_report(context):
    page = launch.report(context(), Results())
    assert "no results" in page.read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("settings", "mentions"),
    [({"by": "weight"}, ["by", "weight"]), ({"likes": (0,)}, ["likes", 0]), ({"likes": "few"}, ["likes", "few"])],
)
def test_wrong_settings_are_refused(context, settings, mentions):
    with assert_error(ConfigError, mentions=mentions):
        list(launch.plan(context(settings=settings), Results()))


def test_models_that_cannot_add_items_are_refused(context):
    with assert_error(ConfigError, mentions=["mf"]):
        list(launch.plan(context(models=("mf",)), Results()))


def test_likes_are_revealed_once_and_the_others_stay_hidden():
    rng = np.random.default_rng(0)
    users, items = np.nonzero(rng.random((40, 6)) < 0.3)
    launched = LaunchedItems(table=pl.DataFrame({"item": range(6)}), features={}, users=users, items=items)
    for number in (0, 2, 12, 100):
        liked, rest = launch._reveal(launched, number, seed=3)
        pairs = [set(zip(part.users.tolist(), part.items.tolist(), strict=True)) for part in (liked, rest)]
        assert not pairs[0] & pairs[1]
        assert pairs[0] | pairs[1] == set(zip(users.tolist(), items.tolist(), strict=True))
        totals = np.bincount(items, minlength=6)
        expected = np.where(totals > number, number, 0)
        assert np.bincount(liked.items, minlength=6).tolist() == expected.tolist()


def test_a_dataset_with_launched_items_has_them_in_its_last_rows(dataset):
    drawn = draw_launch(dataset, seed=1)
    liked, _ = launch._reveal(drawn.test, 2, seed=0)
    together = with_launched_items(drawn.dataset, liked)
    n = drawn.dataset.n_items
    assert together.items.series.to_list()[n:] == drawn.test.table["item"].to_list()
    added = together.train.items >= n
    assert list(zip(together.train.users[added], together.train.items[added] - n, strict=True)) == list(
        zip(liked.users, liked.items, strict=True)
    )
    for name, matrix in together.features.items():
        np.testing.assert_array_equal(matrix.values[n:], drawn.test.features[name].values)
