"""Weights of events: prepare --event-weights."""

from __future__ import annotations

import json

import pytest

from lirdrec.data.dataset import Dataset

from ..helpers import assert_mentions, assert_refused


def test_weights_of_events_reach_the_dataset(lirdrec, tmp_path):
    log = tmp_path / "log.csv"
    kinds = ["view", "buy", "cart", "view", "return", "scroll"]
    lines = [
        f"{user},{item},{kinds[(user + item) % 6]},2024-01-0{1 + item % 5}" for user in range(6) for item in range(8)
    ]
    log.write_text("user,item,kind,day\n" + "\n".join(lines) + "\n")
    arguments = ["prepare", log, "--event", "kind", "--timestamp", "day", "--half-life", 2, "--split", "none"]
    weights = "view=1,cart=3,buy=5,return=-1"
    result = lirdrec(*arguments, "--event-weights", weights, "--output", tmp_path / "out")
    assert_refused(result, mentions=["'scroll'", "--event-weights", "buy", "return", "line"])
    result = lirdrec(*arguments, "--event-weights", f"{weights},scroll=0", "--output", tmp_path / "out")
    assert result.exit_code == 0, result.stderr
    dataset = Dataset.load(tmp_path / "out")
    assert dataset.train.weights.max() == pytest.approx(5)
    assert len(dataset.train) == 32 and len(dataset.dislikes) == 8
    summary = json.loads(lirdrec("inspect", tmp_path / "out", "--json").stdout)
    assert summary["weights"]["max"] == pytest.approx(5) and summary["dislikes"] == 8
    assert_mentions(lirdrec("inspect", tmp_path / "out").stdout, ["buy 5", "half-life 2", "8 dislikes"])


@pytest.mark.parametrize("text", ["view", "view=x", "view=1,view=2", "=3", ""])
def test_weights_of_events_in_another_form_are_refused(lirdrec, tmp_path, text):
    (tmp_path / "ratings.csv").write_text("userId,movieId,rating\n1,2,5\n")
    arguments = ["prepare", tmp_path / "ratings.csv", "--event", "rating", "--output", tmp_path / "out"]
    assert_refused(lirdrec(*arguments, "--event-weights", text), mentions=["--event-weights", "view=1"])
