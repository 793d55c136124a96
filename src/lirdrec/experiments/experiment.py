"""What an experiment is, and the list of them, by name, imported only when asked for.

An experiment is a module of this package with two functions:

    def plan(context: Context, results: Results) -> Iterable[Cell]
        # the cells that can be known now; called again whenever cells have ended, until it names nothing new.
        # `results` holds the results (failed ones too) of the cells that it named before. It must not depend on time,
        # on chance, or on the order in which cells ended.
    def report(context: Context, results: Results) -> Path
        # writes tables and figures into context.output and gives the path of the page to look at

and, if it likes,

    MODELS: tuple[str, ...]             # the models it takes where none are named
    SETTINGS: Mapping[str, tuple]       # name → (default, "one line") of its own settings, for --set
    def expected(context) -> Mapping[tuple[str, str], int]   # (dataset, model) → cells there will be, for the time left
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lirdrec.config import nearest
from lirdrec.errors import ConfigError
from lirdrec.experiments.config import ExperimentConfig
from lirdrec.experiments.results import Results
from lirdrec.experiments.trial import TrialSpec

# name, also of its module in `studies` → what it answers
_EXPERIMENTS = {
    "compare": "Which model recommends best? All tuned alike, test scored once.",
    "ablation": "What does each part of LIRDRec bring? One changed at a time.",
    "modality": "What does each modality bring? Each left out, each alone.",
    "cold": "How well are items recommended that training has not seen?",
    "startup": "Who is ahead in the first epochs, and after the same time?",
    "sensitivity": "How much do two settings matter? A grid, on validation.",
    "layers": "How many layers over the user-item graph are best?",
    "gradients": "Do item IDs learn more slowly than projected features?",
    "splits": "Does the way the data are split decide who is best?",
    "fusion": "Is a mix of models better than the best of them alone?",
}


@dataclass(frozen=True)
class Experiment:
    """A module's functions under its name."""

    name: str
    summary: str
    plan: Callable[[ExperimentConfig, Results], Iterable[TrialSpec]]
    report: Callable[[ExperimentConfig, Results], Path]
    models: tuple[str, ...] = ()
    settings: Mapping[str, tuple[Any, str]] = field(default_factory=dict)
    expected: Callable[[ExperimentConfig], Mapping[tuple[str, str], int]] | None = None


def experiment_names() -> dict[str, str]:
    """Name → summary of every experiment; imports none of them."""
    return dict(_EXPERIMENTS)


def experiment(name: str) -> Experiment:
    """The experiment called `name`.

    Raises:
        ConfigError: there is none; the nearest name is offered.
    """
    if name not in _EXPERIMENTS:
        hint = nearest(name, _EXPERIMENTS, f"known experiments: {', '.join(_EXPERIMENTS)}")
        raise ConfigError(f"unknown experiment '{name}'; {hint}")
    module = importlib.import_module(f"lirdrec.experiments.studies.{name}")
    return Experiment(
        name,
        _EXPERIMENTS[name],
        module.plan,
        module.report,
        tuple(getattr(module, "MODELS", ())),
        getattr(module, "SETTINGS", {}),
        getattr(module, "expected", None),
    )
