"""Experiment "compare" (Table II of the paper): models tuned with the same budget, declared, and scored once.

For each dataset, model and feature set: the tuning trials of `tuning.suggest`; then the best configuration is trained
with each seed, and its sealed test is scored.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path

from lirdrec.experiments.config import ExperimentConfig
from lirdrec.experiments.results import Results
from lirdrec.experiments.studies import compare_report
from lirdrec.experiments.trial import TrialSpec
from lirdrec.experiments.tuning import base_cell, n_trials, suggest
from lirdrec.models.registry import model_names, model_type

SETTINGS = {"ours": ("lirdrec", "the model that the others are compared with")}


def plan(context: ExperimentConfig, results: Results) -> Iterator[TrialSpec]:
    """The trials of all searches, and the final trainings of finished ones."""
    for base in searches(context):
        found = suggest(context, results, base)
        yield from found.cells
        if found.chosen is not None:
            for seed in context.seeds_of(base.model):
                yield found.final(seed, keep=True) if context.keep else found.final(seed)


def expected(context: ExperimentConfig) -> dict[tuple[str, str], int]:
    """(dataset, model) → number of trials."""
    numbers: dict[tuple[str, str], int] = {}
    for base in searches(context):
        model = base.model
        key = (base.dataset, model)
        numbers[key] = numbers.get(key, 0) + n_trials(context, base) + len(context.seeds_of(model))
    return numbers


def searches(context: ExperimentConfig) -> Iterator[TrialSpec]:
    """Base trials of the searches: one for each dataset, model and, for models with features, feature set."""
    for dataset in context.datasets:
        for model in context.models or model_names():
            for label in context.sets if uses_features(model) else ("",):
                yield base_cell(context, dataset, model, label)


def uses_features(model: str) -> bool:
    """Whether the model uses features."""
    kind = model_type(model)
    return kind.capabilities.needs_features or "modalities" in {one.name for one in fields(kind.Config)}


def report(context: ExperimentConfig, results: Results) -> Path:
    """Test metrics, tests over users, chosen settings, cost, published results."""
    return compare_report.write(context, results, [suggest(context, results, base) for base in searches(context)])
