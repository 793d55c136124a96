"""The experiments splits, startup and sensitivity on planted results: the answers follow, the test stays unseen."""

from __future__ import annotations

import dataclasses

import numpy as np
import polars as pl
import pytest

import lirdrec
from lirdrec.data.dataset import Dataset, Interactions
from lirdrec.data.synthetic import make_synthetic_dataset
from lirdrec.errors import ConfigError, DataError
from lirdrec.evaluation.evaluator import evaluate
from lirdrec.experiments.config import resolve_options
from lirdrec.experiments.result_collection import Results
from lirdrec.experiments.studies import early_training, sensitivity, splits
from lirdrec.experiments.trial_spec_and_result import TrialResult, TrialSpec

from ..helpers import assert_error
from .conftest import assert_facts, emphasized


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
    value = lambda trial: (random if trial.split["split"] == "random" else later)[trial.model]
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
    assert all(trial.final and trial.split["seed"] == 0 for trial in cells)
    assert len({(str(c.model_options), str(c.training)) for c in cells if c.model == "mf"}) == 1


def test_trained_for_real_the_last_pairs_are_the_test(context, inline, timed):
    """Each trial is trained on its own split: what is held out is later than what is trained on."""
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
        data = Dataset.load(timed).resplit(**result.trial.split)
        recommender = lirdrec.fit(data, *resolve_options(result.trial), progress=False, cache=False)
        options = {"test_history": "train+valid", "mask_seen": False, "metrics": ("hit", "ndcg"), "k": (5, 20)}
        test = {name: result.figures["test"][name] for name in names}
        assert test == pytest.approx(evaluate(recommender, data, **options).values)
    assert_facts(" ".join(results.remarks()), ["training", "validation", "seen"])
    assert_facts(splits.report(settings, results).read_text(encoding="utf-8"), ["Hit@20"])
    plain = list(splits.plan(context(datasets=(timed,), models=("item_knn",)), Results()))
    assert all("evaluation" not in trial.extra for trial in plain)


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


SPEED = {"bm3": (0.30, 1.0), "lirdrec": (0.40, 4.0)}  # best figure, seconds of an epoch
GRID = {"down_values": [1e-1, 1e-3], "across_values": [0.7, 0.9, 0.99]}


class TestStartup:
    def learn(self, trial: TrialSpec) -> TrialResult:
        """A line that rises to its best in ten epochs; BM3 begins higher, LIRDRec ends higher."""
        best, seconds = SPEED[trial.model]
        low = {"bm3": 0.2, "lirdrec": 0.0}[trial.model]
        figure = lambda n: low + (best - low) * min(1.0, n / 10) + (0.001 if trial.seed else -0.001)
        history = tuple(
            {"epoch": n, "seconds": n * seconds, "loss": 1.0, "recall@20": figure(n), "ndcg@20": 0.1}
            for n in range(1, trial.training["epochs"] + 1)
        )
        return TrialResult(trial, figures={"valid": {"recall@20": best}}, history=history, epochs=len(history))

    def test_who_leads_when_and_when_the_best_is_passed(self, context, inline, answer):
        settings = context(models=("bm3", "lirdrec"), seeds=2, training={"epochs": 12})
        results = inline(early_training.plan, settings, self.learn)
        page = early_training.report(settings, results)
        said = answer(page)
        # lines 0.2 + .01n and .04n cross at n = 6.7; LIRDRec passes 0.30 (reached in epoch 10) with .32 in epoch 8
        assert emphasized(page) == ["BM3", "BM3", "LIRDRec", "LIRDRec"]
        leaders = [{"BM3", "1", "0.2100"}, {"BM3", "5", "0.2500"}, {"LIRDRec", "10", "0.4000"}, {"LIRDRec", "12"}]
        passed = [{"LIRDRec", "BM3"}, "0.3000", {"10", "10.0"}, {"8", "32.0"}]
        assert_facts(said, [*leaders, *passed])
        table = pl.read_csv(settings.output / "tables" / "startup.csv")
        (near_best,) = [name for name in table.columns if "90%" in name and table[name].dtype.is_numeric()][:1]
        near = dict(zip(table[table.columns[0]], table[near_best], strict=True))
        assert near == {"BM3": 7, "LIRDRec": 9}

    def test_every_epoch_is_trained_and_the_test_stays_sealed(self, context):
        for given, epochs in (({}, 60), ({"epochs": 9}, 9)):
            cells = list(early_training.plan(context(models=early_training.MODELS, training=given), Results()))
            assert [trial.model for trial in cells] == ["lattice", "bm3", "freedom", "lirdrec"]
            assert all(trial.training["epochs"] == trial.training["patience"] == epochs for trial in cells)
            assert not any(trial.final for trial in cells)

    def test_a_closed_form_has_no_epochs(self, context):
        with assert_error(ConfigError, mentions=["item_knn"]):
            list(early_training.plan(context(models=("item_knn",)), Results()))


class TestSensitivity:
    @staticmethod
    def value(trial: TrialSpec) -> float:
        a, b = trial.model_options["regularization"], trial.model_options["pwc_weight"]
        return {1e-1: 0.2, 1e-3: 0.4}[a] + {0.7: 0.0, 0.9: 0.02, 0.99: 0.01}[b] + 0.001 * trial.seed

    def test_best_worst_and_what_matters_more(self, context, inline, scored, answer):
        settings = context(settings=GRID, seeds=2)
        results = inline(sensitivity.plan, settings, scored(self.value))
        assert len(results) == 12 and not any(one.trial.final for one in results)
        page = sensitivity.report(settings, results)
        assert emphasized(page) == ["0.4205 ± 0.0007"]
        best = [{"0.4205", "0.0007"}, "regularization", "0.001", "pwc_weight", "0.9"]
        worst = [{"0.2005", "0.0007"}, "regularization", "0.1", "pwc_weight", "0.7"]
        # λ makes a difference of .2 everywhere, w of .02: parts of .4205
        parts = ["regularization", "47.6", "pwc_weight", "4.8"]
        assert_facts(answer(page), [*best, *worst, *parts, "1", "6"])  # 1 of 6 points is as good as the best
        table = pl.read_csv(settings.output / "tables" / "sensitivity.csv")
        assert table.columns[0] == "regularization" and table.shape[0] == 2

    def test_the_paper_s_grid_where_nothing_is_said(self, context):
        cells = list(sensitivity.plan(context(), Results()))
        points = {(trial.model_options["regularization"], trial.model_options["pwc_weight"]) for trial in cells}
        assert len(points) == 25 and (1e-5, 0.99) in points

    def test_options_of_training_may_be_looked_at_too(self, context):
        chosen = {"down": "learning_rate", "down_values": [0.1, 0.2], "across": "n_layers", "across_values": [1, 2]}
        cells = list(sensitivity.plan(context(settings=chosen), Results()))
        assert [(c.training["learning_rate"], c.model_options["n_layers"]) for c in cells] == [
            (0.1, 1),
            (0.1, 2),
            (0.2, 1),
            (0.2, 2),
        ]

    @pytest.mark.parametrize(
        "given, facts",
        [
            ({"down": "lambda"}, ["lirdrec", "lambda"]),
            ({"down": "pwc_weight"}, ["down", "across", "pwc_weight"]),
            ({"down_values": "many"}, ["down_values", "many"]),
        ],
    )
    def test_a_grid_that_cannot_be(self, context, given, facts):
        with assert_error(ConfigError, mentions=facts):
            list(sensitivity.plan(context(settings=given), Results()))
