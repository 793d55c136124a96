"""Lists of other programs in evaluate and experiment: one score per name and content; the protocol of the test."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from lirdrec.data.dataset import Dataset
from lirdrec.data.synthetic import make_synthetic_dataset
from lirdrec.evaluation.evaluator import evaluate

from ..evaluation.test_evaluate import recommender_of
from ..experiments.conftest import compute_cells_here
from ..helpers import assert_mentions, assert_refused


@pytest.fixture
def data(tmp_path):
    dataset = make_synthetic_dataset(60, 40, 800, {"image": 6, "text": 6}, groups=4, seed=2)
    dataset.save(tmp_path / "data")
    return dataset


def lists_of(table: np.ndarray, path: Path, k: int = 20) -> Path:
    """A file with the best items of each user, training items included."""
    best = np.argsort(-table, axis=1)[:, :k]
    users, ranks = np.repeat(np.arange(len(table)), k), np.tile(np.arange(1, k + 1), len(table))
    pl.DataFrame({"user": users, "item": best.ravel(), "rank": ranks}).write_parquet(path)
    return path


def test_lists_are_scored_once_under_their_name(lirdrec, data, tmp_path):
    table = np.random.default_rng(0).normal(size=(60, 40))
    lists_of(table, tmp_path / "als.parquet", 40)
    first = lirdrec("evaluate", "--lists", "als.parquet", "data", "--json", "--intervals", "-k", 5)
    assert first.exit_code == 0, first.stderr
    shown = json.loads(first.stdout)
    assert set(shown) == {"als", "popularity", "intervals"}
    right = evaluate(recommender_of(table, range(60), range(40)), data, k=5, metrics=("recall", "novelty", "diversity"))
    for name, value in right.values.items():
        assert shown["als"][name] == pytest.approx(value)
    low, high = shown["intervals"]["als"]["recall@5"]
    assert low < shown["als"]["recall@5"] < high and "coverage@5" not in shown["intervals"]["als"]

    again = lirdrec("evaluate", "--lists", "als.parquet", "data", "--json", "--intervals", "-k", 5)
    assert again.stdout == first.stdout
    lists_of(-table, tmp_path / "als.parquet")  # other lists under the same name
    assert_refused(lirdrec("evaluate", "--lists", "als.parquet", "data"), ["'als'", "--name"])
    other = lirdrec("evaluate", "--lists", "als.parquet", "data", "--name", "worse", "--output", "m.csv", "--intervals")
    assert other.exit_code == 0, other.stderr
    assert_mentions(other.stderr, ["2 files", "als"])
    assert pl.read_csv("m.csv").columns == ["recommender", "metric", "value", "low", "high"]
    valid = lirdrec("evaluate", "--lists", "als.parquet", "data", "--split", "validation", "--json")
    assert valid.exit_code == 0 and set(json.loads(valid.stdout)) == {"als", "popularity"}


@pytest.mark.parametrize(
    ("arguments", "facts"),
    [
        (["--lists", "als.parquet"], ["--lists", "DATASET"]),
        (["--lists", "als.parquet", "run", "data"], ["--lists", "DATASET"]),
        (["--lists", "als.parquet", "data", "--cold-users"], ["--cold-users", "--lists"]),
        (["--lists", "als.parquet", "data", "--test-history", "train"], ["--test-history", "--lists"]),
        (["--lists", "als.parquet", "data", "--test-target", "all"], ["--test-target", "--lists"]),
        (["--lists", "als.parquet", "data", "--no-mask-seen"], ["--no-mask-seen", "--lists"]),
        (["--lists", "als.parquet", "data", "-k", 21], ["21", "20"]),
        (["--lists", "als.parquet", "data", "--metric", "auc"], ["auc"]),
        (["--lists", "gone.parquet", "data"], ["gone.parquet"]),
        (["run", "--name", "als"], ["--name", "--lists"]),
        ([], ["RUN", "--lists"]),
    ],
)
def test_bad_questions(lirdrec, data, tmp_path, arguments, facts):
    lists_of(np.random.default_rng(0).normal(size=(60, 40)), tmp_path / "als.parquet")
    assert_refused(lirdrec("evaluate", *arguments), facts)
    assert not list(tmp_path.rglob("scores"))


def test_compare_has_a_row_for_lists(lirdrec, data, tmp_path, monkeypatch):
    compute_cells_here(monkeypatch)
    table = np.random.default_rng(0).normal(size=(60, 40))
    lists_of(table, tmp_path / "als.parquet", 40)
    command = ["experiment", "compare", "data", "--models", "popularity,ease", "--trials", 1, "--output", "out"]
    result = lirdrec("--quiet", *command, "--lists", "ALS=als.parquet")
    assert result.exit_code == 0, result.stderr
    frame = pl.read_parquet("out/results.parquet").filter(pl.col("stage") == "test", pl.col("variant") == "ALS")
    values = dict(frame.select("metric", "value").iter_rows())
    names = ("recall", "ndcg", "diversity", "novelty", "arp", "aplt", "calibration")
    right = evaluate(recommender_of(table, range(60), range(40)), data, k=(10, 20), metrics=names)
    assert values == pytest.approx(right.values)
    tables = {path.stem: pl.read_csv(path) for path in Path("out/tables").glob("*.csv")}
    assert {"test-data", "intervals-data", "beyond-accuracy-data", "tests"} <= set(tables)
    for name in ("test-data", "intervals-data", "beyond-accuracy-data", "tests"):
        assert any("ALS" in map(str, row) for row in tables[name].iter_rows()), name
    assert not any("ALS" in map(str, row) for row in tables["settings"].iter_rows())
    report = Path("out/report.html").read_text(encoding="utf-8")
    assert re.search(r"ALS=als\.parquet", report) and str(tmp_path) not in report
    # another file under the same name, after the test was scored
    lists_of(-table, tmp_path / "als.parquet")
    assert_refused(lirdrec("--quiet", *command, "--lists", "ALS=als.parquet"), ["ALS"])


@pytest.mark.parametrize(
    ("entries", "facts"),
    [
        (["als.parquet"], ["als.parquet", "NAME=FILE"]),
        (["ease=als.parquet"], ["ease"]),
        (["A=als.parquet", "A=als.parquet"], ["'A'"]),
        (["A=gone.parquet"], ["gone.parquet"]),
    ],
)
def test_bad_lists_of_compare(lirdrec, data, tmp_path, entries, facts):
    lists_of(np.random.default_rng(0).normal(size=(60, 40)), tmp_path / "als.parquet")
    options = [option for entry in entries for option in ("--lists", entry)]
    assert_refused(lirdrec("--quiet", "experiment", "compare", "data", "--models", "ease", *options), facts)
    assert_refused(lirdrec("experiment", "layers", "data", "--lists", "A=als.parquet"), ["--lists", "compare"])


def test_the_order_of_rows_is_kept_and_decides_the_test(lirdrec, tmp_path):
    """The whole way from a log without times to test figures; `evaluate` takes the options of the protocol."""
    rng = np.random.default_rng(0)
    rows = [(user, item) for user in range(12) for item in rng.permutation(15)[:7].tolist()]
    (tmp_path / "log.csv").write_text("user,item\n" + "".join(f"{user},{item}\n" for user, item in rows))
    result = lirdrec("prepare", "log.csv", "--order", "file", "--split", "leave_last_out", "-o", "ready")
    assert result.exit_code == 0, result.stderr
    test = Dataset.load(tmp_path / "ready").frame("test")
    last = {user: [item for other, item in rows if other == user][-1] for user in range(12)}
    assert dict(test.select("user", "item").iter_rows()) == last
    assert lirdrec("train", "ready", "--model", "item_knn", "--run", "run", "--json").exit_code == 0
    cutoffs = ["-k", 1, "-k", 5, "--metric", "hit_rate", "--metric", "ndcg", "--json"]
    results = {}
    for name, options in {
        "default": [],
        "both": ["--test-history", "train+valid", "--test-target", "all", "--mask-seen"],
        "last": ["--test-target", "last"],
        "short": ["--test-history", "train"],
        "unmasked": ["--no-mask-seen"],
    }.items():
        results[name] = json.loads(lirdrec("evaluate", "run", *cutoffs, *options).stdout)["item_knn"]
    assert set(results["default"]) == {"hit@1", "hit@5", "ndcg@1", "ndcg@5"}
    assert results["default"] == results["both"] == results["last"]  # one interaction of each user is the test
    assert results["default"] != results["short"] and results["default"] != results["unmasked"]


@pytest.mark.parametrize(
    ("command", "mentions"),
    [
        (["prepare", "log.csv", "--order", "file", "--split", "global_time", "-o", "x"], ["global_time", "positions"]),
        (["prepare", "log.csv", "--order", "file", "--timestamp", "at", "-o", "x"], ["--order", "'at'"]),
        (["prepare", "log.csv", "--order", "time", "-o", "x"], ["--order", "time", "file"]),
        (["prepare", "log.csv", "--split", "temporal", "-o", "x"], ["temporal", "--timestamp", "--order file"]),
        (["evaluate", "run", "--test-history", "all"], ["--test-history all", "train+valid"]),
        (["evaluate", "run", "--test-target", "first"], ["--test-target first", "all, last"]),
        (["evaluate", "run", "--split", "valid", "--test-history", "train+valid"], ["--test-history", "valid"]),
        (["experiment", "compare", "d", "--test-history", "all"], ["--test-history all", "train+valid"]),
        (["experiment", "compare", "d", "--metrics", "hits"], ["'hits'", "hit"]),
        (["experiment", "compare", "d", "-k", "0"], ["cut-off", "1"]),
    ],
)
def test_wrong_orders_and_protocols_are_refused(lirdrec, tmp_path, command, mentions):
    (tmp_path / "log.csv").write_text("user,item,at\n" + "".join(f"{n % 3},{n // 3},{n * n}\n" for n in range(30)))
    assert_refused(lirdrec(*command), mentions)
