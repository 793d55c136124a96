"""`evaluate --lists` and `experiment compare --lists`: one test score per name and content, and a row of the report."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from lirdrec.data.synthetic import make_synthetic_dataset
from lirdrec.evaluation.evaluator import evaluate

from ..evaluation.test_evaluate import recommender_of
from ..experiments.helpers import compute_cells_here
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
