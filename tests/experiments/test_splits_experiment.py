"""The experiment on splits: which split each cell gets, how orders are compared, and what is refused."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

import lirdrec
from lirdrec.data.dataset import Dataset, Interactions
from lirdrec.data.synthetic import make_synthetic_dataset
from lirdrec.errors import ConfigError, DataError
from lirdrec.evaluation.evaluator import evaluate
from lirdrec.experiments.config import resolve_options
from lirdrec.experiments.results import Results
from lirdrec.experiments.studies import splits
from lirdrec.experiments.trial import TrialSpec

from ..helpers import assert_error
from .helpers import assert_facts, emphasized


@pytest.fixture
def timed(tmp_path) -> str:
    """A planted dataset with a time for each pair."""
    data = make_synthetic_dataset(60, 50, 700, {"text": 4}, groups=4, seed=2)
    rng = np.random.default_rng(0)

    def stamped(part: Interactions) -> Interactions:
        return Interactions(part.users, part.items, rng.permutation(len(part)) + 1)

    parts = {name: stamped(data.split(name)) for name in ("train", "valid", "test")}
    return str(dataclasses.replace(data, **parts).save(tmp_path / "timed"))


def test_orders_are_compared_and_the_one_that_moves_is_named(context, inline, scored, answer, words, timed):
    models = ("popularity", "item_knn", "mf", "lirdrec")
    settings = context(datasets=(timed,), models=models, settings={"methods": ["random", "global_time"]})
    random = dict(zip(models, (0.1, 0.2, 0.3, 0.4), strict=True))
    later = random | {"lirdrec": 0.05}
    value = lambda cell: (random if cell.split["split"] == "random" else later)[cell.model]
    results = inline(splits.plan, settings, scored(value))
    page = splits.report(settings, results)
    assert emphasized(page) == ["LIRDRec", "MF"]  # the best under each split
    # three of six pairs of models change order: τ = 0; LIRDRec falls from place 1 to 4; the mean change of figures
    moves = ["0.00", "LIRDRec", "1", "4", "−35.0"]
    assert_facts(answer(page), ["LIRDRec", "0.4000", "MF", "0.3000", *moves])


def test_the_same_settings_under_every_split(context, timed):
    settings = context(datasets=(timed,), models=("mf", "item_knn"), seeds=2)
    cells = list(splits.plan(settings, Results()))
    assert [(c.split["split"], c.model, c.seed) for c in cells] == [
        (method, model, seed)
        for method in ("random", "temporal", "global_time")
        for model, seeds in (("mf", (0, 1)), ("item_knn", (0,)))
        for seed in seeds
    ]
    assert all(cell.final and cell.split["seed"] == 0 for cell in cells)
    assert len({(str(c.model_options), str(c.training)) for c in cells if c.model == "mf"}) == 1


def test_trained_for_real_the_last_pairs_are_the_test(context, inline, timed):
    """Each cell is trained on its own split: what is held out is later than what is trained on."""
    settings = context(datasets=(timed,), models=("item_knn",), settings={"methods": ["temporal", "global_time"]})
    results = inline(splits.plan, settings)
    assert all(one.done and one.figures["test"]["recall@20"] > 0 for one in results)
    copies = {path.name.split("-")[2]: Dataset.load(path) for path in (settings.output / "data").iterdir()}
    assert set(copies) == {"temporal", "global_time"}
    late = copies["global_time"]
    assert late.train.timestamps.max() < late.valid.timestamps.min()
    for user in range(copies["temporal"].n_users):
        train, valid = (getattr(copies["temporal"], name) for name in ("train", "valid"))
        assert train.timestamps[train.users == user].max() <= valid.timestamps[valid.users == user].min(initial=10**9)


def test_the_protocol_of_an_experiment_is_that_of_evaluate(context, inline, timed):
    """Metrics, cut-offs, histories and masking reach the sealed test; the report says how the test was done."""
    given = {"metrics": ("hit_rate", "ndcg"), "cutoffs": (5, 20), "mask_seen": False, "test_history": "train+valid"}
    settings = context(
        datasets=(timed,), models=("item_knn",), settings={"methods": ["random", "leave_last_out"]}, **given
    )
    assert settings.evaluation["metrics"] == ("hit", "ndcg")
    results = inline(splits.plan, settings)
    for result in results:
        names = {"hit@5", "hit@20", "ndcg@5", "ndcg@20"}
        assert names < set(result.figures["test"]) and "recall@5" not in result.figures["test"]
        protocol = {"test_history": "train+valid", "test_target": "all", "mask_seen": False, "queries": "histories"}
        assert result.data["protocol"] == protocol
        data = Dataset.load(timed).resplit(**result.cell.split)
        recommender = lirdrec.fit(data, *resolve_options(result.cell), progress=False, cache=False)
        options = {"test_history": "train+valid", "mask_seen": False, "metrics": ("hit", "ndcg"), "k": (5, 20)}
        test = {name: result.figures["test"][name] for name in names}
        assert test == pytest.approx(evaluate(recommender, data, **options).values)
    assert_facts(" ".join(results.remarks()), ["training", "validation", "seen"])
    assert_facts(splits.report(settings, results).read_text(encoding="utf-8"), ["Hit@20"])
    plain = list(splits.plan(context(datasets=(timed,), models=("item_knn",)), Results()))
    assert all("evaluation" not in cell.extra for cell in plain)


def test_positions_are_not_split_at_one_moment(context, timed, tmp_path):
    data = Dataset.load(timed)
    positions = dataclasses.replace(data, info={**data.info, "timestamps": "positions"}).save(tmp_path / "positions")
    with assert_error(DataError, ["positions", "methods"]):
        list(splits.plan(context(datasets=(str(positions),), models=("item_knn",)), Results()))


def test_kendall_s_tau_of_equal_and_reversed_orders():
    one = {"a": 1.0, "b": 2.0, "c": 3.0}
    assert splits.kendall(one, one) == pytest.approx(1)
    assert splits.kendall(one, {"c": 0.1, "b": 0.2, "a": 0.3}) == pytest.approx(-1)
    assert splits.kendall(one, {"a": 1.0}) is None
    assert splits.kendall(one, {"a": 1.0, "b": 1.0}) is None


def test_data_without_times_are_refused_for_splits_by_time_only(context):
    settings = context()
    with assert_error(DataError, mentions=[settings.datasets[0]]):
        list(splits.plan(settings, Results()))
    fine: list[TrialSpec] = list(splits.plan(context(settings={"methods": ["random", "cold_items"]}), Results()))
    assert len(fine) == 2


@pytest.mark.parametrize(
    "methods, facts",
    [
        ("monthly", ["methods", "monthly"]),
        (["random"], ["methods"]),
        (["random", "none"], ["methods", "none"]),
    ],
)
def test_splits_that_there_are_not(context, methods, facts):
    with assert_error(ConfigError, mentions=facts):
        list(splits.plan(context(settings={"methods": methods}), Results()))
