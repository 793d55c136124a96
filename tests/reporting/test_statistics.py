"""Means, tests and corrections against independent computations and planted truths."""

from __future__ import annotations

import itertools
import math

import numpy as np
import polars as pl
import pytest
from scipy import stats

from lirdrec.errors import DataError
from lirdrec.reporting.statistics import Measure, average_gain, compare, gain, holm, over_seeds, paired

from ..helpers import assert_error


def closed_holm(p_values: list[float]) -> list[float]:
    """Holm by the closure principle: a hypothesis falls when Bonferroni rejects every set of hypotheses it is in."""
    n = len(p_values)
    adjusted = []
    for one in range(n):
        others = [other for other in range(n) if other != one]
        sets = [(one, *rest) for size in range(n) for rest in itertools.combinations(others, size)]
        adjusted.append(max(min(1.0, len(s) * min(p_values[i] for i in s)) for s in sets))
    return adjusted


def test_mean_and_sd_of_runs():
    assert Measure.of([0.1, 0.2, 0.4]) == Measure(
        pytest.approx(0.7 / 3),
        pytest.approx(math.sqrt(((0.1 - 0.7 / 3) ** 2 + (0.2 - 0.7 / 3) ** 2 + (0.4 - 0.7 / 3) ** 2) / 2)),
        3,
    )
    assert Measure.of([0.3]) == Measure(0.3, None, 1)
    assert Measure.of([math.nan]) is None
    assert Measure.of([0.3, math.nan]) == Measure(0.3, None, 1)


@pytest.mark.parametrize("seed", range(20))
def test_holm_is_the_closure_of_bonferroni(seed):
    p = np.random.default_rng(seed).uniform(0, 0.2, 6).round(2).tolist()  # rounding makes ties
    assert holm(p) == pytest.approx(closed_holm(p), abs=1e-12)


def test_holm_on_a_worked_example():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([]) == []


def test_paired_t_by_hand():
    # d = 1, 2, 3, 4, 5: mean 3, sd √2.5, t = 3 / √(2.5 / 5) = 4.2426
    theirs = np.array([5.0, 1.0, 2.0, 8.0, 3.0])
    test = paired(theirs + np.arange(1, 6), theirs)
    assert (test.n, test.difference) == (5, pytest.approx(3))
    assert test.t == pytest.approx(3 / math.sqrt(0.5))
    assert test.t_p == pytest.approx(0.013235, abs=1e-6)  # 2 (1 - T4(4.2426)) of a table
    assert test.w_p == pytest.approx(2 / 2**5)  # all five ranks positive: 1 of 32 sign patterns, twice
    half = 2.776445 * math.sqrt(0.5)
    assert (test.low, test.high) == (pytest.approx(3 - half, abs=1e-5), pytest.approx(3 + half, abs=1e-5))


def test_paired_tests_agree_with_scipy():
    generator = np.random.default_rng(3)
    ours, theirs = generator.uniform(size=300), generator.uniform(size=300)
    test = paired(ours, theirs)
    assert (test.t, test.t_p) == pytest.approx(tuple(stats.ttest_rel(ours, theirs)))
    interval = stats.ttest_rel(ours, theirs).confidence_interval(0.95)
    assert (test.low, test.high) == pytest.approx((interval.low, interval.high))
    assert test.w_p == pytest.approx(stats.wilcoxon(ours, theirs).pvalue)


def test_exact_wilcoxon_by_all_sign_patterns():
    d = np.array([0.3, -0.1, 0.45, 0.2, 0.7, -0.25, 0.05])
    ranks = np.abs(d).argsort().argsort() + 1
    observed = ranks[d > 0].sum()
    sums = [
        sum(r for r, up in zip(ranks, signs, strict=True) if up) for signs in itertools.product([0, 1], repeat=len(d))
    ]
    expected = len(ranks) * (len(ranks) + 1) / 4
    p = np.mean([abs(s - expected) >= abs(observed - expected) for s in sums])
    assert paired(d, np.zeros(7)).w_p == pytest.approx(p)


def test_identical_models_differ_by_no_test():
    values = np.random.default_rng(0).uniform(size=100)
    test = paired(values, values.copy())
    assert (test.difference, test.t_p, test.w_p) == (0.0, 1.0, 1.0)


def test_the_last_bits_are_no_difference():
    # the mean of three seeds in another order of summation: different bits, the same model
    runs = np.random.default_rng(1).uniform(size=(3, 2000))
    one, other = (runs[0] + runs[1] + runs[2]) / 3, (runs[2] + runs[1] + runs[0]) / 3
    assert (one != other).any()
    assert paired(one, other).w_p == 1.0


def users(values: np.ndarray) -> pl.DataFrame:
    return pl.DataFrame({"user": np.arange(len(values)), "recall@20": values, "ndcg@20": values / 2})


def test_planted_a_better_model_is_significant_and_an_equal_one_is_not():
    generator = np.random.default_rng(5)
    skill = generator.beta(1, 8, 3000)
    ours = users(skill)
    better, equal = (
        users(skill - 0.01 + generator.normal(0, 0.05, 3000)),
        users(skill + generator.normal(0, 0.05, 3000)),
    )
    found = {
        (c.theirs, c.metric): c.significant() for c in compare(ours, {"worse": better, "equal": equal, "same": ours})
    }
    assert found == {
        ("worse", "recall@20"): 1,
        ("worse", "ndcg@20"): 1,
        ("equal", "recall@20"): 0,
        ("equal", "ndcg@20"): 0,
        ("same", "recall@20"): 0,
        ("same", "ndcg@20"): 0,
    }
    assert [c.significant() for c in compare(better, {"ours": ours})] == [-1, -1]


def test_false_alarms_are_as_rare_as_promised():
    # 8 models that are all as good as ours, 100 times over: any significance is a false alarm, at most 5 % at α = .05
    generator = np.random.default_rng(9)
    alarms = 0
    for _ in range(100):
        skill = generator.beta(1, 8, 150)
        others = {str(n): users(skill + generator.normal(0, 0.05, 150)).drop("ndcg@20") for n in range(8)}
        found = compare(users(skill).drop("ndcg@20"), others)
        alarms += any(c.t_p_holm < 0.05 for c in found)
    assert alarms <= 10


def test_users_are_matched_by_id_not_by_place():
    generator = np.random.default_rng(2)
    ours = users(generator.uniform(size=50))
    assert compare(ours, {"shuffled": ours.sample(fraction=1.0, shuffle=True, seed=1)})[0].test.difference == 0
    with assert_error(DataError, mentions=["half"]):
        compare(ours, {"half": ours.head(25)})


def test_seeds_are_averaged_per_user():
    one = pl.DataFrame({"user": ["a", "b"], "recall@20": [0.0, 1.0]})
    two = pl.DataFrame({"user": ["b", "a"], "recall@20": [0.5, 1.0]})
    assert over_seeds([one, two]).to_dict(as_series=False) == {"user": ["a", "b"], "recall@20": [0.5, 0.75]}
    with assert_error(DataError):
        over_seeds([one, two.head(1)])


def test_gains():
    assert gain(0.12, 0.1) == pytest.approx(20)
    assert math.isnan(gain(0.1, 0.0))
    assert average_gain({"r": 0.12, "n": 0.055, "only": 1.0}, {"r": 0.1, "n": 0.05}) == pytest.approx(15)
    assert math.isnan(average_gain({"r": 0.1}, {"n": 0.1}))
