"""The examples, the notebook and the examples in docstrings run as they are written."""

from __future__ import annotations

import doctest
import inspect
import json
import os
import subprocess
import sys
from pathlib import Path

import polars
import pytest

import lirdrec
from lirdrec.data.synthetic import make_synthetic_dataset

ROOT = Path(__file__).resolve().parents[1]
SHOWN = {  # what the output must contain
    "01_quickstart.py": ("recall@20 0.", "rank"),
    "02_own_data.py": ("user-7", "sku-"),
    "03_new_items.py": ("rank", "score", "share=0.2: new films get 20.0%", "boost=0.05 is an offset of"),
    "04_new_model.py": ("recall@20",),
    "05_serve.py": ("'item'", "'score'"),
}


def test_every_example_is_tested():
    assert {path.name for path in (ROOT / "examples").glob("*.py")} == set(SHOWN)


@pytest.mark.parametrize("name", SHOWN)
def test_examples_run(name, tmp_path):
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
    done = subprocess.run(
        [sys.executable, ROOT / "examples" / name], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert all(fact in done.stdout for fact in SHOWN[name]), done.stdout


NOTEBOOK = json.loads((ROOT / "docs" / "quickstart.ipynb").read_text(encoding="utf-8"))
CODE = [cell for cell in NOTEBOOK["cells"] if cell["cell_type"] == "code"]


def test_every_cell_was_executed_in_order_without_an_error():
    assert [cell["execution_count"] for cell in CODE] == list(range(1, len(CODE) + 1))
    assert [one for cell in CODE for one in cell["outputs"] if one["output_type"] == "error"] == []
    assert sum(bool(cell["outputs"]) for cell in CODE) >= len(CODE) - 1


def test_it_runs(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(ROOT)
    names: dict[str, object] = {}
    for number, cell in enumerate(CODE, start=1):
        exec(compile("".join(cell["source"]), f"cell {number}", "exec"), names)


WITHOUT = {"from_hub", "push_to_hub"}  # they need a server
METHODS = [
    *(f"Dataset.{name}" for name in ("from_frames", "save", "load")),
    *(
        f"Recommender.{name}"
        for name in (
            "recommend",
            "recommend_for_history",
            "score",
            "similar_items",
            "explain",
            "save",
            "load",
        )
    ),
]
CLASSES = {"Dataset", "Recommender"}  # their methods have the examples
NAMES = sorted(set(lirdrec.__all__) - WITHOUT - CLASSES) + METHODS


@pytest.fixture(scope="module")
def names() -> dict[str, object]:
    dataset = make_synthetic_dataset(40, 30, 600, {"text": 6}, groups=3)
    recommender = lirdrec.fit(dataset, "ease", progress=False)
    public = {name: getattr(lirdrec, name) for name in lirdrec.__all__}
    user, item = dataset.users.ids[0], dataset.items.ids[0]
    return {**public, "dataset": dataset, "recommender": recommender, "user": user, "item": item, "polars": polars}


@pytest.mark.parametrize("name", NAMES)
def test_examples(names, name, tmp_path):
    target: object = lirdrec
    for part in name.split("."):
        target = inspect.getattr_static(target, part) if inspect.isclass(target) else getattr(target, part)
    target = getattr(target, "__func__", target)
    tests = doctest.DocTestFinder(recurse=False).find(target, name, globs={**names, "folder": tmp_path})
    assert tests and tests[0].examples, "no example in the docstring"
    result = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS).run(tests[0])
    assert result.failed == 0
