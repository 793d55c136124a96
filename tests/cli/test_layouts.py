"""Ten public collections: from the published files to recommendations, each prepared by one documented line."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import pytest

from lirdrec.data.dataset import Dataset
from lirdrec.data.titles import titles

from ..data.layouts import LAYOUTS, N_USERS

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
