"""`lirdrec evaluate`: show the metrics of a run, or of another system's lists, beside the metrics of popularity.

Popularity is the model that recommends the items with the most training interactions to everyone.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from lirdrec.available_memory import check_memory
from lirdrec.cli.option_groups import integer
from lirdrec.cli.output import check_output, console, metrics_table, print_json, print_line, write_frame
from lirdrec.cli.shared_options import (
    CsvSafeOption,
    DeviceOption,
    JsonOption,
    MaskSeenOption,
    OutputOption,
    TestHistoryOption,
    TestTargetOption,
    option,
)
from lirdrec.errors import ConfigError, RunFolderError
from lirdrec.wording import pluralize

if TYPE_CHECKING:
    from lirdrec.data.dataset import Dataset
    from lirdrec.evaluation.evaluator import Metrics
    from lirdrec.recommender.recommender import Recommender

SPLITS = {"train": "train", "validation": "valid", "valid": "valid", "test": "test"}


@dataclass(frozen=True)
class MetricOptions:
    """What is measured"""

    split: str | None = option(None, "train, validation or test (default: test).")
    k: list[int] | None = option(
        None, "Length of the lists; may be repeated (default: 10 and 20).", "--k", "-k", metavar="K"
    )
    metric: list[str] | None = option(
        None,
        "recall, ndcg, precision, map, mrr, hit, coverage, popularity, gini, diversity, novelty, arp,"
        " aplt, calibration or auc; may be repeated (default: the first nine).",
        metavar="NAME",
    )
    candidates: str | None = option(
        None, "Items that are ranked: all (default), or cold: only items without training interactions."
    )
    test_history: TestHistoryOption = None
    test_target: TestTargetOption = None
    mask_seen: MaskSeenOption = True
    memory_limit: int | None = option(None, "Memory for scores, in MiB.", callback=integer(1))

    def for_evaluate(self) -> dict[str, Any]:
        """Return the options that were given as arguments of `lirdrec.evaluation.evaluator.evaluate`.

        The values are checked here, before a run is read, since reading may take long.

        Raises:
            ConfigError: a value that is wrong for every run.
        """
        from lirdrec.evaluation.evaluation_protocol import check_protocol
        from lirdrec.evaluation.metrics import canonical_metric, check_metrics
        from lirdrec.recommender.query_arguments import check_k

        if self.split is not None and self.split not in SPLITS:
            raise ConfigError(f"--split {self.split}: choose one of {', '.join(SPLITS)}")
        if self.candidates not in (None, "all", "cold"):
            raise ConfigError(f"--candidates {self.candidates}: choose all or cold")
        check_protocol(self.test_history, self.test_target, SPLITS[self.split or "test"])
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
    """Recommendation lists of another system, instead of a run"""

    lists: Path | None = option(
        None, "File with the columns user, item, and rank or score: lirdrec evaluate --lists FILE DATASET."
    )
    name: str | None = option(None, "Name of the lists (default: the name of the file).")
    sealed: Path | None = option(
        None, "Folder that records which files were scored on the test (default: experiments/lists)."
    )

    def check(self, run: Path | None, dataset: Path | None, others: Mapping[str, object]) -> None:
        """Raise a ConfigError for arguments and options that do not go together."""
        if self.lists is None:
            for name in ("name", "sealed"):
                if getattr(self, name) is not None:
                    raise ConfigError(f"--{name} is for --lists; leave it out")
            if run is None:
                raise ConfigError("give a run folder (lirdrec evaluate RUN), or lists (evaluate --lists FILE DATASET)")
            return
        if run is None or dataset is not None:
            raise ConfigError("--lists: give one dataset and no run, as lirdrec evaluate --lists FILE DATASET")
        for flag, value in others.items():
            if value:
                raise ConfigError(f"{flag} is for a run, not for --lists; leave it out")


def evaluate(
    options: MetricOptions,
    external: ListOptions,
    run: Path | None = typer.Argument(None, metavar="[RUN]", help="A run folder.", show_default=False),
    dataset: Path | None = typer.Argument(
        None, metavar="[DATASET]", help="A prepared dataset (default: the one that RUN was trained on)."
    ),
    cold_users: bool = option(False, "Also evaluate with every user treated as new, known by items alone."),
    intervals: bool = option(False, "With --json or --output: give 95 % bootstrap intervals, too (means over users)."),
    per_user: Path | None = option(None, "Write the values of each user to this file.", "--per-user-output"),
    device: DeviceOption = "cpu",
    json: JsonOption = False,
    output: OutputOption = None,
    csv_safe: CsvSafeOption = False,
) -> None:
    """Rank all items for every user of a split, and show the metrics beside the metrics of popularity.

    \b
      lirdrec evaluate runs/demo
      lirdrec evaluate runs/demo --split validation -k 5 -k 50
      lirdrec evaluate runs/demo --metric diversity --metric novelty --metric auc
      lirdrec evaluate runs/demo --cold-users
      lirdrec evaluate --lists recs.parquet mydata

    --lists evaluates recommendations of any other system. Files that are scored on the test are recorded: a name can be
    used for one file only, and the command says how many files have been scored. To choose between files, use
    --split validation, which records nothing.
    """
    from lirdrec.data.readers import read_any
    from lirdrec.recommender.recommender import Recommender

    check_output(output, csv_safe and (output is not None or per_user is None))
    check_output(per_user, csv_safe and per_user is not None, "--per-user-output")
    if output is not None and per_user is not None and output.resolve() == per_user.resolve():
        raise ConfigError(f"--per-user-output {per_user} is also the file of --output; give two different files")
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
    """Compute the metrics of another system's lists and of popularity; on the test, record the scored file.

    Returns:
        Name → metrics, and the complete result of the lists.
    """
    from lirdrec.data.readers import read_any
    from lirdrec.evaluation.evaluator import evaluate as measure
    from lirdrec.evaluation.external_lists import evaluate_external, read_lists
    from lirdrec.experiments.external_list_scoring import FOLDER, score_lists

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
    """How `evaluate` shows its metrics (a table, JSON, or a file), and where it writes the values of each user."""

    intervals: bool
    per_user: Path | None
    json: bool
    output: Path | None
    csv_safe: bool

    def show(self, results: dict[str, dict[str, float]], first: Metrics, title: str) -> None:
        """Show the metrics of each recommender, or write them to a file.

        Args:
            results: recommender → metric → value.
            first: the complete result of the first recommender in `results`, with intervals and values of each user.
            title: title of the table.
        """
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


def evaluate_with_baseline(
    recommender: Recommender, data: Dataset, cold_users: bool = False, device: str = "cpu", **options: Any
) -> tuple[dict[str, dict[str, float]], Metrics]:
    """Compute the metrics of a recommender and, for comparison, of popularity.

    Args:
        recommender: the recommender to evaluate.
        data: the dataset.
        cold_users: also evaluate with every user treated as new, known by items alone (an entry more).
        device: where popularity is computed.
        options: further arguments of `lirdrec.evaluation.evaluator.evaluate`.

    Returns:
        Name of the model → metrics, and the complete result of the recommender.
    """
    from lirdrec.evaluation.evaluator import evaluate as measure
    from lirdrec.evaluation.evaluator import unseen_part

    name = str(recommender.info.get("model", "model"))
    result = measure(recommender, data, **options)
    results = {name: dict(result.values)}
    options = {key: value for key, value in options.items() if key not in ("per_user", "intervals")}
    if cold_users:
        from lirdrec.recommender.known_users_as_new import as_new_users

        results[f"{name}, users as new"] = dict(measure(as_new_users(recommender), data, **options).values)
    if name != "popularity":
        data = unseen_part(recommender, data)[0]
        results["popularity"] = dict(measure(_popularity(data, device), data, **options).values)
    return results, result


def _popularity(data: Dataset, device: str) -> Recommender:
    from dataclasses import replace

    from lirdrec.models.popularity import PopularityConfig
    from lirdrec.recommender.fit import fit
    from lirdrec.recommender.training_job import fitting_metric
    from lirdrec.training.config import TrainConfig

    plain = replace(data, features={}, folder=None)  # popularity needs no features, which may be large
    training = TrainConfig(metric=fitting_metric(plain, TrainConfig().metric))
    return fit(plain, PopularityConfig(), training, device=device, progress=False)


def _trained_on(recommender: Recommender, run: Path) -> Path:
    """Return the folder of the dataset that a run was trained on: the one of its features, or the one it recorded.

    Raises:
        RunFolderError: neither of the two is there, or the run records no folder.
    """
    from lirdrec.data.storage import MANIFEST

    store = recommender.features
    recorded = [None if store is None else store.folder, recommender.info.get("dataset_folder")]
    folders = [Path(folder) for folder in recorded if isinstance(folder, (str, Path))]
    for folder in folders:
        if (folder / MANIFEST).is_file():
            return folder
    fault = f"its dataset is no longer at {folders[0]}" if folders else "does not record the folder of its dataset"
    raise RunFolderError(
        f"{run}: {fault}; give the path of the dataset as the second argument: lirdrec evaluate {run} DATASET"
    )
