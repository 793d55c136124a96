"""Experiment "compare" (Table II of the paper): models tuned with the same budget, declared, and scored once.

For each dataset, model and feature set: the tuning trials of `tuning.suggest`; then the best configuration is trained
with each seed, and its sealed test is scored.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lirdrec.experiments.config import ExperimentConfig, option_names
from lirdrec.experiments.results import Results
from lirdrec.experiments.studies import compare_report
from lirdrec.experiments.trial import TrialSpec
from lirdrec.experiments.tuning import base_cell, n_trials, suggest
from lirdrec.models.registry import model_names, model_type

SETTINGS = {"ours": ("lirdrec", "the model that the others are compared with")}


def plan(config: ExperimentConfig, results: Results) -> Iterator[TrialSpec]:
    """The trials of all searches, and the final trainings of finished ones."""
    extra: dict[str, Any] = {"keep": True} if config.keep else {}
    for base in searches(config):
        search = suggest(config, results, base)
        yield from search.cells
        if search.chosen is not None:
            for seed in config.seeds_of(base.model):
                yield search.final(seed, **extra)


def expected(config: ExperimentConfig) -> Counter[tuple[str, str]]:
    """(dataset, model) → number of trials."""
    numbers: Counter[tuple[str, str]] = Counter()
    for base in searches(config):
        numbers[base.dataset, base.model] += n_trials(config, base) + len(config.seeds_of(base.model))
    return numbers


def searches(config: ExperimentConfig) -> Iterator[TrialSpec]:
    """Base trials of the searches: one for each dataset, model and, for models with features, feature set."""
    for dataset in config.datasets:
        for model in config.models or model_names():
            for label in config.sets if uses_features(model) else ("",):
                yield base_cell(config, dataset, model, label)


def uses_features(model: str) -> bool:
    """Whether the model uses features."""
    return model_type(model).capabilities.needs_features or "modalities" in option_names(model)


def report(config: ExperimentConfig, results: Results) -> Path:
    """Test metrics, tests over users, chosen settings, cost, published results."""
    return compare_report.write(config, results, [suggest(config, results, base) for base in searches(config)])
