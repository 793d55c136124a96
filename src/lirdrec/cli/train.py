"""`lirdrec train | evaluate | config`: train and evaluate a model, and list its options."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lirdrec.available_memory import check_memory
from lirdrec.cli.options import (
    CsvSafeOption,
    DatasetArgument,
    DeviceOption,
    GroupedCommand,
    JsonOption,
    OutputOption,
    RunArgument,
    SeedOption,
    SetOption,
    grouped,
    integer,
)
from lirdrec.cli.output import (
    INTERRUPTED,
    check_output,
    console,
    metrics_table,
    print_json,
    settings,
    table,
    write_frame,
)
from lirdrec.config import suggest_name
from lirdrec.errors import ConfigError, RunFolderError

if TYPE_CHECKING:
    import polars as pl

    from lirdrec.data.dataset import Dataset
    from lirdrec.recommender.recommender import Recommender

WITHOUT_STEPS = ("metric", "seed")  # training options of models in closed form

SPLITS = {"train": "train", "validation": "valid", "valid": "valid", "test": "test"}


def register(app: typer.Typer) -> None:
    """Add the commands of this file."""
    app.command(cls=GroupedCommand)(grouped(train))
    app.command(cls=GroupedCommand)(grouped(evaluate))
    app.command("config")(list_options)


@dataclass(frozen=True)
class ModelOptions:
    """Model and training"""

    model: Annotated[
        str | None,
        typer.Option("--model", help="lirdrec (default), or another one of docs/models.md (lightgcn, ease …)."),
    ] = None
    preset: Annotated[str | None, typer.Option("--preset", help="fast or paper (default: fast).")] = None
    config: Annotated[
        Path | None, typer.Option("--config", help="TOML file with the tables [model] and [training].")
    ] = None
    assignments: SetOption = None
    seed: SeedOption = None
    refit: Annotated[
        Path | None,
        typer.Option("--refit", metavar="RUN", help="Train on all interactions, with RUN's settings and best epoch."),
    ] = None

    start: Annotated[
        Path | None,
        typer.Option("--from", metavar="RUN", help="Train on from RUN, an earlier run, with its settings."),
    ] = None

    def for_fit(self) -> dict[str, Any]:
        """The arguments of `fit`."""
        if self.refit is not None and self.start is not None:
            raise ConfigError("--from: with --refit the run that the earlier one continued is known; leave it out")
        if self.refit is not None:
            self._refuse("--refit", "model", "preset", "config", "assignments", "seed")
            return {"refit": self.refit}
        if self.start is not None:
            self._refuse("--from", "model", "preset")
            return {"warm_start": self.start} | self._continued()
        config, training = configuration(
            self.model or "lirdrec", self.preset, self.config, self.assignments or [], self.seed
        )
        return {"config": config, "training": training} | ({} if self.preset is None else {"preset": self.preset})

    def _refuse(self, with_option: str, *names: str) -> None:
        for name in names:
            if getattr(self, name) not in (None, []):
                option = "--set" if name == "assignments" else f"--{name}"
                raise ConfigError(f"{option}: with {with_option} it is that of the earlier run; leave it out")

    def _continued(self) -> dict[str, Any]:
        """The training options that were given, over those of the earlier run."""
        if self.config is None and not self.assignments and self.seed is None:
            return {}
        from lirdrec.config import make_config, parse_assignments, read_toml, to_dict
        from lirdrec.recommender.refit import continued_training
        from lirdrec.recommender.warm_start import read_earlier
        from lirdrec.training.config import TrainConfig

        state = read_earlier(self.start)
        known = training_keys(str(state.info.get("model")))
        from_file = {} if self.config is None else read_toml(self.config)
        for heading in from_file:
            if heading != "training":
                raise ConfigError(
                    f"{self.config}: with --from it may hold the table [training] only; leave out {heading}"
                )
        given = dict(from_file.get("training", {})) | parse_assignments(self.assignments or [])
        for key in given:
            if key not in known:
                raise ConfigError(
                    f"--set {key}: with --from only options of training can change ({', '.join(known)}); those of the"
                    " model stay as they are in the earlier run"
                )
        given |= {} if self.seed is None else {"seed": self.seed}
        return {"training": make_config(TrainConfig, to_dict(continued_training(state)) | given, "[training]")}


def train(
    dataset: DatasetArgument,
    options: ModelOptions,
    run: Annotated[Path | None, typer.Option("--run", help="Folder to write (default: runs/DATASET-MODEL).")] = None,
    device: Annotated[str | None, typer.Option("--device", help="auto, cpu, cuda or mps (default: auto).")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Continue a training that was stopped.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the run in the folder.")] = False,
    json: JsonOption = False,
) -> None:
    """Train a model, save the best epoch in a run folder, and show its test metrics beside those of popularity.

    \b
      lirdrec train mydata --run runs/first
      lirdrec train mydata --preset paper --set n_layers=3 --set regularization=1e-4
      lirdrec train mydata --run runs/first --resume
      lirdrec train mydata --refit runs/first --run runs/served
      lirdrec train newdata --from runs/first --run runs/second

    --refit trains on all interactions, the newest included; such a run has no metrics, since no data is held out.
    --from starts from the parameters of an earlier run and needs few epochs; of the options, --set, --config and --seed
    may change those of training.
    """
    from lirdrec.recommender.fit import fit

    arguments = options.for_fit() | ({} if device is None else {"device": device})
    data = _read_dataset(dataset)
    refit = options.refit
    kind = "refit" if refit is not None else "continued" if options.start is not None else options.model or "lirdrec"
    folder = run or _default_run(data.name, kind, resume)
    recommender = fit(
        data,
        run=folder,
        resume=resume,
        overwrite=overwrite,
        progress=not settings.quiet and not json,
        **arguments,
    )
    stopped = recommender.info.get("stopped") == "interrupted"
    data = _unseen(recommender, data)
    results = evaluate_with_baseline(recommender, data) if len(data.test) and refit is None else {}
    if results:
        recommender.record_metrics("test", next(iter(results.values())))
    if json:
        print_json({"run": str(folder), "interrupted": stopped, "test": results})
    else:
        if refit is not None:
            _show_refit(data, refit)
        _show_run(folder, data.name, results)
    if stopped:
        console(errors=True).print(
            "Stopped; the best model so far is saved. To continue: the same command with --resume"
        )
        raise typer.Exit(INTERRUPTED)


def _show_refit(data: Dataset, refit: Path) -> None:
    from lirdrec.data.ids import pluralize
    from lirdrec.data.schema import SPLITS

    n = sum(len(data.split(name)) for name in SPLITS)
    message = (
        f"Trained on all {pluralize(n, 'interaction')} with the settings of {refit}; no data is left to evaluate on."
    )
    console().print(message, markup=False, soft_wrap=True)


def _show_run(folder: Path, name: str, results: dict[str, dict[str, float]]) -> None:
    if results:
        console().print(metrics_table(headline_metrics(results), f"Test, {name}"))
    console().print(f"Run folder: {folder}", markup=False)
    if (folder / "curves.png").is_file():
        console().print(f"Curves:     {folder / 'curves.png'}", markup=False)


@dataclass(frozen=True)
class MetricOptions:
    """What is measured"""

    split: Annotated[str | None, typer.Option("--split", help="train, validation or test (default: test).")] = None
    k: Annotated[
        list[int] | None,
        typer.Option("--k", "-k", metavar="K", help="List length; may be repeated (10 and 20).", callback=integer()),
    ] = None
    metric: Annotated[
        list[str] | None,
        typer.Option(
            "--metric",
            metavar="NAME",
            help="recall, ndcg, precision, map, mrr, hit (or hit_rate), coverage, popularity or gini; may be repeated.",
        ),
    ] = None
    candidates: Annotated[
        str | None, typer.Option("--candidates", help="all; or cold: only items without training interactions.")
    ] = None
    memory_limit: Annotated[
        int | None, typer.Option("--memory-limit", help="Memory for scores, in MiB.", callback=integer(1))
    ] = None

    def for_evaluate(self) -> dict[str, Any]:
        """The arguments of `evaluate`.

        Raises:
            ConfigError: a value that no run can be evaluated with; raised before a run is read, which may take long.
        """
        from lirdrec.evaluation.metrics import canonical_metric, check_metrics
        from lirdrec.recommender.query_arguments import check_k

        if self.split is not None and self.split not in SPLITS:
            raise ConfigError(f"--split {self.split}: choose one of {', '.join(SPLITS)}")
        if self.candidates not in (None, "all", "cold"):
            raise ConfigError(f"--candidates {self.candidates}: choose all or cold")
        if self.memory_limit is not None:
            check_memory(self.memory_limit << 20, f"--memory-limit {self.memory_limit}")
        for k in self.k or ():
            check_k(k)
        metrics = tuple(map(canonical_metric, self.metric or ()))
        check_metrics(metrics)
        arguments = {
            "split": None if self.split is None else SPLITS[self.split],
            "k": tuple(self.k) if self.k else None,
            "metrics": metrics or None,
            "candidates": self.candidates,
            "memory_limit": None if self.memory_limit is None else self.memory_limit << 20,
        }
        return {name: value for name, value in arguments.items() if value is not None}


def evaluate(
    run: RunArgument,
    options: MetricOptions,
    dataset: Annotated[
        Path | None,
        typer.Argument(metavar="[DATASET]", help="A prepared dataset (default: the one that RUN was trained on)."),
    ] = None,
    cold_users: Annotated[
        bool, typer.Option("--cold-users", help="Also evaluate with every user treated as new, known by items alone.")
    ] = False,
    per_user: Annotated[
        Path | None, typer.Option("--per-user-output", help="Write the values of each user to this file.")
    ] = None,
    device: DeviceOption = "cpu",
    json: JsonOption = False,
    output: OutputOption = None,
    csv_safe: CsvSafeOption = False,
) -> None:
    """Rank all items for every user of a split and show the metrics beside those of popularity.

    \b
      lirdrec evaluate runs/demo
      lirdrec evaluate runs/demo --split validation -k 5 -k 50
      lirdrec evaluate runs/demo --cold-users
    """
    from lirdrec.evaluation.evaluator import evaluate as evaluate_run
    from lirdrec.recommender.recommender import Recommender

    check_output(output, csv_safe and (output is not None or per_user is None))
    check_output(per_user, csv_safe and per_user is not None)
    arguments = options.for_evaluate()
    recommender = Recommender.load(run, device=device)
    data = _read_dataset(dataset if dataset is not None else _trained_on(recommender, run))
    name = str(recommender.info.get("model", "model"))
    result = evaluate_run(recommender, data, per_user=per_user is not None, **arguments)
    results = {name: dict(result.values)}
    if cold_users:
        from lirdrec.recommender.new_users import as_new_users

        results[f"{name}, users as new"] = dict(evaluate_run(as_new_users(recommender), data, **arguments).values)
    if name != "popularity":
        data = _unseen(recommender, data)
        results["popularity"] = dict(evaluate_run(_popularity(data, device), data, **arguments).values)
    if per_user is not None and result.per_user is not None:
        write_frame(result.per_user, per_user, csv_safe)
    if output is not None:
        return write_frame(_metric_rows(results), output, csv_safe)
    if json:
        return print_json(results)
    console().print(metrics_table(results, f"{options.split or 'test'}, {data.name}"))


def _metric_rows(results: dict[str, dict[str, float]]) -> pl.DataFrame:
    """A row for each recommender and metric."""
    import polars as pl

    return pl.DataFrame(
        [
            {"recommender": name, "metric": metric, "value": value}
            for name, values in results.items()
            for metric, value in values.items()
        ]
    )


def list_options(
    model: Annotated[str, typer.Option("--model", help="Model whose options to list.")] = "lirdrec",
    preset: Annotated[str | None, typer.Option("--preset", help="Show the values of this preset.")] = None,
    json: JsonOption = False,
) -> None:
    """List every key of `train --set` and of the TOML file, with its value and meaning.

    \b
      lirdrec config --preset paper
    """
    import dataclasses

    model_config, training = configuration(model, preset, None, [], None)
    rows = [
        [heading, field.name, getattr(value, field.name), field.metadata.get("doc", "")]
        for heading, value in (("model", model_config), ("training", training))
        for field in dataclasses.fields(value)
        if heading == "model" or field.name in training_keys(model)
    ]
    if json:
        keys = ("table", "key", "value", "meaning")
        return print_json([dict(zip(keys, row, strict=True)) for row in rows])
    for heading in ("model", "training"):
        listed = [row[1:] for row in rows if row[0] == heading]
        console().print(table(f"[{heading}]", ["key", "value", "meaning"], listed))


def evaluate_with_baseline(recommender: Recommender, data: Dataset, **options: Any) -> dict[str, dict[str, float]]:
    """Test figures of the recommender and, for comparison, of popularity."""
    from lirdrec.evaluation.evaluator import evaluate as measure

    name = str(recommender.info.get("model", "model"))
    results = {name: dict(measure(recommender, data, **options).values)}
    if name != "popularity":
        results["popularity"] = dict(measure(_popularity(data, "cpu"), data, **options).values)
    return results


def _unseen(recommender: Recommender, data: Dataset) -> Dataset:
    from lirdrec.evaluation.evaluator import unseen_part

    return unseen_part(recommender, data)[0]


def headline_metrics(results: dict[str, dict[str, float]]) -> dict[str, dict[str, float]]:
    """Recall and NDCG alone, for a table that is seen at a glance."""
    return {
        who: {name: value for name, value in values.items() if name.startswith(("recall@", "ndcg@"))}
        for who, values in results.items()
    }


def _popularity(data: Dataset, device: str) -> Recommender:
    from dataclasses import replace

    from lirdrec.models.popularity import PopularityConfig
    from lirdrec.recommender.fit import fit, fitting_metric
    from lirdrec.training.config import TrainConfig

    plain = replace(data, features={}, folder=None)  # it needs no features, which may be large
    training = TrainConfig(metric=fitting_metric(plain, TrainConfig().metric))
    return fit(plain, PopularityConfig(), training, device=device, progress=False)


def configuration(
    model: str, preset: str | None, file: Path | None, assignments: list[str], seed: int | None
) -> tuple[Any, Any]:
    """Model and training configuration: the preset, then the TOML file, then --set, then --seed."""
    from dataclasses import fields

    from lirdrec.config import make_config, parse_assignments, read_toml, to_dict
    from lirdrec.evaluation.metrics import canonical_metric, split_name
    from lirdrec.models.registry import config_type
    from lirdrec.recommender.presets import preset as preset_of
    from lirdrec.training.config import TrainConfig

    types = {"model": config_type(model), "training": TrainConfig}
    from_file = read_toml(file) if file is not None else {}
    for heading, given in from_file.items():
        if heading not in types or not isinstance(given, dict):
            raise ConfigError(f"{file}: '{heading}' is not known; it takes the tables [model] and [training]")
        make_config(types[heading], given, f"{file}, [{heading}]")
        if heading == "training":
            _refuse_steps(model, given, f"{file}, [training]: ")
    keys = {field.name: heading for heading, kind in types.items() for field in fields(kind)}
    given_values = parse_assignments(assignments)
    # batch and learning rate of a preset depend on the loss, so that has to be known first
    loss = given_values.get("loss", from_file.get("model", {}).get("loss")) if "loss" in keys else None
    base_model, base_training = preset_of(model, preset or "fast", loss)
    values = {"model": to_dict(base_model), "training": to_dict(base_training)}
    for heading, given in from_file.items():
        values[heading] |= given
    for key, value in given_values.items():
        if key not in keys:
            hint = suggest_name(key, keys, f"list them with: lirdrec config --model {model}")
            raise ConfigError(f"--set {key}: unknown key '{key}'; {hint}")
        if keys[key] == "training":
            _refuse_steps(model, [key], "--set ")
        values[keys[key]][key] = value
    if seed is not None:
        values["training"]["seed"] = seed
    if isinstance(values["training"]["metric"], str):
        values["training"]["metric"] = canonical_metric(values["training"]["metric"])
    training: TrainConfig = make_config(TrainConfig, values["training"], "[training]")
    split_name(training.metric)  # a wrong name is found before the dataset is read
    return make_config(types["model"], values["model"], "[model]"), training


def training_keys(model: str) -> list[str]:
    """The keys of the training configuration that have an effect on a model."""
    from lirdrec.config import field_docs
    from lirdrec.models.registry import model_type
    from lirdrec.training.config import TrainConfig

    return list(WITHOUT_STEPS if model_type(model).capabilities.training == "closed_form" else field_docs(TrainConfig))


def _refuse_steps(model: str, given: Iterable[str], where: str) -> None:
    """Refuse options of training steps for a model that is computed without any."""
    known = training_keys(model)
    for key in given:
        if key not in known:
            raise ConfigError(
                f"{where}{key}: {model} is computed in closed form, without epochs and steps, and takes only"
                f" {' and '.join(known)} of the training options; leave {key} out"
            )


def _read_dataset(path: Path) -> Dataset:
    from lirdrec.data.readers import read_any

    return read_any(path)


def _trained_on(recommender: Recommender, run: Path) -> Path:
    """The prepared dataset of the training: where its features are, or where it lay then."""
    from lirdrec.data.storage import MANIFEST

    store, noted = recommender.features, recommender.info.get("dataset_folder")
    known = [] if store is None or store.folder is None else [store.folder]
    known += [Path(noted)] if isinstance(noted, str) else []
    for folder in known:
        if (folder / MANIFEST).is_file():
            return folder
    fault = f"its dataset is not at {known[0]} any more" if known else "does not know where its dataset lies"
    raise RunFolderError(f"{run}: {fault}; name it as the second argument: lirdrec evaluate {run} DATASET")


def _default_run(name: str, model: str, resume: bool) -> Path:
    """runs/NAME-MODEL, or with a number where that is taken; the last one to resume."""
    stem = f"{name}-{model}"
    folder, number = Path("runs") / stem, 1
    last = folder
    while folder.exists():
        last, number = folder, number + 1
        folder = Path("runs") / f"{stem}-{number}"
    return last if resume else folder
