"""`evaluate` on whole datasets: who is ranked for, among which items, and how figures add up."""

from __future__ import annotations

import itertools
import logging
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from lirdrec.data.dataset import Dataset, Interactions
from lirdrec.data.ids import IdMap
from lirdrec.data.synthetic import make_synthetic_dataset
from lirdrec.errors import ConfigError, DataError
from lirdrec.evaluation.evaluator import evaluate
from lirdrec.evaluation.metrics import PER_USER
from lirdrec.ranking.scorers import VectorScorer

from ..helpers import assert_error, assert_mentions


def recommender_of(table: np.ndarray, users, items) -> SimpleNamespace:
    scorer = VectorScorer(torch.eye(len(table), dtype=torch.float64), torch.tensor(table.T, dtype=torch.float64))
    return SimpleNamespace(scorer=scorer, users=IdMap(list(users), "user"), items=IdMap(list(items), "item"))


def pairs(*rows: tuple[int, int]) -> Interactions:
    table = np.array(rows, dtype=np.int64).reshape(-1, 2)
    return Interactions(table[:, 0], table[:, 1])


SCORES = np.array(
    [
        [6.0, 5, 4, 3, 2, 1],
        [1.0, 2, 3, 4, 5, 6],
        [3.0, 3, 3, 3, 3, 3],
    ]
)
USERS, ITEMS = ["ann", "bob", "cy"], ["a", "b", "c", "d", "e", "f"]


def dataset(**changes) -> Dataset:
    """ann took a, bob f and e, cy nothing in training. Items c and d are cold."""
    parts = {
        "train": pairs((0, 0), (1, 5), (1, 4), (0, 1)),
        "valid": pairs((0, 2)),
        "test": pairs((0, 3), (1, 3), (1, 0), (2, 0)),
    }
    options = {"info": {"split": {"method": "label"}}}
    return Dataset("hand", IdMap(USERS, "user"), IdMap(ITEMS, "item"), **{**parts, **options, **changes})


def test_training_items_are_masked_and_valid_items_are_not():
    """ann sees c d e f in this order (a and b are hers), bob d c b a; cy has no training pair and is left out."""
    found = evaluate(recommender_of(SCORES, USERS, ITEMS), dataset(), k=(1, 2, 4), metrics=("recall", "mrr"))
    assert found.n_users == 2
    assert found.values == {
        "recall@1": pytest.approx((0 + 1 / 2) / 2),
        "recall@2": pytest.approx((1 + 1 / 2) / 2),
        "recall@4": pytest.approx((1 + 1) / 2),
        "mrr@1": pytest.approx(1 / 2),
        "mrr@2": pytest.approx((1 / 2 + 1) / 2),
        "mrr@4": pytest.approx((1 / 2 + 1) / 2),
    }
    assert found["recall@2"] == 0.75
    valid = evaluate(recommender_of(SCORES, USERS, ITEMS), dataset(), "valid", k=1, metrics=("recall",))
    assert (valid.n_users, valid.values) == (1, {"recall@1": 1.0})


def test_ids_in_another_order_give_the_same_figures():
    data = make_synthetic_dataset(60, 50, 900, {}, groups=5, seed=1)
    rng = np.random.default_rng(0)
    table = rng.integers(0, 4, (60, 50)) + rng.random((60, 50))
    expected = evaluate(recommender_of(table, range(60), range(50)), data, per_user=True, breakdown=True)
    users, items = rng.permutation(60), rng.permutation(50)
    shuffled = recommender_of(table[users][:, items], users, items)
    found = evaluate(shuffled, data, per_user=True, breakdown=True)
    assert found.values == pytest.approx(expected.values, abs=1e-12)
    assert found.per_user.sort("user").equals(expected.per_user.sort("user"))
    assert repr(found.breakdown.keys()) == repr(expected.breakdown.keys())
    for name, rows in expected.breakdown.items():
        for ours, theirs in zip(found.breakdown[name], rows, strict=True):
            assert ours == pytest.approx(theirs, abs=1e-12), name


def test_items_that_the_dataset_does_not_know_are_ranked_too():
    """Added to the catalog after training: g comes first for everybody."""
    table = np.hstack([np.full((3, 1), 9.0), SCORES])
    found = evaluate(recommender_of(table, USERS, ["g", *ITEMS]), dataset(), k=(1, 3), metrics=("recall",))
    assert found.values == {"recall@1": 0.0, "recall@3": pytest.approx((1 + 1 / 2) / 2)}


def test_what_the_recommender_does_not_know_is_left_out_and_said(caplog):
    known = recommender_of(SCORES[:2, :5], USERS[:2], ITEMS[:5])
    with caplog.at_level(logging.WARNING):
        found = evaluate(known, dataset(), k=1, metrics=("recall",))
    assert found.n_users == 2
    reported = [record.getMessage() for record in caplog.records if record.name == "lirdrec.evaluation.evaluator"]
    for split, message in zip(("train", "test"), reported, strict=True):
        assert_mentions(message, ["1 pair", split])


def test_cold_candidates_only():
    """Of c and d, ann sees c d and bob d c; a, held out for bob, is not cold and does not count."""
    data = dataset(test=pairs((0, 3), (1, 3), (1, 0)), valid=pairs((0, 2)))
    assert data.cold_items.tolist() == [False, False, True, True, False, False]
    found = evaluate(
        recommender_of(SCORES, USERS, ITEMS), data, k=(1, 2), metrics=("recall", "coverage"), candidates="cold"
    )
    assert found.n_users == 2
    assert found.values == {"recall@1": 0.5, "recall@2": 1.0, "coverage@1": 1.0, "coverage@2": 1.0}
    with assert_error(ConfigError, mentions=["k", 3, 1, "2 items"]):
        evaluate(recommender_of(SCORES, USERS, ITEMS), data, k=3, candidates="cold")


def test_training_pairs_themselves_are_not_masked():
    recommender, names = recommender_of(SCORES, USERS, ITEMS), ("recall", "popularity")
    found = evaluate(recommender, dataset(), "train", k=(1, 2), metrics=names, breakdown=True)
    assert found.n_users == 2
    assert found.values == {
        "recall@1": 0.5,
        "recall@2": 1.0,
        "popularity@1": 1.0,  # everybody gets their own, each of which has one training user
        "popularity@2": 1.0,
    }
    assert [row["group"] for row in found.breakdown["activity"]] == ["2 training items"]
    assert [row["group"] for row in found.breakdown["popularity"]] == ["1 training users"]


@pytest.fixture(scope="module")
def many():
    data = make_synthetic_dataset(200, 120, 4000, {}, groups=6, seed=2)
    table = np.random.default_rng(0).normal(size=(200, 120))
    return data, recommender_of(table, range(200), range(120))


def test_per_user_values_are_those_behind_the_means(many):
    data, recommender = many
    found = evaluate(recommender, data, k=(5, 10), per_user=True)
    frame = found.per_user
    assert frame.columns[0] == "user"
    assert set(frame.columns[1:]) == {f"{name}@{k}" for k in (5, 10) for name in PER_USER}
    assert frame.height == found.n_users == len(np.intersect1d(data.test.users, data.train.users))
    for name in frame.columns[1:]:
        assert frame[name].mean() == pytest.approx(found[name], abs=1e-12)
    # one user's value by hand
    user = int(frame["user"][3])
    scores = recommender.scorer.scores(recommender.scorer.queries(torch.tensor([user])))[0].numpy().copy()
    scores[data.train.items[data.train.users == user]] = -np.inf
    held = data.test.items[data.test.users == user]
    top = np.argsort(-scores)[:10]
    assert frame["recall@10"][3] == pytest.approx(np.isin(top, held).sum() / len(held))


def test_groups_of_users_add_up_to_all(many):
    data, recommender = many
    found = evaluate(recommender, data, k=10, breakdown=True)
    rows = found.breakdown["activity"]
    assert sum(row["n"] for row in rows) == found.n_users
    for name in PER_USER:
        weighted = sum(row["n"] * row[f"{name}@10"] for row in rows)
        assert weighted / found.n_users == pytest.approx(found[f"{name}@10"], abs=1e-12)
    bounds = [[int(n) for n in row["group"].removesuffix(" training items").split("–")] for row in rows]
    flat = [n for bound in bounds for n in bound]
    assert flat == sorted(flat)
    assert all(low[-1] < high[0] for low, high in itertools.pairwise(bounds))  # equal degrees together
    # a group's mean by hand
    frame = evaluate(recommender, data, k=10, per_user=True).per_user
    degree = np.bincount(data.train.users, minlength=200)[frame["user"].to_numpy()]
    inside = (degree >= bounds[1][0]) & (degree <= bounds[1][-1])
    assert inside.sum() == rows[1]["n"]
    assert frame["ndcg@10"].to_numpy()[inside].mean() == pytest.approx(rows[1]["ndcg@10"], abs=1e-12)


def test_groups_of_items_hold_every_pair_and_every_hit_once(many):
    data, recommender = many
    found = evaluate(recommender, data, k=10, breakdown=True)
    rows = found.breakdown["popularity"]
    assert len(rows) == 5
    assert sum(row["n"] for row in rows) == 120
    kept = np.isin(data.test.users, data.train.users)
    assert sum(row["pairs"] for row in rows) == kept.sum()
    # hits: precision · k · users of the group, by hand for each group
    degree = np.bincount(data.train.items, minlength=120)
    scores = recommender.scorer.scores(recommender.scorer.queries(torch.arange(200))).numpy().copy()
    scores[data.train.users, data.train.items] = -np.inf
    top = np.argsort(-scores, axis=1)[:, :10]
    hit = (top[data.test.users] == data.test.items[:, None]).any(1) & kept
    total = 0
    for row in rows:
        bounds = [int(n) for n in row["group"].removesuffix(" training users").split("–")]
        mine = (degree[data.test.items] >= bounds[0]) & (degree[data.test.items] <= bounds[-1]) & kept
        assert mine.sum() == row["pairs"]
        users = np.unique(data.test.users[mine])
        assert row["precision@10"] * 10 * len(users) == pytest.approx(hit[mine].sum(), abs=1e-9)
        recalls = [hit[mine & (data.test.users == u)].sum() / (mine & (data.test.users == u)).sum() for u in users]
        assert row["recall@10"] == pytest.approx(np.mean(recalls), abs=1e-12)
        total += hit[mine].sum()
    assert total == pytest.approx(found["precision@10"] * 10 * found.n_users)


def test_a_tiny_memory_limit_changes_nothing(many):
    data, recommender = many
    expected = evaluate(recommender, data, per_user=True, breakdown=True)
    found = evaluate(recommender, data, per_user=True, breakdown=True, memory_limit=1)
    assert found.values == expected.values
    assert found.breakdown == expected.breakdown
    assert found.per_user.equals(expected.per_user)


@pytest.mark.parametrize(
    "options, error, facts",
    [
        (
            {"metrics": ("recal",)},
            ConfigError,
            ["'recal'", "recall, ndcg, precision, map, mrr, hit, coverage, popularity, gini"],
        ),
        ({"k": 0}, ConfigError, ["k", 0, 1, "6 items"]),
        ({"k": (2, 7)}, ConfigError, ["k", 7, 1, "6 items"]),
        ({"k": ()}, ConfigError, ["k"]),
        ({"candidates": "new"}, ConfigError, ["candidates", "'new'", "'all'", "'cold'"]),
        ({"split": "tests"}, DataError, ["'tests'", "train, valid, test"]),
    ],
    ids=str,
)
def test_bad_options(options, error, facts):
    with assert_error(error, mentions=facts):
        evaluate(recommender_of(SCORES, USERS, ITEMS), dataset(), **options)


def test_nothing_held_out():
    recommender = recommender_of(SCORES, USERS, ITEMS)
    with assert_error(DataError, mentions=["hand", "valid"]):
        evaluate(recommender, dataset(valid=pairs()), "valid", k=1)
    everything_warm = dataset(train=pairs(*((0, i) for i in range(6))), valid=pairs(), test=pairs((1, 0)))
    with assert_error(DataError, mentions=["hand", "cold"]):
        evaluate(recommender, everything_warm, k=1, candidates="cold")


def test_hit_rate_is_another_name_of_hit():
    recommender = recommender_of(SCORES, USERS, ITEMS)
    expected = evaluate(recommender, dataset(), k=2, metrics=("hit",)).values
    assert list(expected) == ["hit@2"]
    assert evaluate(recommender, dataset(), k=2, metrics=("hit_rate", "hit")).values == expected
