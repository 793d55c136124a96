"""Ten public collections: from the published files to recommendations, each prepared by one documented line."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import numpy as np
import pytest

from lirdrec.data.dataset import Dataset
from lirdrec.data.titles import titles

from ..data.layouts import LAYOUTS, N_USERS
from ..helpers import assert_refused

DOCUMENTED = Path(__file__).resolve().parents[2] / "docs" / "data.md"


@pytest.mark.parametrize("name", LAYOUTS)
def test_from_the_published_files_to_recommendations(lirdrec, tmp_path, name):
    layout = LAYOUTS[name]
    layout.write(tmp_path)
    result = lirdrec("prepare", *shlex.split(layout.line), "--output", "ready")
    assert result.exit_code == 0, result.stderr

    data = Dataset.load(tmp_path / "ready", verify=True)
    assert (data.n_users, data.n_items) == (N_USERS, layout.n_items)
    assert sum(len(data.split(split)) for split in ("train", "valid", "test")) == layout.pairs
    row = data.items.row(layout.item)
    if layout.title is not None:
        found = titles(data.item_table)
        assert found is not None and found[row] == layout.title

    trained = lirdrec("train", "ready", "--model", "item_knn", "--run", "run")
    assert trained.exit_code == 0, trained.stderr
    answer = lirdrec("recommend", "run", f"--user={layout.user}", "-k", 3, "--json")
    assert answer.exit_code == 0, answer.stderr
    items = [one["item"] for one in json.loads(answer.stdout)]
    assert len(items) == 3 and all(item in data.items for item in items)


@pytest.mark.parametrize("name", LAYOUTS)
def test_the_documentation_has_the_line(name):
    assert f"lirdrec prepare {LAYOUTS[name].line} --output" in DOCUMENTED.read_text(encoding="utf-8")


def test_items_of_json_lines_are_added_to_a_run(lirdrec, tmp_path):
    layout = LAYOUTS["Yelp"]
    layout.write(tmp_path)
    lirdrec("prepare", *shlex.split(layout.line), "--output", "ready")
    assert lirdrec("features", "ready", "--text", "hashed", "-y").exit_code == 0
    trained = lirdrec("train", "ready", "--set", "epochs=1", "--run", "run")
    assert trained.exit_code == 0, trained.stderr
    width = Dataset.load(tmp_path / "ready").features["text"].dims
    (tmp_path / "new.jsonl").write_text('{"business_id": "new", "name": "Tea", "hours": {"Monday": "9-5"}}\n')
    np.savez(tmp_path / "text.npz", ids=np.array(["new"]), text=np.ones((1, width), dtype=np.float32))
    options = ["--items", "new.jsonl", "--item", "business_id", "--features", "text=text.npz"]
    result = lirdrec("add-items", "run", *options)
    assert result.exit_code == 0, result.stderr
    assert "Tea" in lirdrec("similar", "run", "--item", "new", "-k", 1).stdout


@pytest.mark.parametrize(
    ("arguments", "facts"),
    [
        ([], ["SOURCE"]),
        (["--train", "a.csv"], ["--train", "--test"]),
        (["a.csv", "--train", "a.csv", "--test", "a.csv"], ["--train", "a.csv"]),
        (["a.csv", "--only", "event"], ["--only", "event", "="]),
        (["--train", "a.csv", "--test", "a.csv", "--benchmark", "baby"], ["--benchmark"]),
    ],
)
def test_options_that_cannot_be_are_one_sentence(lirdrec, tmp_path, arguments, facts):
    (tmp_path / "a.csv").write_text("user,item\n1,2\n")
    result = lirdrec("prepare", *arguments, "-o", "x")
    assert_refused(result, facts)
    assert result.stderr.count("\n") == 1
    assert not (tmp_path / "x").exists()
