"""`lirdrec experiment`: compare, ablate and analyze models."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from lirdrec.cli.output import console, print_line, settings, table
from lirdrec.cli.shared_options import (
    DeviceOption,
    MaskSeenOption,
    RayOption,
    SetOption,
    TestHistoryOption,
    TestTargetOption,
    TrackOption,
    option,
)
from lirdrec.errors import ConfigError

if TYPE_CHECKING:
    from lirdrec.experiments.config import ExperimentConfig
    from lirdrec.experiments.registry import Experiment

TRIALS = 6  # trials of each model, unless --trials or --tuning-minutes is given


@dataclass(frozen=True)
class TuningOptions:
    """Tuning"""

    trials: int | None = option(
        None, f"Configurations tried for each model (default: {TRIALS}); 0: published defaults."
    )
    minutes: float | None = option(
        None, "compare, cold: tuning time for each model, instead of --trials.", "--tuning-minutes"
    )
    metric: str = option("recall@20", "Validation metric to optimize.")
    sampler: str = option("tpe", "How trials are proposed: tpe or random.")
    prune: bool = option(True, "Stop trials below the median of earlier trials.", "--prune/--no-prune")
    losses: str | None = option(None, "Ranking losses to tune over (bpr,softmax).", metavar="A,B")
    tuned: Path | None = option(
        None,
        "Take the settings of each model from the best trials of an earlier compare, in this folder (not for compare).",
        "--config-from",
        metavar="DIR",
    )


@dataclass(frozen=True)
class TrainingOptions:
    """Models and training"""

    models: str | None = option(None, "Models (default: those of the experiment).", metavar="A,B")
    seeds: int = option(3, "Number of final trainings of each best configuration, each with another seed.")
    features: list[str] | None = option(
        None, "A set of feature matrices; may be repeated (default: all).", metavar="LABEL=A,B"
    )
    epochs: int | None = option(None, "Maximum epochs of every training (default: 1000).")
    patience: int | None = option(None, "Validations without improvement before a training stops (default: 20).")
    assignments: SetOption = None
    jobs: int | None = option(
        None, "Parallel trainings; they share the cores (default: 1; on a cluster as many as it has room for)."
    )
    device: DeviceOption = "auto"
    ray: RayOption = None
    save_models: bool = option(False, "compare: keep the run folders of the final trainings.")
    track: TrackOption = None


@dataclass(frozen=True)
class EvaluationOptions:
    """Evaluation"""

    metrics: str | None = option(None, "Reported metrics (default: recall,ndcg).", metavar="A,B")
    k: list[int] | None = option(
        None, "Length of the lists for these metrics; may be repeated (default: 10 and 20).", "--k", "-k", metavar="K"
    )
    test_history: TestHistoryOption = None
    test_target: TestTargetOption = None
    mask_seen: MaskSeenOption = True

    def for_config(self) -> dict[str, Any]:
        """Return the options and their defaults as arguments of `ExperimentConfig`."""
        from lirdrec.experiments.config import CUTOFFS, FINAL_METRICS

        return {
            "metrics": FINAL_METRICS if self.metrics is None else _listed(self.metrics, "--metrics"),
            "cutoffs": tuple(sorted(set(self.k))) if self.k else CUTOFFS,
            "test_history": self.test_history,
            "test_target": self.test_target,
            "mask_seen": self.mask_seen,
        }


def experiment(
    tuning: TuningOptions,
    training: TrainingOptions,
    evaluation: EvaluationOptions,
    name: str | None = typer.Argument(None, metavar="[NAME]", help="The experiment; without a name, all are listed."),
    datasets: list[Path] | None = typer.Argument(
        None, metavar="[DATASET]…", help="Prepared datasets, or folders that prepare can read.", show_default=False
    ),
    output: Path | None = option(None, "Folder (default: experiments/NAME).", "--output", "-o", metavar="DIR"),
    lists: list[str] | None = option(
        None, "compare: recommendations made elsewhere, as a row of the report; may be repeated.", metavar="NAME=FILE"
    ),
    report_only: bool = option(False, "Only write the report, from the results so far."),
) -> None:
    """Compare or ablate models: all tuned with the same budget, tested once, with a report at the end.

    \b
      lirdrec experiment                        list the experiments
      lirdrec experiment compare mydata --models mf,lightgcn,lirdrec
      lirdrec experiment compare mydata otherdata --trials 12 --seeds 5 --jobs 2 --output study
      lirdrec experiment ablation mydata --config-from study --output study-ablation
      lirdrec experiment compare mydata --ray-address auto --output /shared/study

    If interrupted or killed, the same command resumes. The same command in several terminals on one disk shares the
    work. The test interactions are stored apart (sealed) before anything is trained: tuning never reads them, and after
    the test no configuration can be chosen again.
    """
    from lirdrec.experiments.registry import experiment_summaries

    if name is None:
        rows = [[key, summary] for key, summary in experiment_summaries().items()]
        return console().print(table(None, ["experiment", "answers"], rows))
    from lirdrec.experiments.registry import experiment as experiment_by_name
    from lirdrec.experiments.scheduler import report, run

    chosen = experiment_by_name(name)
    if not datasets:
        raise ConfigError(f"no dataset is given; give at least one: lirdrec experiment {name} DATASET")
    config = _config(chosen, datasets, output, tuning, training, evaluation, _external_lists(chosen, lists or []))
    try:
        page = report(chosen, config) if report_only else run(chosen, config)
    except KeyboardInterrupt:
        saved = f"finished trainings are saved in {config.output}"
        print_line(f"Stopped; {saved}. To continue, run the same command", errors=True)
        raise
    print_line(f"Report: {page}")


def _config(
    chosen: Experiment,
    datasets: Sequence[Path],
    output: Path | None,
    tuning: TuningOptions,
    training: TrainingOptions,
    evaluation: EvaluationOptions,
    lists: dict[str, str],
) -> ExperimentConfig:
    """Build the configuration of an experiment from the options."""
    from lirdrec.config import parse_assignments
    from lirdrec.evaluation.metrics import canonical_metric
    from lirdrec.experiments.config import ExperimentConfig, sort_assignments
    from lirdrec.models.registry import model_names, model_type

    models = _listed(training.models, "--models") if training.models is not None else chosen.models
    for model in models:
        model_type(model)
    model_options, train_options, own_settings = sort_assignments(
        parse_assignments(training.assignments or []), models or model_names(), chosen.settings
    )
    limits = {"epochs": training.epochs, "patience": training.patience}
    train_options |= {key: value for key, value in limits.items() if value is not None}
    sort_assignments(train_options, models or model_names(), {})  # raises for wrong numbers
    tuning_options = vars(tuning) | {
        "trials": TRIALS if tuning.trials is None and tuning.minutes is None else tuning.trials,
        "losses": _listed(tuning.losses, "--losses") if tuning.losses is not None else (),
        "metric": canonical_metric(tuning.metric),
    }
    return ExperimentConfig(
        **tuning_options,
        **evaluation.for_config(),
        datasets=tuple(map(str, datasets)),
        output=output if output is not None else Path("experiments") / chosen.name,
        models=models,
        seeds=training.seeds,
        jobs=training.jobs,
        feature_sets=_feature_sets(training.features or []),
        model_options=model_options,
        training=train_options,
        settings=own_settings,
        lists=lists,
        device=training.device,
        ray=training.ray,
        keep=training.save_models,
        track=training.track,
        quiet=settings.quiet,
        command=shlex.join(["lirdrec", *sys.argv[1:]]),
    )


def _listed(text: str, flag: str) -> tuple[str, ...]:
    """Return the different names of a comma-separated list; raise a ConfigError if there is none."""
    names = tuple(dict.fromkeys(name.strip() for name in text.split(",") if name.strip()))
    if not names:
        raise ConfigError(f"{flag} is empty; give at least one name; several are separated by commas")
    return names


def _external_lists(chosen: Experiment, entries: list[str]) -> dict[str, str]:
    """Return the values NAME=FILE of --lists as name → file.

    Raises:
        ConfigError: a value has another form, a name occurs twice, or the experiment is not compare.
    """
    if entries and chosen.name != "compare":
        raise ConfigError(f"--lists: is an option of compare, not of {chosen.name}; leave it out")
    lists: dict[str, str] = {}
    for entry in entries:
        name, equals, file = entry.partition("=")
        if not equals or not name.strip() or not file:
            raise ConfigError(f"--lists {entry!r}: write it as NAME=FILE, for instance als=als.parquet")
        if name.strip() in lists:
            raise ConfigError(f"--lists: the name '{name.strip()}' occurs twice")
        lists[name.strip()] = file
    return lists


def _feature_sets(entries: list[str]) -> dict[str, tuple[str, ...]]:
    """Return the values LABEL=A,B of --features as label → names of feature matrices.

    Raises:
        ConfigError: a value has another form, or a label occurs twice.
    """
    sets: dict[str, tuple[str, ...]] = {}
    for entry in entries:
        label, equals, names = entry.partition("=")
        if not equals or not label.strip():
            raise ConfigError(f"--features {entry!r}: write it as label=matrix,matrix, for instance mllm=image,text")
        if label.strip() in sets:
            raise ConfigError(f"--features: the label '{label.strip()}' occurs twice")
        sets[label.strip()] = _listed(names, f"--features {label.strip()}")
    return sets
