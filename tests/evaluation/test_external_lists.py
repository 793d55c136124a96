"""Lists made elsewhere: a model's own lists have the model's metrics; bad files are refused, doubtful rows counted."""

from __future__ import annotations

import logging
from dataclasses import replace

import numpy as np
import polars as pl
import pytest

from lirdrec.data.dataset import Interactions
from lirdrec.data.synthetic import make_synthetic_dataset
from lirdrec.errors import ConfigError, DataError
from lirdrec.evaluation.beyond_accuracy import BEYOND
from lirdrec.evaluation.evaluator import DEFAULT_METRICS, evaluate
from lirdrec.evaluation.external_lists import evaluate_external, read_lists

from ..helpers import assert_error, assert_mentions
from .test_evaluate import recommender_of

K = (1, 5, 10)


@pytest.fixture(scope="module")
def data():
    return make_synthetic_dataset(50, 40, 700, {"image": 6}, groups=4, seed=2)


@pytest.fixture(scope="module")
def table():
    return np.random.default_rng(3).normal(size=(50, 40))


@pytest.fixture(scope="module")
def frame(data, table):
    """The ten best items of each user without a training interaction, with ranks and scores, in a mixed order."""
    seen = set(zip(data.train.users.tolist(), data.train.items.tolist(), strict=True))
    rows = []
    for user in range(50):
        ranking = [i for i in np.argsort(-table[user]) if (user, i) not in seen][:10]
        rows += [(user, int(item), rank, table[user, item]) for rank, item in enumerate(ranking, 1)]
    made = pl.DataFrame(rows, ["user", "item", "rank", "score"], orient="row")
    return made.sample(fraction=1, shuffle=True, seed=1)


@pytest.mark.parametrize("order", ["rank", "score"])
@pytest.mark.parametrize("ending", ["csv", "parquet"])
def test_lists_have_the_metrics_of_the_model_that_made_them(data, table, frame, tmp_path, order, ending):
    path = tmp_path / f"recs.{ending}"
    getattr(frame.select("user", "item", order), f"write_{ending}")(path)
    names = (*DEFAULT_METRICS, *BEYOND)
    for split in ("valid", "test"):
        expected = evaluate(
            recommender_of(table, range(50), range(40)), data, split, k=K, metrics=names, per_user=True, intervals=True
        )
        lists = read_lists(path, data)
        found = evaluate_external(lists, data, split, k=K, metrics=names, per_user=True, intervals=True)
        assert found.values == pytest.approx(expected.values, abs=1e-12, nan_ok=True)
        assert found.per_user.equals(expected.per_user) and found.n_users == expected.n_users
        assert found.intervals.keys() == expected.intervals.keys()
        for name, interval in expected.intervals.items():
            assert found.intervals[name] == pytest.approx(interval, nan_ok=True)


def test_text_ids_are_read_as_the_dataset_has_them(tmp_path, frame, data):
    texts = frame.with_columns(pl.col("user").cast(str), pl.col("item").cast(str))
    texts.write_parquet(tmp_path / "texts.parquet")
    with assert_error(DataError, mentions=["texts.parquet"]):  # "7" is not 7
        read_lists(tmp_path / "texts.parquet", data)


def test_what_the_dataset_does_not_know_and_what_is_missing_is_counted(data, frame, tmp_path, caplog):
    taken = (int(data.train.users[0]), int(data.train.items[0]))
    user = taken[0]
    mine = frame.filter(pl.col("user") != 3, ~((pl.col("user") == 4) & (pl.col("rank") > 2))).drop("score")
    more = pl.DataFrame([(777, 1, 1), (user, 999, 0), (*taken, -1)], mine.schema, orient="row")
    pl.concat([mine, more]).write_csv(tmp_path / "recs.csv")
    with caplog.at_level(logging.WARNING):
        lists = read_lists(tmp_path / "recs.csv", data)
        found = evaluate_external(lists, data, "test", k=(10,), metrics=("hit", "precision"), per_user=True)
    assert len(caplog.messages) == 5
    for message, facts in zip(caplog.messages, ["1 row", "1 row", "1 row", "1 of", "1 of"], strict=True):
        assert_mentions(message, [facts])
    # the unknown item has the first place of the user, whose training item is gone
    ranked = frame.filter(pl.col("user") == user).sort("rank")["item"].to_list()
    assert lists.items[user].tolist() == [-1, *ranked]
    rows = {row["user"]: row for row in found.per_user.iter_rows(named=True)}
    assert rows[3] == {"user": 3, "hit@10": 0.0, "precision@10": 0.0}
    assert lists.lengths[[3, 4, user]].tolist() == [0, 2, 11]


@pytest.mark.parametrize(
    ("rows", "facts"),
    [
        ("user,item\n1,2\n", ["rank", "score", "user, item"]),
        ("user,product,rank\n1,2,1\n", ["'item'", "product"]),
        ("user,item,rank\n1,2,1\n1,2,2\n", ["user 1", "item 2", "line 2"]),
        ("user,item,rank\n1,2,first\n", ["'rank'", "first", "line 2"]),
        ("user,item,score\n1,2,\n", ["'score'", "line 2"]),
        ("user,item,rank\n901,2,1\n", ["dataset"]),
    ],
)
def test_bad_files(data, tmp_path, rows, facts):
    (tmp_path / "recs.csv").write_text(rows)
    with assert_error(DataError, mentions=[*facts[:-1], facts[-1].replace("dataset", data.name)]):
        read_lists(tmp_path / "recs.csv", data)


def test_bad_questions(data, frame, tmp_path):
    frame.write_parquet(tmp_path / "recs.parquet")
    lists = read_lists(tmp_path / "recs.parquet", data)
    with assert_error(ConfigError, mentions=["11", "10"]):
        evaluate_external(lists, data, k=(11,))
    with assert_error(ConfigError, mentions=["auc"]):
        evaluate_external(lists, data, metrics=("auc",))
    with assert_error(ConfigError, mentions=["train"]):
        evaluate_external(lists, data, "train")
    assert set(evaluate_external(lists, data, metrics=("hit_rate",)).values) == {"hit@10"}


@pytest.mark.parametrize("method", ["leave_last_out", "global_time_last"])
def test_lists_are_measured_by_the_protocol_of_the_split(data, table, tmp_path, method):
    split = Interactions.concatenate([data.train, data.valid, data.test])
    times = np.random.default_rng(0).permutation(len(split))
    timed = replace(
        data, train=replace(split, timestamps=times), valid=split.take(times < 0), test=split.take(times < 0)
    )
    timed = timed.resplit(method)
    rows = [(u, int(i), rank) for u in range(50) for rank, i in enumerate(np.argsort(-table[u]))]
    pl.DataFrame(rows, ["user", "item", "rank"], orient="row").write_parquet(path := tmp_path / "all.parquet")
    names = (*DEFAULT_METRICS, *BEYOND)
    expected = evaluate(recommender_of(table, range(50), range(40)), timed, "test", k=K, metrics=names, per_user=True)
    found = evaluate_external(read_lists(path, timed), timed, "test", k=K, metrics=names, per_user=True)
    assert found.values == pytest.approx(expected.values, abs=1e-12, nan_ok=True)
    assert found.per_user.equals(expected.per_user)
    assert (found.protocol.test_history, found.protocol.test_target) == ("train+valid", expected.protocol.test_target)
