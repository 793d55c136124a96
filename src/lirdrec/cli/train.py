"""`lirdrec train | evaluate | config`: train and evaluate a model, and list its options."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from lirdrec.available_memory import check_memory
from lirdrec.cli.options import (
    ARGUMENTS,
    CsvSafeOption,
    DatasetArgument,
    DeviceOption,
    JsonOption,
    OutputOption,
    SeedOption,
    SetOption,
    TrackOption,
    integer,
    option,
)
from lirdrec.cli.output import (
    HEADLINE,
    INTERRUPTED,
    check_output,
    console,
    metrics_table,
    print_json,
    print_line,
    settings,
    table,
    write_frame,
)
from lirdrec.config import suggest_name
from lirdrec.errors import ConfigError, RunFolderError
from lirdrec.trackers import check_tracker

if TYPE_CHECKING:
    from lirdrec.data.dataset import Dataset
    from lirdrec.evaluation.evaluator import Metrics
    from lirdrec.recommender.recommender import Recommender

WITHOUT_STEPS = ("metric", "seed")  # training options of models in closed form

SPLITS = {"train": "train", "validation": "valid", "valid": "valid", "test": "test"}


@dataclass(frozen=True)
class ModelOptions:
    """Model and training"""

    model: str | None = option(None, "lirdrec (default), or another one of docs/models.md (lightgcn, ease …).")
    preset: str | None = option(None, "fast or paper (default: fast).")
    config: Path | None = option(None, "TOML file with the tables [model] and [training].")
    assignments: SetOption = None
    seed: SeedOption = None
    refit: Path | None = option(None, "Train on all interactions, with RUN's settings and best epoch.", metavar="RUN")

    start: Path | None = option(None, "Train on from RUN, with its settings.", "--from", metavar="RUN")
    no_new_item_calibration: bool = option(False, "Do not calibrate how items that are added later compete.")

    def for_fit(self) -> dict[str, Any]:
        """The arguments of `fit`."""
        if self.refit is not None and self.start is not None:
            raise ConfigError("--from: with --refit the run that the earlier one continued is known; leave it out")
        if self.refit is not None:
            self._refuse("--refit", "model", "preset", "config", "assignments", "seed", "no_new_item_calibration")
            return {"refit": self.refit}
        if self.start is not None:
            self._refuse("--from", "model", "preset")
            return {"warm_start": self.start} | self._continued()
        config, training = configuration(
            self.model or "lirdrec", self.preset, self.config, self.assignments or [], self.seed
        )
        return {"config": config, "training": training} | ({} if self.preset is None else {"preset": self.preset})

    @property
    def kind(self) -> str:
        """The end of the run folder's default name."""
        return "refit" if self.refit is not None else "continued" if self.start is not None else self.model or "lirdrec"

    def _refuse(self, with_option: str, *names: str) -> None:
        for name in names:
            if getattr(self, name) not in (None, [], False):
                flag = "--set" if name == "assignments" else "--" + name.replace("_", "-")
                raise ConfigError(f"{flag}: with {with_option} it is that of the earlier run; leave it out")

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
    context: typer.Context,
    run: Path | None = option(None, "Folder to write (default: runs/DATASET-MODEL).", "--run", "--output", "-o"),
    device: str | None = option(None, "auto, cpu, cuda or mps (default: auto)."),
    devices: int | None = option(
        None, "Train in so many processes, on a GPU each or on the CPU.", callback=integer(1), metavar="N"
    ),
    resume: bool = option(False, "Continue a training that was stopped."),
    overwrite: bool = option(False, "Replace the run in the folder."),
    track: TrackOption = None,
    json: JsonOption = False,
) -> None:
    """Train a model, save the best epoch in a run folder, and show its test metrics beside those of popularity.

    \b
      lirdrec train mydata --run runs/first
      lirdrec train mydata --preset paper --set n_layers=3 --set regularization=1e-4
      lirdrec train mydata --run runs/first --resume
      lirdrec train mydata --refit runs/first --run runs/served
      lirdrec train newdata --from runs/first --run runs/second
      lirdrec train mydata --devices 4 --run runs/large

    --refit trains on all interactions, the newest included; such a run has no metrics, since no data is held out.
    --from starts from the parameters of an earlier run and needs few epochs; of the options, --set, --config and --seed
    may change those of training. --devices splits the rows of users and items (docs/distributed.md); with torchrun,
    write --output in place of --run, which it takes for its own option.
    """
    from lirdrec.data.readers import read_any

    if devices is not None and devices > 1 and _start_ranks(context, devices):
        return
    check_tracker(track)
    arguments = options.for_fit()
    data = read_any(dataset)
    refit = options.refit
    folder = run or _default_run(data.name, options.kind, resume)
    arguments |= {"run": folder, "resume": resume, "overwrite": overwrite}
    arguments |= {"calibrate_new_items": not options.no_new_item_calibration}
    with _ending_when_lost(), tracked(track, folder, data.name, arguments) as log_final:
        recommender = _fit(data, device, arguments | {"progress": not settings.quiet and not json})
        if recommender is None:  # rank 0 does the rest
            return
        stopped = recommender.info.get("stopped") == "interrupted"
        data = _unseen(recommender, data)
        results = evaluate_with_baseline(recommender, data)[0] if len(data.test) and refit is None else {}
        log_final({f"test/{name}": value for name, value in next(iter(results.values()), {}).items()})
    if results:
        recommender.record_metrics("test", next(iter(results.values())))
    if json:
        print_json({"run": str(folder), "interrupted": stopped, "test": results})
    else:
        _show_run(folder, data, results, refit)
        _show_batches(recommender)
        _show_new_items(recommender)
    if stopped:
        print_line("Stopped; the best model so far is saved. To continue: the same command with --resume", errors=True)
        raise typer.Exit(INTERRUPTED)


def _start_ranks(context: typer.Context, devices: int) -> bool:
    """Run this command in so many processes and wait for them; False in one of these processes.

    Raises:
        typer.Exit: with the exit code of the training, other than 0.
        ConfigError: another launcher has started this process.
    """
    from lirdrec.parallel.launch import RENDEZVOUS, run_ranks

    if RENDEZVOUS in os.environ:
        return False
    if os.environ.get("WORLD_SIZE", "1") != "1":
        raise ConfigError("--devices: the launcher (torchrun) has started the processes; leave it out")
    code = run_ranks(context.meta[ARGUMENTS], devices)
    if code:
        raise typer.Exit(code)
    return True


def _fit(data: Dataset, device: str | None, arguments: dict[str, Any]) -> Recommender | None:
    """`fit`, alone or together with the other processes; None where another process has the result."""
    from lirdrec.parallel.join import is_rank, joined
    from lirdrec.recommender.distributed import fit_on_ranks
    from lirdrec.recommender.fit import fit

    if not is_rank():
        return fit(data, **(arguments if device is None else arguments | {"device": device}))
    with joined(device or "auto") as (ranks, own_device):
        return fit_on_ranks(ranks, data, device=own_device, **arguments)


@contextmanager
def _ending_when_lost() -> Iterator[None]:
    """Ends this process at once where another rank has ended and the process that started both says so."""
    from lirdrec.parallel.join import LostRankError, is_launched

    try:
        yield
    except LostRankError:
        if is_launched():
            os._exit(LostRankError.exit_code)
        raise


@contextmanager
def tracked(
    kind: str | None, run: Path, dataset: str, arguments: dict[str, Any]
) -> Iterator[Callable[[dict[str, float]], None]]:
    """Add the tracker's callback to the arguments of `fit`; gives a function that takes the final metrics.

    Of several processes that train together, rank 0 alone tracks.
    """
    from lirdrec.parallel.join import is_first

    if kind is None or not is_first():
        yield lambda metrics: None
        return
    from lirdrec.config import to_dict
    from lirdrec.training.tracking import TrackingCallback

    given = {key: value for key, value in arguments.items() if key in ("config", "training", "preset")}
    params = {key: value if isinstance(value, str) else to_dict(value) for key, value in given.items()}
    model = {"model": getattr(arguments.get("config"), "model", None), "dataset": dataset, "run": str(run)}
    callback = TrackingCallback(kind, run.name, model | params)
    arguments["callbacks"] = (callback,)
    final: dict[str, float] = {}
    try:
        yield final.update
    except BaseException:
        callback.finish(final, failed=True)
        raise
    callback.finish(final)


def _show_batches(recommender: Recommender) -> None:
    """Print the batch size and the learning rate that batch_size="auto" gave."""
    automatic = recommender.info.get("automatic")
    if automatic:
        size, rate = automatic["batch_size"], automatic["learning_rate"]
        print_line(f"Batches:    {size:,} interactions (auto), learning rate {rate:.3g}")


def _show_new_items(recommender: Recommender) -> None:
    """Print the calibrated offset of new items, and its effect in simulated launches."""
    step = None if recommender.new_item_encoder is None else recommender.new_item_encoder.step()
    if step is not None:
        print_line(
            f"New items:  offset {step.offset:+.4f}; in simulated launches they got {step.share:.1%} of the places, at"
            f" {step.cost:.1%} of the hits on known items"
        )


def _show_run(folder: Path, data: Dataset, results: dict[str, dict[str, float]], refit: Path | None) -> None:
    from lirdrec.data.ids import pluralize

    if refit is not None:
        n = pluralize(sum(len(data.split(name)) for name in set(SPLITS.values())), "interaction")
        print_line(f"Trained on all {n} with the settings of {refit}; no data is left to evaluate on.")
    if results:
        console().print(metrics_table(results, f"Test, {data.name}", HEADLINE))
    print_line(f"Run folder: {folder}")
    if (folder / "curves.png").is_file():
        print_line(f"Curves:     {folder / 'curves.png'}")


@dataclass(frozen=True)
class MetricOptions:
    """What is measured"""

    split: str | None = option(None, "train, validation or test (default: test).")
    k: list[int] | None = option(None, "List length; may be repeated (10 and 20).", "--k", "-k", metavar="K")
    metric: list[str] | None = option(
        None,
        "recall, ndcg, precision, map, mrr, hit (or hit_rate), coverage, popularity, gini, diversity, novelty, arp,"
        " aplt, calibration or auc; may be repeated (default: the first nine).",
        metavar="NAME",
    )
    candidates: str | None = option(None, "all; or cold: only items without training interactions.")
    test_history: str | None = option(
        None,
        "Interactions by which users are known in the test (default: train+valid after a split by time, else train).",
        metavar="train|train+valid",
    )
    test_target: str | None = option(
        None,
        "Relevant test interactions: all, or each user's last (default: last after global_time_last, else all).",
        metavar="all|last",
    )
    mask_seen: bool = option(True, "Leave what the user has seen out of the ranking.", "--mask-seen/--no-mask-seen")
    memory_limit: int | None = option(None, "Memory for scores, in MiB.", callback=integer(1))

    def for_evaluate(self) -> dict[str, Any]:
        """The arguments of `evaluate`.

        Raises:
            ConfigError: a value that no run can be evaluated with; raised before a run is read, which may take long.
        """
        from lirdrec.evaluation.metrics import canonical_metric, check_metrics
        from lirdrec.evaluation.protocol import TEST_HISTORIES, TEST_TARGETS
        from lirdrec.recommender.query_arguments import check_k

        if self.split is not None and self.split not in SPLITS:
            raise ConfigError(f"--split {self.split}: choose one of {', '.join(SPLITS)}")
        if self.candidates not in (None, "all", "cold"):
            raise ConfigError(f"--candidates {self.candidates}: choose all or cold")
        for flag, value, choices in (
            ("--test-history", self.test_history, TEST_HISTORIES),
            ("--test-target", self.test_target, TEST_TARGETS),
        ):
            if value not in (None, *choices):
                raise ConfigError(f"{flag} {value}: choose one of {', '.join(choices)}")
            if value == choices[1] and SPLITS.get(self.split or "test") != "test":
                raise ConfigError(f"{flag} {value}: is for the test, not for --split {self.split}")
        if self.memory_limit is not None:
            check_memory(self.memory_limit << 20, f"--memory-limit {self.memory_limit}")
        for k in self.k or ():
            check_k(k)
        metrics = tuple(map(canonical_metric, self.metric or ()))
        check_metrics(metrics)
        arguments = {
            "split": SPLITS.get(self.split or ""),
            "k": tuple(self.k or ()),
            "metrics": metrics,
            "candidates": self.candidates,
            "test_history": self.test_history,
            "test_target": self.test_target,
            "memory_limit": (self.memory_limit or 0) << 20,
        }
        given = {name: value for name, value in arguments.items() if value}
        return given if self.mask_seen else given | {"mask_seen": False}


@dataclass(frozen=True)
class ListOptions:
    """Lists made elsewhere, instead of a run"""

    lists: Path | None = option(
        None, "File with the columns user, item, and rank or score: lirdrec evaluate --lists FILE DATASET."
    )
    name: str | None = option(None, "What the lists are called (default: the name of the file).")
    sealed: Path | None = option(None, "Folder that records what was scored on the test (default: experiments/lists).")

    def check(self, run: Path | None, dataset: Path | None, others: Mapping[str, object]) -> None:
        """Raise a ConfigError for arguments and options that do not go together."""
        if self.lists is None:
            for name in ("name", "sealed"):
                if getattr(self, name) is not None:
                    raise ConfigError(f"--{name}: is for --lists; leave it out")
            if run is None:
                raise ConfigError("name a run folder: lirdrec evaluate RUN; or lists: evaluate --lists FILE DATASET")
            return
        if run is None or dataset is not None:
            raise ConfigError("--lists: name one dataset and no run: lirdrec evaluate --lists FILE DATASET")
        for flag, value in others.items():
            if value:
                raise ConfigError(f"{flag}: is for a run, not for --lists; leave it out")


def evaluate(
    options: MetricOptions,
    external: ListOptions,
    run: Path | None = typer.Argument(None, metavar="[RUN]", help="A run folder.", show_default=False),
    dataset: Path | None = typer.Argument(
        None, metavar="[DATASET]", help="A prepared dataset (default: the one that RUN was trained on)."
    ),
    cold_users: bool = option(False, "Also evaluate with every user treated as new, known by items alone."),
    intervals: bool = option(False, "With --json and --output, too: 95 % bootstrap intervals of the means over users."),
    per_user: Path | None = option(None, "Write the values of each user to this file.", "--per-user-output"),
    device: DeviceOption = "cpu",
    json: JsonOption = False,
    output: OutputOption = None,
    csv_safe: CsvSafeOption = False,
) -> None:
    """Rank all items for every user of a split and show the metrics beside those of popularity.

    \b
      lirdrec evaluate runs/demo
      lirdrec evaluate runs/demo --split validation -k 5 -k 50
      lirdrec evaluate runs/demo --metric diversity --metric novelty --metric auc
      lirdrec evaluate runs/demo --cold-users
      lirdrec evaluate --lists recs.parquet mydata

    --lists evaluates recommendations of any other system. On the test, each name stands for one file, and the command
    says how many files have been scored; choose between lists on validation (--split validation).
    """
    from lirdrec.data.readers import read_any
    from lirdrec.recommender.recommender import Recommender

    check_output(output, csv_safe and (output is not None or per_user is None))
    check_output(per_user, csv_safe and per_user is not None)
    protocol = {
        "--test-history": options.test_history,
        "--test-target": options.test_target,
        "--no-mask-seen": not options.mask_seen,
    }
    external.check(run, dataset, {"--cold-users": cold_users, "--candidates": options.candidates, **protocol})
    arguments = options.for_evaluate()
    assert run is not None
    shows = _ShownMetrics(intervals, per_user, json, output, csv_safe)
    if external.lists is not None:
        return shows.show(*_evaluate_lists(external, run, arguments), f"{options.split or 'test'}, {run.name}")
    recommender = Recommender.load(run, device=device)
    data = read_any(dataset if dataset is not None else _trained_on(recommender, run))
    wanted = {"per_user": per_user is not None, "intervals": True, **arguments}
    shows.show(
        *evaluate_with_baseline(recommender, data, cold_users, device, **wanted),
        f"{options.split or 'test'}, {data.name}",
    )


def _evaluate_lists(
    external: ListOptions, dataset: Path, arguments: dict[str, Any]
) -> tuple[dict[str, dict[str, float]], Metrics]:
    """Metrics of lists and of popularity: on the sealed test, or on validation."""
    from lirdrec.data.ids import pluralize
    from lirdrec.data.readers import read_any
    from lirdrec.evaluation.evaluator import evaluate as measure
    from lirdrec.evaluation.external_lists import evaluate_external, read_lists
    from lirdrec.experiments.lists import FOLDER, score_lists

    assert external.lists is not None
    options = {name: arguments[name] for name in ("k", "metrics") if name in arguments}
    split, data = arguments.get("split", "test"), read_any(dataset)
    name = external.name or external.lists.name.partition(".")[0]
    if split == "test":
        folder = external.sealed or FOLDER
        scored = score_lists(dataset, external.lists, name=name, folder=folder, **options)
        result = scored.metrics
        listed = f" (before: {', '.join(scored.others)})" if scored.others else ""
        count = pluralize(len(scored.others) + 1, "file")
        print_line(f"{count} of lists scored on this test{listed}; the record is in {folder}", errors=True)
    else:
        result = evaluate_external(
            read_lists(external.lists, data), data, split, per_user=True, intervals=True, **options
        )
    names = tuple(dict.fromkeys(metric.partition("@")[0] for metric in result.values))
    cutoffs = tuple(dict.fromkeys(int(metric.partition("@")[2]) for metric in result.values))
    baseline = measure(_popularity(data, "cpu"), data, split, k=cutoffs, metrics=names)
    return {name: dict(result.values), "popularity": dict(baseline.values)}, result


@dataclass(frozen=True)
class _ShownMetrics:
    """How `evaluate` gives its metrics: a table, JSON, or a file; and the values of each user."""

    intervals: bool
    per_user: Path | None
    json: bool
    output: Path | None
    csv_safe: bool

    def show(self, results: dict[str, dict[str, float]], first: Metrics, title: str) -> None:
        """Show the metrics of each recommender; `first` has the intervals and the users of the first one."""
        import polars as pl

        name = next(iter(results))
        if self.per_user is not None and first.per_user is not None:
            write_frame(first.per_user, self.per_user, self.csv_safe)
        if self.output is not None:
            rows: list[tuple[Any, ...]] = []
            for recommender, values in results.items():
                known = first.intervals if recommender == name else {}
                rows += [
                    (recommender, metric, value, *known.get(metric, (None, None))) for metric, value in values.items()
                ]
            schema = {
                "recommender": pl.String,
                "metric": pl.String,
                "value": pl.Float64,
                "low": pl.Float64,
                "high": pl.Float64,
            }
            frame = pl.DataFrame(rows, schema, orient="row")
            return write_frame(frame if self.intervals else frame.drop("low", "high"), self.output, self.csv_safe)
        if self.json:
            intervals = {"intervals": {name: {key: list(pair) for key, pair in first.intervals.items()}}}
            return print_json(results | (intervals if self.intervals else {}))
        console().print(metrics_table(results, title, intervals={name: first.intervals}))


def config(
    model: str = option("lirdrec", "Model whose options to list."),
    preset: str | None = option(None, "Show the values of this preset."),
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


def evaluate_with_baseline(
    recommender: Recommender, data: Dataset, cold_users: bool = False, device: str = "cpu", **options: Any
) -> tuple[dict[str, dict[str, float]], Metrics]:
    """Metrics of the recommender and, for comparison, of popularity; and all that was asked of the recommender.

    Args:
        recommender, data, options: as for `lirdrec.evaluation.evaluator.evaluate`.
        cold_users: also evaluate with every user treated as new.
        device: where popularity is computed.
    """
    from lirdrec.evaluation.evaluator import evaluate as measure

    name = str(recommender.info.get("model", "model"))
    result = measure(recommender, data, **options)
    results = {name: dict(result.values)}
    options = {key: value for key, value in options.items() if key not in ("per_user", "intervals")}
    if cold_users:
        from lirdrec.recommender.new_users import as_new_users

        results[f"{name}, users as new"] = dict(measure(as_new_users(recommender), data, **options).values)
    if name != "popularity":
        data = _unseen(recommender, data)
        results["popularity"] = dict(measure(_popularity(data, device), data, **options).values)
    return results, result


def _unseen(recommender: Recommender, data: Dataset) -> Dataset:
    from lirdrec.evaluation.evaluator import unseen_part

    return unseen_part(recommender, data)[0]


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
            raise ConfigError(f"{file}: unknown table '{heading}'; the tables are [model] and [training]")
        make_config(types[heading], given, f"{file}, [{heading}]")
        if heading == "training":
            _refuse_steps(model, given, f"{file}, [training]: ")
    keys = {field.name: heading for heading, kind in types.items() for field in fields(kind)}
    given_values = parse_assignments(assignments)
    # the batch size and learning rate of a preset depend on the loss
    loss = given_values.get("loss", from_file.get("model", {}).get("loss")) if "loss" in keys else None
    bases = dict(zip(types, preset_of(model, preset or "fast", loss), strict=True))
    values = {heading: to_dict(base) | from_file.get(heading, {}) for heading, base in bases.items()}
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
    split_name(training.metric)  # raises for a wrong name, before the dataset is read
    return make_config(types["model"], values["model"], "[model]"), training


def training_keys(model: str) -> list[str]:
    """The keys of the training configuration that have an effect on a model."""
    from lirdrec.config import field_docs
    from lirdrec.models.registry import model_type
    from lirdrec.training.config import TrainConfig

    return list(WITHOUT_STEPS if model_type(model).capabilities.training == "closed_form" else field_docs(TrainConfig))


def _refuse_steps(model: str, keys: Iterable[str], prefix: str) -> None:
    """Raise a ConfigError for options of training steps, for a model that is computed without steps."""
    allowed = training_keys(model)
    for key in keys:
        if key not in allowed:
            raise ConfigError(
                f"{prefix}{key}: {model} is computed in closed form, without epochs and steps, and takes only"
                f" {' and '.join(allowed)} of the training options; leave {key} out"
            )


def _trained_on(recommender: Recommender, run: Path) -> Path:
    """The prepared dataset of the training: the folder of its features, or the folder that the run recorded."""
    from lirdrec.data.storage import MANIFEST

    store = recommender.features
    recorded = [None if store is None else store.folder, recommender.info.get("dataset_folder")]
    folders = [Path(folder) for folder in recorded if isinstance(folder, (str, Path))]
    for folder in folders:
        if (folder / MANIFEST).is_file():
            return folder
    fault = f"its dataset is no longer at {folders[0]}" if folders else "does not record the folder of its dataset"
    raise RunFolderError(f"{run}: {fault}; name it as the second argument: lirdrec evaluate {run} DATASET")


def _default_run(name: str, model: str, resume: bool) -> Path:
    """runs/NAME-MODEL, with a number if that folder exists; to resume, the last one that exists."""
    first = last = folder = Path("runs") / f"{name}-{model}"
    number = 1
    while folder.exists():
        last, number = folder, number + 1
        folder = Path(f"{first}-{number}")
    return last if resume else folder
