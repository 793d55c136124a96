"""The examples in the docstrings of public names run."""

from __future__ import annotations

import doctest
import inspect

import polars
import pytest

import lirdrec
from lirdrec.data.synthetic import make_synthetic_dataset

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
