"""`lirdrec experiment`."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer

from lirdrec.cli.output import console, settings, table, whole_number
from lirdrec.errors import ConfigError


def register(app: typer.Typer) -> None:
    """Add the command of this file."""
    app.command("experiment")(experiment)


def experiment(
    name: Annotated[str | None, typer.Argument(metavar="[NAME]", help="Which; without a name they are listed.")] = None,
    datasets: Annotated[
        list[Path] | None,
        typer.Argument(
            metavar="[DATASET]…", help="Prepared datasets, or folders that prepare can read.", show_default=False
        ),
    ] = None,
    models: Annotated[
        str | None, typer.Option("--models", metavar="A,B", help="Models (default: the experiment's own).")
    ] = None,
    seeds: Annotated[
        int, typer.Option("--seeds", help="Final trainings of each best configuration.", callback=whole_number())
    ] = 3,
    trials: Annotated[
        int | None,
        typer.Option(
            "--trials",
            help="Configurations tried for each model (default: 6); 0: published defaults.",
            callback=whole_number(),
        ),
    ] = None,
    minutes: Annotated[
        float | None, typer.Option("--tuning-minutes", help="Tuning time for each model, instead of --trials.")
    ] = None,
    jobs: Annotated[
        int, typer.Option("--jobs", help="Trainings at once; they share the cores.", callback=whole_number())
    ] = 1,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="DIR", help="Folder (default: experiments/NAME).")
    ] = None,
    tuned: Annotated[
        Path | None,
        typer.Option(
            "--config-from", metavar="DIR", help="Take the settings from the best trials of a compare's folder."
        ),
    ] = None,
    features: Annotated[
        list[str] | None,
        typer.Option("--features", metavar="LABEL=A,B", help="A set of feature matrices; may be repeated (all)."),
    ] = None,
    losses: Annotated[
        str | None, typer.Option("--losses", metavar="A,B", help="Ranking losses to tune over (bpr,softmax).")
    ] = None,
    epochs: Annotated[
        int | None, typer.Option("--epochs", help="Of every training, at most (1000).", callback=whole_number())
    ] = None,
    patience: Annotated[
        int | None,
        typer.Option(
            "--patience",
            help="Validations without a better figure before a training ends (20).",
            callback=whole_number(),
        ),
    ] = None,
    metric: Annotated[str, typer.Option("--metric", help="Validation metric that chooses.")] = "recall@20",
    sampler: Annotated[str, typer.Option("--sampler", help="How trials are proposed: tpe or grid.")] = "tpe",
    prune: Annotated[
        bool, typer.Option("--prune/--no-prune", help="Stop trials below the median of those before.")
    ] = True,
    assignments: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Fix an option of models, training or the experiment."),
    ] = None,
    device: Annotated[str, typer.Option("--device", help="auto, cpu, cuda or mps.")] = "auto",
    keep: Annotated[bool, typer.Option("--save-models", help="Keep the run folders of the final trainings.")] = False,
    report_only: Annotated[
        bool, typer.Option("--report-only", help="Train nothing; write the report of what is done by now.")
    ] = False,
) -> None:
    """Compare models and take them apart: many trainings, tuned alike, the test scored once, a report at the end.

    \b
      lirdrec experiment                        list the experiments
      lirdrec experiment compare mydata --models mf,lightgcn,lirdrec
      lirdrec experiment compare mydata otherdata --trials 12 --seeds 5 --jobs 2 --output study
      lirdrec experiment ablation mydata --config-from study --output study-ablation

    Stopped, by Ctrl-C or by force, it goes on where it was: the same command again. The same command in several
    terminals, on one disk, shares the work. Test pairs are sealed away before anything is trained: tuning never sees
    them, and what has been scored cannot be chosen again.
    """
    from lirdrec.experiments.experiment import experiment as experiment_of
    from lirdrec.experiments.experiment import experiment_names

    if name is None:
        rows = [[one, summary] for one, summary in experiment_names().items()]
        console().print(table(None, ["experiment", "answers"], rows))
        return
    from lirdrec.config import parse_assignments
    from lirdrec.experiments.config import ExperimentConfig, sort_assignments
    from lirdrec.experiments.scheduler import report, run
    from lirdrec.models.registry import model_names, model_type

    chosen = experiment_of(name)
    if not datasets:
        raise ConfigError(f"name at least one dataset: lirdrec experiment {name} DATASET")
    names = _listed(models, "--models") if models is not None else chosen.models
    for one in names:
        model_type(one)
    options, training, own = sort_assignments(
        parse_assignments(assignments or []), names or model_names(), chosen.settings
    )
    for key, value in (("epochs", epochs), ("patience", patience)):
        if value is not None:
            training[key] = value
    sort_assignments(training, names or model_names(), {})  # says what is wrong with the numbers
    context = ExperimentConfig(
        datasets=tuple(map(str, datasets)),
        output=output if output is not None else Path("experiments") / name,
        tuned=tuned,
        models=names,
        seeds=seeds,
        trials=trials if trials is not None or minutes is not None else 6,
        minutes=minutes,
        jobs=jobs,
        losses=_listed(losses, "--losses") if losses is not None else (),
        feature_sets=_feature_sets(features or []),
        model_options=options,
        training=training,
        settings=own,
        metric=metric,
        prune=prune,
        sampler=sampler,  # type: ignore[arg-type]  # the context checks it
        device=device,
        keep=keep,
        quiet=settings.quiet,
        command=shlex.join(["lirdrec", *sys.argv[1:]]),
    )
    try:
        page = report(chosen, context) if report_only else run(chosen, context)
    except KeyboardInterrupt:
        console(errors=True).print(
            f"Stopped; what is done is kept in {context.output}. Go on: the same command again", soft_wrap=True
        )
        raise
    console().print(f"Report: {page}", markup=False, soft_wrap=True)


def _listed(text: str, what: str) -> tuple[str, ...]:
    names = tuple(dict.fromkeys(one.strip() for one in text.split(",") if one.strip()))
    if not names:
        raise ConfigError(f"{what} is empty; name at least one, separated by commas")
    return names


def _feature_sets(entries: list[str]) -> dict[str, tuple[str, ...]]:
    sets: dict[str, tuple[str, ...]] = {}
    for entry in entries:
        label, equals, names = entry.partition("=")
        if not equals or not label.strip():
            raise ConfigError(f"--features {entry!r}: write it as label=matrix,matrix, for instance mllm=image,text")
        if label.strip() in sets:
            raise ConfigError(f"--features: the label '{label.strip()}' occurs twice")
        sets[label.strip()] = _listed(names, f"--features {label.strip()}")
    return sets
