"""`lirdrec train | evaluate | config`."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lirdrec.cli.output import (
    INTERRUPTED,
    CsvSafeOption,
    JsonOption,
    OutputOption,
    check_output,
    console,
    metrics_table,
    print_json,
    settings,
    table,
    whole_number,
    write_frame,
)
from lirdrec.config import nearest
from lirdrec.errors import ConfigError, RunFolderError
from lirdrec.memory import check_memory

if TYPE_CHECKING:
    from lirdrec.data.dataset import Dataset
    from lirdrec.recommender.recommender import Recommender

WITHOUT_STEPS = ("metric", "seed")  # training options of models in closed form

SetOption = Annotated[
    list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Set an option; see lirdrec config.")
]
DatasetArgument = Annotated[
    Path, typer.Argument(metavar="DATASET", help="A prepared dataset, or a folder that prepare can read.")
]


def register(app: typer.Typer) -> None:
    """Add the commands of this file."""
    app.command()(train)
    app.command()(evaluate)
    app.command("config")(list_options)


def train(
    dataset: DatasetArgument,
    run: Annotated[
        Path | None, typer.Option("--run", help="Run folder to write (default: runs/DATASET-MODEL).")
    ] = None,
    model: Annotated[
        str | None,
        typer.Option("--model", help="lirdrec (default), or another of docs/models.md (lightgcn, ease …)."),
    ] = None,
    preset: Annotated[str | None, typer.Option("--preset", help="fast or paper (default: fast).")] = None,
    assignments: SetOption = None,
    config: Annotated[
        Path | None, typer.Option("--config", help="TOML file with the tables [model] and [training].")
    ] = None,
    seed: Annotated[
        int | None, typer.Option("--seed", help="The same seed gives the same bits.", callback=whole_number())
    ] = None,
    device: Annotated[str | None, typer.Option("--device", help="auto, cpu, cuda or mps (default: auto).")] = None,
    refit: Annotated[
        Path | None,
        typer.Option("--refit", metavar="RUN", help="Train on all interactions, with RUN's settings and best epoch."),
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with a training that was stopped.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the run that the folder holds.")] = False,
    json: JsonOption = False,
) -> None:
    """Train on a dataset, keep the best model in a run folder, show its test figures beside popularity.

    \b
      lirdrec train mydata --run runs/first
      lirdrec train mydata --preset paper --set n_layers=3 --set regularization=1e-4
      lirdrec train mydata --run runs/first --resume
      lirdrec train mydata --refit runs/first --run runs/served

    With --refit nothing is held out: the run knows the newest likes, and has no figures of its own.
    """
    from lirdrec.recommender.fit import fit

    options: dict[str, Any] = {"preset": preset, "device": device}
    if refit is not None:
        _refuse_beside_refit(
            {"--model": model, "--preset": preset, "--config": config, "--set": assignments, "--seed": seed}
        )
        options["refit"] = refit
    else:
        chosen = configuration(model or "lirdrec", preset, config, assignments or [], seed)
        options["config"], options["training"] = chosen
    data = _read_dataset(dataset)
    folder = run or _default_run(data.name, (model or "lirdrec") if refit is None else "refit", resume)
    recommender = fit(
        data,
        run=folder,
        resume=resume,
        overwrite=overwrite,
        progress=not settings.quiet and not json,
        **{key: value for key, value in options.items() if value is not None},
    )
    stopped = recommender.info.get("stopped") == "interrupted"
    results = evaluate_with_baseline(recommender, data) if len(data.test) and refit is None else {}
    if results:
        recommender.record_metrics("test", next(iter(results.values())))
    if json:
        print_json({"run": str(folder), "interrupted": stopped, "test": results})
    else:
        if refit is not None:
            from lirdrec.data.ids import count

            pairs = sum(len(data.split(name)) for name in ("train", "valid", "test"))
            said = (
                f"Trained on {count(pairs, 'interaction')}, all there are, with the settings of {refit};"
                " nothing is left to measure it on."
            )
            console().print(said, markup=False, soft_wrap=True)
        _show_run(folder, data.name, results)
    if stopped:
        console(errors=True).print("Stopped; the best model so far is kept. Go on: the same command with --resume")
        raise typer.Exit(INTERRUPTED)


def _refuse_beside_refit(options: dict[str, Any]) -> None:
    for option, value in options.items():
        if value is not None and value != []:
            raise ConfigError(f"{option}: with --refit the settings are those of the earlier run; leave it out")


def _show_run(folder: Path, name: str, results: dict[str, dict[str, float]]) -> None:
    if results:
        console().print(metrics_table(headline_metrics(results), f"Test, {name}"))
    console().print(f"Run folder: {folder}", markup=False)
    if (folder / "curves.png").is_file():
        console().print(f"Curves:     {folder / 'curves.png'}", markup=False)


def evaluate(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A run folder.")],
    dataset: Annotated[
        Path | None, typer.Argument(metavar="[DATASET]", help="A prepared dataset (default: the one of the training).")
    ] = None,
    split: Annotated[str | None, typer.Option("--split", help="train, valid or test (default: test).")] = None,
    k: Annotated[
        list[int] | None,
        typer.Option(
            "--k", "-k", metavar="K", help="List length; may be repeated (10 and 20).", callback=whole_number()
        ),
    ] = None,
    metric: Annotated[
        list[str] | None, typer.Option("--metric", metavar="NAME", help="recall, ndcg …; may be repeated.")
    ] = None,
    candidates: Annotated[str | None, typer.Option("--candidates", help="all, or cold: unseen items only.")] = None,
    new_users: Annotated[
        bool, typer.Option("--cold-users", help="Also as if every user were new, known by the liked items alone.")
    ] = False,
    per_user: Annotated[
        Path | None, typer.Option("--per-user-output", help="Write each user's values to this file.")
    ] = None,
    memory: Annotated[
        int | None, typer.Option("--memory-limit", help="Memory limit in MiB.", callback=whole_number(1))
    ] = None,
    device: Annotated[str, typer.Option("--device", help="cpu, cuda or mps.")] = "cpu",
    json: JsonOption = False,
    output: OutputOption = None,
    csv_safe: CsvSafeOption = False,
) -> None:
    """Rank all items for every user of a split and show the figures beside popularity's.

    \b
      lirdrec evaluate runs/demo
      lirdrec evaluate runs/demo --split valid -k 5 -k 50
      lirdrec evaluate runs/demo --cold-users
    """
    import polars as pl

    from lirdrec.recommender.recommender import Recommender

    check_output(output, csv_safe and (output is not None or per_user is None))
    check_output(per_user, csv_safe and per_user is not None)
    if memory is not None:
        check_memory(memory << 20, f"--memory-limit {memory}")
    _check_questions(split, k, metric, candidates)  # before the run is read, which may take long
    recommender = Recommender.load(run, device=device)
    data = _read_dataset(dataset if dataset is not None else _trained_on(recommender, run))
    options: dict[str, Any] = {
        "split": split,
        "k": tuple(k) if k else None,
        "metrics": tuple(metric) if metric else None,
        "candidates": candidates,
        "memory_limit": None if memory is None else memory << 20,
        "per_user": per_user is not None or None,
    }
    options = {key: value for key, value in options.items() if value is not None}
    name = str(recommender.info.get("model", "model"))
    from lirdrec.evaluation.evaluator import evaluate as measure

    own = measure(recommender, data, **options)
    options.pop("per_user", None)
    results = {name: dict(own.values)}
    if new_users:
        from lirdrec.recommender.new_users import as_new_users

        results[f"{name}, users as new"] = dict(measure(as_new_users(recommender), data, **options).values)
    if name != "popularity":
        results["popularity"] = dict(measure(_popularity(data, device), data, **options).values)
    if per_user is not None and own.per_user is not None:
        write_frame(own.per_user, per_user, csv_safe)
    if output is not None:
        rows = [
            {"recommender": who, "metric": metric_name, "value": value}
            for who, values in results.items()
            for metric_name, value in values.items()
        ]
        return write_frame(pl.DataFrame(rows), output, csv_safe)
    if json:
        return print_json(results)
    console().print(metrics_table(results, f"{split or 'test'}, {data.name}"))


def _check_questions(split: str | None, k: list[int] | None, metrics: list[str] | None, candidates: str | None) -> None:
    from lirdrec.data.schema import SPLITS
    from lirdrec.evaluation.metrics import check_metrics
    from lirdrec.recommender.queries import check_k

    if split is not None and split not in SPLITS:
        raise ConfigError(f"--split {split}: choose one of {', '.join(SPLITS)}")
    if candidates not in (None, "all", "cold"):
        raise ConfigError(f"--candidates {candidates}: choose all or cold")
    for one in k or ():
        check_k(one)
    check_metrics(metrics or ())


def list_options(
    model: Annotated[str, typer.Option("--model", help="Whose options.")] = "lirdrec",
    preset: Annotated[str | None, typer.Option("--preset", help="Show the values of this preset.")] = None,
    json: JsonOption = False,
) -> None:
    """Every key of `train --set` and of the TOML file, with its value and meaning.

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
        part = [row[1:] for row in rows if row[0] == heading]
        console().print(table(f"[{heading}]", ["key", "value", "meaning"], part))


def evaluate_with_baseline(recommender: Recommender, data: Dataset, **options: Any) -> dict[str, dict[str, float]]:
    """Test figures of the recommender and, for comparison, of popularity."""
    from lirdrec.evaluation.evaluator import evaluate as measure

    name = str(recommender.info.get("model", "model"))
    results = {name: dict(measure(recommender, data, **options).values)}
    if name != "popularity":
        results["popularity"] = dict(measure(_popularity(data, "cpu"), data, **options).values)
    return results


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

    from lirdrec.config import make, parse_assignments, read_toml, to_dict
    from lirdrec.evaluation.metrics import split_name
    from lirdrec.models.registry import config_type
    from lirdrec.recommender.presets import preset as preset_of
    from lirdrec.training.config import TrainConfig

    types = {"model": config_type(model), "training": TrainConfig}
    from_file = read_toml(file) if file is not None else {}
    for heading, given in from_file.items():
        if heading not in types or not isinstance(given, dict):
            raise ConfigError(f"{file}: '{heading}' is not known; it takes the tables [model] and [training]")
        make(types[heading], given, f"{file}, [{heading}]")
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
            hint = nearest(key, keys, f"list them with: lirdrec config --model {model}")
            raise ConfigError(f"--set {key}: unknown key '{key}'; {hint}")
        if keys[key] == "training":
            _refuse_steps(model, [key], "--set ")
        values[keys[key]][key] = value
    if seed is not None:
        values["training"]["seed"] = seed
    training: TrainConfig = make(TrainConfig, values["training"], "[training]")
    split_name(training.metric)  # a wrong name is found before the dataset is read
    return make(types["model"], values["model"], "[model]"), training


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
