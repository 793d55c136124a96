"""Metrics beyond accuracy against computations with sets and loops, and against scikit-learn; bootstrap intervals."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import stats

from lirdrec.data.features import FeatureMatrix
from lirdrec.data.synthetic import make_synthetic_dataset
from lirdrec.errors import ConfigError
from lirdrec.evaluation.beyond_accuracy import BEYOND, Catalog, list_values
from lirdrec.evaluation.evaluator import evaluate
from lirdrec.ranking.histories import Histories
from lirdrec.reporting.statistics import bootstrap_intervals

from ..helpers import assert_error
from .test_evaluate import recommender_of

K = (1, 3, 10)


@pytest.fixture(scope="module")
def data():
    dataset = make_synthetic_dataset(50, 40, 700, {"image": 6, "text": 4}, groups=4, seed=2, missing={"image": 0.3})
    values = np.array(dataset.features["text"].values)
    values[5] = 0  # an item without a text
    return replace(dataset, features={**dataset.features, "text": FeatureMatrix(values)}, folder=None)


@pytest.fixture(scope="module")
def table():
    return np.random.default_rng(3).integers(0, 9, (50, 40)).astype(float)  # with many equal scores


def sets(data, split):
    found = [set() for _ in range(data.n_users)]
    for user, item in zip(data.split(split).users, data.split(split).items, strict=True):
        found[user].add(int(item))
    return found


def groups_by_hand(popularity):
    """Head, middle and tail as the definition says, item by item."""
    total, taken, group = popularity.sum(), 0, {}
    for item in sorted(range(len(popularity)), key=lambda i: (-popularity[i], i)):
        group[item] = 0 if taken < 0.2 * total else 1 if taken < 0.8 * total else 2
        taken += popularity[item]
    return group


def by_hand(data, shown, taken, popularity, group, k):
    """The metrics of one list, by loops over its items."""
    shown = shown[:k]
    n_users = len(set(data.train.users.tolist()))
    distances = []
    for a, b in itertools.combinations(shown, 2):
        for matrix in data.features.values():
            x, y = matrix.values[a].astype(float), matrix.values[b].astype(float)
            if matrix.present[a] and matrix.present[b]:
                distances.append(1 - x @ y / np.linalg.norm(x) / np.linalg.norm(y))
    p, q = (np.array([sum(group[i] == g for i in items) / len(items) for g in range(3)]) for items in (taken, shown))
    return {
        "diversity": np.mean(distances) if distances else math.nan,
        "novelty": np.mean([-math.log2(max(1, popularity[i]) / n_users) for i in shown]),
        "arp": np.mean([popularity[i] for i in shown]),
        "aplt": np.mean([group[i] == 2 for i in shown]),
        "calibration": stats.entropy(p, 0.99 * q + 0.01 * p),
    }


def test_every_metric_against_loops(data, table):
    found = evaluate(recommender_of(table, range(50), range(40)), data, k=K, metrics=BEYOND, per_user=True)
    train, popularity = sets(data, "train"), np.bincount(data.train.items, minlength=40)
    group = groups_by_hand(popularity)
    assert set(group.values()) == {0, 1, 2}
    assert found.per_user.height == found.n_users > 30
    for row in found.per_user.iter_rows(named=True):
        user = row["user"]
        ranking = sorted(set(range(40)) - train[user], key=lambda i: (-table[user, i], i))
        for k in K:
            for name, value in by_hand(data, ranking, train[user], popularity, group, k).items():
                if math.isnan(value):
                    assert row[f"{name}@{k}"] is None
                else:
                    assert row[f"{name}@{k}"] == pytest.approx(value, abs=1e-6), (name, k, user)
    for name in found.per_user.columns[1:]:  # a mean is over the users who have a value
        assert found[name] == pytest.approx(found.per_user[name].mean(), nan_ok=True) or name == "diversity@1"
    assert math.isnan(found["diversity@1"])


def test_auc_against_scikit_learn(data, table):
    from sklearn.metrics import roc_auc_score

    found = evaluate(recommender_of(table, range(50), range(40)), data, metrics=("auc",), per_user=True, k=5)
    train, test = sets(data, "train"), sets(data, "test")
    assert list(found.values) == ["auc"] and found.per_user.columns == ["user", "auc"]
    for user, value in found.per_user.iter_rows():
        ranked = sorted(set(range(40)) - train[user])
        assert value == pytest.approx(roc_auc_score([i in test[user] for i in ranked], table[user, ranked]), abs=1e-12)
    blocks = evaluate(recommender_of(table, range(50), range(40)), data, metrics=("auc",), memory_limit=1)
    assert blocks["auc"] == pytest.approx(found["auc"], abs=1e-12)


def test_auc_of_cold_items_ranks_only_these(data, table):
    from sklearn.metrics import roc_auc_score

    cold = data.resplit("cold_items", seed=1)
    found = evaluate(
        recommender_of(table, range(50), range(40)), cold, metrics=("auc",), per_user=True, candidates="cold", k=1
    )
    candidates, test = sorted(set(range(40)) - set(cold.train.items.tolist())), sets(cold, "test")
    assert found.per_user.height > 5
    for user, value in found.per_user.iter_rows():
        expected = roc_auc_score([i in test[user] for i in candidates], table[user, candidates])
        assert value == pytest.approx(expected, abs=1e-12)


def test_diversity_needs_features(data, table):
    plain = replace(data, features={})
    with assert_error(ConfigError, mentions=["diversity", "features"]):
        evaluate(recommender_of(table, range(50), range(40)), plain, metrics=("diversity",))
    assert evaluate(recommender_of(table, range(50), range(40)), plain, metrics=("arp",), k=2)["arp@2"] > 0


def test_a_short_list_counts_its_own_items_and_an_empty_one_has_no_value():
    catalog = Catalog(torch.tensor([4, 2, 1, 1]), 4)
    nothing = Histories(torch.tensor([0, 1]), torch.tensor([0, 1]), 2)
    lists = torch.tensor([[1, -1], [-1, -1]])
    found = list_values(lists, torch.tensor([0, 1]), nothing, catalog, ("novelty", "arp", "aplt", "calibration"), (2,))
    assert [found[f"{name}@2"][0].item() for name in ("novelty", "arp", "aplt")] == [1.0, 2.0, 0.0]
    assert all(math.isnan(values[1]) for values in found.values())


def test_intervals_agree_with_scipy_and_hold_the_mean(data, table):
    found = evaluate(recommender_of(table, range(50), range(40)), data, k=10, intervals=True, per_user=True)
    per_user = found.per_user
    assert set(found.intervals) == set(per_user.columns) - {"user"}  # coverage and gini are no means over users
    for name in ("recall@10", "ndcg@10"):
        values = per_user[name].to_numpy()
        theirs = stats.bootstrap((values,), np.mean, n_resamples=4000, method="percentile", rng=1).confidence_interval
        low, high = found.intervals[name]
        assert low < found[name] < high
        assert (low, high) == pytest.approx(tuple(theirs), abs=0.15 * (theirs.high - theirs.low))
    assert evaluate(recommender_of(table, range(50), range(40)), data, k=10).intervals == {}


def test_intervals_cover_the_true_mean_as_often_as_they_say():
    rng = np.random.default_rng(0)
    trials = {str(number): rng.random(200) < 0.3 for number in range(300)}
    found = bootstrap_intervals(trials)
    covered = np.mean([low <= 0.3 <= high for low, high in found.values()])
    assert 0.91 < covered < 0.98
    assert bootstrap_intervals({"1": trials["1"]})["1"] == pytest.approx(found["1"])  # whatever else is computed
    assert all(map(math.isnan, bootstrap_intervals({"none": np.full(3, math.nan)})["none"]))
