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


def plan(config: ExperimentConfig, results: Results) -> Iterator[TrialSpec]:
    """The trials of all searches, and the final trainings of finished ones."""
    for base in searches(config):
        found = suggest(config, results, base)
        yield from found.cells
        if found.chosen is not None:
            for seed in config.seeds_of(base.model):
                yield found.final(seed, keep=True) if config.keep else found.final(seed)


def expected(config: ExperimentConfig) -> dict[tuple[str, str], int]:
    """(dataset, model) → number of trials."""
    numbers: dict[tuple[str, str], int] = {}
    for base in searches(config):
        model = base.model
        key = (base.dataset, model)
        numbers[key] = numbers.get(key, 0) + n_trials(config, base) + len(config.seeds_of(model))
    return numbers


def searches(config: ExperimentConfig) -> Iterator[TrialSpec]:
    """Base trials of the searches: one for each dataset, model and, for models with features, feature set."""
    for dataset in config.datasets:
        for model in config.models or model_names():
            for label in config.sets if uses_features(model) else ("",):
                yield base_cell(config, dataset, model, label)


def uses_features(model: str) -> bool:
    """Whether the model uses features."""
    kind = model_type(model)
    return kind.capabilities.needs_features or "modalities" in {one.name for one in fields(kind.Config)}


def report(config: ExperimentConfig, results: Results) -> Path:
    """Test metrics, tests over users, chosen settings, cost, published results."""
    return compare_report.write(config, results, [suggest(config, results, base) for base in searches(config)])
