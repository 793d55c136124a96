"""Registry of experiments by name; each is a module of `studies`, imported on first use.

Such a module has the functions `plan` and `report` and, optionally, `expected`, MODELS, SETTINGS, EVALUATION and
OPTIONS; these become the fields of `Experiment`.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lirdrec.config import suggest_name
from lirdrec.errors import ConfigError
from lirdrec.experiments.config import EVALUATION, ExperimentConfig
from lirdrec.experiments.result_collection import Results
from lirdrec.experiments.trial_spec_and_result import TrialSpec

DEFAULT_OPTIONS = ("losses", "tuned")
_STUDIES = "lirdrec.experiments.studies"
# names of modules that stored trials have (`TrialSpec.work`) → names today
_MODULES = {
    "launch": f"{_STUDIES}.new_item_launch",
    "startup": f"{_STUDIES}.early_training",
    "lirdrec.experiments.lists": "lirdrec.experiments.external_list_scoring",
}

# name → question; the module in `studies` has the same name, unless `_MODULES` has another one
_EXPERIMENTS = {
    "compare": "Which model recommends best? All have the same tuning budget; the test is scored once.",
    "ablation": "What does each part of LIRDRec contribute? One part is changed at a time.",
    "modality": "What does each modality contribute? Each is left out, and used alone.",
    "cold": "How well are items recommended that are not in the training data?",
    "launch": "How well are items recommended that are added later, and what do known items lose?",
    "startup": "Which model leads in the first epochs, and after equal time?",
    "sensitivity": "How much do two settings matter? A grid of their values, scored on validation.",
    "layers": "Which number of layers over the user-item graph is best?",
    "gradients": "Do item IDs learn more slowly than projected features?",
    "splits": "Does the data split change which model is best?",
    "fusion": "Is a mix of models better than the best single model?",
}


@dataclass(frozen=True)
class Experiment:
    """An experiment: the functions and defaults of its module in `studies`.

    Attributes:
        name: name of the experiment and of its module.
        summary: the question that the experiment answers.
        plan: gives all trials that can be planned now, from the results (including failures) so far. It is called again
            after trials have ended, until there are no new ones. The order in which trials end must not change it.
        report: writes tables and figures into `config.output`; returns the path of the HTML page.
        models: default models; empty: those that suit each dataset.
        settings: name → (default, help line) of the experiment's own settings.
        evaluation: names of the options of the evaluation (as in `config.EVALUATION`) that have an effect; if another
            one is set, the experiment is refused.
        options: the same of other options (`config.OPTIONS`) that not all experiments have.
        expected: gives (dataset, model) → number of trials, to estimate the remaining time; None: unknown.
    """

    name: str
    summary: str
    plan: Callable[[ExperimentConfig, Results], Iterable[TrialSpec]]
    report: Callable[[ExperimentConfig, Results], Path]
    models: tuple[str, ...] = ()
    settings: Mapping[str, tuple[Any, str]] = field(default_factory=dict)
    evaluation: tuple[str, ...] = EVALUATION
    options: tuple[str, ...] = DEFAULT_OPTIONS
    expected: Callable[[ExperimentConfig], Mapping[tuple[str, str], int]] | None = None


def module_path(name: str) -> str:
    """Return the path of the module for an experiment's name, or for a module named in `TrialSpec.work`."""
    return _MODULES.get(name) or (name if "." in name else f"{_STUDIES}.{name}")


def experiment_summaries() -> dict[str, str]:
    """Return name → the question that the experiment answers, without importing the modules."""
    return dict(_EXPERIMENTS)


def experiment(name: str) -> Experiment:
    """Return the experiment with this name.

    Raises:
        ConfigError: the name is unknown; the message suggests the most similar one.
    """
    if name not in _EXPERIMENTS:
        hint = suggest_name(name, _EXPERIMENTS, f"known experiments: {', '.join(_EXPERIMENTS)}")
        raise ConfigError(f"unknown experiment '{name}'; {hint}")
    module = importlib.import_module(module_path(name))
    return Experiment(
        name,
        _EXPERIMENTS[name],
        module.plan,
        module.report,
        tuple(getattr(module, "MODELS", ())),
        getattr(module, "SETTINGS", {}),
        getattr(module, "EVALUATION", EVALUATION),
        getattr(module, "OPTIONS", DEFAULT_OPTIONS),
        getattr(module, "expected", None),
    )
