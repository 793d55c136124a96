"""Every experiment can be asked for its report at any time: with nothing done, and with half of it."""

from __future__ import annotations

import re

import pytest

from lirdrec.experiments.experiment import experiment, experiment_names
from lirdrec.experiments.results import Results
from lirdrec.experiments.trial import TrialResult

OURS = [name for name in experiment_names() if name != "compare"]
SETTINGS = {"splits": {"methods": ["random", "cold_items"]}, "layers": {"layers": [1, 2]}}


def of(name: str, context):
    chosen = experiment(name)
    return chosen, context(models=chosen.models, settings=SETTINGS.get(name, {}), trials=1)


@pytest.mark.parametrize("name", OURS)
def test_with_nothing_done(name, context, answer):
    chosen, settings = of(name, context)
    page = chosen.report(settings, Results([], name, settings.output))
    assert answer(page) and not re.search(r"\d\.\d", answer(page))  # a sentence, and no figure in it


@pytest.mark.parametrize("name", OURS)
def test_with_failures_only(name, context, words):
    chosen, settings = of(name, context)
    cells = list(chosen.plan(settings, Results()))
    results = Results([TrialResult(cell, "failed", "the sky fell") for cell in cells], name, settings.output)
    assert "the sky fell" in words(chosen.report(settings, results))
    assert list(chosen.plan(settings, results)) == cells or name == "cold"  # whose searches go on with what is left


@pytest.mark.parametrize("name", OURS)
def test_the_plan_repeats_itself_and_every_model_is_there(name, context):
    chosen, settings = of(name, context)
    first, again = (list(chosen.plan(settings, Results())) for _ in range(2))
    assert first == again and len({cell.key for cell in first}) == len(first)
    assert {cell.model for cell in first} == set(settings.models)
