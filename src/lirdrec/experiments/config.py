"""What an experiment was asked to do: the same for every experiment, from the command line or from Python.

The options of a cell as configs, and where what is set by hand belongs.
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Literal

from lirdrec.config import make
from lirdrec.errors import ConfigError
from lirdrec.experiments.trial import TrialSpec
from lirdrec.training.config import TrainConfig

FINAL_METRICS = ("recall", "ndcg")
CUTOFFS = (10, 20)


@dataclass(frozen=True)
class ExperimentConfig:
    """The settings of an experiment.

    Attributes:
        datasets: folders, anything that `lirdrec.data.readers.read_any` reads.
        output: the experiment's folder; the same folder goes on where it was.
        tuned: folder of a `compare`, whose best trials give the settings; None: published defaults.
        models: names of models; empty: the experiment's own choice.
        seeds: number of final trainings of each chosen configuration, with seeds 0, 1, …
        trials: configurations that tuning may try for each model; 0: no tuning, published defaults.
        minutes: tuning time for each model instead of a number of trials (`trials` is then an upper bound if not None).
        jobs: cells that run at once, each in a process of its own.
        losses: ranking losses to tune over, for models that have the choice; empty: all.
        feature_sets: label → names of feature matrices; empty: one set "" of all that a dataset has.
        model_options: options set by hand, for every model that has them; they are not tuned.
        training: fields of `TrainConfig` set by hand, for every training; they are not tuned.
        settings: the experiment's own settings.
        metric: validation metric that tuning and early stopping look at.
        prune: stop trials early that lie below the median of those before.
        sampler: "tpe" (Optuna's, seeded) or "grid".
        device: "auto", "cpu", "cuda" …
        formats: of figures, among "svg", "png", "pdf".
        keep: keep the run folders of the final trainings.
        cache: folder of neighbour graphs, given to `fit`; None: the user's.
        quiet: show no progress.
        command: how it was started, for the report.
    """

    datasets: tuple[str, ...]
    output: Path
    tuned: Path | None = None
    models: tuple[str, ...] = ()
    seeds: int = 3
    trials: int | None = 6
    minutes: float | None = None
    jobs: int = 1
    losses: tuple[str, ...] = ()
    feature_sets: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    model_options: Mapping[str, Any] = field(default_factory=dict)
    training: Mapping[str, Any] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)
    metric: str = "recall@20"
    prune: bool = True
    sampler: Literal["tpe", "grid"] = "tpe"
    device: str = "auto"
    formats: tuple[str, ...] = ("svg", "png")
    keep: bool = False
    cache: str | None = None
    quiet: bool = False
    command: str = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "datasets", tuple(os.fspath(one) for one in self.datasets))
        object.__setattr__(self, "output", Path(self.output))
        object.__setattr__(self, "tuned", None if self.tuned is None else Path(self.tuned))
        for name in ("models", "losses", "formats"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        if not self.datasets:
            raise ConfigError("name at least one dataset")
        for name, least in (("seeds", 1), ("jobs", 1), ("trials", 0)):
            value = getattr(self, name)
            if value is not None and value < least:
                raise ConfigError(f"{name} is {value}; it must be {least} or more")
        if self.minutes is not None and not self.minutes > 0:
            raise ConfigError(f"minutes is {self.minutes}; it must be more than 0")
        if self.trials is None and self.minutes is None:
            raise ConfigError("tuning needs an end: give a number of trials or of minutes")
        from lirdrec.evaluation.metrics import split_name  # here, since it needs torch, and not every worker does

        split_name(self.metric)
        if self.sampler not in ("tpe", "grid"):
            raise ConfigError(f"sampler is {self.sampler!r}; choose tpe or grid")
        for loss in self.losses:
            if loss not in ("bpr", "softmax"):
                raise ConfigError(f"losses: there is no loss {loss!r}; choose bpr, softmax or both")

    @property
    def sets(self) -> Mapping[str, tuple[str, ...] | None]:
        """Label → modalities of each feature set; {"": None} where none was asked for."""
        return self.feature_sets or {"": None}

    def seeds_of(self, model: str) -> range:
        """The seeds of a model's final trainings: one alone where chance plays no part."""
        from lirdrec.models.registry import model_type

        return range(1 if model_type(model).capabilities.training == "closed_form" else self.seeds)

    def setting(self, name: str, default: Any) -> Any:
        """One of the experiment's own settings."""
        return self.settings.get(name, default)

    def options_of(self, model: str) -> dict[str, Any]:
        """Those of `model_options` that the model has."""
        from dataclasses import fields

        from lirdrec.models.registry import config_type

        names = {one.name for one in fields(config_type(model))}
        return {name: value for name, value in self.model_options.items() if name in names}


def resolved(cell: TrialSpec) -> tuple[Any, TrainConfig]:
    """The config of the cell's model and its `TrainConfig`; `modalities` and the seed are in them.

    Raises:
        ConfigError: an unknown option, or a value out of range.
    """
    from lirdrec.models.registry import config_type

    kind = config_type(cell.model)
    options = dict(cell.model_options)
    if cell.modalities is not None and "modalities" in {one.name for one in fields(kind)}:
        options["modalities"] = list(cell.modalities)
    training = {**cell.training, "seed": cell.seed}
    return make(kind, options, f"options of {cell.model}"), make(TrainConfig, training, "training options")


def sort_assignments(
    values: Mapping[str, Any], models: Sequence[str], settings: Mapping[str, Any]
) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
    """What is set by hand as options of models, of training, and settings of the experiment.

    Args:
        values: name → value.
        models: whose options are known; a value that a model has must be right for it.
        settings: names of the experiment's own settings.

    Raises:
        ConfigError: a name that nothing has (the nearest is offered), or a wrong value.
    """
    from lirdrec.models.registry import config_type

    training = {one.name for one in fields(TrainConfig)} - {"seed", "metric"}
    of_models = {model: {one.name for one in fields(config_type(model))} for model in models}
    known = {*settings, *training, *(name for names in of_models.values() for name in names)}
    found: tuple[dict[str, Any], dict[str, Any], dict[str, Any]] = ({}, {}, {})
    for name, value in values.items():
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            if name in ("seed", "metric"):
                hint = f"use --{'seeds' if name == 'seed' else name}"
            else:
                hint = f"did you mean '{near[0]}'?" if near else f"known keys: {', '.join(sorted(known))}"
            raise ConfigError(f"--set {name}: no model of this experiment has such an option; {hint}")
        place = 2 if name in settings else 1 if name in training else 0
        found[place][name] = value
    make(TrainConfig, found[1], "--set")
    for model, names in of_models.items():
        make(config_type(model), {k: v for k, v in found[0].items() if k in names}, f"--set, {model}")
    return found
