"""Configuration of experiments, and the model and training configs of a trial."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from lirdrec.config import check_minimum, make_config, suggest_name
from lirdrec.errors import ConfigError
from lirdrec.experiments.trial_spec_and_result import TrialSpec
from lirdrec.trackers import check_tracker
from lirdrec.training.config import TrainConfig

if TYPE_CHECKING:
    from lirdrec.data.dataset import Dataset

FINAL_METRICS = ("recall", "ndcg")
CUTOFFS = (10, 20)
# options that have an effect in some experiments only; no tuning (trials=0) is possible in all
OPTIONS = ("keep", "losses", "minutes", "prune", "sampler", "trials", "tuned")
EVALUATION = ("metrics", "cutoffs", "test_history", "test_target", "mask_seen")  # options of the evaluation
BEYOND_ACCURACY = ("diversity", "novelty", "arp", "aplt", "calibration")  # further test metrics of reports


@dataclass(frozen=True)
class ExperimentConfig:
    """The configuration of an experiment.

    Attributes:
        datasets: paths of datasets, as read by `lirdrec.data.readers.read_any`.
        output: the experiment's folder; an interrupted experiment resumes from it.
        tuned: folder of a `compare` experiment, whose best trials give the options of each model; None: the published
            defaults (in `launch`, the fast presets). Not for `compare`, which tunes the models itself.
        models: names of models; empty: the experiment's defaults.
        seeds: number of final trainings of each chosen configuration, with seeds 0, 1, …; most experiments train a
            closed-form model only once, since a seed does not change it.
        trials: maximum number of tuning trials for each dataset, model and feature set; 0: no tuning, published
            defaults; None: `minutes` alone is the limit.
        minutes: maximum tuning time for each dataset, model and feature set; None: `trials` alone is the limit.
        jobs: number of trials that run in parallel, each in its own process; None: one trial or, with `ray`, as many
            as the cluster has room for.
        losses: ranking losses to tune over, for models with a choice; empty: all.
        feature_sets: label → names of feature matrices; empty: one set, labeled "", with all features of a dataset.
        model_options: fixed options, for every model that has them; not tuned.
        training: fixed fields of `TrainConfig`, for every training; not tuned.
        settings: options that only this kind of experiment has, such as `likes` of `launch`.
        lists: name → file of recommendation lists that were made elsewhere, for `compare`.
        metric: validation metric of tuning and early stopping.
        metrics: names of the reported metrics, without cut-off.
        cutoffs: the lengths of lists at which metrics are reported.
        test_history: the interactions of a user that models use in the test, "train" or "train+valid"; None: the
            choice that fits the dataset's split.
        test_target: the relevant test interactions, "all" or each user's "last"; None: the choice that fits the
            dataset's split.
        mask_seen: leave the items of the user's history out of the ranking, in the final validation and in the test;
            False: they are ranked, too.
        prune: stop tuning trials early if they are below the median of earlier ones.
        sampler: how tuning chooses configurations: "tpe" (Optuna, seeded), or "random", which draws them at random
            from the values of the search space, none twice.
        device: "auto", "cpu", "cuda" …
        ray: address of a Ray cluster that computes the trials (`lirdrec.ray_cluster.RayCluster`); None: this machine.
        formats: file formats of figures, among "svg", "png", "pdf".
        keep: keep the run folders of the final trainings, in `compare`.
        cache: folder of neighbor graphs, passed to `fit`; None: the user's cache folder.
        quiet: show no progress.
        track: "mlflow" or "wandb": log every trial that ends to this tracker; None: log to none.
        command: command line, for the report.

    Raises:
        ConfigError: a value is unknown or out of range, or contradicts another one.
    """

    datasets: tuple[str, ...]
    output: Path
    tuned: Path | None = None
    models: tuple[str, ...] = ()
    seeds: int = 3
    trials: int | None = 6
    minutes: float | None = None
    jobs: int | None = None
    losses: tuple[str, ...] = ()
    feature_sets: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    model_options: Mapping[str, Any] = field(default_factory=dict)
    training: Mapping[str, Any] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)
    lists: Mapping[str, str] = field(default_factory=dict)
    metric: str = "recall@20"
    metrics: tuple[str, ...] = FINAL_METRICS
    cutoffs: tuple[int, ...] = CUTOFFS
    test_history: Literal["train", "train+valid"] | None = None
    test_target: Literal["all", "last"] | None = None
    mask_seen: bool = True
    prune: bool = True
    sampler: Literal["tpe", "random"] = "tpe"
    device: str = "auto"
    ray: str | None = None
    formats: tuple[str, ...] = ("svg", "png")
    keep: bool = False
    cache: str | None = None
    quiet: bool = False
    track: str | None = None
    command: str = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "datasets", tuple(map(os.fspath, self.datasets)))
        kinds: dict[str, Any] = {"output": Path, "tuned": Path, "models": tuple, "losses": tuple, "formats": tuple}
        kinds |= {"metrics": tuple, "cutoffs": tuple}
        for name, kind in kinds.items():
            value = getattr(self, name)
            object.__setattr__(self, name, None if value is None else kind(value))
        if not self.datasets:
            raise ConfigError("datasets is empty; give the path of at least one dataset")
        check_minimum(self, 1, "seeds")
        if self.jobs is not None:
            check_minimum(self, 1, "jobs")
        if self.trials is not None:
            check_minimum(self, 0, "trials")
        if self.minutes is not None and not self.minutes > 0:
            raise ConfigError(f"minutes is {self.minutes}; it must be more than 0")
        if self.trials is None and self.minutes is None:
            raise ConfigError("trials and minutes are both None, so tuning has no budget; give at least one of them")
        self._check_evaluation()
        check_tracker(self.track)
        if self.sampler not in ("tpe", "random"):
            raise ConfigError(f"sampler is {self.sampler!r}; choose tpe or random")
        for loss in self.losses:
            if loss not in ("bpr", "softmax"):
                raise ConfigError(f"losses: there is no loss {loss!r}; choose bpr, softmax or both")

    def _check_evaluation(self) -> None:
        from lirdrec.evaluation.evaluation_protocol import check_protocol
        from lirdrec.evaluation.metrics import canonical_metric, check_metrics, split_name  # imports torch

        split_name(self.metric)
        object.__setattr__(self, "metrics", tuple(dict.fromkeys(map(canonical_metric, self.metrics))))
        check_metrics(self.metrics)
        if not self.metrics or not self.cutoffs or min(self.cutoffs) < 1:
            raise ConfigError(
                "metrics and cutoffs: give at least one metric and one cut-off; each cut-off must be 1 or more"
            )
        check_protocol(self.test_history, self.test_target)
        if self.lists:
            self._check_lists()

    def _check_lists(self) -> None:
        from lirdrec.evaluation.external_lists import metrics_of_lists

        if len(self.datasets) > 1:
            raise ConfigError("--lists: lists hold items for the users of one dataset; give one dataset, not several")
        if not self.mask_seen:
            raise ConfigError(
                "--no-mask-seen cannot be used with --lists: lists never keep items of the history; omit one of the two"
            )
        metrics_of_lists(self.metrics)

    @property
    def evaluation(self) -> dict[str, Any]:
        """Name → value of those fields in `EVALUATION` (metrics, cut-offs, history …) that are not at their default."""
        return self._changed(EVALUATION)

    @property
    def special(self) -> dict[str, Any]:
        """Name → value of those fields in `OPTIONS` that are not at their default, without `trials` of 0 or None."""
        return {name: value for name, value in self._changed(OPTIONS).items() if name != "trials" or value}

    def _changed(self, names: tuple[str, ...]) -> dict[str, Any]:
        defaults = {entry.name: entry.default for entry in fields(self)}
        return {name: getattr(self, name) for name in names if getattr(self, name) != defaults[name]}

    @property
    def sets(self) -> Mapping[str, tuple[str, ...] | None]:
        """Label of a feature set → its feature matrices; without feature sets {"": None}, which means all matrices."""
        return self.feature_sets or {"": None}

    def seeds_of(self, model: str) -> range:
        """Return the seeds of a model's final trainings; one seed for closed-form models, which are deterministic."""
        from lirdrec.models.registry import model_type

        return range(1 if model_type(model).capabilities.training == "closed_form" else self.seeds)

    def setting(self, name: str, default: Any) -> Any:
        """Return the value of an option in `settings`, which only this kind of experiment has; else `default`."""
        return self.settings.get(name, default)

    def options_of(self, model: str) -> dict[str, Any]:
        """Return the entries of `model_options` that are options of the model."""
        names = option_names(model)
        return {name: value for name, value in self.model_options.items() if name in names}


def beyond_accuracy(dataset: Dataset) -> tuple[str, ...]:
    """Return the names of the metrics beyond accuracy that final trials compute on a dataset.

    Diversity is among them only if the dataset has features.
    """
    return tuple(name for name in BEYOND_ACCURACY if name != "diversity" or dataset.features)


def option_names(model: str) -> set[str]:
    """Return the names of the options in a model's config; training options are not among them."""
    from lirdrec.models.registry import config_type

    return {entry.name for entry in fields(config_type(model))}


def resolve_options(trial: TrialSpec) -> tuple[Any, TrainConfig]:
    """Return the complete model config and `TrainConfig` of a trial; options that it does not set have their defaults.

    The trial's `modalities` are in the model config if the model has this option; its seed is in the `TrainConfig`.

    Raises:
        ConfigError: an option is unknown, or a value is out of range.
    """
    from lirdrec.models.registry import config_type

    options, training = dict(trial.model_options), {**trial.training, "seed": trial.seed}
    if trial.modalities is not None and "modalities" in option_names(trial.model):
        options["modalities"] = list(trial.modalities)
    config: Any = make_config(config_type(trial.model), options, f"options of {trial.model}")
    return config, make_config(TrainConfig, training, "training options")


def sort_assignments(
    values: Mapping[str, Any], models: Sequence[str], settings: Mapping[str, Any]
) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
    """Sort `--set` assignments; return model options, training options, and settings of the experiment.

    Args:
        values: name → value, as assigned.
        models: models whose options may be set; the values are checked for each model that has the option.
        settings: names of the experiment's own settings.

    Raises:
        ConfigError: a name is unknown (the message suggests the most similar one), or the value of a model or training
            option is invalid. The values of settings are not checked.
    """
    from lirdrec.models.registry import config_type

    training = {entry.name for entry in fields(TrainConfig)} - {"seed", "metric"}
    by_model = {model: option_names(model) for model in models}
    accepted = {*settings, *training}.union(*by_model.values())
    sorted_values: tuple[dict[str, Any], dict[str, Any], dict[str, Any]] = ({}, {}, {})
    for name, value in values.items():
        if name not in accepted:
            hint = suggest_name(name, accepted, f"known keys: {', '.join(sorted(accepted))}")
            if name in ("seed", "metric"):
                hint = f"use --{'seeds' if name == 'seed' else name}"
            raise ConfigError(f"--set {name}: neither this experiment nor its models have such an option; {hint}")
        kind = 2 if name in settings else 1 if name in training else 0
        sorted_values[kind][name] = value
    make_config(TrainConfig, sorted_values[1], "--set")
    for model, names in by_model.items():
        make_config(config_type(model), {k: v for k, v in sorted_values[0].items() if k in names}, f"--set, {model}")
    return sorted_values
