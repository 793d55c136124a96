"""Compare models (Table II of the paper): each is tuned with the same budget, its best is declared, then scored once.

For every dataset, model and feature set: the trials of `tuning.search`; then the best configuration, trained with each
of S seeds, its sealed test scored.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path

from lirdrec.experiments.config import ExperimentConfig
from lirdrec.experiments.results import Results
from lirdrec.experiments.trial import TrialSpec
from lirdrec.experiments.tuning import base_cell, n_trials, suggest
from lirdrec.models.registry import model_names, model_type

SETTINGS = {"ours": ("lirdrec", "the model that the others are compared with")}


def plan(context: ExperimentConfig, results: Results) -> Iterator[TrialSpec]:
    """The trials of every search; the finals of those that are finished."""
    for base in searches(context):
        found = suggest(context, results, base)
        yield from found.cells
        if found.chosen is not None:
            for seed in context.seeds_of(base.model):
                yield found.final(seed, keep=True) if context.keep else found.final(seed)


def expected(context: ExperimentConfig) -> dict[tuple[str, str], int]:
    """(dataset, model) → cells."""
    numbers: dict[tuple[str, str], int] = {}
    for base in searches(context):
        model = base.model
        place = (base.dataset, model)
        numbers[place] = numbers.get(place, 0) + n_trials(context, base) + len(context.seeds_of(model))
    return numbers


def searches(context: ExperimentConfig) -> Iterator[TrialSpec]:
    """What is tuned: one base cell for each dataset, model, and feature set that the model makes a difference of."""
    for dataset in context.datasets:
        for model in context.models or model_names():
            for label in context.sets if uses_features(model) else ("",):
                yield base_cell(context, dataset, model, label)


def uses_features(model: str) -> bool:
    """Whether features make a difference to the model."""
    kind = model_type(model)
    return kind.capabilities.needs_features or "modalities" in {one.name for one in fields(kind.Config)}


def report(context: ExperimentConfig, results: Results) -> Path:
    """Test figures, tests over users, what was chosen, cost, published figures."""
    from lirdrec.experiments.studies.compare_report import write

    return write(context, results, [suggest(context, results, base) for base in searches(context)])
