"""Lists in a comparison share the options of the evaluation of the models."""

from __future__ import annotations

from lirdrec.experiments.lists import planned


def test_planned_lists_share_the_evaluation(tmp_path):
    (tmp_path / "als.csv").write_text("user,item,rank\n1,2,1\n")
    files = {"als": str(tmp_path / "als.csv")}
    chosen = {"metrics": ["mrr"], "cutoffs": [5], "test_history": "train"}
    (trial,) = planned(["data"], files, tmp_path, chosen)
    assert trial.extra["evaluation"] == chosen
    (plain,) = planned(["data"], files, tmp_path)
    assert "evaluation" not in plain.extra
