from __future__ import annotations

from lirdrec.evaluation.evaluator import Metrics


def test_metrics_print_as_a_table():
    metrics = Metrics({"recall@20": 0.12345, "ndcg@5": 0.5}, n_users=1234)
    assert str(metrics) == "1,234 users\nrecall@20  0.1235\nndcg@5     0.5000"
