"""The order of a log and the protocol of the test, from prepare to evaluate and experiment."""

from __future__ import annotations

import json

import numpy as np
import pytest

from lirdrec.data.dataset import Dataset

from ..helpers import assert_refused


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
        (["experiment", "compare", "d", "-k", "0"], ["cut-offs", "1"]),
    ],
)
def test_wrong_orders_and_protocols_are_refused(lirdrec, tmp_path, command, mentions):
    (tmp_path / "log.csv").write_text("user,item,at\n" + "".join(f"{n % 3},{n // 3},{n * n}\n" for n in range(30)))
    assert_refused(lirdrec(*command), mentions)
