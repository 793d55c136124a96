"""Startup and sensitivity on results made by hand: the answers follow from the figures, the test is never looked at."""

from __future__ import annotations

import polars as pl
import pytest

from lirdrec.errors import ConfigError
from lirdrec.experiments.results import Results
from lirdrec.experiments.studies import sensitivity, startup
from lirdrec.experiments.trial import TrialResult, TrialSpec

from ..helpers import assert_error
from .helpers import assert_facts, emphasized

SPEED = {"bm3": (0.30, 1.0), "lirdrec": (0.40, 4.0)}  # best figure, seconds of an epoch
GRID = {"down_values": [1e-1, 1e-3], "across_values": [0.7, 0.9, 0.99]}


class TestStartup:
    def learn(self, cell: TrialSpec) -> TrialResult:
        """A line that rises to its best in ten epochs; BM3 begins higher, LIRDRec ends higher."""
        best, seconds = SPEED[cell.model]
        low = {"bm3": 0.2, "lirdrec": 0.0}[cell.model]
        figure = lambda n: low + (best - low) * min(1.0, n / 10) + (0.001 if cell.seed else -0.001)
        history = tuple(
            {"epoch": n, "seconds": n * seconds, "loss": 1.0, "recall@20": figure(n), "ndcg@20": 0.1}
            for n in range(1, cell.training["epochs"] + 1)
        )
        return TrialResult(cell, figures={"valid": {"recall@20": best}}, history=history, epochs=len(history))

    def test_who_leads_when_and_when_the_best_is_passed(self, context, inline, answer):
        settings = context(models=("bm3", "lirdrec"), seeds=2, training={"epochs": 12})
        results = inline(startup.plan, settings, self.learn)
        page = startup.report(settings, results)
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
            cells = list(startup.plan(context(models=startup.MODELS, training=given), Results()))
            assert [cell.model for cell in cells] == ["lattice", "bm3", "freedom", "lirdrec"]
            assert all(cell.training["epochs"] == cell.training["patience"] == epochs for cell in cells)
            assert not any(cell.final for cell in cells)

    def test_a_closed_form_has_no_epochs(self, context):
        with assert_error(ConfigError, mentions=["item_knn"]):
            list(startup.plan(context(models=("item_knn",)), Results()))


class TestSensitivity:
    @staticmethod
    def value(cell: TrialSpec) -> float:
        a, b = cell.model_options["regularization"], cell.model_options["pwc_weight"]
        return {1e-1: 0.2, 1e-3: 0.4}[a] + {0.7: 0.0, 0.9: 0.02, 0.99: 0.01}[b] + 0.001 * cell.seed

    def test_best_worst_and_what_matters_more(self, context, inline, scored, answer):
        settings = context(settings=GRID, seeds=2)
        results = inline(sensitivity.plan, settings, scored(self.value))
        assert len(results) == 12 and not any(one.cell.final for one in results)
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
        points = {(cell.model_options["regularization"], cell.model_options["pwc_weight"]) for cell in cells}
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
